"""Checkpoints of a run: a Hugging Face model directory each, with all that training needs to go on inside.

    <run>/step-00000123/
        config.json, model*.safetensors, tokenizer files      loads elsewhere as it is; fp32, as trained
        training_state/optimizer.safetensors                  exp_avg/<own name>, exp_avg_sq/<own name>
        training_state/state.json                             step, tokens, data position, ledger, what made it
        training_state/reports.jsonl                          the newest reports: a kill may have lost them on their way
        manifest.json                                         written last

A checkpoint is written from a `Snapshot`, so it may be written while training goes on (see writing.py). What was
written is read back and compared with the digests of what was in memory before the manifest declares it whole. No
pickle: loading runs no code.

The trade-off: 12 bytes per weight each, every one of them written, synced and read back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from regraft.errors import InvalidDataError
from regraft.ports import NullProgress, Progress
from regraft.storage import publish, read_manifest, verify
from regraft_worker.conversion.hf import write_checkpoint
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.conversion.writers import write_safetensors
from regraft_worker.conversion.writers.base import raw
from regraft_worker.trainer.folders import OPTIMIZER, REPORTS, STATE, step_folder, steps_in
from regraft_worker.trainer.snapshot import Snapshot
from regraft_worker.trainer.state import TrainingState
from regraft_worker.trainer.weights import Description

Reported = dict[str, Any]
"""What was told at a step: `step`, `metrics`, `tokens`."""


def latest(run: Path, *, progress: Progress | None = None) -> Path | None:
    """The newest checkpoint that is whole, every byte of it as published; damaged ones are reported and skipped."""
    for _, folder in sorted(steps_in(run), reverse=True):
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
    """Publish the checkpoint of `state.step`; tokenizer files come from `base`.

    Raises:
        OSError: it cannot be written; nothing of it stays.
        InvalidDataError: what is read back is not what was written.
    """
    snapshot.wait()
    state = state.model_copy(update={"scalars": snapshot.scalars})
    weights = own_to_hf(description.family, description.architecture, _lazies(snapshot.weights))
    moments = _lazies(snapshot.moments).values()
    return write_step(run, state, weights, moments, description=description, base=base, reports=reports)


def write_step(
    run: Path,
    state: TrainingState,
    weights: Iterable[Lazy],
    moments: Iterable[Lazy],
    *,
    description: Description,
    base: Path,
    reports: Iterable[Reported] = (),
    prove: Callable[[Path], Mapping[str, object]] = lambda folder: {},
) -> Path:
    """Publish the checkpoint of `state.step` from tensors under Hugging Face names and moments under own ones.

    `prove` sees the folder before it is published, may raise, and returns what the summary is to say of it.

    Raises:
        OSError: it cannot be written; nothing of it stays.
        InvalidDataError: what is read back is not what was written.
    """
    final = step_folder(run, state.step)
    with publish(final, kind="checkpoint") as draft:
        written = write_checkpoint(draft.folder, weights, config=description.config, extra_files_from=base)
        _check_read_back(draft.folder, written)
        (draft.folder / STATE).parent.mkdir()
        written = write_safetensors(draft.folder / OPTIMIZER, moments, tick=lambda count: None)
        _check_read_back(draft.folder / OPTIMIZER, written)
        (draft.folder / STATE).write_text(state.model_dump_json(indent=2, by_alias=True) + "\n", encoding="utf-8")
        lines = "".join(json.dumps(report) + "\n" for report in reports)
        (draft.folder / REPORTS).write_text(lines, encoding="utf-8")
        draft.parents = _parents(state)
        draft.made_by = state.training.model_dump(mode="json", by_alias=True)
        draft.summary = {**state.summary(), **prove(draft.folder)}
    return final


def read_state(folder: Path) -> TrainingState:
    """Where the run stood at this checkpoint.

    Raises:
        InvalidDataError: the state is missing or cannot be understood.
    """
    try:
        return TrainingState.model_validate_json((folder / STATE).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise unusable(folder, "training state") from error


def read_reports(folder: Path) -> list[Reported]:
    """The newest reports up to this checkpoint, oldest first."""
    return [json.loads(line) for line in (folder / REPORTS).read_text(encoding="utf-8").splitlines()]


def summaries(run: Path) -> list[tuple[Path, dict[str, object]]]:
    """Every published checkpoint of a run with its summary, oldest first; not verified, unreadable ones left out."""
    found = []
    for _, folder in sorted(steps_in(run)):
        try:
            manifest = read_manifest(folder)
        except InvalidDataError:
            continue
        if manifest is not None:
            found.append((folder, dict(manifest.summary)))
    return found


def unusable(folder: Path, what: str) -> InvalidDataError:
    """The error for a checkpoint with a part that does not fit."""
    return InvalidDataError(
        f"the {what} of this checkpoint cannot be used",
        value=str(folder),
        remedy="Delete the checkpoint; the run goes on from the one before.",
        reason="invalid_checkpoint",
    )


def _fault(folder: Path) -> str | None:
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return "it has no manifest"
        verify(folder, manifest)
    except ValueError as error:  # InvalidDataError, or a manifest that is not UTF-8
        return str(error)
    if not any(entry.path == OPTIMIZER for entry in manifest.files):
        return "its optimiser state is not kept"
    return None


def _check_read_back(path: Path, digests: Mapping[str, str]) -> None:
    """Tensors in the file, or the folder's model files, have these sha256; read from the disk where it lets go of them.

    Raises:
        InvalidDataError: one has not.
    """
    with open_checkpoint(path) as opened:
        for name, digest in digests.items():
            found = hashlib.sha256()
            for block in opened.tensors[name].blocks():
                found.update(raw(block))
            if found.hexdigest() != digest:
                raise InvalidDataError(
                    f"'{name}' was written and reads back as something else",
                    value=str(path),
                    remedy="Check the disk and the memory of this machine.",
                    reason="corrupt_artifact",
                )


def _parents(state: TrainingState) -> dict[str, str]:
    roles = {"dataset": state.dataset, "base": state.base}
    roles |= {f"mixture.{number}": part.address for number, part in enumerate(state.mixture)}
    return {role: address for role, address in roles.items() if address is not None}


def _lazies(tensors: Mapping[str, Tensor]) -> dict[str, Lazy]:
    return {name: of_tensor(name, tensor) for name, tensor in tensors.items()}
