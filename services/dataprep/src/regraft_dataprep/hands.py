"""Hands: the processes of a crew, and the one that they are forked from (see `origin`), as the lead sees them.

The origin is started early, and imports and loads while the lead does the same: the first hand is there soon after the
lead has something to do, and every further one at once. When it dies all hands die with it; the next one that is asked
for has a new one.

The trade-off: one process more, which waits. For Linux.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

MESSAGE_BYTES = 65_536
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}  # a core each is enough


class CannotForkError(Exception):
    """There can be no hands in this environment."""


class Hands:
    """Where hands come from. Started at the first need, ended with the context."""

    def __init__(self, *, tokenizer_uri: str, special_tokens: str) -> None:
        self._wanted = {"tokenizer_uri": tokenizer_uri, "special_tokens": special_tokens}
        self._origin: _Origin | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._origin:
            self._origin.stop()

    def start(self) -> None:
        """Begin to load, without waiting for it."""
        if self._origin is None or self._origin.has_ended():
            self._origin = _Origin(self._wanted)

    def new(self, work: Path) -> Hand:
        """One that works on the folder `work`.

        Raises:
            CannotForkError: something has started threads in the process to fork.
            EOFError: that process ends as soon as it is started.
        """
        self.start()
        assert self._origin
        try:
            return Hand(self._origin, work)
        except (EOFError, BrokenPipeError, ConnectionResetError):  # killed a moment ago, with all its hands
            self._origin.stop()
            self._origin = _Origin(self._wanted)
            return Hand(self._origin, work)


class Hand:
    """One process."""

    def __init__(self, origin: _Origin, work: Path) -> None:
        self.connection, theirs = Pipe()
        self.unit = ""
        """What it is at; empty when it is idle."""
        self._origin = origin
        with theirs:
            self.pid = origin.fork(work, theirs.fileno())
        if not self.pid:
            raise CannotForkError("the process to fork has more than one thread")

    def give(self, unit: str, *, threads: int | None) -> None:
        """Begin a unit."""
        self.unit = unit
        with suppress(BrokenPipeError):  # it is dead: its pipe is at its end, which is heard of next
            self.connection.send((unit, threads))

    def end(self) -> int:
        """At once; what it is at is lost, and nothing else. Its exit status."""
        self.connection.close()
        return self._origin.end(self.pid)


class _Origin:
    """The process, and the socket to it."""

    def __init__(self, wanted: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "regraft_dataprep.origin", str(os.getpid()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                pass_fds=[theirs.fileno()],
            )
        self._socket.send(orjson.dumps(wanted))

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def fork(self, work: Path, connection: int) -> int:
        socket.send_fds(self._socket, [orjson.dumps({"work": str(work)})], [connection])
        return int(self._answer())

    def end(self, pid: int) -> int:
        """The exit status of a hand; that of the origin when it died first, and the hand with it."""
        try:
            self._socket.send(orjson.dumps({"end": pid}))
            return int(self._answer())
        except (OSError, EOFError):
            return self.stop()

    def stop(self) -> int:
        """All hands end with it."""
        self._process.kill()
        self._socket.close()
        return self._process.wait()

    def _answer(self) -> bytes:
        answer = self._socket.recv(MESSAGE_BYTES)
        if not answer:
            raise EOFError(f"the process that hands are forked from ended with status {self._process.wait()}")
        return answer
