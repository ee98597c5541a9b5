"""What a training run left in a Cerebras checkpoint beside the weights, in the words of another release.

Moments, step, schedules, scaler and data position go over as they are; only names and one counter change between
releases. The record of the release that wrote the file does not go over: newer releases refuse another's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from regraft.errors import InvalidDataError
from regraft_worker.conversion.containers.base import Opaque
from regraft_worker.conversion.formats import Format, Release
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.opened import Opened, is_of_model

_ONE, _OLD = "schedulers.0.", "lr_scheduler."
_FLAGS = (".correct_bias", ".amsgrad")


@dataclass(frozen=True)
class Carried:
    """Tensors and values to write beside the model, and what was left out."""

    tensors: dict[str, Lazy] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    values: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def carried(opened: Opened, *, source: Format, target: Format) -> Carried:
    """All of it, from release to release; nothing from or to a Hugging Face checkpoint.

    Raises:
        InvalidDataError: it has several schedules, which the target has no place for.
    """
    if source.release is None or target.release is None:
        note = "left out: the optimizer's state and the step; a Hugging Face checkpoint has no place for them"
        return Carried(notes=(note,) if opened.has_optimizer else ())
    old_words = target.release < (2, 3)
    _check_schedules(opened, old_words=old_words)
    beside = {name: lazy for name, lazy in opened.tensors.items() if not is_of_model(name)}
    aliases = {name: of for name, of in opened.aliases.items() if name in beside and of in beside}
    values = {name: value for name, value in opened.values.items() if not name.startswith("model.")}
    left = {name for name, value in values.items() if isinstance(value, Opaque) or _is_a_record(name, target.release)}
    values = {_renamed(name, old_words): value for name, value in values.items() if name not in left}
    if target.release >= (2, 0):  # switches are tensors of int32 before, which newer encodings do not hold
        flags = {name for name in beside if name.endswith(_FLAGS) and not beside[name].shape}
        values |= {name: bool(beside.pop(name).whole()) for name in flags}
        aliases = {name: of for name, of in aliases.items() if not {name, of} & flags}
    if source.release < (2, 0) <= target.release and _OLD + "last_epoch" in values:
        values[_OLD + "last_epoch"] = opened.global_step  # releases before 2.0 may count it otherwise
    return Carried(
        {_renamed(name, old_words): lazy for name, lazy in beside.items() if name not in aliases},
        {_renamed(name, old_words): _renamed(of, old_words) for name, of in aliases.items()},
        values,
        _notes(left),
    )


def named(found: dict[str, Lazy]) -> list[Lazy]:
    """Tensors that carry the names they are kept under."""
    return [replace(lazy, name=name) for name, lazy in found.items()]


def _is_a_record(name: str, release: Release) -> bool:
    return name.startswith("__") or (name == "state_version" and release >= (2, 0))


def _check_schedules(opened: Opened, *, old_words: bool) -> None:
    names = {name for name in (*opened.tensors, *opened.values) if name.startswith("schedulers.")}
    if old_words and not all(name.startswith(_ONE) for name in names):
        raise InvalidDataError(
            "releases before 2.3 have one schedule, and this checkpoint has several",
            field="--tgt-fmt",
            value="schedulers",
            remedy="Convert to cs-2.3 or later.",
            reason="not_expressible_in_cs",
        )


def _renamed(name: str, old_words: bool) -> str:
    return _OLD + name.removeprefix(_ONE) if old_words and name.startswith(_ONE) else name


def _notes(left: set[str]) -> tuple[str, ...]:
    tops = sorted({name.partition(".")[0] for name in left})
    return (f"left out: {', '.join(tops)}; other releases refuse or cannot read it",) if tops else ()
