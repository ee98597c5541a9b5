"""Progress in bytes, on one line of a terminal that is written over and over; nothing where stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer

from regraft.ports import NullProgress

_SECONDS = 0.2
_GB = 10**9


@contextmanager
def byte_progress(*, show: bool) -> Iterator[NullProgress]:
    """A progress for work whose steps are bytes."""
    if not (show and sys.stderr.isatty()):
        yield NullProgress()
        return
    progress = _Bytes()
    try:
        yield progress
    finally:
        progress.end()


class _Bytes(NullProgress):
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown = 0.0

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        now = time.monotonic()
        if now - self._shown < _SECONDS and step != total:
            return
        self._shown = now
        rate = step / max(now - self._start, 1e-9)
        of = f" of {total / _GB:.2f}" if total else ""
        typer.echo(f"\r{step / _GB:.2f}{of} GB, {rate / _GB:.2f} GB/s ", nl=False, err=True)

    def end(self) -> None:
        """The line stays as it is; what follows begins a new one."""
        if self._shown:
            typer.echo(err=True)
