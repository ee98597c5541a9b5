"""What can be known about a job before anything is computed: checked when it is posted.

Only headers and sizes are read; of a Cerebras checkpoint it is known that it and its config are there. Where the API
does not mount the data (`check_files` off) the stages make the same checks before they compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import iglob
from typing import Any

from sqlalchemy import Engine

from regraft import cerebras_limits, planning
from regraft.checkpoint_files import Place, locate
from regraft.checkpoint_info import has_tokenizer, inspect_checkpoint
from regraft.errors import ConflictError, InvalidDataError, InvalidInputError, RegraftError
from regraft.families import Architecture
from regraft.formats import release_of
from regraft.jobstore import Workers
from regraft.jobstore.history import finished_trainings
from regraft.keymap import why_not_cs
from regraft.models import Worker
from regraft.settings import Settings
from regraft.specs import CerebrasTargetSpec, DatasetSpec, JobSpec
from regraft.storage import local_path

CHECKPOINT = "base_checkpoint.uri"
REMOTE = ("abfs", "abfss", "az", "ftp", "gcs", "gs", "hdfs", "hf", "http", "https", "s3", "s3a", "sftp", "webhdfs")
"""Schemes that a data preparation worker may open, if the fsspec package for it is installed there."""


def check(spec: JobSpec, *, settings: Settings, workers: Workers, memory: bool = True) -> list[str]:
    """Refuse what cannot work, return warnings about what may be worth knowing.

    `memory`: refuse what fits no device on offer, too.

    Raises:
        InvalidInputError: a field asks for what cannot be.
        InvalidDataError: the checkpoint is not what it should be.
    """
    alive = workers.alive()
    planning.check_options(spec)
    warnings = _check_target(spec, alive) + _check_source(spec, alive)
    if not settings.check_files:
        return warnings + planning.warnings_of(spec, None, epochs=None)
    _check_corpus(spec.dataset)
    place, architecture = _inspect(spec.base_checkpoint.uri)
    _check_tokenizer(spec, place)
    if architecture is not None:
        _check_fit(spec, architecture)
        if memory:
            planning.check_memory(spec, architecture, planning.offers_of(worker.offers for worker in alive))
    epochs = planning.epochs_of(spec, planning.look(spec))
    return warnings + planning.warnings_of(spec, architecture, epochs=epochs)


def check_move(spec: JobSpec, *, workers: Workers) -> None:
    """Refuse a job's new target when it cannot be had, or cannot do what the job asks for.

    Raises:
        InvalidInputError: naming the field.
    """
    planning.check_options(spec)
    _check_target(spec, workers.alive())


def plan(spec: JobSpec, *, settings: Settings, workers: Workers, engine: Engine) -> planning.Plan:
    """What would happen to a job that passes the checks; too little memory is part of the answer, no refusal.

    Raises:
        InvalidInputError, InvalidDataError: as `check`.
    """
    warnings = check(spec, settings=settings, workers=workers, memory=False)
    return planning.make_plan(
        spec,
        seen(spec, settings=settings),
        offers=planning.offers_of(worker.offers for worker in workers.alive()),
        history=finished_trainings(engine),
        storage=settings.storage_root,
    ).model_copy(update={"warnings": tuple(warnings)})


def check_pinned(spec: JobSpec, plan_hash: str, *, settings: Settings) -> None:
    """Refuse a job that is not the one that was planned.

    Raises:
        ConflictError: its resolved spec, or what its inputs look like, has another hash.
    """
    found = planning.plan_hash(spec, seen(spec, settings=settings).identities)
    if found != plan_hash:
        raise ConflictError(
            f"the plan has moved: the job or its inputs have changed since, and its hash is {found}",
            field="plan_hash",
            value=plan_hash,
            remedy="Look at a new plan (POST /jobs/plan), and send its plan_hash.",
            reason="plan_changed",
        )


def seen(spec: JobSpec, *, settings: Settings) -> planning.Seen:
    """The inputs of a job, as far as this process may look at them."""
    return planning.look(spec) if settings.check_files else planning.NOTHING


def _inspect(uri: str) -> tuple[Place, Architecture | None]:
    """Where the checkpoint is, and the model if it is Hugging Face's.

    Whatever is wrong in it is about the field that names it.
    """
    path = local_path(uri, field=CHECKPOINT)
    try:
        place = locate(path, field=CHECKPOINT)
        return place, None if place.is_cs else inspect_checkpoint(path, field=CHECKPOINT).architecture
    except RegraftError as error:
        if error.field == CHECKPOINT:
            raise
        message = f"{error.field}: {error.message} (it is {error.value!r})"
        raise InvalidDataError(
            message, field=CHECKPOINT, value=uri, remedy=error.remedy, reason=error.reason
        ) from error


def _check_target(spec: JobSpec, alive: Sequence[Worker]) -> list[str]:
    offers: dict[str, dict[str, Any]] = {}
    for worker in alive:
        offers |= worker.offers.get("targets", {})
    kind = spec.target.kind
    if not offers:
        return [f"no compute worker is running; the job waits until one offers the target {kind!r}"]
    if kind not in offers:
        raise InvalidInputError(
            "no running worker offers this target",
            field="target.kind",
            value=kind,
            remedy=f"Available now: {', '.join(sorted(offers))}. Or start a worker on such hardware.",
            reason="target_not_available",
        )
    most = int(offers[kind].get("devices", 1))
    if spec.target.devices > most:
        raise InvalidInputError(
            f"the target {kind!r} has {most} device(s)",
            field="target.devices",
            value=spec.target.devices,
            remedy=f"Ask for at most {most}.",
            reason="target_not_available",
        )
    if isinstance(spec.target, CerebrasTargetSpec):
        _check_cerebras(spec.target, offers)
        cerebras_limits.check_job(spec, release=offers[kind].get("release"))
    if spec.training.precision == "bf16" and not offers[kind].get("bf16", True):
        raise InvalidInputError(
            f"the devices of the target {kind!r} multiply no bfloat16",
            field="training.precision",
            value="bf16",
            remedy="Use fp32, or fp16 where the target has it.",
        )
    return []


def _check_cerebras(target: CerebrasTargetSpec, offers: Mapping[str, Mapping[str, Any]]) -> None:
    offer = offers[target.kind]
    wrong = {
        "release": target.release not in (None, offer.get("release")),
        "num_csx": target.num_csx > int(offer.get("systems", 1)),
        "evaluate_on": target.evaluate_on not in offers,
    }
    others = ", ".join(sorted(kind for kind in offers if kind != target.kind))
    remedies = {
        "release": f"The site has {offer.get('release')}; leave it out, or name that.",
        "num_csx": f"Ask for at most {offer.get('systems', 1)}.",
        "evaluate_on": f"Available now: {others or 'none'}. Or start a worker that offers it.",
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise InvalidInputError(
            "no running worker offers this",
            field=f"target.{name}",
            value=getattr(target, name),
            remedy=remedies[name],
            reason="target_not_available",
        )


def _check_source(spec: JobSpec, alive: Sequence[Worker]) -> list[str]:
    known = {source for worker in alive for source in worker.offers.get("sources", [])}
    if not known:
        return ["no data preparation worker is running; the job waits for one"]
    if spec.dataset.source not in known:
        raise InvalidInputError(
            "no running worker reads this kind of corpus",
            field="dataset.source",
            value=spec.dataset.source,
            remedy=f"Use one of: {', '.join(sorted(known))}.",
        )
    return []


def _check_corpus(dataset: DatasetSpec) -> None:
    """Only what this machine mounts: other addresses are the data preparation worker's to open."""
    for uri in dataset.uris:
        scheme, found, _ = uri.partition("://")
        if not (found and scheme in REMOTE):
            _check_path(uri, alone=len(dataset.uris) == 1)


def _check_path(uri: str, *, alone: bool) -> None:
    path = local_path(uri, field="dataset.uri")
    if not path.exists() and next(iglob(str(path), recursive=True), None) is None:  # noqa: PTH207  # path is absolute
        raise InvalidInputError(
            "there is no corpus at this place",
            field="dataset.uri",
            value=uri,
            remedy="Check the path, and that this machine mounts it.",
            reason="corpus_not_found",
        )
    if alone and path.is_file() and path.stat().st_size == 0:
        raise InvalidDataError(
            "the corpus is empty",
            field="dataset.uri",
            value=uri,
            remedy="Name a file that holds text.",
            reason="corpus_empty",
        )


def _check_tokenizer(spec: JobSpec, place: Place) -> None:
    if spec.dataset.tokenizer == "checkpoint" and not has_tokenizer(place.folder):
        raise InvalidInputError(
            "the base checkpoint has no tokenizer",
            field="dataset.tokenizer",
            value=spec.dataset.tokenizer,
            remedy="Name a tokenizer.json or a tokenizer directory.",
        )


def _check_fit(spec: JobSpec, architecture: Architecture) -> None:
    positions = architecture.max_position_embeddings
    if spec.dataset.max_sequence_length > positions:
        raise InvalidInputError(
            f"the model has only {positions} positions",
            field="dataset.max_sequence_length",
            value=spec.dataset.max_sequence_length,
            remedy=f"Use at most {positions}.",
        )
    for name in spec.output.formats:
        why_not = "" if name == "hf" else why_not_cs(architecture, release_of(name))
        if why_not:
            raise InvalidInputError(
                f"the format {name} cannot hold this model: {why_not}",
                field="output.formats",
                value=list(spec.output.formats),
                remedy="Ask for hf only.",
            )
