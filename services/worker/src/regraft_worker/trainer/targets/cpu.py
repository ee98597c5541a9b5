"""The processor of this machine.

Every bit of a result repeats as long as the number of threads does: reductions are split by it. For models of up to
some hundred million weights, for tests, and for trying a recipe before a larger machine runs it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from regraft.errors import InvalidInputError
from regraft_worker.trainer.allocator import keep_freed_memory

_CGROUP = Path("/sys/fs/cgroup")


def available() -> dict[str, object]:
    """What this machine, or the container around this process, has."""
    return {"available": True, "devices": 1, "cores": _cores(), "memory_bytes": _memory_bytes()}


class Target:
    """All cores as one device."""

    device = "cpu"

    def __init__(self, devices: int) -> None:
        if devices != 1:
            raise InvalidInputError(
                "the processor counts as one device", field="target.devices", value=devices, remedy="Use 1."
            )

    def prepare(self) -> None:
        """Threads for the cores there are, or `OMP_NUM_THREADS`; for the whole process, like torch's own settings."""
        import torch

        asked = os.environ.get("OMP_NUM_THREADS", "")
        torch.set_num_threads(int(asked) if asked.isdigit() and int(asked) > 0 else _cores())
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
        keep_freed_memory()

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """`fp32`: nothing; `bf16`: matrix products in bfloat16, weights stay fp32."""
        import torch

        if precision == "fp32":
            return nullcontext()
        if precision == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        raise InvalidInputError("unknown precision", field="precision", value=precision, remedy="Use fp32 or bf16.")


def _cores() -> int:
    """Cores this process may use; a container's quota counts, or its threads would wait for each other."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _read("cpu.max").partition(" ")
    return cores if not quota.isdigit() else max(1, min(cores, int(quota) // int(period)))


def _memory_bytes() -> int:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read("memory.max")
    return min(installed, int(limit)) if limit.isdigit() else installed


def _read(name: str) -> str:
    file = _CGROUP / name
    return file.read_text(encoding="ascii").strip() if file.is_file() else ""
