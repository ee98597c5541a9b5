"""The same batch through `transformers`, where it is installed and the model fits: a second opinion on the decoder.

It runs in a child process, whose memory goes with it. What cannot be asked is no failure: `transformers` is optional,
and holds a whole model, so large ones are left out and this is said; nor is a child that is killed or finds no memory.
When it answers, the answer must agree, and a model that it fails to load or to compute is not proven.
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
from typing import NamedTuple

import numpy as np
import torch

from regraft.errors import InvalidDataError
from regraft_worker.conversion._transformers_child import ANSWER, QUESTION, STARTED
from regraft_worker.conversion.parity import Output, compare_outputs, output_of

SHARE = 0.25
"""Of the memory that is free: as much may the model take in fp32, with its stored form beside it."""
TOLERANCE = 1e-4
"""Wider than between our own sides: other kernels add up in another order."""
NO_ANSWER = "did not answer"
_BYTES_PER_WEIGHT = 8
_SECONDS, _POLL = 1800, 0.2
_NOT_OF_THE_MODEL = ("ImportError", "ModuleNotFoundError", "MemoryError")
_NO_MEMORY = "DefaultCPUAllocator"  # torch's RuntimeError


class Files(NamedTuple):
    """A checkpoint of any encoding, under Hugging Face names; its tensors are read here and given to `transformers`."""

    weights: Path
    """A file, an index or a folder."""
    config: Path
    """JSON, whatever its name."""
    model_class: str
    """As `transformers` calls it; old configs do not say it."""
    left_out: tuple[str, ...] = ()
    """Tensors in the file that are none of the model's."""


def compare_with_transformers(
    model: Path | Files | None, output: Output, *, parameters: int, share: float, check: Callable[[], None]
) -> dict[str, object]:
    """What was compared and by how much it differs, or why nothing was.

    `model` is a folder with safetensors, which `transformers` loads by itself, or files that it is given. `share`: of
    the free memory; 0 is not to ask.

    Raises:
        InvalidDataError: `transformers` finds other tensors, fails with them, or computes other logits.
    """
    why_not = _why_not(model, parameters, share)
    if why_not or model is None:
        return {"not_compared": why_not}
    with tempfile.TemporaryDirectory(prefix="regraft-") as place:
        (Path(place) / QUESTION).write_text(json.dumps(_question(model, output)), encoding="utf-8")
        why_not = _ask(place, check)
        if why_not:
            return {"not_compared": why_not}
        with np.load(Path(place) / ANSWER, allow_pickle=False) as found:
            logits, problems = torch.from_numpy(found["logits"]), found["problems"].tolist()
    if problems:
        raise _not_equivalent(f"finds other tensors in the model: {'; '.join(problems[:3])}", len(problems))
    theirs = output_of(output.ids, logits)
    facts = compare_outputs(theirs, output, tolerance=TOLERANCE, names=("transformers", "result"))
    return {**facts, "compared": f"transformers {version('transformers')} and this project's decoder, in fp32"}


def _why_not(model: Path | Files | None, parameters: int, share: float) -> str:
    if model is None:
        return "there is no Hugging Face folder with safetensors of this model"
    if not share:
        return "it was left out on request"
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


def _ask(place: str, check: Callable[[], None]) -> str:
    """Have the child write its answer; why it did not, else nothing.

    Raises:
        InvalidDataError: it came to the model, and failed with that.
    """
    with subprocess.Popen(
        # -P: no module from the working folder, which may be the checkpoint's, takes the place of a known one.
        [sys.executable, "-P", "-m", f"{__package__}._transformers_child", place, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    ) as child:
        try:
            said = _wait(child, check)
        finally:
            child.kill()
    if child.returncode == 0:
        return ""
    last = (said.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1][:300]
    is_of_model = not last.startswith(_NOT_OF_THE_MODEL) and _NO_MEMORY not in last
    if child.returncode > 0 and is_of_model and (Path(place) / STARTED).exists():
        raise _not_equivalent(f"fails with the model: {last}", child.returncode)
    return f"{NO_ANSWER} (status {child.returncode}): {last}"


def _question(model: Path | Files, output: Output) -> dict[str, object]:
    batch = {"input_ids": output.ids.tolist()}
    if output.positions is not None:
        batch["position_ids"] = output.positions.tolist()
    if isinstance(model, Path):
        return {"folder": str(model), "batch": batch}
    files = model._asdict() | {"weights": str(model.weights), "config": str(model.config)}
    return {"files": files, "batch": batch}


def _wait(child: subprocess.Popen[bytes], check: Callable[[], None]) -> bytes:
    for _ in range(int(_SECONDS / _POLL)):
        try:
            return child.communicate(timeout=_POLL)[1]
        except subprocess.TimeoutExpired:
            check()
    return f"it took more than {_SECONDS} seconds".encode()


def _not_equivalent(what: str, value: int) -> InvalidDataError:
    return InvalidDataError(
        f"transformers {what}",
        field="checkpoint",
        value=value,
        remedy="Report this together with the checkpoint's config.json; the result was not published.",
        reason="conversion_not_equivalent",
    )
