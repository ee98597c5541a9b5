"""A complete params file for a Cerebras release: a converted `model:` section, and what a job says of the rest.

Flat sections up to release 2.2, the trainer form from 2.3 on. The recipe of the published TRC2 run fills in what no
job speaks of (readers, loss scaling). A key is written only where it is known that the release has it; what a job asks
for and the release cannot be told is refused when it would change the result, and left out and named when it would not.

The trade-off: the values are the job's, so the run is the same run; but the sampling order is Cerebras' own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from regraft.errors import InvalidInputError
from regraft.specs import JobSpec, SchedulePart, TrainingSpec
from regraft.specs.schedule import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    InverseSquareRootSchedule,
    LinearSchedule,
    PiecewiseConstantSchedule,
    PolynomialSchedule,
    length_of,
)
from regraft_worker.conversion.config_keys import section_of_release
from regraft_worker.conversion.cs_config import check_constants, detect_family
from regraft_worker.conversion.formats import Format, Release
from regraft_worker.trainer.schedule import schedule_of

Section = dict[str, object]
_PROCESSOR = "GptHDF5DataProcessor"
_READER: Section = {"num_workers": 8, "prefetch_factor": 10, "persistent_workers": True}
_FP16_TYPES = {"bf16": "bfloat16", "fp16": "float16"}
_BETAS = (0.9, 0.999)  # both sides' default, so written only when they differ


@dataclass
class ParamsFile:
    """The content, and what of the job it does not say."""

    content: Section
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """As YAML; sections stay in the order of the published files."""
        return yaml.safe_dump(self.content, indent=4, sort_keys=False)


def params_file(
    job: JobSpec, section: Mapping[str, object], *, target: Format, data_dir: str, checkpoint: str = ""
) -> ParamsFile:
    """The params file of a run: `data_dir` holds `train` and `eval`, `checkpoint` is a converted `.mdl`.

    Raises:
        InvalidInputError: the job asks for something that the release cannot be told.
    """
    assert target.release is not None, "a Cerebras format"
    _check(job, section, target=target)
    made = ParamsFile({}, [f"not in the file: {what}" for what in _left_out(job.training, target.release)])
    model = _model(job.training, section, target=target)
    flat = target.release < (2, 3)
    inputs = _inputs(job, model, release=target.release, data_dir=data_dir)
    if flat:
        made.content = _flat(job.training, model, inputs, release=target.release, checkpoint=checkpoint)
    else:
        made.content = {"trainer": _trainer(job.training, model, inputs, checkpoint=checkpoint)}
    return made


def _model(training: TrainingSpec, section: Mapping[str, object], *, target: Format) -> Section:
    model, _ = section_of_release(section, family=detect_family(section), target=target)
    release = target.release
    assert release is not None, "a Cerebras format"
    model = {key: value for key, value in model.items() if key not in ("mixed_precision", "fp16_type")}
    model.setdefault("position_embedding_type", "rotary")
    model.setdefault("loss_scaling", "num_tokens")
    if release < (2, 3):
        model["mixed_precision"] = training.precision in _FP16_TYPES
        if release >= (2, 0) and training.precision in _FP16_TYPES:
            model["fp16_type"] = _FP16_TYPES[training.precision]
    return model


def _inputs(job: JobSpec, model: Section, *, release: Release, data_dir: str) -> tuple[Section, Section]:
    train, evaluation = (
        {
            "data_processor": _PROCESSOR,
            "data_dir": f"{data_dir.rstrip('/')}/{split}",
            "vocab_size": model["vocab_size"],
            **({"max_sequence_length": job.dataset.max_sequence_length} if release < (1, 9) else {}),
            "batch_size": job.training.batch_size,
        }
        for split in ("train", "eval")
    )
    train |= {"shuffle": job.training.shuffle, "shuffle_seed": job.training.seed}
    return train | _READER, evaluation | {"shuffle": False} | _READER


def _flat(
    training: TrainingSpec, model: Section, inputs: tuple[Section, Section], *, release: Release, checkpoint: str
) -> Section:
    train, evaluation = inputs
    return {
        "train_input": train,
        "eval_input": evaluation,
        "model": model,
        "optimizer": _flat_optimizer(training, release),
        "runconfig": _runconfig(training, release, checkpoint),
    }


def _flat_optimizer(training: TrainingSpec, release: Release) -> Section:
    adamw = training.optimizer
    old = release < (2, 0)
    optimizer: Section = {"optimizer_type": "adamw", **_betas(training), "eps": adamw.eps}
    optimizer["weight_decay_rate" if old else "weight_decay"] = adamw.weight_decay
    if adamw.max_gradient_norm is not None:
        optimizer["max_gradient_norm"] = adamw.max_gradient_norm
    if adamw.max_gradient_value is not None:
        optimizer["max_gradient_value"] = adamw.max_gradient_value
    optimizer["correct_bias"] = adamw.correct_bias
    length = "steps" if old else "total_iters"
    optimizer["learning_rate"] = [
        {"scheduler": name, **values} for name, values in _schedule(training, length_key=length)
    ]
    optimizer["loss_scaling_factor"] = "dynamic"
    return optimizer


def _runconfig(training: TrainingSpec, release: Release, checkpoint: str) -> Section:
    runconfig: Section = {
        "max_steps": training.max_steps,
        "log_steps": training.log_every_steps,
        "checkpoint_steps": training.checkpoint.every_steps,
        "seed": training.seed,
    }
    if training.evaluate.every_steps is not None:
        runconfig["eval_frequency"] = training.evaluate.every_steps
    if keep := _keep_key(release):
        runconfig[keep] = training.checkpoint.keep_last
    if checkpoint:
        runconfig["checkpoint_path"] = checkpoint
        # Start at step 0 with fresh moments, in the words of each era.
        runconfig |= {"is_pretrained_checkpoint": True} if release < (2, 0) else {"load_checkpoint_states": "model"}
    return runconfig


def _keep_key(release: Release) -> str:
    """Only where the key is documented; an unknown one in `runconfig` is an error there."""
    return "keep_checkpoint_max" if release == (1, 8) else "max_checkpoints" if release >= (2, 0) else ""


def _trainer(training: TrainingSpec, model: Section, inputs: tuple[Section, Section], *, checkpoint: str) -> Section:
    train, evaluation = inputs
    fit: Section = {"train_dataloader": train, "val_dataloader": evaluation}
    init: Section = {
        "seed": training.seed,
        "model": model,
        "optimizer": {"adamw": _adamw(training)},
        "schedulers": [{"SequentialLR": {"schedulers": _parts(training)}}],
        "precision": _precision(training),
        "loop": _loop(training),
        "checkpoint": {"steps": training.checkpoint.every_steps},
        "logging": {"log_steps": training.log_every_steps},
        "callbacks": [{"KeepNCheckpoints": {"n": training.checkpoint.keep_last}}],
    }
    if checkpoint:
        fit = {"ckpt_path": checkpoint, **fit}
    # One object three times: YAML writes it once and refers to it, as the published files do.
    return {
        "init": init,
        "fit": fit,
        "validate": {"val_dataloader": evaluation},
        "validate_all": {"val_dataloaders": evaluation},
    }


def _adamw(training: TrainingSpec) -> Section:
    adamw = training.optimizer
    return {
        **_betas(training),
        "eps": adamw.eps,
        "weight_decay": adamw.weight_decay,
        "correct_bias": adamw.correct_bias,
    }


def _betas(training: TrainingSpec) -> Section:
    return {} if training.optimizer.betas == _BETAS else {"betas": list(training.optimizer.betas)}


def _parts(training: TrainingSpec) -> list[Section]:
    return [{f"{name}LR": values} for name, values in _schedule(training, length_key="total_iters")]


def _precision(training: TrainingSpec) -> Section:
    mixed = training.precision in _FP16_TYPES
    precision: Section = {"enabled": mixed}
    if mixed:
        precision |= {"fp16_type": _FP16_TYPES[training.precision], "loss_scaling_factor": "dynamic"}
    if training.optimizer.max_gradient_norm is not None:
        precision["max_gradient_norm"] = training.optimizer.max_gradient_norm
    if training.optimizer.max_gradient_value is not None:
        precision["max_gradient_value"] = training.optimizer.max_gradient_value
    return precision


def _loop(training: TrainingSpec) -> Section:
    loop: Section = {"max_steps": training.max_steps}
    if training.evaluate.every_steps is not None:
        loop["eval_frequency"] = training.evaluate.every_steps
    return loop


def _schedule(training: TrainingSpec, *, length_key: str) -> list[tuple[str, Section]]:
    """Cerebras' names without the ending `LR`, and each part's values."""
    assert training.max_steps is not None, "checked"
    return [_part(part, length_key) for part in schedule_of(training, max_steps=training.max_steps).parts]


def _part(part: SchedulePart, length_key: str) -> tuple[str, Section]:
    length = {} if length_of(part) is None else {length_key: length_of(part)}
    if isinstance(part, ConstantSchedule):
        return "Constant", {"learning_rate": part.constant.value, **length}
    if isinstance(part, InverseSquareRootSchedule):
        root = part.inverse_square_root
        rates = {"initial_learning_rate": root.value, "scale": root.scale, "warmup_steps": root.warmup_steps}
        return "InverseSquareRootDecay", rates | length
    if isinstance(part, PiecewiseConstantSchedule):
        pieces = part.piecewise_constant
        return "PiecewiseConstant", {
            "learning_rates": list(pieces.values),
            "milestones": list(pieces.milestones),
            **length,
        }
    if isinstance(part, ExponentialSchedule):
        falling = part.exponential
        rates = {"initial_learning_rate": falling.from_, "decay_rate": falling.decay_rate}
        return "Exponential", {**rates, **length, "staircase": falling.staircase}
    return _line(part, length)


def _line(part: LinearSchedule | CosineSchedule | PolynomialSchedule, length: Section) -> tuple[str, Section]:
    if isinstance(part, PolynomialSchedule):
        line, power = part.polynomial, {"power": part.polynomial.power}
        return "Polynomial", {"initial_learning_rate": line.from_, "end_learning_rate": line.to, **power, **length}
    name, ends = ("Linear", part.linear) if isinstance(part, LinearSchedule) else ("CosineDecay", part.cosine)
    return name, {"initial_learning_rate": ends.from_, "end_learning_rate": ends.to, **length}


def _left_out(training: TrainingSpec, release: Release) -> list[str]:
    """What does not change the weights that come out."""
    left = []
    if training.checkpoint.keep_best is not None:
        left.append("training.checkpoint.keep_best (Cerebras keeps the newest checkpoints only)")
    if release < (2, 3) and not _keep_key(release):
        left.append("training.checkpoint.keep_last (no such key is known of this release)")
    return left


def _check(job: JobSpec, section: Mapping[str, object], *, target: Format) -> None:
    check_constants(section, detect_family(section))
    training, positions = job.training, section.get("max_position_embeddings")
    if training.max_steps is None:
        raise _refused("must be given", "training.max_steps", None, "Say how many steps; one pass cannot be expressed.")
    if isinstance(positions, int) and job.dataset.max_sequence_length > positions:
        raise _refused(
            f"the model has only {positions} positions",
            "dataset.max_sequence_length",
            job.dataset.max_sequence_length,
            "Shorten the windows.",
        )
    if job.dataset.packing.document_boundaries:
        raise _refused(
            "this reader takes windows of three rows", "dataset.packing.document_boundaries", True, "Leave it."
        )
    if training.optimizer.name != "adamw":
        raise _refused(
            f"{target.name} has AdamW in one order only",
            "training.optimizer.name",
            training.optimizer.name,
            "Use adamw.",
        )
    for key in ("mixture", "data_subset"):
        if getattr(training, key):
            raise _refused(
                "this reader has no such option", f"training.{key}", getattr(training, key), "Prepare one dataset."
            )
    every, saved = training.evaluate.every_steps, training.checkpoint.every_steps
    if every is not None and every % saved and saved % every:
        raise _refused(
            f"{target.name} evaluates and saves in step: one of {every} and {saved} must divide the other",
            "training.evaluate.every_steps",
            every,
            "Change one of them.",
        )


def _refused(message: str, name: str, value: object, remedy: str) -> InvalidInputError:
    return InvalidInputError(message, field=name, value=value, remedy=remedy, reason="not_expressible_in_cs")
