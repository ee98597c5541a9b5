"""A rendered params file as the job it was made from: the inverse of `rendering`.

What a file has no key for (see `params_check.left_out`, and what is ours alone, such as logging to TensorBoard) comes
back as its default; a default schedule comes back as its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regraft.errors import InvalidInputError
from regraft.specs import CerebrasTargetSpec, TrainingSpec
from regraft_worker.cerebras.options import read_backend, read_runconfig
from regraft_worker.cerebras.rendering import Places, is_flat, numbers
from regraft_worker.zoo.control import Control, control_of
from regraft_worker.zoo.keys import Section, flag, number, section_of, whole
from regraft_worker.zoo.optimizer import optimizer_of, schedule_of
from regraft_worker.zoo.trainer_form import flattened

_DROPOUT = ("embedding", "attention", "residual")
_OF_TARGET = ("num_csx", "workers", "weight_servers", "activation_servers", "priority", "time_limit_seconds")
_OF_TARGET += ("compile_dir",)


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a params file says."""

    training: TrainingSpec
    target: CerebrasTargetSpec
    places: Places
    site: Mapping[str, object]
    """Fields of `Options` that are the site's, and the labels."""


def read_rendered(content: Mapping[str, Any], base: Section, *, release: str, flags: list[str] | None = None) -> Read:
    """Read the content of a params file; `base` is the `model:` section that it was rendered with.

    Raises:
        InvalidInputError: it is of another form than the release's, or has a key or value that is not known.
    """
    flat, cluster, found = _parts(content, release)
    found |= _read_flags(flags or [])
    control = control_of(flat["runconfig"], mode="train_and_eval")
    model, train = section_of(flat, "model"), section_of(flat, "train_input")
    precision, fp16_type = _precision(model, release)
    level = cluster.get("precision_opt_level")
    target = {name: found.pop(name) for name in _OF_TARGET if name in found}
    return Read(
        training=_training(flat, control, base, precision=precision),
        target=CerebrasTargetSpec.model_validate(
            {"kind": "cerebras", "release": release, "fp16_type": fp16_type, "precision_opt_level": level, **target}
        ),
        places=_places(train, control, base),
        site=found,
    )


def _parts(content: Mapping[str, Any], release: str) -> tuple[dict[str, Any], Section, dict[str, object]]:
    """Flat sections, the section with the level of precision, and the fields of `Options`."""
    form = "train_input" if is_flat(release) else "trainer"
    if form not in content:
        raise InvalidInputError(f"release {release} has the section {form}", field="params", value=sorted(content))
    if is_flat(release):
        return dict(content), section_of(content, "runconfig"), read_runconfig(section_of(content, "runconfig"))
    flat, _ = flattened(content["trainer"], mode="train_and_eval")
    init = section_of(content["trainer"], "init", "trainer")
    return flat, section_of(init, "precision", "trainer.init"), read_backend(section_of(init, "backend"))


def _read_flags(flags: list[str]) -> dict[str, object]:
    return {"priority": flags[flags.index("--job_priority") + 1]} if "--job_priority" in flags else {}


def _training(flat: Section, control: Control, base: Section, *, precision: str) -> TrainingSpec:
    optimizer, train = section_of(flat, "optimizer"), section_of(flat, "train_input")
    update, _ = optimizer_of(optimizer)
    batch_size = whole(train, "batch_size", "train_input")
    assert batch_size is not None, "every rendered file has one"
    model = section_of(flat, "model")
    scored = control.eval_steps
    return TrainingSpec.model_validate(
        {
            "batch_size": batch_size,
            "max_steps": control.max_steps,
            "seed": control.seed,
            "shuffle": flag(train, "shuffle", "train_input", default=False),
            "precision": precision,
            "dropout": _dropout(model, base),
            "loss": {"scaling": model["loss_scaling"], "weight": number(model, "loss_weight", "model") or 1.0},
            "optimizer": {**update, "powers": "exact"},
            "schedule": schedule_of(optimizer),
            "evaluate": {
                "every_steps": control.eval_frequency,
                "max_windows": None if scored is None else scored * batch_size,
            },
            "checkpoint": {
                "every_steps": control.checkpoint_steps,
                **({"keep_last": control.keep} if control.keep else {}),
            },
            "log_every_steps": control.log_steps,
        }
    )


def _places(train: Section, control: Control, base: Section) -> Places:
    length = train.get("max_sequence_length", base.get("max_position_embeddings"))
    assert isinstance(length, int), "every model has its positions"
    return Places(
        data_dir=str(train["data_dir"]).removesuffix("/train"),
        model_dir=control.model_dir,
        max_sequence_length=length,
        checkpoint=control.checkpoint_path or "",
        resume=bool(control.checkpoint_path) and control.states != frozenset(("model",)),
    )


def _precision(model: Section, release: str) -> tuple[str, str | None]:
    if not flag(model, "mixed_precision", "model", default=False):
        return "fp32", None
    if numbers(release) < (2, 0):
        return "bf16", None
    kind = str(model["fp16_type"])
    return ("fp16" if kind == "float16" else "bf16"), ("cbfloat16" if kind == "cbfloat16" else None)


def _dropout(model: Section, base: Section) -> dict[str, object]:
    """The rates that are not the checkpoint's own."""
    keys = {place: f"{place}_dropout_rate" for place in _DROPOUT}
    return {place: model[key] for place, key in keys.items() if model.get(key) != base.get(key)}
