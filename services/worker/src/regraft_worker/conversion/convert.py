"""Stage `convert`: a base checkpoint becomes a published, verified Hugging Face folder that training starts from.

The result's name is a hash of every input byte that can change it, so a second job with the same base finds it there.
Before it is published it is read back: every tensor bit for bit as in the source, finite, and exact through the
Cerebras layout and back. The price is reading the source three times (hash, write, verify).
"""

from __future__ import annotations

from pathlib import Path

from regraft.errors import InvalidDataError
from regraft.families import parameter_count
from regraft.ports import NullProgress, Progress
from regraft.specs.stages import ConvertResult, ConvertTask
from regraft.storage import is_published, local_path, publish, read_manifest, to_uri
from regraft_worker.conversion import hf
from regraft_worker.conversion.source import Source, content_address, digests, open_source, parent_address
from regraft_worker.conversion.verify import Steps, compare, cs_round_trip, finite

FORMAT = "regraft checkpoint 1"
"""Part of the address: a change of what is written is a change of this."""


def convert(task: ConvertTask, progress: Progress | None = None) -> ConvertResult:
    """Run the stage.

    Raises:
        InvalidInputError: there is no checkpoint at `checkpoint_uri`.
        InvalidDataError: it cannot be used; the reason says why.
        InterruptedStageError: `progress` asked to stop.
    """
    progress = progress or NullProgress()
    source = open_source(local_path(task.checkpoint_uri, field="base_checkpoint.uri"))
    steps = Steps(progress, total=2 * len(source.names))
    before = _stamps(source)
    found = digests(source, steps.check)
    final = local_path(task.output_uri, field="output_uri") / content_address(found, salt=FORMAT)
    cached = is_published(final)
    if not cached:
        _publish(source, final, task=task, digests=found, stamps=before, steps=steps)
    result = _result(final, cached=cached)
    progress.artifact("base_checkpoint", result.uri, {"address": result.address, "cached": cached})
    return result


def _publish(
    source: Source,
    final: Path,
    *,
    task: ConvertTask,
    digests: dict[str, str],
    stamps: list[tuple[int, int]],
    steps: Steps,
) -> None:
    with publish(final, kind="checkpoint") as draft:
        tensors = finite(source.tensors(), steps)
        hf.write_checkpoint(draft.folder, tensors, config=source.config, extra_files_from=source.folder)
        checked = cs_round_trip(source.tensors, source.family, source.architecture)
        compare(checked, hf.read_tensors(draft.folder), steps)
        _check_unchanged(source, stamps)
        draft.parents = {"base_checkpoint": parent_address(source, digests)}
        draft.made_by = {"checkpoint_uri": task.checkpoint_uri, "format": FORMAT, "files": digests}
        draft.summary = _summary(source)


def _summary(source: Source) -> dict[str, object]:
    return {
        "family": source.family.name,
        "parameters": parameter_count(source.family, source.architecture),
        "tensors": len(source.names),
        "vocab_size": source.architecture.vocab_size,
        "max_position_embeddings": source.architecture.max_position_embeddings,
    }


def _result(final: Path, *, cached: bool) -> ConvertResult:
    manifest = read_manifest(final)
    assert manifest is not None, "it was published a moment ago"
    facts = {"uri": to_uri(final), "address": final.name, "cached": cached, **manifest.summary}
    return ConvertResult.model_validate(facts)


def _stamps(source: Source) -> list[tuple[int, int]]:
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in source.files]


def _check_unchanged(source: Source, before: list[tuple[int, int]]) -> None:
    # The address was computed from what was read first; a file replaced since would be published under it.
    for path, then, now in zip(source.files, before, _stamps(source), strict=True):
        if then != now:
            raise InvalidDataError(
                "a file of the checkpoint changed while it was read",
                field="base_checkpoint.uri",
                value=str(path),
                remedy="Submit the job when the checkpoint is complete.",
                reason="checkpoint_changed",
            )
