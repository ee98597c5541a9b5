"""Proof that what was written is what was read, kept with it as `verification.json`.

A checkpoint is read through once for the digests of its files and of its tensors, which must be finite numbers. What
was written is read back, put under the names of the source, and must give the same digests. And both sides must
compute the same: see `parity`. The price: source and result are each read twice for it, once for the digests and once
to compute with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.families import Architecture, parameter_count
from regraft.ports import Progress
from regraft_worker.conversion.bits import bits, digest, is_finite
from regraft_worker.conversion.files_digest import FilesDigest
from regraft_worker.conversion.in_transformers import SHARE, compare_with_transformers
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.parity import TOLERANCE, Output, compare_outputs, run_side
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.source import Source

FILE = "verification.json"


class Steps:
    """Counts bytes for a `Progress`, and stops the work when it is asked to."""

    def __init__(self, progress: Progress, *, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def check(self) -> None:
        """Raise InterruptedStageError when the stage shall stop."""
        if self._progress.should_stop():
            raise InterruptedStageError("stopped before the result was published")

    def tick(self, count: int) -> None:
        """So many bytes more are through."""
        self.check()
        self._done = min(self._done + count, self._total)
        self._progress.step(self._done, {}, total=self._total)

    def finish(self) -> None:
        """Nothing is left to do, also when it was less than was thought."""
        if self._done < self._total:
            self._progress.step(self._total, {}, total=self._total)


@dataclass(frozen=True)
class Digests:
    """sha256 of what a source consists of, by name."""

    files: Mapping[str, str]
    tensors: Mapping[str, str]
    """In the source's naming, of the raw little-endian bytes."""


def read_through(source: Source, steps: Steps) -> Digests:
    """Digests of the files and tensors of a source, all in one reading.

    Raises:
        InvalidDataError: a value is not finite.
    """
    with FilesDigest(source.weights) as weights:
        tensors: dict[str, str] = {}
        for name, lazy in source.side.tensors.items():
            sha256 = hashlib.sha256()
            for block in lazy.blocks():
                hashed = weights.go_on(block.nbytes)
                _check_finite(name, lazy, block)
                sha256.update(bits(block).numpy())
                hashed()
                steps.tick(block.nbytes)
            tensors[name] = sha256.hexdigest()
        files = weights.finish(steps.check)
    small = [path for path in source.files if path not in source.weights]
    files |= {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in small}
    return Digests(files, tensors)


def prove(
    source: Side,
    digests: Digests,
    expected: Output,
    result: Side,
    steps: Steps,
    *,
    hf_folder: Path | None,
    transformers_share: float = SHARE,
) -> dict[str, object]:
    """What `verification.json` says of a result that holds.

    `expected` is what the source computes. `hf_folder` is a Hugging Face folder with safetensors of this model, for
    `transformers` to load when it is installed and the model fits into that share of the memory.

    Raises:
        InvalidDataError: tensors or numbers are not the source's.
    """
    check_same_model(source.architecture, result.architecture)
    _compare(source, digests, result.under(source.naming), steps)
    output = run_side(result, steps.tick)
    return {
        "format_version": 1,
        "verified": True,
        "tensors": {
            "compared": "sha256 of every tensor of the source, and of what was read back under the source's names",
            "count": len(digests.tensors),
            "bytes": source.nbytes,
            "sha256": dict(digests.tensors),
        },
        "logits": compare_outputs(expected, output),
        "transformers": compare_with_transformers(
            hf_folder, output, parameters=_parameters(source), share=transformers_share, check=steps.check
        ),
    }


def write_verification(folder: Path, facts: Mapping[str, object]) -> None:
    """Keep them with the artifact."""
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def summary_of(facts: Mapping[str, object]) -> dict[str, object]:
    """What a manifest says of it."""
    logits = facts["logits"]
    assert isinstance(logits, Mapping), "as `compare_outputs` makes it"
    return {"verified": facts["verified"], "logits_differ_by": logits["max_abs_difference"], "tolerance": TOLERANCE}


def check_same_model(source: Architecture, written: Architecture) -> None:
    """Raise InvalidDataError when the config that was written does not say what the source's says."""
    if written != source:
        differ = [name for name, value in asdict(source).items() if getattr(written, name) != value]
        raise InvalidDataError(
            f"the config that was written does not describe the same model; it differs in {', '.join(differ)}",
            field="config",
            value=getattr(written, differ[0]),
            remedy="Report this together with the checkpoint's config.json.",
            reason="conversion_not_exact",
        )


def _parameters(side: Side) -> int:
    return parameter_count(side.family, side.architecture)


def _compare(source: Side, digests: Digests, found: Mapping[str, Lazy], steps: Steps) -> None:
    for name, given in source.tensors.items():
        back = found.get(name)
        if back is None:
            raise _not_exact(name, "no values at all")
        if (back.dtype, back.shape) != (given.dtype, given.shape):
            raise _not_exact(name, "another type or shape than was written")
        if digest(back, steps.tick) != digests.tensors[name]:
            raise _not_exact(name, "other values than were written")


def _not_exact(name: str, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"'{name}' was read back with {what}",
        field="checkpoint",
        value=name,
        remedy="Try again; if it stays, report it together with the checkpoint's config.json.",
        reason="conversion_not_exact",
    )


def _check_finite(name: str, lazy: Lazy, block: torch.Tensor) -> None:
    if is_finite(block):
        return
    bad = sum(int((~torch.isfinite(part)).sum()) for part in lazy.blocks())
    count = lazy.nbytes // lazy.dtype.itemsize
    raise InvalidDataError(
        f"{bad} of {count} values of '{name}' are not finite",
        field="checkpoint",
        value=name,
        remedy="Use a checkpoint whose weights are all finite; this one cannot be trained.",
        reason="weights_not_finite",
    )
