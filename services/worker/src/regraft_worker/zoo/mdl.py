"""`checkpoint_<step>.mdl` as the release of the params file writes it, from a checkpoint of the trainer.

| params file | encoding | beside `model` |
|---|---|---|
| 1.7 to 1.9 | torch zip | optimizer, lr_scheduler, global_step, state_version |
| 2.0 to 2.2 | torch zip | optimizer, lr_scheduler, dataloader, global_step |
| trainer form | HDF5 format 0.5, or torch zip | optimizer, schedulers, dataloader, global_step |

2.3 to 2.5 read no HDF5 later than 0.4: for them the trainer form's content goes into a torch file (`hdf5=False`).
In fp16 there is the loss scale besides (see `scaler_state`). HDF5 format 0.4, which 2.0 to 2.2 write themselves, is
not written here (see `conversion.writers`); they read the other.

No `__metadata__` is written: it would name a release, and every other release would refuse the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from regraft.specs import TrainingSpec
from regraft_worker.conversion.containers import open_container
from regraft_worker.conversion.hf import open_folder
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.mapping import hf_to_cs
from regraft_worker.conversion.moments import MOMENTS, TrainedState, write_trained
from regraft_worker.conversion.own import own_to_hf
from regraft_worker.conversion.parted import parted
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.writers import trained, trained_kind, write_hdf5_05, write_torch_zip
from regraft_worker.trainer.checkpoint import read_state
from regraft_worker.trainer.optimizer import power_of
from regraft_worker.trainer.schedule import schedule_of
from regraft_worker.zoo.scaler_state import scaler_state
from regraft_worker.zoo.schedule_state import State, schedule_state

_PREFIX = "model.model."


@dataclass(frozen=True, kw_only=True)
class Position:
    """What a checkpoint says of the data."""

    samples: int
    seed: int
    map_style: bool
    shuffle: bool


def write_mdl(
    path: Path,
    step_folder: Path,
    *,
    step: int,
    training: TrainingSpec,
    era: str,
    position: Position,
    hdf5: bool = True,
) -> None:
    """Write the checkpoint of a step; it appears when it is whole.

    Raises:
        ConflictError: `path` is there already.
    """
    assert training.max_steps is not None, "a run has an end"
    schedule = schedule_of(training, max_steps=training.max_steps)
    rate = schedule.rate(step)
    with ExitStack() as stack:
        side = stack.enter_context(open_folder(step_folder))
        moments = stack.enter_context(open_container(step_folder / "training_state" / "optimizer.safetensors"))
        made = read_state(step_folder)
        state = _state(side, moments.tensors, step=step, updates=made.updates(), training=training)
        tensors, values = write_trained(side.family, side.architecture, state)
        extra_values, extra_tensors = _beside(training, rate, era)
        of_schedule = schedule_state(schedule.parts, step=step, rate=rate, era=era)
        of_scaler = scaler_state(made.scalars, era=era)
        values |= extra_values | of_schedule[0] | of_scaler[0] | _position(position, era)
        extra_tensors |= of_schedule[1] | of_scaler[1]
        tensors += [of_tensor(name, tensor) for name, tensor in extra_tensors.items()]
        model = hf_to_cs(side.family, side.architecture, side.tensors)
        weights = [_renamed(lazy) for lazy in model.tensors]
        aliases = {_PREFIX + name: _PREFIX + of for name, of in model.aliases.items()}
        write = write_hdf5_05 if hdf5 and era == "2.10" else write_torch_zip
        with parted(path.parent, path.name, overwrite=False) as part:
            write(
                part / path.name,
                [*weights, *tensors],
                values=values,
                aliases=aliases,
                nest=trained,
                kind=trained_kind,
                tick=lambda count: None,
            )


def _renamed(lazy: Lazy) -> Lazy:
    return Lazy(_PREFIX + lazy.name, lazy.dtype, lazy.shape, lazy.read_rows)


def _state(side: Side, moments: Mapping[str, Lazy], *, step: int, updates: int, training: TrainingSpec) -> TrainedState:
    by_kind = [_of_kind(side, moments, kind) for kind in MOMENTS]
    powers = [power_of(beta, updates + 1, exact=False) for beta in training.optimizer.betas]
    return TrainedState(
        global_step=step,
        exp_avg=by_kind[0],
        exp_avg_sq=by_kind[1],
        beta1_power=powers[0],
        beta2_power=powers[1],
        groups=({}, {}),
    )


def _of_kind(side: Side, moments: Mapping[str, Lazy], kind: str) -> dict[str, Lazy]:
    own = {name.removeprefix(f"{kind}/"): lazy for name, lazy in moments.items() if name.startswith(f"{kind}/")}
    return {lazy.name: lazy for lazy in own_to_hf(side.family, side.architecture, own)}


def _beside(training: TrainingSpec, rate: float, era: str) -> State:
    """Hyper-parameters by group: tensors before release 2.0, plain values but for the rate since then."""
    values: dict[str, object] = {"state_version": 0.2} if era == "1.8" else {}
    tensors: dict[str, Tensor] = {}
    for number, decay in enumerate((training.optimizer.weight_decay, 0.0)):
        prefix = f"optimizer.param_groups.{number}."
        tensors[f"{prefix}lr"] = torch.tensor(rate)
        found = {**_hyper(training), "weight_decay": decay}
        if era == "1.8":
            tensors[f"{prefix}initial_lr"] = torch.tensor(rate)
            tensors |= {prefix + key: _as_tensor(value) for key, value in found.items()}
        else:
            values |= {prefix + key: value for key, value in found.items()}
    return values, tensors


def _hyper(training: TrainingSpec) -> dict[str, float | bool]:
    spec = training.optimizer
    return {
        "betas.0": spec.betas[0],
        "betas.1": spec.betas[1],
        "eps": spec.eps,
        "l2_regularization_rate": 0.0,
        "correct_bias": spec.correct_bias,
        "amsgrad": False,
    }


def _as_tensor(value: float | bool) -> Tensor:
    return torch.tensor(int(value), dtype=torch.int32) if isinstance(value, bool) else torch.tensor(value)


def _position(position: Position, era: str) -> dict[str, object]:
    """In the words of the reader that was named; a shuffled iterable one keeps none, nor do releases before 2.0."""
    if era == "1.8":
        return {}
    if position.map_style:
        return {"dataloader.samples_streamed": position.samples, "dataloader.seed": position.seed}
    if position.shuffle:
        return {}
    where = "dataloader.all_worker_states.0."
    return {f"{where}samples_streamed": position.samples, f"{where}shard_index": 0}
