"""The `runconfig` section: from where a run starts, how far it goes, and when it saves, scores and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

from regraft.errors import InvalidInputError
from regraft_worker.zoo.keys import Section, flag, unknown_key, whole

_WHERE = "runconfig"
STATES = frozenset(("model", "optimizer", "lr_scheduler", "grad_scaler", "dataloader", "sparsity", "global_step"))
_TOGETHER = frozenset(("optimizer", "lr_scheduler", "global_step"))


@dataclass(frozen=True, kw_only=True)
class Control:
    """Numbers are optimiser steps."""

    max_steps: int | None
    """The step to end at, counted from the start of the model's training."""
    num_steps: int | None
    """Steps of this run."""
    num_epochs: int | None
    steps_per_epoch: int | None
    log_steps: int
    checkpoint_steps: int | None
    """Null: nothing is saved, not even at the end."""
    save_initial_checkpoint: bool
    seed: int
    eval_steps: int | None
    """Batches that an evaluation scores; null: all."""
    eval_frequency: int | None
    checkpoint_path: str | None
    autoload: bool
    states: frozenset[str]
    """What is taken from a checkpoint."""
    strict: bool
    keep: int | None
    """Checkpoints of this run that stay; null: all."""
    model_dir: str
    logging: str
    summary_dir: str | None
    """Where TensorBoard's files go; null: where the release has them."""

    def end_of(self, start: int, windows: int, batch_size: int) -> int:
        """The step to end at, of a run that begins after `start` steps.

        Raises:
            InvalidInputError: it is there already.
        """
        per_epoch = max(1, windows // batch_size)
        if self.steps_per_epoch is not None:
            per_epoch = min(per_epoch, self.steps_per_epoch)
        ends: list[float] = [math.inf if self.max_steps is None else self.max_steps]
        ends += [start + self.num_steps] if self.num_steps is not None else []
        ends += [start + self.num_epochs * per_epoch] if self.num_epochs is not None else []
        if min(ends) <= start:
            raise InvalidInputError(
                f"the checkpoint is at step {start} already; max_steps counts from the start of the training",
                field="max_steps",
                value=self.max_steps,
                remedy="Raise it, give --num_steps instead, or start afresh in another model_dir.",
            )
        return int(min(ends))


def control_of(section: Section, *, mode: str) -> Control:
    """Read the section, whose keys are checked.

    Raises:
        InvalidInputError: a value that is not of its kind, or values that do not go together.
    """
    pretrained = flag(section, "is_pretrained_checkpoint", _WHERE, default=False)
    saved = whole(section, "checkpoint_steps", _WHERE, least=0) or None
    control = Control(
        max_steps=whole(section, "max_steps", _WHERE),
        num_steps=whole(section, "num_steps", _WHERE),
        num_epochs=whole(section, "num_epochs", _WHERE),
        steps_per_epoch=whole(section, "steps_per_epoch", _WHERE),
        log_steps=whole(section, "log_steps", _WHERE) or 1,
        checkpoint_steps=saved,
        save_initial_checkpoint=flag(section, "save_initial_checkpoint", _WHERE, default=False),
        seed=_or(whole(section, "seed", _WHERE, least=0), 1),
        eval_steps=whole(section, "eval_steps", _WHERE),
        eval_frequency=whole(section, "eval_frequency", _WHERE),
        checkpoint_path=_path(section.get("checkpoint_path"), "checkpoint_path"),
        autoload=flag(section, "autoload_last_checkpoint", _WHERE, default=True),
        states=frozenset(("model",)) if pretrained else _states(section.get("load_checkpoint_states")),
        strict=not (pretrained or flag(section, "disable_strict_checkpoint_loading", _WHERE, default=False)),
        model_dir=str(section.get("model_dir") or "model_dir"),
        logging=str(section.get("logging") or "INFO"),
        summary_dir=_path(section.get("summary_dir"), "summary_dir"),
        keep=whole(section, "max_checkpoints", _WHERE)
        or whole(section, "keep_checkpoint_max", _WHERE, least=0)
        or None,
    )
    _check(control, mode=mode, pretrained=pretrained)
    return control


def _check(control: Control, *, mode: str, pretrained: bool) -> None:
    if pretrained and control.checkpoint_path is None:
        raise InvalidInputError(
            "needs the checkpoint", field="is_pretrained_checkpoint", value=True, remedy="Give --checkpoint_path."
        )
    if not mode.startswith("train"):
        return
    if control.num_steps is not None and control.num_epochs is not None:
        raise InvalidInputError("excludes num_epochs", field="num_steps", value=control.num_steps)
    if control.max_steps is None and control.num_steps is None and control.num_epochs is None:
        raise InvalidInputError(
            "one of max_steps, num_steps and num_epochs must be given", field="max_steps", remedy="Say how far to go."
        )
    every, saved = control.eval_frequency, control.checkpoint_steps
    if mode == "train_and_eval" and every and saved and every % saved and saved % every:
        raise InvalidInputError(
            f"one of eval_frequency and checkpoint_steps ({saved}) must divide the other",
            field="runconfig.eval_frequency",
            value=every,
        )


def _states(found: object) -> frozenset[str]:
    """Of a list, a comma-separated text, or `all`."""
    if found in (None, "all"):
        return STATES
    names = found.split(",") if isinstance(found, str) else found if isinstance(found, list) else [found]
    states = {str(name).strip() for name in names}
    for name in sorted(states - STATES):
        raise unknown_key(name, "load_checkpoint_states", STATES)
    if "model" not in states:
        raise InvalidInputError("must name model", field="load_checkpoint_states", value=found)
    if states & _TOGETHER and not states >= _TOGETHER:
        raise InvalidInputError(
            "optimizer, lr_scheduler and global_step are taken together or not at all",
            field="load_checkpoint_states",
            value=found,
            remedy="Give model alone for a fresh start, or all.",
        )
    return frozenset(states)


def _path(found: object, field: str) -> str | None:
    if found is None or (isinstance(found, str) and found):
        return found
    raise InvalidInputError("must be a path", field=field, value=found)


def _or(found: int | None, default: int) -> int:
    return default if found is None else found
