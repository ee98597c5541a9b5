"""Windows that another tool has made: checked value by value and written into a dataset of this project's own layout.

One folder with `train` and `eval` (or `val`, `valid`, `validation`, `test`) in it; or one flat folder, whose last
windows are held out; or two, the second as `dataset.validation.uri`. Lists, globs and URLs are made folders first, and
every file that was named is in one of the splits. Ids must be within the tokenizer's vocabulary, masks 0 or 1
(`inverted_mask` in data_params.json is turned round), and labels the inputs shifted by one: other labels would train,
and train nonsense.

A file that is checked and copied is a unit in the work folder, as in a preparation, and is not done again by a run that
goes on. The trade-off: everything is copied, so that what happens to the original later does not matter. Not for
documents.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from regraft.errors import InterruptedStageError, InvalidDataError, InvalidInputError
from regraft.hdf5 import COUNT, FEATURES, INPUT_IDS, LABELS, MASK, Windows, validate_shard
from regraft.hdf5_chunks import append_deflated, create_dataset, deflated, windows_per_chunk
from regraft.specs.dataset import DatasetSpec, PackingSpec
from regraft.storage import Draft, is_published, local_path, publish
from regraft_dataprep.adopt_files import NamedFiles
from regraft_dataprep.adopt_splits import Split, splits_of
from regraft_dataprep.given import Given
from regraft_dataprep.report import implied_epochs, write_json
from regraft_dataprep.report_adopted import adoption_page
from regraft_dataprep.shards import check_space
from regraft_dataprep.work import WorkFolder, link, work_folder

SOURCE = "hdf5"
ADOPT_VERSION = 2
"""Part of the content address: raise it when the same files give another dataset."""

_BLOCK_BYTES = 16 * 2**20
_DATA, _LABELS_OF_FILE = "data.h5", "labels"


class Adoption:
    """One dataset being taken over."""

    def __init__(self, given: Given) -> None:
        self.task, self.spec, self.progress = given.task, given.task.dataset, given.progress
        self.inventory, self.encoder, self.corpus = given.inventory, given.encoder, given.corpus
        _check_options(self.spec)
        self._named = list(self._named_files())
        self._room = local_path(self.task.output_uri, field="output_uri") / f".adopt-{self.inventory.sha256[:32]}"
        self.splits = self._splits()
        self.address = self._address()

    def _named_files(self) -> Iterator[NamedFiles]:
        uris = [self.spec.uris, *([self.spec.validation.uris] if self.spec.validation.uri else [])]
        digests = iter(self.inventory.digests)
        for these, source in zip(uris, self.corpus.sources, strict=True):
            yield NamedFiles(these, source, list(islice(digests, len(source.files))))

    def _splits(self) -> dict[str, Split]:
        """Copies are kept when it is asked to stop, and not when these files make no dataset."""
        try:
            try:
                return self._brought()
            except FileNotFoundError:  # somebody else was first with the same files, and has removed the copies
                return self._brought()
        except (InvalidInputError, InvalidDataError):
            shutil.rmtree(self._room, ignore_errors=True)
            raise

    def _brought(self) -> dict[str, Split]:
        return splits_of(self.spec, [named.bring(self._room, self.progress) for named in self._named])

    def make(self, folder: Path) -> None:
        """All of it, up to the published dataset.

        Raises:
            InvalidDataError: a window is not what it should be, or the files were changed meanwhile.
            InterruptedStageError: asked to stop; the files that are done are kept.
            OSError: ENOSPC, no space is left; the files that are done are kept.
        """
        try:
            self._make(folder, WorkFolder(work_folder(folder)))
        except FileNotFoundError:
            if not is_published(folder):  # else somebody else was first, and has removed the work folder
                raise
        except InvalidDataError:
            self.discard(folder)  # nobody will ask for these files again under this name
            if not is_published(folder):  # else somebody else was first, and has removed the copies
                raise
        self.discard(folder)

    def check(self, folder: Path) -> None:
        """Windows that are taken as they are meet no bounds: none may be set."""

    def discard(self, folder: Path) -> None:
        """What is kept for a run that goes on."""
        for path in (work_folder(folder), self._room):
            shutil.rmtree(path, ignore_errors=True)

    def _make(self, folder: Path, work: WorkFolder) -> None:
        work.clear()
        labels = {name: self._make_split(work, name, split) for name, split in self.splits.items()}
        self.corpus.check_unchanged()
        for named in self._named:
            named.check_unchanged()
        with publish(folder, kind="dataset") as draft:
            for name in self.splits:
                self._publish_split(draft.folder / name, work, name, labels[name])
            self._describe(draft, labels)

    def _address(self) -> str:
        """The name of the dataset: a hash of all that determines its bytes."""
        parts = {
            "adopt_version": ADOPT_VERSION,
            "source_sha256": self.inventory.sha256,
            "tokenizer_digest": self.encoder.digest,
            "splits": {name: split.determining for name, split in self.splits.items()},
            **self.spec.model_dump(mode="json", include={"max_sequence_length", "examples_per_file"}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _describe(self, draft: Draft, labels: dict[str, int]) -> None:
        report = {
            "source": SOURCE,
            "source_sha256": self.inventory.sha256,
            "source_bytes": self.inventory.bytes,
            "source_files": self.inventory.files,
            "epochs": implied_epochs(self.task.planned_windows, len(self.splits["train"])),
            "splits": {name: self._facts(split, labels[name]) for name, split in self.splits.items()},
        }
        write_json(draft.folder / "corpus_report.json", report)
        (draft.folder / "corpus_report.html").write_text(adoption_page(report), encoding="utf-8")
        draft.parents = {"corpus": self.inventory.sha256, "tokenizer": self.encoder.digest}
        draft.made_by = self.task.model_dump(mode="json")
        draft.summary = {
            "documents": 0,
            "max_sequence_length": self.spec.max_sequence_length,
            "max_token_id": self.encoder.vocab_size - 1,
            **{f"{name}_examples": len(split) for name, split in self.splits.items()},
            **{f"{name}_tokens": labels[name] for name in self.splits},
        }

    def _facts(self, split: Split, labels: int) -> dict[str, Any]:
        padding = 1 - labels / (len(split) * self.spec.max_sequence_length)
        return {"examples": len(split), "loss_tokens": labels, "padding_share": round(padding, 6)}

    def _make_split(self, work: WorkFolder, name: str, split: Split) -> int:
        """All files of a split that are not there yet; the labels of all of them that count."""
        return sum(self._make_file(work, unit, split, *part) for unit, part in self._files(name).items())

    def _files(self, name: str) -> dict[str, tuple[int, int]]:
        """The units of a split, and which windows each has."""
        split, step = self.splits[name], self.spec.examples_per_file
        parts = [(first, min(first + step, split.last)) for first in range(split.first, split.last, step)]
        return {f"{name}-{number:06d}": part for number, part in enumerate(parts)}

    def _make_file(self, work: WorkFolder, unit: str, split: Split, first: int, last: int) -> int:
        if not work.is_done(unit):
            with work.make(unit) as folder:
                labels = self._write_file(folder / _DATA, split, first, last)
                (folder / _LABELS_OF_FILE).write_text(str(labels))
        return int((work.folder(unit) / _LABELS_OF_FILE).read_text())

    def _publish_split(self, folder: Path, work: WorkFolder, name: str, labels: int) -> None:
        folder.mkdir()
        for number, unit in enumerate(self._files(name)):
            link(work.folder(unit) / _DATA, folder / f"examples_{number}_0.h5")
        write_json(folder / "data_params.json", self._data_params(self.splits[name], labels))

    def _data_params(self, split: Split, labels: int) -> dict[str, Any]:
        ids = {"eos_id": self.encoder.eos_id, **split.special_ids}
        return {
            "features": list(split.dataset.features),
            "setup": {"source": SOURCE},
            "post-process": {"n_examples": len(split), **ids, "vocab_size": self.encoder.vocab_size},
            "h5_dataset_stats": {"num_sequences": len(split), "loss_valid_tokens": labels},
        }

    def _write_file(self, path: Path, split: Split, first: int, last: int) -> int:
        length, rows = self.spec.max_sequence_length, len(split.dataset.features)
        with h5py.File(path, "w-") as file:
            per_chunk = windows_per_chunk(length, rows=rows)
            data = create_dataset(file, max_sequence_length=length, rows=rows, per_chunk=per_chunk)
            for block in self._blocks(split, first, last, per_chunk):
                chunks = list(deflated(block, per_chunk=per_chunk))
                check_space(path, sum(map(len, chunks)))
                append_deflated(data, chunks, windows=len(block))
                self.progress.step(data.shape[0], {}, total=last - first)
            file.attrs[COUNT] = data.shape[0]
        return validate_shard(path, max_sequence_length=length, vocab_size=self.encoder.vocab_size, rows=rows)

    def _blocks(self, split: Split, first: int, last: int, per_chunk: int) -> Iterator[Windows]:
        size = 4 * len(split.dataset.features) * self.spec.max_sequence_length
        step = max(1, _BLOCK_BYTES // (size * per_chunk)) * per_chunk
        for start in range(first, last, step):
            if self.progress.should_stop():
                raise InterruptedStageError("data preparation was asked to stop; it goes on at this file")
            block = split.dataset.rows(np.arange(start, min(start + step, last)))
            if split.inverted:
                block[:, MASK] = 1 - block[:, MASK]
            _check_shift(block, start, shifted=split.dataset.features == FEATURES)
            yield block


def _check_shift(block: Windows, start: int, *, shifted: bool) -> None:
    """With document boundaries a label may be another document's end, so only plain windows are checked."""
    inside = (block[:, MASK, :-1] == 1) & (block[:, MASK, 1:] == 1)
    wrong = (block[:, LABELS, :-1] != block[:, INPUT_IDS, 1:]) & inside if shifted else np.zeros(1, dtype=bool)
    if wrong.any():
        window = start + int(np.flatnonzero(wrong.any(axis=-1))[0])
        raise InvalidDataError(
            f"the labels of window {window} are not its inputs shifted by one",
            field="dataset.uri",
            value=int(wrong.sum()),
            remedy="Make the files again with labels that are shifted on disk, as the layout demands.",
            reason="invalid_dataset",
        )


def _check_options(spec: DatasetSpec) -> None:
    defaults = DatasetSpec(uri="any")
    for field, value, default in (
        ("cleaning", spec.cleaning, defaults.cleaning),
        ("packing", spec.packing, PackingSpec()),
        ("reading", spec.reading, defaults.reading),
        ("require", spec.require, defaults.require),
    ):
        if value != default:
            raise InvalidInputError(
                "windows that are tokenised already are taken as they are",
                field=f"dataset.{field}",
                remedy="Leave this out, or name the documents and not the HDF5 files.",
            )
