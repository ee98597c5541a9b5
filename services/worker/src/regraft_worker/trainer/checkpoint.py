"""Checkpoints of a run: a Hugging Face model directory each, with all that training needs to go on inside.

    <run>/step-00000123/
        config.json, model*.safetensors, tokenizer files      loads elsewhere as it is; fp32, as trained
        training_state/optimizer.safetensors                  exp_avg/<own name>, exp_avg_sq/<own name>
        training_state/state.json                             step, tokens, data position, what made it
        training_state/reports.jsonl                          the newest reports: a kill may have lost them on their way
        manifest.json                                         written last

No random state is saved: every step seeds the generators from (seed, step), the order of the windows and the rate are
functions of the step, so a checkpoint has nothing else to restore. No pickle: loading runs no code.

The trade-off: each checkpoint is 12 bytes per weight and is written while training waits.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from regraft.errors import InvalidDataError
from regraft.ports import NullProgress, Progress
from regraft.specs import Spec, TargetSpec, TrainingSpec
from regraft.storage import publish, read_manifest, verify
from regraft_worker.conversion.hf import write_checkpoint
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.model.decoder import Decoder
from regraft_worker.trainer.optimizer import MOMENTS, AdamW
from regraft_worker.trainer.snapshot import Snapshot
from regraft_worker.trainer.weights import Description

_FOLDER = re.compile(r"step-(\d{8,})")
_STATE = "training_state/state.json"
_OPTIMIZER = "training_state/optimizer.safetensors"
_REPORTS = "training_state/reports.jsonl"

Reported = dict[str, Any]
"""What was told at a step: `step`, `metrics`, `tokens`."""


class DataPosition(Spec):
    """How far the windows are read; these two keys are those of the reference tools' checkpoints."""

    samples_streamed: int
    """Over all datasets and devices, from the start of the run."""
    seed: int
    """Of the order; another one would read other windows from here on."""


class DatasetRead(Spec):
    """What one dataset is, wherever it lies: its address, or where it has no manifest, a digest of what files say."""

    address: str | None = None
    files: str | None = None
    """Of their names, sizes, numbers of windows and types."""


class TrainingState(Spec):
    """`state.json`: where a run stands, and what made it."""

    format_version: Literal[2] = 2
    step: int = 0
    """Finished optimiser steps; also the position of the schedule."""
    dataloader: DataPosition
    """Position in the order of the windows."""
    tokens_seen: int = 0
    """Tokens counted in the loss so far."""
    train_loss: float | None = None
    """Of the last step."""
    val_loss: float | None = None
    """At this very step; null when it was not scored."""
    best_step: int | None = None
    best_val_loss: float | None = None
    training: TrainingSpec
    target: TargetSpec
    max_steps: int
    dataset: str | None
    """Address of the dataset; null when it has no manifest."""
    dataset_windows: int
    dataset_files: str | None = None
    """Without a manifest: a digest of the dataset's files, as in `DatasetRead`."""
    mixture: tuple[DatasetRead, ...] = ()
    """The further datasets, in the order of `training.mixture`."""
    base: str | None
    """Address of the checkpoint the run started from; null when it has no manifest."""
    versions: dict[str, str]
    scalars: dict[str, float | int] = Field(default_factory=dict)
    """What else the optimiser needs: `updates`, the number it has made, and the loss scale of fp16."""

    @model_validator(mode="before")
    @classmethod
    def _from_version_1(cls, data: Any) -> Any:
        """Version 1 knew one dataset, and the position as `windows_read`; the seed was, and is, in `training`."""
        if not isinstance(data, dict) or data.get("format_version") != 1:
            return data
        position = {"samples_streamed": data.get("windows_read"), "seed": data.get("training", {}).get("seed")}
        kept = {name: value for name, value in data.items() if name != "windows_read"}
        return {**kept, "format_version": 2, "dataloader": position}

    def summary(self) -> dict[str, object]:
        """For the manifest and the job's record."""
        found: dict[str, object] = {
            "step": self.step,
            "tokens_seen": self.tokens_seen,
            "train_loss": self.train_loss,
            "format": "hf",
        }
        return found if self.val_loss is None else {**found, "val_loss": self.val_loss}


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return run / f"step-{step:08d}"


def latest(run: Path, *, progress: Progress | None = None) -> Path | None:
    """The newest checkpoint that is whole, every byte of it as published; damaged ones are reported and skipped."""
    for _, folder in sorted(_steps(run), reverse=True):
        fault = _fault(folder)
        if fault is None:
            return folder
        (progress or NullProgress()).event(
            f"checkpoint {folder.name} is skipped: {fault}", level="warn", data={"checkpoint": folder.name}
        )
    return None


def write(
    run: Path,
    state: TrainingState,
    snapshot: Snapshot,
    *,
    description: Description,
    base: Path,
    reports: Iterable[Reported] = (),
) -> Path:
    """Publish the checkpoint of `state.step`; tokenizer files come from `base`."""
    final = step_folder(run, state.step)
    state = state.model_copy(update={"scalars": snapshot.scalars})
    weights = own_to_hf(description.family, description.architecture, _on_host(snapshot.weights))
    with publish(final, kind="checkpoint") as draft:
        write_checkpoint(draft.folder, weights, config=description.config, extra_files_from=base)
        (draft.folder / _STATE).parent.mkdir()
        save_file(snapshot.moments, draft.folder / _OPTIMIZER)
        (draft.folder / _STATE).write_text(state.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")
        lines = "".join(json.dumps(report) + "\n" for report in reports)
        (draft.folder / _REPORTS).write_text(lines, encoding="utf-8")
        roles = {"dataset": state.dataset, "base": state.base}
        roles |= {f"mixture.{number}": part.address for number, part in enumerate(state.mixture)}
        draft.parents = {role: address for role, address in roles.items() if address is not None}
        draft.made_by = state.training.model_dump(mode="json", by_alias=True)
        draft.summary = state.summary()
    return final


def read_state(folder: Path) -> TrainingState:
    """Where the run stood at this checkpoint.

    Raises:
        InvalidDataError: the state is missing or cannot be understood.
    """
    try:
        return TrainingState.model_validate_json((folder / _STATE).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise _unusable(folder, "training state") from error


def read_reports(folder: Path) -> list[Reported]:
    """The newest reports up to this checkpoint, oldest first."""
    return [json.loads(line) for line in (folder / _REPORTS).read_text(encoding="utf-8").splitlines()]


def summaries(run: Path) -> list[tuple[Path, dict[str, object]]]:
    """Every published checkpoint of a run with its summary, oldest first; not verified, unreadable ones left out."""
    found = []
    for _, folder in sorted(_steps(run)):
        try:
            manifest = read_manifest(folder)
        except InvalidDataError:
            continue
        if manifest is not None:
            found.append((folder, dict(manifest.summary)))
    return found


def load_optimizer(folder: Path, *, model: Decoder, optimizer: AdamW) -> None:
    """Fill the moments and the count of updates, bit for bit. Weights: `weights.load_model` on the same folder.

    Raises:
        InvalidDataError: the moments do not fit the model.
    """
    wanted = _moments(model, optimizer)
    with safe_open(folder / _OPTIMIZER, framework="pt") as file:
        if set(file.keys()) != set(wanted):
            raise _unusable(folder, "optimiser state")
        for name, moment in wanted.items():
            saved = file.get_tensor(name)
            if saved.shape != moment.shape:
                raise _unusable(folder, "optimiser state")
            moment.copy_(saved)
    optimizer.step_count = read_state(folder).step


def prune(run: Path, state: TrainingState) -> list[Path]:
    """Delete checkpoints beyond `keep_last`, the best one excepted with `keep_best`; returns those deleted.

    Those of later steps are left alone: they are damaged ones that this run has gone back behind, and will replace.
    """
    spec = state.training.checkpoint
    past = sorted(step for step, _ in _steps(run) if step <= state.step)
    kept = set(past[-spec.keep_last :])
    if spec.keep_best:
        kept.add(state.best_step or state.step)
    deleted = [step_folder(run, step) for step in past if step not in kept]
    for folder in deleted:
        _delete(folder)
    return deleted


def _steps(run: Path) -> list[tuple[int, Path]]:
    if not run.is_dir():
        return []
    matches = ((_FOLDER.fullmatch(folder.name), folder) for folder in run.iterdir() if folder.is_dir())
    return [(int(match[1]), folder) for match, folder in matches if match]


def _fault(folder: Path) -> str | None:
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return "it has no manifest"
        verify(folder, manifest)
    except ValueError as error:  # InvalidDataError, or a manifest that is not UTF-8
        return str(error)
    return None


def _delete(folder: Path) -> None:
    # Without its manifest it is no checkpoint any more, however far the rest gets.
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)


def _moments(model: Decoder, optimizer: AdamW) -> dict[str, Tensor]:
    return {
        f"{moment}/{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
    }


def _on_host(state: Mapping[str, Tensor]) -> dict[str, Lazy]:
    """Tensors of any device, which come to this one block by block."""

    def lazy(name: str, tensor: Tensor) -> Lazy:
        return Lazy(name, tensor.dtype, tuple(tensor.shape), lambda start, stop: tensor[start:stop].cpu())

    return {name: lazy(name, tensor.detach()) for name, tensor in state.items()}


def _unusable(folder: Path, what: str) -> InvalidDataError:
    return InvalidDataError(
        f"the {what} of this checkpoint cannot be used",
        value=str(folder),
        remedy="Delete the checkpoint; the run goes on from the one before.",
        reason="invalid_checkpoint",
    )
