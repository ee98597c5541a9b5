"""NVIDIA GPUs of this machine, one process each.

Deterministic: cuBLAS gets a workspace of its own, attention and scatters take their repeatable forms, and nothing is
tuned by measuring. TF32 is off: what is asked for in fp32 is computed in fp32, bf16 and fp16 are there for speed. So
the same job gives the same bits on the same kind of GPU and version of torch; on another kind it gives others.

`available` asks nvidia-smi and looks whether torch was built for CUDA, importing nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import AbstractContextManager, nullcontext

from regraft import discover
from regraft.specs import TrainingSpec
from regraft_worker.trainer.targets import _strategy

_FIELDS = ("name", "memory.total", "compute_cap", "driver_version")
_BF16_SINCE = 8.0  # compute capability: Ampere
_ASK_SECONDS = 20


def available() -> dict[str, object]:
    """What this machine has and this process may see (`CUDA_VISIBLE_DEVICES`)."""
    if not _torch_has_cuda():
        return {"available": False, "devices": 0, "why": "this torch is built without CUDA"}
    found = _visible(parse(_ask_nvidia_smi()))
    if not found:
        return {"available": False, "devices": 0, "why": "nvidia-smi names no device"}
    return {
        "available": True,
        "devices": len(found),
        "name": found[0]["name"],
        "memory_bytes": min(int(str(gpu["memory_bytes"])) for gpu in found),
        "compute_capability": min(float(str(gpu["compute_capability"])) for gpu in found),
        "bf16": all(float(str(gpu["compute_capability"])) >= _BF16_SINCE for gpu in found),
        "driver": found[0]["driver"],
    }


def parse(text: str) -> list[dict[str, object]]:
    """The devices in nvidia-smi's answer, lines of `name, MiB, capability, driver`; others are left out."""
    found: list[dict[str, object]] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 3)]
        if len(parts) == 4 and parts[1].isdigit():
            name, mebibytes, capability, driver = parts
            gpu = {"name": name, "memory_bytes": int(mebibytes) * 2**20, "driver": driver}
            found.append({**gpu, "compute_capability": float(capability)})
    return found


class Target:
    """The GPU of this process."""

    backend = "nccl"

    def __init__(self, devices: int, strategy: str = "auto") -> None:
        _strategy.check_devices(devices, int(str(available()["devices"])), "this machine")
        self.devices = devices
        self.strategy = _strategy.resolve(strategy, devices)
        self.device = f"cuda:{_strategy.local_rank()}"

    def prepare(self) -> None:
        """Choose the device and make everything repeatable; for the whole process."""
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        import torch

        torch.cuda.set_device(self.device)
        torch.use_deterministic_algorithms(True)
        # That mode also fills every new tensor; nothing here reads what it has not written.
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    def check(self, training: TrainingSpec) -> None:
        """See `Target` of the package."""
        import torch

        if training.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise _strategy.no_such_precision("bf16", "Use fp16.", message="this GPU has no bfloat16")
        self.autocast(training.precision)
        _strategy.check_strategy(training, self.strategy)

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """`fp32`: nothing; `bf16`, `fp16`: matrix products in these, weights stay fp32."""
        import torch

        if precision == "fp32":
            return nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        if dtype is None:
            raise _strategy.no_such_precision(precision, "Use fp32, bf16 or fp16.")
        # A weight is used once per pass: a cache of its cast copies would only keep them all until the end.
        return torch.autocast("cuda", dtype=dtype, cache_enabled=False)

    def memory_bytes(self) -> int:
        """Of the device, whoever else is using it."""
        import torch

        return int(torch.cuda.mem_get_info(self.device)[1])

    def memory(self) -> dict[str, float]:
        """The most that tensors took on the device, and that torch has taken from it."""
        import torch

        return {
            "peak_memory_bytes": float(torch.cuda.max_memory_allocated(self.device)),
            "reserved_memory_bytes": float(torch.cuda.max_memory_reserved(self.device)),
        }


def _torch_has_cuda() -> bool:
    try:
        folder = discover.folder_of("torch")
    except ModuleNotFoundError:
        return False
    return any((folder / "lib").glob("libtorch_cuda*.so"))


def _ask_nvidia_smi() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    arguments = [command, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(arguments, capture_output=True, text=True, timeout=_ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return ""  # a driver that hangs offers nothing
    return asked.stdout if asked.returncode == 0 else ""


def _visible(found: list[dict[str, object]]) -> list[dict[str, object]]:
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return found
    numbers = [part.strip() for part in asked.split(",")]
    if not all(number.isdigit() for number in numbers):
        return found if asked.strip() and asked.strip() != "-1" else []  # named by UUID: their count is not checked
    return [found[int(number)] for number in numbers if int(number) < len(found)]
