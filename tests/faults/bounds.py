"""Bounds on recovery: seconds from the fault, or from its end where it lasts, until the last of its jobs has ended.

By case of the catalogue, with the short waits of `conftest.SHORT` (a lease of 3 s) and on two busy cores. What the jobs
still had to compute is in them: up to 5 s, and the start of a worker where the test starts one. `docs/reliability.md`
has the same figures, and `tests/arch` compares them.
"""

from __future__ import annotations

WITHIN: dict[int, float] = {
    1: 15,
    2: 25,
    3: 25,
    4: 40,
    5: 40,
    6: 20,
    7: 30,
    8: 30,
    10: 15,
    11: 20,
    12: 25,
    13: 15,
    15: 20,
    17: 20,
    18: 30,
    19: 25,
    20: 20,
    21: 15,
    22: 15,
    23: 15,
    24: 20,
    25: 25,
    26: 25,
    27: 25,
    28: 15,
    29: 15,
    32: 25,
    33: 25,
    34: 15,
    35: 15,
    36: 15,
    47: 20,
}
