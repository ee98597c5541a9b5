"""sha256 of files while their tensors are read: by as many bytes at a time, so that the disk gives each page once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

_READ_BYTES = 8 * 2**20


class FilesDigest:
    """Hashes files in their order, in a thread of its own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._left = list(paths)
        self._found: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._begin()

    def go_on(self, count: int) -> Callable[[], None]:
        """Hash so many bytes more; what is returned waits for it."""
        return self._thread.submit(self._read, count).result

    def finish(self, check: Callable[[], None]) -> dict[str, str]:
        """Hash what is left; file name to digest. `check` is called every few megabytes and may raise."""
        while self._left:
            check()
            self._read(_READ_BYTES)
        return self._found

    def _begin(self) -> None:
        self._file = self._left[0].open("rb", buffering=0)
        self._sha256 = hashlib.sha256()

    def _read(self, count: int) -> None:
        while count > 0 and self._left:
            content = self._file.read(min(count, _READ_BYTES))
            self._sha256.update(content)
            count -= len(content)
            if not content:
                self._end()

    def _end(self) -> None:
        self._file.close()
        self._found[self._left.pop(0).name] = self._sha256.hexdigest()
        if self._left:
            self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._file.close()
