"""What each stage of a job is given, and which queue it waits in. Pure: reads no file and no table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft.checkpoint_files import WEIGHT_SUFFIXES
from regraft.jobs import StageName
from regraft.specs import (
    AttemptRef,
    CerebrasTargetSpec,
    ConvertTask,
    EvaluateTask,
    ExportTask,
    JobSpec,
    PreflightTask,
    PrepareTask,
    Spec,
    TargetSpec,
    TrainingSpec,
    TrainTask,
)

Results = Mapping[StageName, Mapping[str, Any]]

# Stages that compute with the model run where the target is; the others run anywhere.
ON_TARGET = (StageName.PREFLIGHT, StageName.TRAIN, StageName.EVALUATE)


def stages_for(spec: JobSpec) -> tuple[StageName, ...]:
    """The stages of a job, in order."""
    checked = isinstance(spec.target, CerebrasTargetSpec) and spec.target.preflight != "none"
    return tuple(name for name in StageName if checked or name is not StageName.PREFLIGHT)


def queue_for(stage: StageName, spec: JobSpec) -> str:
    """The queue a stage waits in: one per stage, and per target where the hardware matters."""
    kind = evaluation_target(spec).kind if stage is StageName.EVALUATE else spec.target.kind
    return f"{stage}.{kind}" if stage in ON_TARGET else str(stage)


def evaluation_target(spec: JobSpec) -> TargetSpec:
    """Where checkpoints are scored: where they are trained, unless no process of ours computes there."""
    target = spec.target
    return TargetSpec(kind=target.evaluate_on) if isinstance(target, CerebrasTargetSpec) else target


def task_for(
    stage: StageName,
    *,
    job_id: str,
    spec: JobSpec,
    results: Results,
    storage: str,
    override: Mapping[str, Any] | None = None,
    epoch: int = 0,
) -> Spec:
    """The task of a stage whose needs are met; `results` holds what finished stages handed back.

    `override` is what this attempt does otherwise than the spec says: fields of `training`; `epoch` is its number.
    """
    folder = f"{storage.rstrip('/')}/jobs/{job_id}"
    attempt = AttemptRef(job=job_id, stage=stage, epoch=epoch)
    match stage:
        case StageName.PREFLIGHT:
            return PreflightTask(
                checkpoint_uri=spec.base_checkpoint.uri,
                max_sequence_length=spec.dataset.max_sequence_length,
                training=spec.training,
                target=spec.target,
                priority=spec.priority,
                output_uri=f"{folder}/preflight",
                attempt=attempt,
            )
        case StageName.PREPARE:
            return _prepare(spec, storage)
        case StageName.CONVERT:
            return ConvertTask(checkpoint_uri=spec.base_checkpoint.uri, output_uri=f"{storage.rstrip('/')}/checkpoints")
        case StageName.TRAIN:
            return TrainTask(
                dataset_uri=results[StageName.PREPARE]["uri"],
                checkpoint_uri=results[StageName.CONVERT]["uri"],
                training=_overridden(spec.training, override or {}),
                target=spec.target,
                output_uri=f"{folder}/train",
                priority=spec.priority,
                attempt=attempt,
            )
        case StageName.EVALUATE:
            return _evaluate(spec, results, folder)
        case StageName.EXPORT:
            return ExportTask(
                checkpoint_uri=results[StageName.TRAIN]["uri"],
                formats=spec.output.formats,
                max_shard_bytes=spec.output.max_shard_bytes,
                headless=spec.output.headless,
                output_uri=f"{folder}/export",
                provenance=_provenance(job_id, spec, results),
            )


def _overridden(training: TrainingSpec, override: Mapping[str, Any]) -> TrainingSpec:
    known = {name: value for name, value in override.items() if name in TrainingSpec.model_fields}
    return training.model_copy(update=known)


def _prepare(spec: JobSpec, storage: str) -> PrepareTask:
    own = spec.dataset.tokenizer == "checkpoint"
    steps = spec.training.max_steps
    return PrepareTask(
        dataset=spec.dataset,
        tokenizer_uri=_folder(spec.base_checkpoint.uri) if own else spec.dataset.tokenizer,
        checkpoint_uri=spec.base_checkpoint.uri,
        planned_windows=None if steps is None else steps * spec.training.batch_size,
        output_uri=f"{storage.rstrip('/')}/datasets",
    )


def _folder(checkpoint: str) -> str:
    """Where the tokenizer of a checkpoint is, which may be named by its weights."""
    folder, slash, _ = checkpoint.rpartition("/")
    return folder if slash and checkpoint.endswith(WEIGHT_SUFFIXES) else checkpoint


def _evaluate(spec: JobSpec, results: Results, folder: str) -> EvaluateTask:
    return EvaluateTask(
        dataset_uri=results[StageName.PREPARE]["uri"],
        checkpoints={"base": results[StageName.CONVERT]["uri"], "trained": results[StageName.TRAIN]["uri"]},
        sets=spec.training.evaluate.sets,
        batch_size=spec.training.batch_size,
        precision=_scored_in(spec),
        target=evaluation_target(spec),
        output_uri=folder,
    )


def _scored_in(spec: JobSpec) -> str:
    """The training's precision; a processor has no fp16, and whoever trains elsewhere may score on one."""
    on_cpu = evaluation_target(spec).kind == "cpu"
    return (
        "fp32"
        if on_cpu and spec.target.kind != "cpu" and spec.training.precision == "fp16"
        else spec.training.precision
    )


def _provenance(job_id: str, spec: JobSpec, results: Results) -> dict[str, object]:
    return {
        "name": spec.name,
        "job": job_id,
        "base_model": spec.base_checkpoint.uri,
        "datasets": list(spec.dataset.uris),
        "dataset_address": results[StageName.PREPARE]["address"],
        "training": spec.training.model_dump(mode="json", by_alias=True),
        "steps": results[StageName.TRAIN]["step"],
        "tokens_seen": results[StageName.TRAIN]["tokens_seen"],
        "evaluation": results[StageName.EVALUATE]["scores"],
    }
