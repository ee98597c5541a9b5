"""HDF5 files as the original writes them, and what its verification pass counts.

`{output_name}_{file_no}_{process_no}.h5`, dataset `data`, gzip at h5py's default level, one chunk a window. A file is
written beside its name and gets it when it is whole, so a run that is killed leaves no torn file. The trade-off
against `regraft.hdf5.ShardWriter`: bound to the original's names and settings, since equality is the point.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from regraft.hdf5 import read_rows, read_shard_info, validate_shard
from regraft_dataprep.reference.packing import Windows
from regraft_dataprep.reference.tokenizer import ReferenceTokenizer

_BUFFERED = 256  # windows between writes


class RecordWriter:
    """One process's files. Memory: a few hundred windows."""

    def __init__(self, folder: Path, *, name: str, process: int, capacity: int, length: int, first_file: int) -> None:
        self.folder, self.name, self.process = folder, name, process
        self.capacity = capacity
        self.files = first_file
        """Files finished so far."""
        self.in_file = 0
        """Windows in the file that is open."""
        self._shape = (3, length)
        self._buffer: list[Windows] = []
        self._file: h5py.File | None = None

    def append(self, block: Windows) -> int:
        """Take windows up to the file's end; how many. A full file waits for `finish`."""
        taken = block[: self.capacity - self.in_file]
        if len(taken):
            self._buffer.append(taken)
            self.in_file += len(taken)
            if sum(map(len, self._buffer)) >= _BUFFERED:
                self._flush()
        return len(taken)

    @property
    def full(self) -> bool:
        """The file has all the windows it may have."""
        return self.in_file == self.capacity

    def path(self, number: int) -> Path:
        """Where file `number` of this process lies."""
        return self.folder / f"{self.name}_{number}_{self.process}.h5"

    def finish(self) -> None:
        """Give the file its name. The next `append` starts another."""
        self._flush()
        assert self._file is not None
        self._file.attrs["n_examples"] = self.in_file
        self._file.close()
        self._part().replace(self.path(self.files))
        self._file, self.in_file = None, 0
        self.files += 1

    def discard(self) -> int:
        """Throw away the file that is not full; how many windows it had."""
        dropped, self.in_file = self.in_file, 0
        self._buffer.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._part().unlink(missing_ok=True)
        return dropped

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._file is None:
            self._file = h5py.File(self._part(), "w")
            settings = {"maxshape": (self.capacity, *self._shape), "chunks": (1, *self._shape), "compression": "gzip"}
            self._file.create_dataset("data", shape=(0, *self._shape), dtype="i4", **settings)
        block = np.concatenate(self._buffer)
        self._buffer.clear()
        data = self._file["data"]
        start = data.shape[0]
        data.resize(start + len(block), axis=0)
        data[start:] = block

    def _part(self) -> Path:
        return self.folder / f".{self.name}_{self.process}.part"


def verify(path: Path, *, tokenizer: ReferenceTokenizer, length: int, decode: bool) -> Counter[str]:
    """Read one file again, check every value, and count.

    Raises:
        InvalidDataError: the file does not hold what it should.
    """
    limit = max(tokenizer.vocab_size, tokenizer.eos_id + 1, tokenizer.pad_id + 1)
    counts = Counter({"loss_valid_tokens": validate_shard(path, max_sequence_length=length, vocab_size=limit)})
    examples = read_shard_info(path).examples
    counts.update({"num_sequences": examples, "num_tokens": examples * length})
    for start in range(0, examples, _BUFFERED) if decode else ():
        ids = read_rows(path, range(start, min(start + _BUFFERED, examples)))[:, 0]
        counts.update(_text_counts(ids, tokenizer=tokenizer))
    return counts


def _text_counts(ids: Any, *, tokenizer: ReferenceTokenizer) -> dict[str, int]:
    texts = tokenizer.decode(ids.tolist())
    return {
        "non_pad_tokens": int((ids != tokenizer.pad_id).sum()),
        "detokenized_chars": sum(map(len, texts)),
        "detokenized_bytes": sum(len(text.encode()) for text in texts),
    }
