"""Stage `export`: a trained checkpoint becomes one published folder per format, each proven before it is.

`hf` is the model without its training state, with a model card; or, as `headless`, without its head too. A Cerebras
format is the `.mdl` and the YAML that `regraft convert` writes for that release. An export that is there already is
kept when it was made of the same weights; when it was made of others, the stage refuses instead of replacing what
somebody may be using.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from regraft.checkpoint_info import read_architecture
from regraft.errors import ConflictError
from regraft.families import Family, variant_named
from regraft.formats import FormatName
from regraft.ports import NullProgress, Progress
from regraft.specs.stages import ExportResult, ExportTask
from regraft.storage import Draft, is_published, local_path, publish, read_manifest, to_uri
from regraft_worker.conversion import hf
from regraft_worker.conversion.carried import Carried
from regraft_worker.conversion.cs_config import hf_config, model_section, read_section, section_yaml
from regraft_worker.conversion.formats import FORMATS, HF, Format, Outputs, output_paths
from regraft_worker.conversion.in_transformers import SHARE
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import hf_to_cs, stem, without_prefixes
from regraft_worker.conversion.model_card import model_card
from regraft_worker.conversion.opened import open_checkpoint
from regraft_worker.conversion.parity import Output, run_side
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.source import Source, content_address, open_source, parent_address
from regraft_worker.conversion.transfer_writing import write_cs
from regraft_worker.conversion.verify import Digests, Steps, prove, read_through, summary_of, write_verification

FORMAT = "regraft export 2"
_FIELD = "checkpoint_uri"
_PASSES = 3  # of all bytes, for each format: write, compare, compute
_PASSES_ONCE = 2  # hash the source, and compute with it


class _Given(NamedTuple):
    """What all exports of a checkpoint have in common."""

    task: ExportTask
    source: Source
    digests: Digests
    output: Output
    steps: Steps
    share: float

    @property
    def content(self) -> str:
        """Differs whenever the bytes of the checkpoint do."""
        return content_address(self.digests.files, salt=FORMAT)

    @property
    def hf_folder(self) -> Path | None:
        """The checkpoint itself, where `transformers` can load it."""
        in_hf = self.source.side.naming == "hf" and self.source.place.weights.name.startswith("model.safetensors")
        return self.source.folder if in_hf else None


def export(task: ExportTask, progress: Progress | None = None, *, transformers_share: float = SHARE) -> ExportResult:
    """Run the stage; `progress` counts bytes. `transformers_share`: see `verify.prove`.

    Raises:
        InvalidInputError: there is no checkpoint, or a format cannot hold it.
        InvalidDataError: the checkpoint is damaged or not what its config says.
        ConflictError: an export of other weights is in the way.
        InterruptedStageError: `progress` asked to stop.
    """
    progress = progress or NullProgress()
    artifacts: dict[str, str] = {}
    with open_source(local_path(task.checkpoint_uri, field=_FIELD), field=_FIELD) as source:
        sections = {name: _section(source, name) for name in task.formats}  # refused now, not after the first one
        passes = _PASSES_ONCE + _PASSES * len(sections)
        steps = Steps(progress, total=passes * source.side.nbytes)
        digests = read_through(source, steps)
        parent = parent_address(source, digests.files)
        given = _Given(task, source, digests, run_side(source.side, steps.tick), steps, transformers_share)
        for name, section in sections.items():
            final = local_path(task.output_uri, field="output_uri") / name
            if not _is_there(final, _content(given, name)):
                _publish(given, name, section, final, parent)
            artifacts[name] = to_uri(final)
            progress.artifact("export", artifacts[name], {"format": name})
        steps.finish()
    return ExportResult(artifacts=artifacts)


def _section(source: Source, name: FormatName) -> str:
    """The YAML of a Cerebras format; nothing for Hugging Face.

    Raises:
        InvalidInputError: that release has no model like this one.
    """
    target = FORMATS[name]
    if not target.is_cs:
        return ""
    section = model_section(source.config, family=source.family, architecture=source.architecture, target=target)
    return section_yaml(section)


def _publish(given: _Given, name: FormatName, section: str, final: Path, parent: str) -> None:
    source, task = given.source, given.task
    with publish(final, kind="export") as draft:
        facts = _made(given, name, section, draft)
        write_verification(draft.folder, facts)
        draft.parents = {"checkpoint": parent}
        draft.made_by = {
            "checkpoint_uri": task.checkpoint_uri,
            "content": _content(given, name),
            "format": name,
            "provenance": task.provenance,
        }
        about = {"format": name, "family": source.family.name, "tensors": len(source.side.tensors)}
        draft.summary = about | summary_of(facts)


def _made(given: _Given, name: FormatName, section: str, draft: Draft) -> dict[str, object]:
    """Written and proven; what `verification.json` says of it."""
    if section:
        return _make_cs(given, FORMATS[name], section, draft)
    if given.task.headless:
        return _make_headless(given, draft)
    _write_hf(given, given.source.family, given.source.hf_tensors(), draft.folder)
    with hf.open_folder(draft.folder) as result:
        return _proof(given, result, draft.folder)


def _make_headless(given: _Given, draft: Draft) -> dict[str, object]:
    """The model without its head; proven with the head of the checkpoint."""
    source, folder = given.source, draft.folder
    variant = variant_named(f"{source.family.name}-headless")
    before, tensors = stem(source.family), source.side.under("hf")
    body = [name for name in sorted(tensors) if name.startswith(before)]
    bare = [replace(tensors[name], name=name.removeprefix(before)) for name in body]
    _write_hf(given, variant, bare, folder)
    with open_checkpoint(folder) as opened:
        found = {before + name: lazy for name, lazy in opened.tensors.items()}
        found |= {name: tensors[name] for name in tensors.keys() - set(body)}
        family, architecture = read_architecture(hf.load_config(folder))
        result = Side(family=family, architecture=architecture, naming="hf", tensors=found)
        return _proof(given, result, given.hf_folder)


def _write_hf(given: _Given, family: Family, tensors: list[Lazy], folder: Path) -> None:
    source = given.source
    hf.write_checkpoint(
        folder,
        tensors,
        config=source.config,
        family=family,
        extra_files_from=source.folder,
        max_shard_bytes=given.task.max_shard_bytes,
        tick=given.steps.tick,
    )
    card = model_card(hf.load_config(folder), family, source.architecture, given.task.provenance)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _make_cs(given: _Given, target: Format, section: str, draft: Draft) -> dict[str, object]:
    source = given.source
    outputs = cs_outputs(draft.folder, target)
    mapped = hf_to_cs(source.family, source.architecture, source.side.under("hf"))
    write_cs(
        outputs.checkpoint, mapped, Carried(), target=target, prefix=target.prefix, h5=False, tick=given.steps.tick
    )
    outputs.config.write_text(section, encoding="utf-8")
    hf.copy_extra_files(source.folder, draft.folder)
    with _open_cs(outputs) as result:
        return _proof(given, result, given.hf_folder)


def cs_outputs(folder: Path, target: Format) -> Outputs:
    """Where an export in a Cerebras format has its files."""
    return output_paths(folder, folder, folder / "config.json", source=HF, target=target, h5=False)


def _proof(given: _Given, result: Side, hf_folder: Path | None) -> dict[str, object]:
    return prove(
        given.source.side,
        given.digests,
        given.output,
        result,
        given.steps,
        hf_folder=hf_folder,
        transformers_share=given.share,
    )


@contextmanager
def _open_cs(outputs: Outputs) -> Iterator[Side]:
    family, architecture = read_architecture(hf_config(read_section(outputs.config)))
    with open_checkpoint(outputs.checkpoint) as opened:
        yield Side(family=family, architecture=architecture, naming="cs", tensors=without_prefixes(opened.model))


def _content(given: _Given, name: FormatName) -> str:
    """What the folder of a format is made of; a headless one is another than that with the head."""
    return f"{given.content} headless" if name == HF.name and given.task.headless else given.content


def _is_there(final: Path, content: str) -> bool:
    if not is_published(final):
        return False
    manifest = read_manifest(final)
    if manifest is not None and manifest.made_by.get("content") == content:
        return True
    raise ConflictError(
        "another export is there, of another checkpoint or of the same with or without its head",
        field="output_uri",
        value=str(final),
        remedy="Export to another folder, or delete that one.",
        reason="export_exists",
    )
