"""Bounds on recovery: seconds from the fault, or from its end where it lasts, until the last of its jobs has ended.

By case of the catalogue, with the short waits of `conftest.SHORT` (a lease of 3 s) and on two busy cores. What the jobs
still had to compute is in them: up to 5 s, and the start of a worker where the test starts one. `docs/reliability.md`
has the same figures, and `tests/arch` compares them.
"""

from __future__ import annotations

WITHIN: dict[int, float] = {
    1: 30,
    2: 40,
    3: 40,
    4: 60,
    5: 60,
    6: 30,
    7: 40,
    8: 40,
    10: 30,
    11: 30,
    12: 40,
    13: 30,
    15: 30,
    17: 30,
    18: 40,
    19: 30,
    20: 30,
    21: 30,
    22: 30,
    23: 30,
    24: 30,
    25: 40,
    26: 40,
    27: 30,
    28: 30,
    29: 30,
    32: 40,
    33: 40,
    34: 30,
    35: 30,
    36: 30,
    47: 30,
}
