"""The loss scale of a run in fp16, as a Cerebras checkpoint holds it.

| params file | where | names |
|---|---|---|
| 1.7 to 1.9 | `scaler` | those of torch's GradScaler, which these releases use on a GPU |
| 2.0 and later | `grad_scaler` | those of the vendor's scaler, and torch's beside them: either loader takes its own |

From 2.0 on the vendor's tools save it from Cerebras systems only; what a GPU of theirs wrote has no scale, and a run
that goes on from it starts with the usual one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from regraft_worker.conversion.opened import Opened
from regraft_worker.trainer.precision import GROWTH_INTERVAL
from regraft_worker.zoo.schedule_state import State

Scalars = dict[str, float | int]
"""As `LossScaler.scalars` says."""
_OLD, _NEW = "scaler.", "grad_scaler."
# Of each of our scalars, the places where a file may have it.
_PLACES = {
    "loss_scale": (f"{_NEW}loss_scale", f"{_NEW}scale", f"{_OLD}scale"),
    "loss_scale_good_steps": (f"{_NEW}steps_since_rescale", f"{_NEW}_growth_tracker", f"{_OLD}_growth_tracker"),
    "skipped_steps": (f"{_NEW}num_skipped_steps",),
}


def scaler_state(scalars: Mapping[str, float | int], *, era: str) -> State:
    """What the checkpoint holds; nothing where the run scales no loss."""
    if "loss_scale" not in scalars:
        return {}, {}
    scale, good_steps = float(scalars["loss_scale"]), int(scalars["loss_scale_good_steps"])
    torchs = {
        "scale": scale,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": GROWTH_INTERVAL,
        "_growth_tracker": good_steps,
    }
    prefix = _OLD if era == "1.8" else _NEW
    values: dict[str, object] = {prefix + name: value for name, value in torchs.items()}
    if era == "1.8":
        return values, {}
    counts = {
        "steps_since_rescale": good_steps,
        "overflows_since_rescale": 0,  # one is enough to rescale
        "num_skipped_steps": int(scalars["skipped_steps"]),
    }
    tensors: dict[str, Tensor] = {prefix + name: torch.tensor(count) for name, count in counts.items()}
    return values, {f"{prefix}loss_scale": torch.tensor(scale), **tensors}


def scaler_scalars(opened: Opened) -> Scalars:
    """The scale in a checkpoint and what led to it; empty where there is none that fp16 could go on with."""
    found: Scalars = {}
    for ours, places in _PLACES.items():
        numbers = [number for place in places if (number := _number(opened, place)) is not None]
        found |= {ours: numbers[0]} if numbers else {}
    return found if found.get("loss_scale", 0) > 0 else {}


def _number(opened: Opened, name: str) -> float | int | None:
    value = opened.values.get(name)
    if name in opened.tensors and opened.tensors[name].shape == ():
        value = opened.tensors[name].whole().item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
