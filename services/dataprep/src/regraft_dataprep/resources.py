"""What a preparation may use of its machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from regraft_dataprep.sources.base import PART_BYTES

_BYTES_PER_PROCESS = 768 * 2**20
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use. None of it has an influence on the dataset."""

    processes: int | None = None
    """None: one a core, as far as memory goes. 1: none but the caller's."""
    part_bytes: int = PART_BYTES
    """Of the corpus, in one unit of work."""

    def processes_for(self, units: int) -> int:
        """How many to start for so many units of work."""
        if self.processes is not None:
            return max(1, self.processes)
        cores = len(os.sched_getaffinity(0))
        return max(1, min(cores, units, _memory() // _BYTES_PER_PROCESS))


def _memory() -> int:
    """Bytes that this process and its children may have: the machine's, or the container's."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _LIMITS:
        if path.is_file():
            text = path.read_text().strip()
            limits += [int(text)] if text.isdigit() else []
    return min(limits)


def keep_to_one_thread() -> None:
    """For programs whose first import of numpy is still to come: OpenBLAS' threads take memory, and nothing here
    multiplies matrices.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
