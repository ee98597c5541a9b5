"""A dataset as the Hugging Face `datasets` library saves it to disk: Arrow stream files beside a `state.json`.

The folder of a Dataset, or of a DatasetDict, whose splits follow one another in the order of `dataset_dict.json`.
`state.json` says which Arrow files belong to the dataset: a cache file beside them is not read, and one that is
missing is an error. Each file is one part; a row is bad as in Parquet. The trade-off: nothing of the `datasets` library
is needed, and none of its features (decoding, indices, streaming from a hub) are there. Not for a dataset's name on a
hub: save it first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from regraft.errors import InvalidDataError
from regraft.specs.dataset import ReadingSpec
from regraft_dataprep.document import Document
from regraft_dataprep.sources._arrow import broken, documents_in, naming
from regraft_dataprep.sources._files import FIELD, File, Uris
from regraft_dataprep.sources._records import check_columns, keys_in_effect, keys_of
from regraft_dataprep.sources.base import BadRecord, Part, Source

_END = b"\xff\xff\xff\xff\0\0\0\0"
_ONE_THREAD = pa.ipc.IpcReadOptions(use_threads=False)  # parts are read by several processes
_STATE, _SPLITS = "state.json", "dataset_dict.json"


class HuggingFaceSource(Source):
    """The corpus in a saved dataset."""

    suffixes = (".arrow", _STATE, _SPLITS)

    def read(self, part: Part) -> Iterator[Document | BadRecord]:
        file, keys = self.files[part.file], keys_of(self.reading)
        _check_end(file)
        with file.open() as stream:
            with naming(file):
                batches = pa.ipc.open_stream(stream, options=_ONE_THREAD)
            check_columns(batches.schema.names, keys=keys, file=file)
            yield from documents_in(iter(batches), keys=keys, file=file)

    def select(self, files: list[File]) -> list[File]:
        """Arrow files by folder: those that its `state.json` names; all of them where there is none."""
        folders: dict[str, list[File]] = {}
        for file in files:
            if file.base not in (_STATE, _SPLITS):
                folders.setdefault(file.folder, []).append(file)
        for state in (file for file in files if file.base == _STATE):
            folders[state.folder] = _named(state, folders.get(state.folder, []))
        ordered = _in_order(list(folders), [file for file in files if file.base == _SPLITS])
        return [file for folder in ordered for file in folders[folder]]


def in_effect(reading: ReadingSpec) -> ReadingSpec:
    """What this source uses of it."""
    return keys_in_effect(reading)


def open_source(uri: Uris, *, reading: ReadingSpec | None = None) -> Source:
    """The plug-in's entry."""
    return HuggingFaceSource(uri, reading=reading)


def _check_end(file: File) -> None:
    """A stream that is cut off between two batches would pass for a whole one."""
    with file.open_raw() as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - len(_END), 0))
        if stream.read() != _END:
            raise broken(file, "no end of stream")


def _named(state: File, files: list[File]) -> list[File]:
    """The data files of a saved dataset, in its own order."""
    by_name = {file.base: file for file in files}
    names = [entry.get("filename") for entry in _json(state).get("_data_files", [])]
    missing = [str(name) for name in names if name not in by_name]
    if missing:
        raise _broken(state, f"it names files that are not there: {', '.join(missing)}")
    return [by_name[name] for name in names]


def _in_order(folders: list[str], dictionaries: list[File]) -> list[str]:
    """The splits of a DatasetDict in its order, where its first one stands."""
    rank = {folder: (number, 0) for number, folder in enumerate(folders)}
    for file in dictionaries:
        splits = [f"{file.folder}/{name}" for name in _json(file).get("splits", [])]
        missing = [split.rpartition("/")[2] for split in splits if split not in rank]
        if missing:
            raise _broken(file, f"it names splits that are not there: {', '.join(missing)}")
        first = min((rank[split][0] for split in splits), default=0)
        rank |= {split: (first, number) for number, split in enumerate(splits)}
    return sorted(folders, key=rank.__getitem__)


def _json(file: File) -> dict[str, Any]:
    try:
        with file.open() as stream:
            content = json.load(stream)
    except ValueError as error:
        raise _broken(file, f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise _broken(file, "it holds no JSON object")
    return content


def _broken(file: File, message: str) -> InvalidDataError:
    return InvalidDataError(
        f"the saved dataset is not whole: {message}",
        field=FIELD,
        value=file.uri,
        remedy="Copy the whole folder, or save the dataset again.",
        reason="corpus_malformed",
    )
