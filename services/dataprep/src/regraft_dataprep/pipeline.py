"""Corpus to dataset: name it, tokenise its parts, decide about its documents, write its files, publish.

The name of a dataset is a hash of everything that determines its bytes, so asking again for the same costs one pass
over the corpus for its digest. The work is cut into units that any process can do (see `units`), and what is done is
kept in a work folder beside the datasets: a run that was stopped or killed goes on with the unit it was at. The same
bytes come out whatever the number of processes and machines.

The trade-off: the work folder takes half a byte per character of text, and stays after a failure until the dataset is
asked for again, or somebody deletes it. Not for building datasets out of several corpora with weights: the trainer
mixes datasets.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from regraft.errors import InvalidDataError
from regraft.ports import Level, NullProgress, Progress
from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareResult, PrepareTask
from regraft.storage import Draft, is_published, local_path, publish, read_manifest, to_uri
from regraft_dataprep.adopt import SOURCE as HDF5
from regraft_dataprep.adopt import Adoption
from regraft_dataprep.clean import CLEANING_VERSION
from regraft_dataprep.cleaning import CLEANING_STEPS_VERSION
from regraft_dataprep.corpus import CorpusFiles
from regraft_dataprep.crew import Crew
from regraft_dataprep.encoders import DifferentIdsError, fastest_encoder, load_both
from regraft_dataprep.gathered import Gathered
from regraft_dataprep.given import Given
from regraft_dataprep.hands import Hands
from regraft_dataprep.limits import check_limits, limits_of
from regraft_dataprep.progress import Reporter
from regraft_dataprep.report import (
    FORMAT_VERSION,
    announce,
    corpus_report,
    effective,
    implied_epochs,
    load_for_reports,
    write_reports,
)
from regraft_dataprep.requirements import check_bad_records, check_requirements, read_report
from regraft_dataprep.resources import Resources
from regraft_dataprep.tokenize import TextEncoder, load_tokenizer
from regraft_dataprep.units import FALLBACK, LEAD, PLAN, SPLITS, Units, write_plan, write_setup
from regraft_dataprep.work import WorkFolder, link, work_folder

_MOST_HELPERS = 8

MANY_EPOCHS = 4
"""Beyond it repeated text teaches little (Muennighoff et al. 2023, Scaling Data-Constrained Language Models)."""


def prepare(
    task: PrepareTask,
    progress: Progress | None = None,
    *,
    resources: Resources | None = None,
    hands: Hands | None = None,
) -> PrepareResult:
    """Prepare a dataset, or find it prepared. `hands` are those of this task, where the caller has begun to load them.

    Raises:
        InvalidInputError: source, tokenizer, lengths or paths cannot be what was asked for.
        InvalidDataError: the corpus is malformed, empty, too small or not what is required of it, or the written files
            do not verify.
        InterruptedStageError: `progress.should_stop()` said so; what is done is kept for the next time.
        OSError: no space is left; what is done is kept as well.
    """
    progress, resources = progress or NullProgress(), resources or Resources()
    encoder = _checked_encoder(task)
    corpus = CorpusFiles(task.dataset, part_bytes=resources.part_bytes)
    with hands or Hands(tokenizer_uri=task.tokenizer_uri, special_tokens=task.dataset.special_tokens) as hands:
        if resources.processes_for(len(corpus.stretches)) > 1 and task.dataset.source != HDF5:
            hands.start()  # they load while the rest of this is done
        return _announced(_prepared(task, encoder, corpus, progress, resources, hands), progress)


def _prepared(
    task: PrepareTask,
    encoder: TextEncoder,
    corpus: CorpusFiles,
    progress: Progress,
    resources: Resources,
    hands: Hands,
) -> PrepareResult:
    inventory = corpus.inventory()
    facts: dict[str, object] = {"files": inventory.files, "bytes": inventory.bytes, "sha256": inventory.sha256}
    progress.event("the corpus is read for its digest", data=facts)
    kind = Adoption if task.dataset.source == HDF5 else _Preparation
    maker = kind(Given(task, corpus, inventory, encoder, progress, resources, hands))
    folder = local_path(task.output_uri, field="output_uri") / maker.address
    if is_published(folder) or progress.is_kept(folder):
        progress.event("this dataset exists already", data={"address": maker.address})
        maker.check(folder)
        maker.discard(folder)  # of a run that was killed right after it had published
        return _result(folder, task, cached=True)
    maker.make(folder)
    return _result(folder, task, cached=False)


def content_address(spec: DatasetSpec, *, source_sha256: str, tokenizer_digest: str) -> str:
    """The name of the dataset: 32 hex digits over everything that determines its bytes, and nothing else."""
    spec = effective(spec)
    determining = {"max_sequence_length", "validation", "packing", "examples_per_file", "cleaning"}
    parts = {
        "format_version": FORMAT_VERSION,
        "cleaning_version": CLEANING_VERSION,
        "steps_version": CLEANING_STEPS_VERSION,
        "source": spec.source,
        "source_sha256": source_sha256,
        "tokenizer_digest": tokenizer_digest,
        # Where the files lie is not part of it: what they hold is.
        **spec.model_dump(mode="json", include=determining, exclude={"validation": {"uri"}}),
        "apart": spec.validation.uri is not None,
        # Without defaults: an option that is new leaves the names of older datasets as they are.
        **spec.reading.model_dump(mode="json", exclude={"max_bad_records"}, exclude_defaults=True),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class _Preparation:
    """One dataset in the making, out of documents."""

    def __init__(self, given: Given) -> None:
        self.task, self.spec, self.progress = given.task, given.task.dataset, given.progress
        self.corpus, self.inventory, self.encoder = given.corpus, given.inventory, given.encoder
        self.resources, self.hands = given.resources, given.hands
        sources = {"source_sha256": given.inventory.sha256, "tokenizer_digest": given.encoder.digest}
        self.address = content_address(self.spec, **sources)

    def make(self, folder: Path) -> None:
        """All of it, up to the published dataset."""
        work = WorkFolder(work_folder(folder))
        try:
            self._make(folder, work)
        except FileNotFoundError:
            if not is_published(folder):  # else somebody else was first, and has removed the work folder
                raise
        work.remove()

    def check(self, folder: Path) -> None:
        """A published dataset against the bounds of this task, which are not those that it was made under, perhaps."""
        report = read_report(folder)
        check_bad_records(report, limit=self.spec.reading.max_bad_records)
        check_requirements(self.spec.require, report)

    def discard(self, folder: Path) -> None:
        """What is kept for a run that goes on."""
        shutil.rmtree(work_folder(folder), ignore_errors=True)

    def _make(self, folder: Path, work: WorkFolder) -> None:
        work.clear()
        loaded = load_both(self.encoder)
        processes = self.resources.processes_for(len(self.corpus.stretches))
        with Crew(work, processes=processes, source=self.hands) as crew, work.holding(LEAD):
            encoder = fastest_encoder(loaded, self.progress)
            write_setup(work, self.task, encoder=encoder, part_bytes=self.resources.part_bytes)
            units = Units(work, loaded=loaded)
            if len(units.parts()) > processes:
                self.progress.invite(str(work.path), workers=min(_MOST_HELPERS, len(units.parts()) // processes))
            gathered, report = self._write_files(crew, units)
        with publish(folder, kind="dataset") as draft:
            self._publish(draft, gathered, report)

    def _write_files(self, crew: Crew, units: Units) -> tuple[Gathered, dict[str, Any]]:
        """All units; what is known of the corpus."""
        reporter = Reporter(self.progress, parts=len(units.parts()))
        loading = threading.Thread(target=load_for_reports, name="reports", daemon=True)
        loading.start()
        self._tokenise(crew, units, reporter)
        self.corpus.check_unchanged()
        loading.join()
        gathered, report = self._decide(units)
        tokens = sum(split.tokens for split in gathered.splits.values())
        reporter.decided(documents=report["documents_in"], tokens=tokens)
        crew.run(units, units.files(), reporter)
        reporter.finished()
        return gathered, report

    def _tokenise(self, crew: Crew, units: Units, reporter: Reporter) -> None:
        self._say_what_is_done(units)
        try:
            crew.run(units, units.parts(), reporter)
            return
        except DifferentIdsError as error:  # what is written may be wrong too, outside of the sample
            message = f"{error}; the dataset is made again from its start, by tokenizers alone"
            self.progress.event(message, level="warn")
        crew.stop()
        with units.work.make(FALLBACK):
            pass
        reporter.again()
        crew.run(units, units.parts(), reporter)

    def _say_what_is_done(self, units: Units) -> None:
        parts = units.parts()
        done = sum(units.work.is_done(part) for part in parts)
        if done:
            self.progress.event(f"{done} of {len(parts)} parts are there from an earlier run", data={"parts": done})

    def _decide(self, units: Units) -> tuple[Gathered, dict[str, Any]]:
        """What becomes of the documents, and the report on the corpus, which must be what is required."""
        gathered = Gathered(units, self.inventory)
        report = corpus_report(gathered, planned_windows=self.task.planned_windows)
        announce(gathered, report, self.progress)
        check_requirements(self.spec.require, report)
        if not units.work.is_done(PLAN):  # one of an earlier run is the same
            sides, rows = gathered.decision.sides, gathered.corpus.rows
            write_plan(units.work, sides=sides, rows=rows, splits=gathered.splits, windows=gathered.windows)
        return gathered, report

    def _publish(self, draft: Draft, gathered: Gathered, report: dict[str, Any]) -> None:
        for unit in gathered.units.files():
            split = draft.folder / unit.rpartition("-")[0]
            split.mkdir(exist_ok=True)
            for path in gathered.units.work.folder(unit).glob("*.h5"):
                link(path, split / path.name)
        from regraft_dataprep.documents import write_documents

        write_reports(draft.folder, gathered, report)
        write_documents(draft.folder / "documents.parquet", gathered)
        draft.parents = {"corpus": self.inventory.sha256, "tokenizer": self.encoder.digest}
        draft.made_by = self.task.model_dump(mode="json")
        draft.summary = {
            "documents": report["documents_out"],
            "max_sequence_length": self.spec.max_sequence_length,
            "max_token_id": self.encoder.vocab_size - 1,
            **{f"{name}_examples": report["splits"][name]["examples"] for name in SPLITS},
            **{f"{name}_tokens": report["splits"][name]["loss_tokens"] for name in SPLITS},
        }
        self.progress.event("the corpus is prepared", data=report["splits"])


def _checked_encoder(task: PrepareTask) -> TextEncoder:
    """The tokenizer, once it and the windows are known to suit the model: before hours of work, not after."""
    encoder = load_tokenizer(task.tokenizer_uri, special_tokens=task.dataset.special_tokens)
    check_limits(limits_of(task), encoder=encoder, max_sequence_length=task.dataset.max_sequence_length)
    return encoder


def _result(folder: Path, task: PrepareTask, *, cached: bool) -> PrepareResult:
    manifest = read_manifest(folder)
    facts: dict[str, Any] = dict(manifest.summary) if manifest else {}
    try:
        result = PrepareResult(uri=to_uri(folder), address=folder.name, cached=cached, **facts)
    except ValidationError as error:
        raise InvalidDataError(
            "the manifest of a published dataset lacks its summary",
            value=str(folder),
            remedy="Delete the folder; it will be made again.",
            reason="corrupt_artifact",
        ) from error
    return result.model_copy(update={"epochs": implied_epochs(task.planned_windows, result.train_examples)})


def _announced(result: PrepareResult, progress: Progress) -> PrepareResult:
    progress.artifact("dataset", result.uri, result.model_dump(mode="json", exclude={"uri"}))
    if result.epochs is not None:
        message = f"the job will read {result.train_examples} training windows {result.epochs:.4g} times"
        level: Level = "warn" if result.epochs > MANY_EPOCHS else "info"
        progress.event(message, level=level, data={"epochs": result.epochs})
    return result
