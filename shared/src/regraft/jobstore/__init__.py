"""The job store: every read and write of the tables, each one short transaction.

`Jobs` is what the API needs, `Leases` what a worker needs, `Announcements` what the dispatcher needs, `Workers` the
heartbeat rows. Nothing else in the project writes SQL.
"""

from regraft.jobstore.announcements import Announcements
from regraft.jobstore.control import Control, VersionError
from regraft.jobstore.creation import Accepted
from regraft.jobstore.engine import UNREACHABLE, make_engine, migrate
from regraft.jobstore.jobs import Jobs
from regraft.jobstore.keys import Keys, Principal, Scope
from regraft.jobstore.leases import Claim, Leases, Outcome, Report, Wanted
from regraft.jobstore.limits import Operations
from regraft.jobstore.workers import Workers

__all__ = [
    "UNREACHABLE",
    "Accepted",
    "Announcements",
    "Claim",
    "Control",
    "Jobs",
    "Keys",
    "Leases",
    "Operations",
    "Outcome",
    "Principal",
    "Report",
    "Scope",
    "VersionError",
    "Wanted",
    "Workers",
    "make_engine",
    "migrate",
]
