"""The state of a schedule as a Cerebras checkpoint has it, from the parts of the schedule and the step alone.

The names are those in files which releases 1.8.0 and 2.10 wrote; for 2.0 to 2.2, of which there was no such file, they
are those of 2.10 under the older name `lr_scheduler`. Nothing here is read back: our rate is a function of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from regraft.specs import SchedulePart
from regraft_worker.trainer.schedule import Schedule

State = tuple[dict[str, object], dict[str, Tensor]]
"""Values and tensors by dotted name."""
_GROUPS = 2
_NAMES = {
    "from": "initial_learning_rate",
    "to": "end_learning_rate",
    "value": "learning_rate",
    "values": "learning_rates",
}


def schedule_state(parts: Sequence[SchedulePart], *, step: int, rate: float, era: str) -> State:
    """What the checkpoint of `step` holds; `rate` is that of the next step."""
    made = _old(parts, step, rate) if era == "1.8" else _new(parts, step, rate)
    prefix = "schedulers.0." if era == "2.10" else "lr_scheduler."
    return {prefix + name: value for name, value in made[0].items()}, {prefix + n: t for n, t in made[1].items()}


def lengths(parts: Sequence[SchedulePart]) -> list[int | None]:
    """Of each part in steps."""
    return [next(iter(_values(part).values())).get("steps") for part in parts]


def _starts(parts: Sequence[SchedulePart]) -> list[int]:
    return list(accumulate((length or 0 for length in lengths(parts)[:-1]), initial=0))


def _values(part: SchedulePart) -> dict[str, dict[str, object]]:
    return part.model_dump(by_alias=True)


def _options(part: SchedulePart) -> dict[str, object]:
    ((kind, values),) = _values(part).items()
    names = {**_NAMES, "value": "initial_learning_rate"} if kind == "inverse_square_root" else _NAMES
    found: dict[str, object] = {}
    for key, value in values.items():
        name = names.get(key, key)
        if isinstance(value, tuple):  # each of its values has a place of its own
            found |= {f"{name}.{place}": item for place, item in enumerate(value)}
        elif key != "steps":
            found[name] = value
    return found | ({"power": 1.0, "cycle": False} if kind == "linear" else {})


def _old(parts: Sequence[SchedulePart], step: int, rate: float) -> State:
    values: dict[str, object] = {f"_milestones.{place}": end for place, end in enumerate(_starts(parts)[1:])}
    values["last_epoch"] = step
    tensors: dict[str, Tensor] = {}
    for place, (part, start, length) in enumerate(zip(parts, _starts(parts), lengths(parts), strict=True)):
        prefix = f"_schedulers.{place}."
        # A part is stepped from its first step to the last before the next part's; the first one also when it is made.
        last = -1 if place and step < start else min(step - start, (length or step + 1) - 1)
        calls = 1 if last < 0 else last + (2 if place else 1)
        counts = {"start_step": start, "last_epoch": last, "verbose": False, "_step_count": calls}
        found = {**_options(part), "decay_steps": length, "disable_lr_steps_reset": False, **counts}
        values |= {prefix + key: value for key, value in (found | {"_get_lr_called_within_step": False}).items()}
        tensors |= {f"{prefix}base_lrs.{group}": torch.tensor(rate) for group in range(_GROUPS)}
    return values, tensors


def _new(parts: Sequence[SchedulePart], step: int, rate: float) -> State:
    if len(parts) == 1:
        return _new_part(parts[0], "", step, rate, length=lengths(parts)[0], calls=step + 1)
    values: dict[str, object] = {f"_milestones.{place}": end for place, end in enumerate(_starts(parts)[1:])}
    values |= {"param_group_tags": None, "total_iters": None, "_step_count": step + 1, "_get_called_within_step": False}
    tensors = {"last_epoch": torch.tensor(step)}
    tensors |= {f"_last_value.{group}": torch.tensor(rate) for group in range(_GROUPS)}
    for place, (part, start, length) in enumerate(zip(parts, _starts(parts), lengths(parts), strict=True)):
        first = Schedule([part]).rate(0)
        made = _new_part(part, f"_schedulers.{place}.", max(0, step - start), first, length=length, calls=1)
        values, tensors = values | made[0], tensors | made[1]
    return values, tensors


def _new_part(part: SchedulePart, prefix: str, step: int, value: float, *, length: int | None, calls: int) -> State:
    found = {**_options(part), "total_iters": length, "param_group_tags": None, "_step_count": calls}
    found["_get_called_within_step"] = False
    tensors = {"last_epoch": torch.tensor(step)}
    tensors |= {f"_last_value.{group}": torch.tensor(value) for group in range(_GROUPS)}
    return {prefix + key: item for key, item in found.items()}, {prefix + key: item for key, item in tensors.items()}
