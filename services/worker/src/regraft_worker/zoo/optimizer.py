"""The `optimizer` section of a params file as the optimiser and the schedule of a training specification.

Both generations of names are read: `weight_decay_rate` and `weight_decay`, `beta1` with `beta2` and `betas`, `steps`
and `total_iters`, `Linear` and `LinearLR`. Where the Model Zoo has a default of its own it is used, not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from regraft.errors import InvalidInputError
from regraft_worker.zoo.keys import (
    OPTIMIZER_NO_EFFECT,
    OPTIMIZER_REFUSED,
    OPTIMIZER_USED,
    Section,
    flag,
    number,
    sort_keys,
    unknown_key,
)

_Made = tuple[str, dict[str, object]]
"""The kind of a part of our schedules, and its values but for the length."""
_WHERE = "optimizer"
_NAMES = ("Constant", "CosineDecay", "Exponential", "InverseSquareRoot", "Linear", "PiecewiseConstant", "Polynomial")
_LENGTHS = ("steps", "total_iters", "decay_steps")
_LINE = ("initial_learning_rate", "end_learning_rate")
_KEYS = {
    "linear": {*_LINE, *_LENGTHS, "cycle"},
    "polynomial": {*_LINE, *_LENGTHS, "power", "cycle"},
    "cosinedecay": {*_LINE, *_LENGTHS},
    "constant": {"learning_rate", *_LENGTHS},
    "exponential": {_LINE[0], *_LENGTHS, "decay_rate", "staircase"},
    "inversesquarerootdecay": {_LINE[0], *_LENGTHS, "scale", "warmup_steps"},
    "piecewiseconstant": {"learning_rates", "milestones", *_LENGTHS},
    "sequential": {"schedulers", "milestones"},
}


def optimizer_of(section: Section) -> tuple[dict[str, object], list[str]]:
    """Fields of an `OptimizerSpec`, and the keys that have no effect.

    Raises:
        InvalidInputError: a key or value that is not offered.
    """
    quiet = sort_keys(section, _WHERE, used=OPTIMIZER_USED, no_effect=OPTIMIZER_NO_EFFECT, refused=OPTIMIZER_REFUSED)
    kind = str(section.get("optimizer_type", "")).lower()
    if kind != "adamw":
        raise InvalidInputError(
            "this optimizer is not offered",
            field="optimizer.optimizer_type",
            value=section.get("optimizer_type"),
            remedy="Use adamw.",
        )
    decay = _either(section, "weight_decay", "weight_decay_rate")
    eps = number(section, "eps", _WHERE)
    return {
        "name": "adamw",
        "betas": _betas(section),
        "eps": 1.0e-6 if eps is None else eps,
        "weight_decay": 0.0 if decay is None else decay,
        "correct_bias": flag(section, "correct_bias", _WHERE, default=True),
        "powers": "fp32",
        **_clipping(section),
    }, quiet


def schedule_of(section: Section) -> list[dict[str, object]]:
    """Parts of a schedule, as a training specification has them.

    Raises:
        InvalidInputError: there is none, or one of a kind that is not offered.
    """
    found = section.get("learning_rate")
    if isinstance(found, int | float | str) and not isinstance(found, bool):
        return [{"constant": {"value": number(section, "learning_rate", _WHERE)}}]
    parts = found if isinstance(found, list) else [found]
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise InvalidInputError("must be a rate, a schedule, or a list of schedules", field="optimizer.learning_rate")
    return [made for place, part in enumerate(parts) for made in _parts(part, f"optimizer.learning_rate[{place}]")]


def _parts(part: Section, where: str) -> list[dict[str, object]]:
    named = str(part.get("scheduler", ""))
    kind = named.removesuffix("LR").lower()
    kind = {"inversesquareroot": "inversesquarerootdecay"}.get(kind, kind)
    if kind not in _KEYS:
        raise unknown_key(named, f"{where}.scheduler", _NAMES)
    sort_keys(part, where, used=("scheduler", *_KEYS[kind]))
    if kind == "sequential":
        return _sequence(part, where)
    made = _OF_KIND[kind](part, where)
    length = _length(part, where)
    name, values = made
    return [{name: values if length is None else {**values, "steps": length}}]


def _constant(part: Section, where: str) -> _Made:
    return "constant", {"value": number(part, "learning_rate", where)}


def _line(part: Section, where: str) -> _Made:
    if part.get("cycle"):
        raise InvalidInputError("is not offered", field=f"{where}.cycle", value=part["cycle"])
    line: dict[str, object] = {"from": number(part, _LINE[0], where), "to": number(part, _LINE[1], where)}
    power = number(part, "power", where)
    return ("linear", line) if power in (None, 1.0) else ("polynomial", {**line, "power": power})


def _cosine(part: Section, where: str) -> _Made:
    return "cosine", {"from": number(part, _LINE[0], where), "to": number(part, _LINE[1], where)}


def _exponential(part: Section, where: str) -> _Made:
    rates = {"from": number(part, _LINE[0], where), "decay_rate": number(part, "decay_rate", where)}
    return "exponential", {**rates, "staircase": flag(part, "staircase", where, default=False)}


def _inverse_square_root(part: Section, where: str) -> _Made:
    keys = {"value": _LINE[0], "scale": "scale", "warmup_steps": "warmup_steps"}
    given: dict[str, object] = {ours: part[theirs] for ours, theirs in keys.items() if part.get(theirs) is not None}
    return "inverse_square_root", given


def _piecewise(part: Section, where: str) -> _Made:
    return "piecewise_constant", {"values": part.get("learning_rates"), "milestones": part.get("milestones") or []}


_OF_KIND: Mapping[str, Callable[[Section, str], _Made]] = {
    "linear": _line,
    "polynomial": _line,
    "cosinedecay": _cosine,
    "constant": _constant,
    "exponential": _exponential,
    "inversesquarerootdecay": _inverse_square_root,
    "piecewiseconstant": _piecewise,
}


def _sequence(part: Section, where: str) -> list[dict[str, object]]:
    inner = part.get("schedulers")
    if not isinstance(inner, list) or not inner:
        raise InvalidInputError("must be a list of schedules", field=f"{where}.schedulers", value=inner)
    made: list[dict[str, object]] = []
    for place, item in enumerate(inner):
        name, options = _item(item, f"{where}.schedulers[{place}]")
        made += _parts({"scheduler": name, **options}, f"{where}.schedulers[{place}]")
    _check_milestones(part.get("milestones"), made, where)
    return made


def _item(item: object, where: str) -> tuple[str, dict[str, object]]:
    if isinstance(item, dict) and "scheduler" in item:
        return str(item["scheduler"]), {key: value for key, value in item.items() if key != "scheduler"}
    if isinstance(item, dict) and len(item) == 1:
        name, options = next(iter(item.items()))
        if isinstance(options, dict):
            return str(name), options
    raise InvalidInputError("must be `NameLR: {options}`", field=where, value=item)


def _check_milestones(milestones: object, parts: list[dict[str, object]], where: str) -> None:
    if milestones is None:
        return
    ends, end = [], 0
    for part in parts[:-1]:
        (values,) = part.values()
        assert isinstance(values, dict), "made here"
        end += values.get("steps") or 0
        ends.append(end)
    if milestones != ends:
        raise InvalidInputError(
            f"must be where the parts end, {ends}, or left out", field=f"{where}.milestones", value=milestones
        )


def _length(part: Section, where: str) -> int | None:
    given = {key: part[key] for key in _LENGTHS if part.get(key) is not None}
    if len(given) > 1:
        raise InvalidInputError("say the length once", field=where, value=given)
    for key in given:
        found = number(part, key, where)
        if found is None or found != int(found) or found < 1:
            raise InvalidInputError("must be a whole number of at least 1", field=f"{where}.{key}", value=found)
        return int(found)
    return None


def _clipping(section: Section) -> dict[str, object]:
    """By norm or by value; 0 and null switch it off."""
    norm, value = number(section, "max_gradient_norm", _WHERE), number(section, "max_gradient_value", _WHERE)
    if norm and value:
        raise InvalidInputError(
            "excludes max_gradient_norm",
            field="optimizer.max_gradient_value",
            value=value,
            remedy="Clip by one of them.",
        )
    return {"max_gradient_norm": norm or None, "max_gradient_value": value or None}


def _betas(section: Section) -> list[float]:
    given = section.get("betas")
    if given is None:
        beta1, beta2 = number(section, "beta1", _WHERE), number(section, "beta2", _WHERE)
        return [0.9 if beta1 is None else beta1, 0.999 if beta2 is None else beta2]
    if (
        not isinstance(given, list)
        or len(given) != 2
        or any(section.get(key) is not None for key in ("beta1", "beta2"))
    ):
        raise InvalidInputError("give two numbers, once", field="optimizer.betas", value=given)
    return [float(beta) for beta in given]


def _either(section: Section, new: str, old: str) -> float | None:
    if section.get(new) is not None and section.get(old) is not None:
        raise InvalidInputError(f"is given as {old} too", field=f"optimizer.{new}", value=section[new])
    return number(section, new, _WHERE) if section.get(new) is not None else number(section, old, _WHERE)
