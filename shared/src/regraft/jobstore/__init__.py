"""The job store: every read and write of the tables, each one short transaction.

`Jobs` is what the API needs, `Leases` what a worker needs, `Announcements` what the dispatcher needs, `Workers` the
heartbeat rows. Nothing else in the project writes SQL.
"""

from regraft.jobstore.announcements import Announcements
from regraft.jobstore.engine import UNREACHABLE, make_engine, migrate
from regraft.jobstore.jobs import Jobs
from regraft.jobstore.leases import Claim, Leases, Outcome, Report, Wanted
from regraft.jobstore.limits import Operations
from regraft.jobstore.workers import Workers

__all__ = [
    "UNREACHABLE",
    "Announcements",
    "Claim",
    "Jobs",
    "Leases",
    "Operations",
    "Outcome",
    "Report",
    "Wanted",
    "Workers",
    "make_engine",
    "migrate",
]
