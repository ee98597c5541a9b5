"""Memory of the processor that is freed and needed again in every step stays with the process.

glibc gives large blocks back to the kernel when they are freed, and the kernel clears each page when it is touched
again: a training step frees and touches gigabytes. Keeping them made steps of a 50 M model 7 % (fp32) and 12 % (bf16)
shorter, at the same peak. It is a setting of the whole process, and what it has taken it does not give back before its
end: not for processes that live on after training.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep what is freed from now on; False where the C library has no such setting."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return False
    # Blocks from the heap rather than mapped one by one, and a heap that is never cut at its end.
    return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, _NEVER))
