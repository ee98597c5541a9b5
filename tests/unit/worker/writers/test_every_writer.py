"""What all writers have in common: values, digests, progress, and nothing left behind when they fail."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from writer_samples import WRITERS, digests, lazies, no_tick, read_back, state

from regraft.errors import ConflictError, InvalidDataError, InvalidInputError
from regraft_worker.conversion.lazy import Lazy, of_tensor
from regraft_worker.conversion.writers import copying

every_writer = pytest.mark.parametrize("writer", WRITERS)


@every_writer
def test_tensors_and_digests_are_those_given(writer: str, tmp_path: Path) -> None:
    path, given = tmp_path / "file", state()
    found = WRITERS[writer](path, lazies(given), tick=no_tick)
    assert found == digests(given)
    read = read_back(writer, path)
    assert digests(read) == digests(given)
    assert {name: (t.dtype, t.shape) for name, t in read.items()} == {n: (t.dtype, t.shape) for n, t in given.items()}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@every_writer
def test_blocks_of_one_row_give_the_same_file(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = state()
    for name in ("whole", "rows"):
        (tmp_path / name).mkdir()
        WRITERS[writer](tmp_path / name / "file", lazies(given), tick=no_tick)
        defaults = {**copying.copy_tensors.__kwdefaults__, "block_bytes": 1}
        monkeypatch.setattr(copying.copy_tensors, "__kwdefaults__", defaults)
    assert (tmp_path / "whole" / "file").read_bytes() == (tmp_path / "rows" / "file").read_bytes()


@every_writer
def test_progress_is_told_of_every_byte_once(writer: str, tmp_path: Path) -> None:
    told: list[int] = []
    WRITERS[writer](tmp_path / "file", lazies(state()), tick=told.append)
    assert sum(told) == sum(tensor.nbytes for tensor in state().values())


@every_writer
def test_an_alias_reads_as_the_same_tensor(writer: str, tmp_path: Path) -> None:
    found = WRITERS[writer](tmp_path / "file", lazies(state()), aliases={"model.again": "wide"}, tick=no_tick)
    assert found["model.again"] == found["wide"]
    read = read_back(writer, tmp_path / "file")
    assert digests(read) == found


@every_writer
def test_a_caller_that_stops_leaves_no_file(writer: str, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(count: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        WRITERS[writer](tmp_path / "file", lazies(state()), tick=stop)
    assert list(tmp_path.iterdir()) == []


@every_writer
def test_a_source_that_fails_or_lies_leaves_no_file(writer: str, tmp_path: Path) -> None:
    def fails(start: int, stop: int) -> torch.Tensor:
        raise OSError(5, "disk on fire")

    short = Lazy("a", torch.float32, (4,), lambda start, stop: torch.zeros(3))
    wrong = Lazy("a", torch.float32, (4,), lambda start, stop: torch.zeros(4, dtype=torch.int64))
    with pytest.raises(OSError, match="on fire"):
        WRITERS[writer](tmp_path / "file", [Lazy("a", torch.float32, (4,), fails)], tick=no_tick)
    for lazy in (short, wrong):
        with pytest.raises((InvalidDataError, TypeError)):
            WRITERS[writer](tmp_path / "file", [lazy], tick=no_tick)
    assert list(tmp_path.iterdir()) == []


@every_writer
def test_a_file_that_is_there_is_refused_and_stays(writer: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConflictError) as caught:
        WRITERS[writer](tmp_path / "file", lazies(state()), tick=no_tick)
    assert caught.value.reason == "file_exists"
    assert (tmp_path / "file").read_text() == "mine"


@every_writer
def test_no_room_is_said_before_anything_is_read(writer: str, tmp_path: Path) -> None:
    def read(start: int, stop: int) -> torch.Tensor:
        raise AssertionError("too late")

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="file"):
            WRITERS[writer](tmp_path / "file", [Lazy("a", torch.float32, (50_000,), read)], tick=no_tick)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


@every_writer
def test_the_file_may_be_read_by_whom_the_umask_allows(writer: str, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        WRITERS[writer](tmp_path / "file", lazies(state()), tick=no_tick)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@every_writer
def test_a_dtype_the_encoding_has_not_is_refused(writer: str, tmp_path: Path) -> None:
    tensor = of_tensor("a", torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(InvalidInputError):
        WRITERS[writer](tmp_path / "file", [tensor], tick=no_tick)
    assert list(tmp_path.iterdir()) == []
