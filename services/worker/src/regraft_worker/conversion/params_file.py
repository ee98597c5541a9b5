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

from regraft.cerebras_limits import check_windows
from regraft.specs import JobSpec, TrainingSpec
from regraft_worker.conversion.config_keys import section_of_release
from regraft_worker.conversion.cs_config import detect_family
from regraft_worker.conversion.formats import Format, Release
from regraft_worker.conversion.params_check import check, keep_key, left_out
from regraft_worker.conversion.params_schedule import schedule_parts

Section = dict[str, object]
_PROCESSOR = "GptHDF5DataProcessor"
_READER: Section = {"num_workers": 8, "prefetch_factor": 10, "persistent_workers": True}
_FP16_TYPES = {"bf16": "bfloat16", "fp16": "float16"}
_OF_THE_TRAINING = ("mixed_precision", "fp16_type", "loss_scaling", "loss_weight")
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
    check_windows(job)
    return training_params(
        job.training,
        section,
        target=target,
        data_dir=data_dir,
        max_sequence_length=job.dataset.max_sequence_length,
        checkpoint=checkpoint,
    )


def training_params(
    training: TrainingSpec,
    section: Mapping[str, object],
    *,
    target: Format,
    data_dir: str,
    max_sequence_length: int,
    checkpoint: str = "",
) -> ParamsFile:
    """The same for a training, whatever its windows come from; a checkpoint is started from at step 0.

    Raises:
        InvalidInputError: the training asks for something that the release cannot be told.
    """
    release = target.release
    assert release is not None, "a Cerebras format"
    check(training, section, target=target, max_sequence_length=max_sequence_length)
    made = ParamsFile({}, [f"not in the file: {what}" for what in left_out(training, release)])
    model = _model(training, section, target=target)
    length = {"max_sequence_length": max_sequence_length} if release < (1, 9) else {}
    inputs = _inputs(training, model, data_dir=data_dir, length=length)
    if release < (2, 3):
        made.content = _flat(training, model, inputs, release=release, checkpoint=checkpoint)
    else:
        made.content = {"trainer": _trainer(training, model, inputs, checkpoint=checkpoint)}
    return made


def _model(training: TrainingSpec, section: Mapping[str, object], *, target: Format) -> Section:
    model, _ = section_of_release(section, family=detect_family(section), target=target)
    release = target.release
    assert release is not None, "a Cerebras format"
    model = {key: value for key, value in model.items() if key not in _OF_THE_TRAINING}
    model.setdefault("position_embedding_type", "rotary")
    model |= _loss(training) | _dropout(training)
    if release < (2, 3):
        model["mixed_precision"] = training.precision in _FP16_TYPES
        if release >= (2, 0) and training.precision in _FP16_TYPES:
            model["fp16_type"] = _FP16_TYPES[training.precision]
    return model


def _loss(training: TrainingSpec) -> Section:
    """A mean over tokens has no weight, as the published files of every release have it."""
    loss = training.loss
    weight: Section = {} if loss.scaling == "num_tokens" else {"loss_weight": loss.weight}
    return {"loss_scaling": loss.scaling, **weight}


def _dropout(training: TrainingSpec) -> Section:
    """Rates that the job has in place of the checkpoint's."""
    given = {f"{place}_dropout_rate": rate for place, rate in training.dropout.model_dump().items()}
    return {key: rate for key, rate in given.items() if rate is not None}


def _inputs(training: TrainingSpec, model: Section, *, data_dir: str, length: Section) -> tuple[Section, Section]:
    train, evaluation = (
        {
            "data_processor": _PROCESSOR,
            "data_dir": f"{data_dir.rstrip('/')}/{split}",
            "vocab_size": model["vocab_size"],
            **length,
            "batch_size": training.batch_size,
        }
        for split in ("train", "eval")
    )
    train |= {"shuffle": training.shuffle, "shuffle_seed": training.seed}
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
        {"scheduler": name, **values} for name, values in schedule_parts(training, length_key=length)
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
    runconfig |= _evaluation(training)
    if keep := keep_key(release):
        runconfig[keep] = training.checkpoint.keep_last
    if checkpoint:
        runconfig["checkpoint_path"] = checkpoint
        # Start at step 0 with fresh moments, in the words of each era.
        runconfig |= {"is_pretrained_checkpoint": True} if release < (2, 0) else {"load_checkpoint_states": "model"}
    return runconfig


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
    return [{f"{name}LR": values} for name, values in schedule_parts(training, length_key="total_iters")]


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
    return {"max_steps": training.max_steps, **_evaluation(training)}


def _evaluation(training: TrainingSpec) -> Section:
    """How often, and how much of the set: whole batches, at least one."""
    spec, found = training.evaluate, Section()
    if spec.every_steps is not None:
        found["eval_frequency"] = spec.every_steps
    if spec.max_windows is not None:
        found["eval_steps"] = max(1, spec.max_windows // training.batch_size)
    return found
