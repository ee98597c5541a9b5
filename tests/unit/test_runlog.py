"""A log in parts: who follows it while the oldest are dropped loses nothing that is still kept."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from regraft import attemptlogs, logparts
from regraft.attemptlogs import AttemptLog
from regraft.logparts import older_parts, part
from regraft.runlog import PARTS, RunLog
from regraft.settings import Settings

MAX_BYTES = 100
LINE = 20  # bytes of a line, its end included
AT_ONCE = 3  # lines in a write, and so in a part: two writes do not fit into one


class Writer:
    """A log whose lines are written when a test says so."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.log_folder / "job-1" / "train-1.log"
        self.read, self.write = os.pipe()
        self.log = RunLog(os.fdopen(self.read, "rb", buffering=0), self.path, max_bytes=MAX_BYTES)
        self.written = 0

    def lines(self, count: int) -> None:
        """Write so many, some at a time, and wait until they are on the disk."""
        first = self.written // LINE
        for begin in range(first, first + count, AT_ONCE):
            text = b"".join(b"%019d\n" % line for line in range(begin, min(begin + AT_ONCE, first + count)))
            os.write(self.write, text)
            self.written += len(text)
            self._await(text)

    def _await(self, text: bytes) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):  # between two parts
                if self.path.read_bytes().endswith(text):
                    return
            time.sleep(0.001)
        raise AssertionError("the lines were not written")

    def end(self) -> None:
        """The process is gone."""
        os.close(self.write)
        self.log.join()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url="postgresql://nowhere/x", redis_url="redis://nowhere")


@pytest.fixture
def writer(settings: Settings) -> Iterator[Writer]:
    writer = Writer(settings)
    yield writer
    writer.end()


@pytest.fixture
def log(settings: Settings) -> AttemptLog:
    return AttemptLog(settings, job_id="job-1", stage="train", attempt=1)


def numbers(log: AttemptLog, start: int) -> list[int]:
    return [int(line) for _, line in log.lines(start)]


def follow_across_dropped_parts(writer: Writer, log: AttemptLog) -> None:
    """The reader comes back after every few lines with the position it has got, for many times what is kept."""
    got: list[int] = []
    at = 0
    for _ in range(25):
        writer.lines(3)
        for begin, chunk in log.read(at, log.kept()[1]):
            assert begin == at
            got += [int(line) for line in chunk.split()]
            at = begin + len(chunk)
    assert got == list(range(75))
    assert at == writer.written


def test_following_across_dropped_parts_loses_nothing(writer: Writer, log: AttemptLog) -> None:
    follow_across_dropped_parts(writer, log)
    assert len(older_parts(writer.path)) == PARTS
    oldest, end = log.kept()
    assert 0 < oldest < end == writer.written
    assert sum(path.stat().st_size for path in writer.path.parent.iterdir()) == end - oldest


def test_positions_that_shift_when_a_part_is_dropped_are_found(
    writer: Writer, log: AttemptLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted error: positions from the oldest byte that is kept."""

    def shifted(path: Path) -> list[tuple[int, Path]]:
        older = logparts.older_parts(path)
        return [(begin - older[0][0], path) for begin, path in older]

    monkeypatch.setattr(attemptlogs, "older_parts", shifted)
    with pytest.raises(AssertionError):
        follow_across_dropped_parts(writer, log)


def test_a_cursor_before_what_is_kept_begins_at_the_oldest_kept(writer: Writer, log: AttemptLog) -> None:
    writer.lines(60)
    oldest, _ = log.kept()
    assert numbers(log, 0) == numbers(log, oldest - 1) == numbers(log, oldest) == list(range(oldest // LINE, 60))
    assert next(log.lines(0))[0] == oldest + LINE
    assert next(log.read(3, LINE * 60))[0] == oldest


def test_what_is_being_read_can_be_dropped_meanwhile(writer: Writer, log: AttemptLog) -> None:
    writer.lines(20)
    reading = log.lines(0)
    first = int(next(reading)[1])
    writer.lines(60)
    assert log.kept()[0] > first * LINE
    assert [first, *(int(line) for _, line in reading)] == list(range(first, 20))


def test_names_say_where_parts_begin(writer: Writer) -> None:
    writer.lines(12)
    older = older_parts(writer.path)
    assert [begin for begin, _ in older] == [0, 60, 120]
    for begin, path in older:
        assert path == part(writer.path, begin)
        assert int(re.findall(rb"\d+", path.read_bytes())[0]) * LINE == begin


def test_a_log_of_which_nothing_is_there_is_empty(log: AttemptLog) -> None:
    assert not log.exists()
    assert log.kept() == (0, 0)
    assert list(log.lines(0)) == []
