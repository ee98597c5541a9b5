"""Writing windows into shards. For users as `regraft.hdf5.ShardWriter`; the layout is described there.

The trade-off: the caller waits until its block is compressed, on all cores, and is in the file. Blocks of some
hundred windows keep the cores busy; a window per call works, and costs about 0.1 ms each.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py

from regraft.hdf5_chunks import ROWS, Windows, append, create_dataset

COUNT = "n_examples"


class ShardWriter:
    """Writes windows into a folder, a new file after every `examples_per_file`.

    Windows come in blocks of any size and are written as such. Memory: one block and its compressed form.
    Leaving the context closes the last file; a file exists only once a window was written to it. `threads` compress
    (None: as many as there are cores) and have no influence on the bytes.
    """

    def __init__(
        self, folder: Path, *, max_sequence_length: int, examples_per_file: int = 50_000, threads: int | None = None
    ) -> None:
        self.folder = folder
        self.max_sequence_length = max_sequence_length
        self.examples_per_file = examples_per_file
        self.threads = threads
        self.examples = 0
        """Windows written so far, over all files."""
        self.paths: list[Path] = []
        self._file: h5py.File | None = None
        self._data: Any = None
        self._in_file = 0

    def write(self, block: Windows) -> None:
        """Append a block of shape (k, 3, M)."""
        assert block.shape[1:] == (ROWS, self.max_sequence_length), block.shape
        while len(block):
            if self._file is None:
                self._open()
            taken = block[: self.examples_per_file - self._in_file]
            append(self._data, taken, threads=self.threads)
            self._in_file += len(taken)
            self.examples += len(taken)
            block = block[len(taken) :]
            if self._in_file == self.examples_per_file:
                self.close()

    def close(self) -> None:
        """Finish the current file. The next write starts another one."""
        if self._file is not None:
            self._file.attrs[COUNT] = self._in_file
            self._file.close()
            self._file = self._data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        path = self.folder / f"examples_{len(self.paths)}_0.h5"
        self._file = h5py.File(path, "w-")
        self._data = create_dataset(self._file, max_sequence_length=self.max_sequence_length)
        self._in_file = 0
        self.paths.append(path)
