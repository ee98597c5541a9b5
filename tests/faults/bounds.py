"""Bounds on recovery: seconds from the fault, or from its end where it lasts, until the last of its jobs has ended.

By case of the catalogue, with the short waits of `conftest.SHORT` (a lease of 3 s). What the jobs still had to compute
is in them, and the start of a worker where the test starts one: some 5 s where there is a core for each process, and
several times that on two cores that many share. `docs/reliability.md` has the same figures; a test compares.
"""

from __future__ import annotations

from regraft.dispatcher import SWEEP_SECONDS
from regraft.jobstore.retries import JITTER
from regraft.settings import Settings

SLACK = 5.0
"""Seconds that a busy machine may add until a worker that waits for work has claimed it."""


def after_a_failure(settings: Settings) -> float:
    """Seconds until the next attempt begins, after one whose worker lives, or whose death is known at once."""
    return settings.retry_seconds * (1 + JITTER) + settings.poll_seconds * 1.5 + SLACK


def after_a_silence(settings: Settings) -> float:
    """The same, after a death that nobody knows of: the lease must run out, and a sweep find it."""
    return settings.lease_seconds + SWEEP_SECONDS + after_a_failure(settings)


WITHIN: dict[int, float] = {
    1: 45,
    2: 60,
    3: 60,
    4: 90,
    5: 90,
    6: 45,
    7: 60,
    8: 60,
    10: 45,
    11: 45,
    12: 60,
    13: 45,
    15: 45,
    17: 45,
    18: 60,
    19: 45,
    20: 45,
    21: 45,
    22: 45,
    23: 45,
    24: 45,
    25: 60,
    26: 60,
    27: 60,
    28: 45,
    29: 45,
    32: 60,
    33: 60,
    34: 45,
    35: 45,
    36: 45,
    47: 45,
}
