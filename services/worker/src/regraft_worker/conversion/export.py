"""Stage `export`: a trained checkpoint becomes one published folder per format, each read back before it is.

`hf` is the model without its training state, with a model card. `cs-1.8` is what the Cerebras Model Zoo's converter
of that release writes. An export that is there already is kept when it was made of the same weights; when it was made
of others, the stage refuses instead of replacing what somebody may be using.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from regraft.errors import ConflictError, InvalidDataError
from regraft.ports import NullProgress, Progress
from regraft.specs.job import Format
from regraft.specs.stages import ExportResult, ExportTask
from regraft.storage import is_published, local_path, publish, read_manifest, to_uri
from regraft_worker.conversion import cs, hf
from regraft_worker.conversion.cs_config import model_section, write_config
from regraft_worker.conversion.model_card import model_card
from regraft_worker.conversion.source import Source, content_address, digests, open_cs, open_source, parent_address
from regraft_worker.conversion.verify import Steps, compare, finite

FORMAT = "regraft export 1"
_FIELD = "checkpoint_uri"


class _Origin(NamedTuple):
    """What an export is made of."""

    parent: str
    content: str
    """Differs whenever the bytes of the checkpoint do."""


def export(task: ExportTask, progress: Progress | None = None) -> ExportResult:
    """Run the stage.

    Raises:
        InvalidInputError: there is no checkpoint, or a format cannot hold it.
        InvalidDataError: the checkpoint is damaged or not what its config says.
        ConflictError: an export of other weights is in the way.
        InterruptedStageError: `progress` asked to stop.
    """
    progress = progress or NullProgress()
    folder = local_path(task.checkpoint_uri, field=_FIELD)
    source = open_source(folder, field=_FIELD)
    steps = Steps(progress, total=2 * len(source.names) * len(task.formats))
    if "cs-1.8" in task.formats:  # refused now, not after the first format is written
        model_section(source.config, family=source.family, architecture=source.architecture)
    found = digests(source, steps.check)
    origin = _Origin(parent_address(source, found), content_address(found, salt=FORMAT))
    artifacts = {}
    for name in task.formats:
        final = local_path(task.output_uri, field="output_uri") / name
        _publish(source, name, final, task=task, origin=origin, steps=steps)
        artifacts[name] = to_uri(final)
        progress.artifact("export", artifacts[name], {"format": name})
    return ExportResult(artifacts={str(name): uri for name, uri in artifacts.items()})


def _publish(source: Source, name: Format, final: Path, *, task: ExportTask, origin: _Origin, steps: Steps) -> None:
    if _is_there(final, origin):
        return
    with publish(final, kind="export") as draft:
        write = _write_hf if name == "hf" else _write_cs
        write(source, draft.folder, task.provenance, steps)
        draft.parents = {"checkpoint": origin.parent}
        draft.made_by = {
            "checkpoint_uri": task.checkpoint_uri,
            "content": origin.content,
            "format": name,
            "provenance": task.provenance,
        }
        draft.summary = {"format": name, "family": source.family.name, "tensors": len(source.names)}


def _write_hf(source: Source, folder: Path, provenance: dict[str, object], steps: Steps) -> None:
    tensors = finite(source.tensors(), steps)
    hf.write_checkpoint(folder, tensors, config=source.config, extra_files_from=source.folder)
    card = model_card(hf.load_config(folder), source.family, source.architecture, provenance)
    (folder / "README.md").write_text(card, encoding="utf-8")
    compare(source.tensors(), hf.read_tensors(folder), steps)


def _write_cs(source: Source, folder: Path, provenance: dict[str, object], steps: Steps) -> None:
    write_cs(source, folder / cs.MODEL_FILE, folder / cs.CONFIG_FILE, steps)
    hf.copy_extra_files(source.folder, folder)


def write_cs(source: Source, model: Path, config: Path, steps: Steps) -> None:
    """Write a cs-1.8 checkpoint, and read it back to Hugging Face's tensors and architecture."""
    write_config(config, source.config, family=source.family, architecture=source.architecture)
    tensors = finite(source.tensors(), steps)
    cs.write_model(model, tensors, family=source.family, architecture=source.architecture)
    written = open_cs(model, config)
    if written.architecture != source.architecture:
        raise InvalidDataError(
            "the Cerebras config does not describe the same model",
            field="config",
            value=str(config),
            remedy="Report this together with the checkpoint's config.json.",
            reason="conversion_not_exact",
        )
    compare(source.tensors(), written.tensors(), steps)


def _is_there(final: Path, origin: _Origin) -> bool:
    if not is_published(final):
        return False
    manifest = read_manifest(final)
    if manifest is not None and manifest.made_by.get("content") == origin.content:
        return True
    raise ConflictError(
        "an export of another checkpoint is there",
        field="output_uri",
        value=str(final),
        remedy="Export to another folder, or delete that one.",
        reason="export_exists",
    )
