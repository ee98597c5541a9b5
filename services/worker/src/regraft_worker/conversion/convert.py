"""Stage `convert`: a base checkpoint becomes a published, verified Hugging Face folder that training starts from.

The result's name is a hash of every input byte that can change it, so a second job with the same base finds it there.
Nothing is published before it is proven (see `verify`); what was written when a run was killed or stopped is kept in a
work folder, and finished shards are not written again. Memory is some blocks, whatever the size of the checkpoint.

The price: the source is read to be hashed, to be copied and to be computed with, and the copy takes its size on disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from regraft.errors import InvalidDataError
from regraft.families import expected_tensors, parameter_count
from regraft.ports import NullProgress, Progress
from regraft.specs.stages import SHARD_BYTES, ConvertResult, ConvertTask
from regraft.storage import is_published, local_path, publish, read_manifest, to_uri
from regraft_worker.conversion import hf
from regraft_worker.conversion.in_transformers import SHARE
from regraft_worker.conversion.parity import run_side
from regraft_worker.conversion.source import Source, content_address, open_source, parent_address
from regraft_worker.conversion.verify import Digests, Steps, prove, read_through, summary_of, write_verification
from regraft_worker.conversion.work import link, work_folder

FORMAT = "regraft checkpoint 2"
"""Part of the address: a change of what is written is a change of this."""
_PASSES = 5  # of all bytes: hash, write, compare, and compute with each side
_MODEL, _WRITTEN = "model", "written.json"


def convert(
    task: ConvertTask,
    progress: Progress | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    transformers_share: float = SHARE,
) -> ConvertResult:
    """Run the stage; `progress` counts bytes. `transformers_share`: see `verify.prove`.

    Raises:
        InvalidInputError: there is no checkpoint at `checkpoint_uri`.
        InvalidDataError: it cannot be used; the reason says why.
        InterruptedStageError: `progress` asked to stop.
    """
    progress = progress or NullProgress()
    with open_source(local_path(task.checkpoint_uri, field="base_checkpoint.uri")) as source:
        steps = Steps(progress, total=_PASSES * source.side.nbytes)
        stamps = _stamps(source)
        digests = read_through(source, steps)
        parent = parent_address(source, digests.files)
        final = local_path(task.output_uri, field="output_uri") / content_address(digests.files, salt=FORMAT)
        cached = is_published(final) or progress.is_kept(final)
        for lost in source.lost:
            progress.event(f"the base checkpoint's config: {lost}", level="warn", data={"lost": lost})
        if not cached:
            if source.has_optimizer:
                progress.event("the optimizer's state in the base checkpoint is left out; training starts afresh")
            with work_folder(final, steps.check) as work:
                cached = is_published(final)  # another process may have had the folder
                if not cached:
                    _write(source, work, final.name, shard_bytes, steps)
                    facts = _proof(source, work / _MODEL, digests, steps, transformers_share)
                    _check_unchanged(source, stamps)
                    _publish(source, work / _MODEL, final, made_by=_made_by(task, digests), parent=parent, facts=facts)
        steps.finish()
    result = _result(final, cached=cached)
    progress.artifact("base_checkpoint", result.uri, {"address": result.address, "cached": cached})
    return result


def _write(source: Source, work: Path, address: str, shard_bytes: int, steps: Steps) -> None:
    """The model as a folder, once; `written.json` says that it is whole."""
    tensors = source.hf_tensors()
    if _is_whole(work):
        steps.tick(sum(lazy.nbytes for lazy in tensors))
        return
    hf.write_checkpoint(
        work / _MODEL,
        tensors,
        config=source.config,
        extra_files_from=source.folder,
        max_shard_bytes=shard_bytes,
        source=address,
        tick=steps.tick,
    )
    for left in (work / _MODEL).glob("*.partial*"):  # of a killed run that cut the shards otherwise
        left.unlink()
    sizes = {path.name: path.stat().st_size for path in (work / _MODEL).iterdir()}
    partial = work / f"{_WRITTEN}.partial"
    partial.write_text(json.dumps(sizes), encoding="utf-8")
    partial.rename(work / _WRITTEN)


def _is_whole(work: Path) -> bool:
    path = work / _WRITTEN
    if not path.is_file():
        return False
    sizes: dict[str, int] = json.loads(path.read_bytes())
    files = {found.name: found.stat().st_size for found in (work / _MODEL).iterdir()}
    return files == sizes


def _proof(source: Source, folder: Path, digests: Digests, steps: Steps, share: float) -> dict[str, object]:
    expected = run_side(source.side, steps.tick)
    with hf.open_folder(folder) as result:
        return prove(source.side, digests, expected, result, steps, hf_folder=folder, transformers_share=share)


def _made_by(task: ConvertTask, digests: Digests) -> dict[str, object]:
    return {"checkpoint_uri": task.checkpoint_uri, "format": FORMAT, "files": dict(digests.files)}


def _publish(
    source: Source,
    model: Path,
    final: Path,
    *,
    made_by: Mapping[str, object],
    parent: str,
    facts: Mapping[str, object],
) -> None:
    with publish(final, kind="checkpoint") as draft:
        for path in model.iterdir():
            link(path, draft.folder / path.name)
        write_verification(draft.folder, facts)
        draft.parents = {"base_checkpoint": parent}
        draft.made_by = made_by
        draft.summary = _summary(source) | summary_of(facts)


def _summary(source: Source) -> dict[str, object]:
    return {
        "family": source.family.name,
        "parameters": parameter_count(source.family, source.architecture),
        "tensors": len(expected_tensors(source.family, source.architecture)),
        "vocab_size": source.architecture.vocab_size,
        "max_position_embeddings": source.architecture.max_position_embeddings,
        **({"lost": list(source.lost)} if source.lost else {}),
    }


def _result(final: Path, *, cached: bool) -> ConvertResult:
    manifest = read_manifest(final)
    assert manifest is not None, "it was published a moment ago"
    facts = {"uri": to_uri(final), "address": final.name, "cached": cached, **manifest.summary}
    return ConvertResult.model_validate({name: facts[name] for name in ConvertResult.model_fields})


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
