"""What a Cerebras release cannot be told of a job: refused, because leaving it out would change the run.

Pure and without a tensor library, so that the API refuses it before anything is spent; the worker, which may be given a
task by others, checks the same again before it writes a params file.
"""

from __future__ import annotations

from regraft.errors import InvalidInputError
from regraft.formats import Release, release_of
from regraft.specs import CerebrasTargetSpec, JobSpec, TrainingSpec

_16_BIT_TYPES_SINCE = (2, 0)
_LEVELS_SINCE = (2, 2)


def check_job(job: JobSpec, *, release: str | None = None) -> None:
    """Refuse what a job asks of a Cerebras cluster in vain; other targets pass.

    `release` is the site's; without it the job's own, and where neither is known, what no release can be told.

    Raises:
        InvalidInputError: naming the field of the job.
    """
    target = job.target
    if not isinstance(target, CerebrasTargetSpec):
        return
    release = release or target.release
    check_windows(job)
    check_training(job.training, name="a Cerebras cluster")
    check_cluster(
        job.training,
        release=release_of(f"cs-{release}") if release else None,
        num_csx=target.num_csx,
        fp16_type=target.fp16_type,
        precision_opt_level=target.precision_opt_level,
    )


def check_windows(job: JobSpec) -> None:
    """Refuse windows that the reader does not take.

    Raises:
        InvalidInputError: naming the field of the job.
    """
    if job.dataset.packing.document_boundaries:
        raise refused(
            "this reader takes windows of three rows", "dataset.packing.document_boundaries", True, "Leave it."
        )


def check_training(training: TrainingSpec, *, name: str) -> None:
    """Refuse what has no key; `name` is what the message calls the format or the target.

    Raises:
        InvalidInputError: naming the field of the job.
    """
    if training.optimizer.name != "adamw":
        raise refused(
            f"{name} has AdamW in one order only", "training.optimizer.name", training.optimizer.name, "Use adamw."
        )
    for key, value in _no_words(training).items():
        raise refused("no release has a word for it", f"training.{key}", value, "Leave it out, or use another target.")
    every, saved = training.evaluate.every_steps, training.checkpoint.every_steps
    if every is not None and every % saved and saved % every:
        raise refused(
            f"{name} evaluates and saves in step: one of {every} and {saved} must divide the other",
            "training.evaluate.every_steps",
            every,
            "Change one of them.",
        )


def check_cluster(
    training: TrainingSpec,
    *,
    release: Release | None,
    num_csx: int,
    fp16_type: str | None,
    precision_opt_level: int | None,
) -> None:
    """Refuse settings of the cluster that do not go with the training, or that the release has no key for.

    Raises:
        InvalidInputError: naming the field of the job.
    """
    if training.batch_size % num_csx:
        message = f"a batch of {training.batch_size} is not divided evenly among so many systems"
        raise refused(message, "target.num_csx", num_csx, "Change one of them.")
    too_old = release is not None and release < _16_BIT_TYPES_SINCE
    if fp16_type is not None and (too_old or training.precision == "fp32"):
        raise refused(
            "goes with a 16-bit precision in releases from 2.0 on", "target.fp16_type", fp16_type, "Leave it."
        )
    if precision_opt_level is not None and release is not None and release < _LEVELS_SINCE:
        message = "is known of releases from 2.2 on"
        raise refused(message, "target.precision_opt_level", precision_opt_level, "Leave it.")


def refused(message: str, name: str, value: object, remedy: str) -> InvalidInputError:
    """The error about a field of the job."""
    return InvalidInputError(message, field=name, value=value, remedy=remedy, reason="not_expressible_in_cs")


def _no_words(training: TrainingSpec) -> dict[str, object]:
    """What is given, would change the weights that come out, and has no key."""
    keys = ("mixture", "data_subset", "max_sequence_length", "early_stopping")
    found: dict[str, object] = {key: getattr(training, key) for key in keys if getattr(training, key)}
    if training.loss_spike is not None and training.loss_spike.policy != "warn":
        found["loss_spike.policy"] = training.loss_spike.policy
    return found
