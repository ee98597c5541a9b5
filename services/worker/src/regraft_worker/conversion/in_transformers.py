"""The same batch through `transformers`, where it is installed and the model fits: a second opinion on the decoder.

It runs in a child process, whose memory goes with it. What cannot be asked is no failure: `transformers` is optional,
and holds a whole model, so large ones are left out and this is said. When it answers, the answer must agree.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from regraft.errors import InvalidDataError
from regraft_worker.conversion.parity import Output, compare_outputs, output_of

SHARE = 0.25
"""Of the memory that is free: as much may the model take in fp32, with its stored form beside it."""
TOLERANCE = 1e-4
"""Wider than between our own sides: other kernels add up in another order."""
_BYTES_PER_WEIGHT = 8
_SECONDS, _POLL = 1800, 0.2


def compare_with_transformers(
    folder: Path | None, output: Output, *, parameters: int, share: float, check: Callable[[], None]
) -> dict[str, object]:
    """What was compared and by how much it differs, or why nothing was.

    Raises:
        InvalidDataError: `transformers` finds other tensors, or computes other logits.
    """
    why_not = _why_not(folder, parameters, share)
    if why_not or folder is None:
        return {"not_compared": why_not}
    with tempfile.TemporaryDirectory(prefix="regraft-") as place:
        answer = Path(place) / "logits.npz"
        why_not = _ask(folder, output.ids, answer, check)
        if why_not:
            return {"not_compared": why_not}
        with np.load(answer, allow_pickle=False) as found:
            logits, problems = torch.from_numpy(found["logits"]), found["problems"].tolist()
    if problems:
        raise _other_tensors(problems)
    theirs = output_of(output.ids, logits)
    facts = compare_outputs(theirs, output, tolerance=TOLERANCE, names=("transformers", "result"))
    return {**facts, "compared": f"transformers {version('transformers')} and this project's decoder, in fp32"}


def _why_not(folder: Path | None, parameters: int, share: float) -> str:
    if folder is None:
        return "there is no Hugging Face folder with safetensors of this model"
    try:
        version("transformers")
    except PackageNotFoundError:
        return "transformers is not installed"
    needed, allowed = parameters * _BYTES_PER_WEIGHT, int(share * _free_memory())
    return f"the model needs {needed} bytes of memory, and {allowed} are allowed" if needed > allowed else ""


def _free_memory() -> int:
    """Of the machine, or of the control group that this process is in."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    limit = (group / "memory.max").read_text().strip() if (group / "memory.max").is_file() else "max"
    if limit == "max":
        return free
    return min(free, int(limit) - int((group / "memory.current").read_text()))


def _ask(folder: Path, ids: torch.Tensor, answer: Path, check: Callable[[], None]) -> str:
    """Have the child write its answer; why it did not, else nothing."""
    words = [str(folder), str(answer), str(os.getpid()), json.dumps(ids.tolist())]
    child = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}._transformers_child", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    try:
        said = _wait(child, check)
    finally:
        child.kill()
        child.wait()
    if child.returncode != 0:
        last = (said.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        return f"transformers ended with status {child.returncode}: {last[:200]}"
    return ""


def _wait(child: subprocess.Popen[bytes], check: Callable[[], None]) -> bytes:
    for _ in range(int(_SECONDS / _POLL)):
        try:
            return child.communicate(timeout=_POLL)[1]
        except subprocess.TimeoutExpired:
            check()
    return f"it took more than {_SECONDS} seconds".encode()


def _other_tensors(names: list[str]) -> InvalidDataError:
    return InvalidDataError(
        f"transformers misses or does not know tensors of the result: {', '.join(names[:3])}",
        field="checkpoint",
        value=len(names),
        remedy="Report this together with the checkpoint's config.json; the result was not published.",
        reason="conversion_not_equivalent",
    )
