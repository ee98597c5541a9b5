"""The processor of this machine.

Every bit of a result repeats as long as the number of threads does: reductions are split by it. For models of up to
some hundred million weights, for tests, and for trying a recipe before a larger machine runs it. Several devices are
several processes that share the cores: that is for trying what several GPUs will do, and gains no time.
"""

from __future__ import annotations

import os
import resource
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from regraft.specs import TrainingSpec
from regraft_worker.trainer.allocator import keep_freed_memory
from regraft_worker.trainer.targets import _strategy

_CGROUP = Path("/sys/fs/cgroup")


def available() -> dict[str, object]:
    """What this machine, or the container around this process, has."""
    return {"available": True, "devices": _cores(), "cores": _cores(), "memory_bytes": _memory_bytes()}


class Target:
    """All cores as one device, or divided among the processes."""

    device = "cpu"
    backend = "gloo"

    def __init__(self, devices: int, strategy: str = "auto") -> None:
        _strategy.check_devices(devices, _cores(), "this processor, counting cores,")
        self.devices = devices
        self.strategy = _strategy.resolve(strategy, devices)

    def prepare(self) -> None:
        """Threads for the cores there are, or `OMP_NUM_THREADS`; for the whole process, like torch's own settings."""
        import torch

        asked = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(asked) if asked.isdigit() and int(asked) > 0 else max(1, _cores() // _strategy.processes())
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
        keep_freed_memory()

    def check(self, training: TrainingSpec) -> None:
        """See `Target` of the package."""
        self.autocast(training.precision)
        _strategy.check_strategy(training, self.strategy)

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """`fp32`: nothing; `bf16`: matrix products in bfloat16, weights stay fp32."""
        import torch

        if precision == "fp32":
            return nullcontext()
        if precision == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        if precision == "fp16":
            message = "processors multiply fp16 a hundred times slower than fp32"
            raise _strategy.no_such_precision(precision, "Use bf16.", message=message)
        raise _strategy.no_such_precision(precision, "Use fp32 or bf16.")

    def memory_bytes(self) -> int:
        """The machine's or the container's, divided by the processes that share it."""
        return _memory_bytes() // _strategy.processes()

    def memory(self) -> dict[str, float]:
        """The most that this process has held."""
        return {"peak_memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)}


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
