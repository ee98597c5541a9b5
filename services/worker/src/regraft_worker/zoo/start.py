"""What a run starts from: a checkpoint of any encoding, or new weights, as folders that the trainer reads.

A checkpoint with the optimiser's state becomes a step of a run of the trainer's own, so going on is the trainer's
matter, bit for bit; one without becomes its base checkpoint. The price is a copy of the checkpoint in the work folder.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from regraft.errors import InvalidDataError, InvalidInputError
from regraft.keymap import rows
from regraft.storage import publish
from regraft_worker.conversion.hf import model_tensors, write_checkpoint
from regraft_worker.conversion.lazy import Lazy, ReadRows
from regraft_worker.conversion.mapping import cs_to_hf, hf_to_cs, without_prefixes
from regraft_worker.conversion.moments import MOMENTS, TrainedState, read_trained
from regraft_worker.conversion.opened import Opened, open_checkpoint, recognise
from regraft_worker.conversion.own import own_from_hf
from regraft_worker.conversion.writers import write_safetensors
from regraft_worker.zoo.beside import differences
from regraft_worker.zoo.initial import initial_weights
from regraft_worker.zoo.params import Params
from regraft_worker.zoo.scaler_state import Scalars, scaler_scalars

_NAME = re.compile(r"checkpoint_(\d+)((?:_\d{8}_\d{6})?)\.mdl")


@dataclass(frozen=True, kw_only=True)
class Found:
    """An open checkpoint that fits the params file."""

    path: Path
    tensors: list[Lazy]
    """Of the model, under Hugging Face names."""
    trained: TrainedState | None
    """Optimiser and step, when they are there and asked for."""
    samples: int | None
    """Windows read by then, when the file says so."""
    seed: int | None
    """Of their order."""
    updates: int = 0
    """Of the optimiser: its steps, but for those that fp16 left out."""
    scaler: Scalars = field(default_factory=dict)
    """The loss scale of fp16 and its counters, when they are there, needed and asked for."""
    global_step: int = 0
    """What the file says, whatever is taken from it."""
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return 0 if self.trained is None else self.trained.global_step


def saved_checkpoints(model_dir: Path) -> list[Path]:
    """The `checkpoint_<step>.mdl` of a folder, the newest last: by step, then by the time in the name."""
    matches = [(match, path) for path in model_dir.glob("checkpoint_*.mdl") if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(matches, key=lambda pair: (int(pair[0][1]), pair[0][2]))]


@contextmanager
def open_start(path: Path, params: Params, *, to_train: bool) -> Iterator[Found]:
    """Open a checkpoint, to train on or only to be scored.

    Raises:
        InvalidInputError: there is nothing at `path`.
        InvalidDataError: it is damaged, or is not of this model.
    """
    with open_checkpoint(path) as opened:
        tensors, notes = _model(opened, params)
        wanted = to_train and "optimizer" in params.control.states
        trained = None
        if wanted:
            trained = read_trained(params.model.family, params.model.architecture, opened.tensors, opened.values)
        updates = 0 if trained is None else _updates(trained, params)
        samples, seed = _position(opened) if wanted and "dataloader" in params.control.states else (None, None)
        scaled = wanted and params.training["precision"] == "fp16" and "grad_scaler" in params.control.states
        yield Found(
            path=path,
            tensors=tensors,
            trained=trained,
            samples=samples,
            seed=seed,
            updates=updates,
            scaler=scaler_scalars(opened) if scaled else {},
            global_step=opened.global_step or 0,
            notes=(*notes, *differences(path, params.model.architecture)),
        )


def write_base(folder: Path, tensors: list[Lazy], params: Params) -> None:
    """The weights as the trainer's base checkpoint."""
    write_checkpoint(folder, tensors, config=params.model.config)


def new_weights(params: Params) -> list[Lazy]:
    """Drawn as the params file says."""
    model = params.model
    return initial_weights(
        model.initializers, family=model.family, architecture=model.architecture, seed=params.control.seed
    )


def untrained(tensors: list[Lazy]) -> Found:
    """New weights, or those of a checkpoint without its optimiser, with moments of zero, as step 0."""
    zeros = {lazy.name: replace(lazy, dtype=torch.float32, read_rows=_zeros(lazy.shape)) for lazy in tensors}
    trained = TrainedState(global_step=0, exp_avg=zeros, exp_avg_sq=zeros, beta1_power=0.0, beta2_power=0.0)
    return Found(path=Path(), tensors=tensors, trained=trained, samples=None, seed=None)


def write_step(folder: Path, found: Found, params: Params, *, state: Mapping[str, object]) -> None:
    """A checkpoint with its optimiser as a step of a run of the trainer's own; `state` is its `state.json`."""
    assert found.trained is not None, "there is a state to go on from"
    moments = [_own_moments(params, key, getattr(found.trained, key)) for key in MOMENTS]
    with publish(folder, kind="checkpoint") as draft:
        write_checkpoint(draft.folder, found.tensors, config=params.model.config)
        inside = draft.folder / "training_state"
        inside.mkdir()
        both = [lazy for part in moments for lazy in part]
        write_safetensors(inside / "optimizer.safetensors", both, tick=lambda count: None)
        (inside / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        (inside / "reports.jsonl").write_text("", encoding="utf-8")
        draft.summary = {"step": found.step, "format": "hf"}


def _zeros(shape: tuple[int, ...]) -> ReadRows:
    return lambda start, stop: torch.zeros((stop - start, *shape[1:]))


def _own_moments(params: Params, key: str, found: Mapping[str, Lazy]) -> list[Lazy]:
    own = own_from_hf(params.model.family, params.model.architecture, found)
    return [replace(lazy, name=f"{key}/{name}") for name, lazy in own.items()]


def _model(opened: Opened, params: Params) -> tuple[list[Lazy], tuple[str, ...]]:
    """Its tensors under Hugging Face names; not strictly: unknown ones are dropped, missing ones drawn."""
    naming, _ = recognise(opened.model)
    strict = params.control.strict
    if naming == "hf":
        return list(model_tensors(params.model.family, params.model.architecture, opened.tensors).values()), ()
    state = without_prefixes(opened.model)
    missing = {} if strict else _missing(state, params)
    mapped = cs_to_hf(params.model.family, params.model.architecture, state | missing, drop_unmatched=not strict)
    notes = [f"not in the checkpoint, and drawn anew: {', '.join(sorted(missing))}"] if missing else []
    notes += [f"in the checkpoint, and not used: {', '.join(mapped.dropped)}"] if mapped.dropped else []
    return mapped.tensors, tuple(notes)


def _missing(state: Mapping[str, Lazy], params: Params) -> dict[str, Lazy]:
    """New weights for what the checkpoint has not."""
    family, architecture = params.model.family, params.model.architecture
    drawn = hf_to_cs(family, architecture, {lazy.name: lazy for lazy in new_weights(params)})
    by_name = {lazy.name: lazy for lazy in drawn.tensors}
    found: dict[str, Lazy] = {}
    for row in rows(family, architecture):
        tied = row.is_head and architecture.tied_embeddings
        if not tied and not (row.stored_twice and state.keys() & set(row.cs)):
            names = row.cs[:1] if row.stored_twice else row.cs
            found |= {name: by_name[name] for name in names if name not in state}
    return found


def _updates(trained: TrainedState, params: Params) -> int:
    """How many there were, by the power of beta2; but for fp16, which leaves steps out, they must be the steps."""
    spec, step = params.training["optimizer"], trained.global_step
    assert isinstance(spec, dict), "read from the params file"
    beta = spec["betas"][1]
    if trained.beta2_power < 1e-30 or not 0 < beta < 1:  # of so many steps that nothing is left to be corrected
        return step
    updates = math.log(trained.beta2_power) / math.log(beta) - 1
    beyond = 0.5 + 0.01 * step
    if params.training["precision"] == "fp16" and -beyond < updates < step:
        return max(0, round(updates))
    if abs(updates - step) > beyond:
        raise InvalidDataError(
            f"the optimizer has made {updates:.0f} updates with this beta2, and the checkpoint is at step {step}",
            field="checkpoint_path",
            value=trained.beta2_power,
            remedy="Give the betas the checkpoint was made with, or --load_checkpoint_states model.",
            reason="unsupported_checkpoint",
        )
    return step


def _position(opened: Opened) -> tuple[int | None, int | None]:
    """Windows read, and the seed: of the map-style reader, or of the iterable one with a single worker."""
    found: list[int | None] = []
    for name in ("dataloader.samples_streamed", "dataloader.seed"):
        value = opened.tensors[name].whole().item() if name in opened.tensors else opened.values.get(name)
        found.append(int(value) if isinstance(value, int | float) else None)
    workers = "dataloader.all_worker_states."
    if found[0] is None and not any(name.startswith(f"{workers}1.") for name in (*opened.values, *opened.tensors)):
        one = opened.values.get(f"{workers}0.samples_streamed")
        found[0] = one if isinstance(one, int) else None
    return found[0], found[1]


def check_position(found: Found, *, batch_size: int, seed: int, shuffle: bool) -> None:
    """The data goes on at step times batch size: refuse a checkpoint that says otherwise.

    Raises:
        InvalidInputError: other windows would be read than the checkpoint's run would have read.
    """
    expected = found.step * batch_size
    remedy = "Give --load_checkpoint_states model,optimizer,lr_scheduler,global_step to go on regardless."
    if found.samples is not None and found.samples != expected:
        raise InvalidInputError(
            f"the checkpoint has read {found.samples} windows, not {expected}: its batch size was another one",
            field="train_input.batch_size",
            value=batch_size,
            remedy=remedy,
        )
    if shuffle and found.seed is not None and found.seed != seed:
        raise InvalidInputError(
            f"the checkpoint's windows were shuffled with {found.seed}",
            field="train_input.shuffle_seed",
            value=seed,
            remedy=remedy,
        )
