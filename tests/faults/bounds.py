"""Bounds on recovery: seconds from the fault, or from its end where it lasts, until the last of its jobs has ended.

By case of the catalogue, with the short waits of `conftest.SHORT` (a lease of 3 s). What the jobs still had to compute
is in them, and the start of a worker where the test starts one: some 5 s where there is a core for each process, and
several times that on two cores that many share. `docs/reliability.md` has the same figures; a test compares.
"""

from __future__ import annotations

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
