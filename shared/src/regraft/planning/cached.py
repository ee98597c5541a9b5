"""Which stages will find their result, told from the manifests of what is published.

A hit is a result of the same options whose inputs, seen by path, have not changed since it was published. No hit means
little: the same bytes may have been prepared under another path, which only hashing them shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import RegraftError
from regraft.jobs import StageName
from regraft.plan import queue_for, stages_for, task_for
from regraft.planning.answer import StagePlan
from regraft.planning.seen import Files, Seen
from regraft.specs import JobSpec, PrepareTask
from regraft.storage import Manifest, local_path, read_manifest, to_uri
from regraft.storage.manifest import NAME

MOST_ARTIFACTS = 1000
"""Of one kind, that are looked through."""


@dataclass(frozen=True)
class Artifact:
    """Something published."""

    folder: Path
    manifest: Manifest
    published: float


def stages_of(spec: JobSpec, seen: Seen, *, storage: str) -> tuple[tuple[StagePlan, ...], Artifact | None]:
    """What is expected of each stage; and the dataset, if it is there."""
    dataset, convert = _prepared(spec, seen, storage), _converted(spec, seen, storage)
    hits = {StageName.PREPARE: (dataset, seen.corpus), StageName.CONVERT: (convert, seen.checkpoint)}
    plans = [_stage(name, spec, *hits[name]) if name in hits else _own(name, spec) for name in stages_for(spec)]
    return tuple(plans), dataset


def _stage(name: StageName, spec: JobSpec, hit: Artifact | None, files: Files | None) -> StagePlan:
    queue = queue_for(name, spec)
    if hit is not None:
        why = "published by the same options, and its inputs have not changed since"
        return StagePlan(name=name, queue=queue, expected="cached", why=why, uri=to_uri(hit.folder))
    if files is None:
        why = "its input is not seen from here"
    else:
        why = "nothing with these options was published from these files; the same bytes may be there by another name"
    return StagePlan(name=name, queue=queue, expected="unknown", why=why)


def _own(name: StageName, spec: JobSpec) -> StagePlan:
    why = "what it makes belongs to its job and is not shared"
    return StagePlan(name=name, queue=queue_for(name, spec), expected="run", why=why)


def _prepared(spec: JobSpec, seen: Seen, storage: str) -> Artifact | None:
    task = task_for(StageName.PREPARE, job_id="", spec=spec, results={}, storage=storage)
    assert isinstance(task, PrepareTask)
    wanted = _determining(task.model_dump(mode="json"))
    for artifact in _artifacts(storage, "datasets"):
        if _unchanged(seen.corpus, artifact) and _determining(artifact.manifest.made_by) == wanted:
            return artifact
    return None


def _determining(task: Mapping[str, object]) -> dict[str, object]:
    """What decides about the bytes of a dataset; what a corpus is required to be does not."""
    dataset = task.get("dataset")
    options = dict(dataset) if isinstance(dataset, Mapping) else {}
    return {"dataset": {**options, "require": None}, "tokenizer_uri": task.get("tokenizer_uri")}


def _converted(spec: JobSpec, seen: Seen, storage: str) -> Artifact | None:
    wanted = local_path(spec.base_checkpoint.uri)
    for artifact in _artifacts(storage, "checkpoints"):
        made_from = artifact.manifest.made_by.get("checkpoint_uri")
        if isinstance(made_from, str) and _path(made_from) == wanted and _unchanged(seen.checkpoint, artifact):
            return artifact
    return None


def _unchanged(files: Files | None, artifact: Artifact) -> bool:
    return files is not None and files.newest < artifact.published


def _artifacts(storage: str, kind: str) -> Iterator[Artifact]:
    """The newest first; what cannot be read is for the stage to complain about."""
    root = _path(storage)
    if root is None or not (root / kind).is_dir():
        return
    manifests = [path for path in (root / kind).glob(f"*/{NAME}") if not path.parent.name.startswith(".")]
    dated = sorted(((path.stat().st_mtime, path.parent) for path in manifests), reverse=True)
    for published, folder in dated[:MOST_ARTIFACTS]:
        manifest = _readable(folder)
        if manifest is not None:
            yield Artifact(folder, manifest, published)


def _readable(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except RegraftError:
        return None


def _path(uri: str) -> Path | None:
    try:
        return local_path(uri)
    except RegraftError:  # storage of another kind, which is not looked through
        return None
