"""Processes that share the units of a preparation, on this machine; with others elsewhere through the work folder.

Each of them asks for nothing and decides nothing: the lead claims a unit, hands it over, and hears what comes of it.
One that dies (the kernel's out-of-memory killer, a full disk under HDF5) is replaced once for its unit; the second
time the preparation fails, with the cause as far as it can be told. With one process the lead does the units itself.

The trade-off: the first of them costs most of a second before its first document, so a small corpus is better off with
one.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Protocol, Self

from regraft_dataprep.hands import CannotForkError, Hand, Hands
from regraft_dataprep.units import Units
from regraft_dataprep.work import BEAT_SECONDS, WorkFolder

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_ATTEMPTS = 2
_LEFT_FREE = 16 * 2**20


class Watch(Protocol):
    """Whoever wants to know how it goes."""

    def check(self) -> None:
        """Called often; raises to stop everything."""

    def tick(self, unit: str, first: int, second: int) -> None:
        """How far a unit is (see `units.Tick`)."""

    def done(self, unit: str) -> None:
        """A unit is done, here or elsewhere."""


class Crew:
    """`processes` at work on one work folder; they end with the context."""

    def __init__(self, work: WorkFolder, *, processes: int, source: Hands) -> None:
        """`source`: where the hands come from, unless one process is all."""
        self._work, self._processes, self._source = work, processes, source
        self._hands: list[Hand] = []
        self._died: Counter[str] = Counter()
        self._beaten = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes at once; what they are at is lost, and nothing else."""
        for hand in self._hands:
            hand.end()
            if hand.unit:
                self._work.release(hand.unit)
        if self._hands:
            self._work.clear()
        self._hands.clear()

    def run(self, units: Units, names: Sequence[str], watch: Watch) -> None:
        """Until every unit is done, here or elsewhere.

        Raises:
            RegraftError, OSError, MemoryError, DifferentIdsError: what a unit or `watch` has raised.
        """
        waiting = deque(names)
        threads = None if len(names) <= 2 * self._processes else 1  # a core each is enough when all are busy
        while waiting or any(hand.unit for hand in self._hands):
            watch.check()
            self._beat()
            unit = self._next(waiting, watch)
            if unit is None:
                self._listen(waiting, watch)
            elif (hand := self._idle()) is None:
                self._do(units, unit, watch)
            else:
                hand.give(unit, threads=threads)

    def _next(self, waiting: deque[str], watch: Watch) -> str | None:
        """A unit to begin, which is claimed then; None when there is nobody for it or none to be had."""
        if self._processes > 1 and sum(1 for hand in self._hands if hand.unit) >= self._processes:
            return None
        for _ in range(len(waiting)):
            unit = waiting.popleft()
            if self._work.is_done(unit):
                watch.done(unit)
            elif self._work.claim(unit):
                return unit
            else:
                waiting.append(unit)  # somebody elsewhere is at it
        return None

    def _do(self, units: Units, unit: str, watch: Watch) -> None:
        def tick(first: int, second: int) -> None:
            watch.check()
            self._beat([unit])
            watch.tick(unit, first, second)

        try:
            units.run(unit, tick, threads=None)
        finally:
            self._work.release(unit)
        watch.done(unit)

    def _idle(self) -> Hand | None:
        """Whom to give a unit; None: the lead does it itself."""
        if self._processes == 1:
            return None
        for hand in self._hands:
            if not hand.unit:
                return hand
        try:
            self._hands.append(self._source.new(self._work.path))
        except CannotForkError as error:
            log.warning("one process does all the work: %s", error)
            self._processes = 1
            return None
        return self._hands[-1]

    def _listen(self, waiting: deque[str], watch: Watch) -> None:
        """Wait for words, or for a death."""
        busy = {hand.connection: hand for hand in self._hands if hand.unit}
        if not busy:
            time.sleep(_POLL_SECONDS)
            return
        for connection in wait(list(busy), timeout=_POLL_SECONDS):
            assert isinstance(connection, Connection)
            hand = busy[connection]
            try:
                word = connection.recv()
            except (EOFError, ConnectionResetError):
                waiting.appendleft(self._bury(hand))
                continue
            if isinstance(word, BaseException):
                raise word
            if word is None:
                self._work.release(hand.unit)
                watch.done(hand.unit)
                hand.unit = ""
            else:
                watch.tick(hand.unit, *word)

    def _bury(self, hand: Hand) -> str:
        """The unit of one that died, to be done again."""
        code, unit = hand.end(), hand.unit
        self._hands.remove(hand)
        self._work.release(unit)
        self._work.clear()
        self._died[unit] += 1
        log.warning("the process at %s ended with status %s", unit, code)
        if shutil.disk_usage(self._work.path).free < _LEFT_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._work.path))
        if self._died[unit] < _ATTEMPTS:
            return unit
        if code == -signal.SIGKILL:
            raise MemoryError(f"the process at {unit} was killed {_ATTEMPTS} times")
        raise RuntimeError(f"the process at {unit} ended with status {code}, {_ATTEMPTS} times")

    def _beat(self, units: Sequence[str] = ()) -> None:
        if time.monotonic() - self._beaten > BEAT_SECONDS:
            self._beaten = time.monotonic()
            self._work.beat([*units, *(hand.unit for hand in self._hands if hand.unit)])
