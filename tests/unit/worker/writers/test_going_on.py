"""Files that were cut short while they were written: what is whole in them is kept, everything else written anew."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from writer_samples import WRITERS, digests, lazies, no_tick, state

from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.writers.base import NewFile
from regraft_worker.conversion.writers.journal import Journal, holds_tensors

every_writer = pytest.mark.parametrize("writer", WRITERS)
PLAN = "the same source"


class StoppedError(Exception):
    pass


def stop_after(blocks: int):  # type: ignore[no-untyped-def]
    def tick(count: int) -> None:
        nonlocal blocks
        blocks -= 1
        if blocks < 0:
            raise StoppedError

    return tick


def begun(writer: str, folder: Path, *, blocks: int = 4, plan: str = PLAN) -> dict[str, tuple[int, int]]:
    """A file that was stopped after so many blocks; where the tensors are that its journal says are whole."""
    with pytest.raises(StoppedError):
        WRITERS[writer](
            folder / "file", lazies(state()), journal=Journal(folder / "file", plan=plan), tick=stop_after(blocks)
        )
    assert holds_tensors(folder)
    _, *lines = (folder / "file.journal").read_text().splitlines()
    return {name: (at, count) for name, at, count, *_ in map(json.loads, lines)}


def whole(writer: str, folder: Path) -> bytes:
    folder.mkdir()
    WRITERS[writer](folder / "file", lazies(state()), tick=no_tick)
    return (folder / "file").read_bytes()


def guarded(kept: set[str]) -> list[Lazy]:
    """The same tensors, of which those that are kept cannot be read."""

    def read(start: int, stop: int) -> torch.Tensor:
        raise AssertionError("it is written already")

    return [replace(lazy, read_rows=read) if lazy.name in kept else lazy for lazy in lazies(state())]


def go_on(writer: str, folder: Path, tensors: list[Lazy], *, plan: str = PLAN) -> set[str]:
    """Finish the file; the names of the tensors that were kept."""
    journal, told = Journal(folder / "file", plan=plan), []
    found = WRITERS[writer](folder / "file", tensors, journal=journal, tick=told.append)
    assert found == digests(state())
    assert sum(told) >= sum(tensor.nbytes for tensor in state().values())
    journal.remove()
    assert [path.name for path in folder.iterdir() if path.name != "undisturbed"] == ["file"]
    return set(journal.kept)


@every_writer
def test_what_is_whole_is_not_read_again_and_the_file_is_as_if_nothing_had_happened(
    writer: str, tmp_path: Path
) -> None:
    kept = begun(writer, tmp_path).keys()
    assert 0 < len(kept) < len(state())
    assert go_on(writer, tmp_path, guarded(set(kept))) == kept
    assert (tmp_path / "file").read_bytes() == whole(writer, tmp_path / "undisturbed")


@every_writer
def test_a_tensor_with_one_other_bit_is_written_again(writer: str, tmp_path: Path) -> None:
    kept = begun(writer, tmp_path)
    victim, (at, count) = next((name, place) for name, place in kept.items() if place[1])
    content = bytearray((tmp_path / "file").read_bytes())
    content[at + count - 1] ^= 1
    (tmp_path / "file").write_bytes(content)
    assert go_on(writer, tmp_path, guarded(kept.keys() - {victim})) == kept.keys() - {victim}
    assert (tmp_path / "file").read_bytes() == whole(writer, tmp_path / "undisturbed")


def test_a_journal_is_void_for_another_plan_or_file_and_from_its_first_half_line_on(tmp_path: Path) -> None:
    kept, path = begun("safetensors", tmp_path), tmp_path / "file.journal"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:-5])
    last = json.loads(lines[-1])[0]
    assert go_on("safetensors", tmp_path, lazies(state())) == kept.keys() - {last}
    (tmp_path / "file").unlink()
    begun("safetensors", tmp_path)
    assert go_on("safetensors", tmp_path, lazies(state()), plan="another source") == set()
    (tmp_path / "file").unlink()
    begun("safetensors", tmp_path)
    os.truncate(tmp_path / "file", 100)
    assert go_on("safetensors", tmp_path, lazies(state())) == set()


_KILLED = """
import itertools, os, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from writer_samples import WRITERS, lazies, no_tick
from test_going_on import PLAN, large
from regraft_worker.conversion.writers.base import NewFile
from regraft_worker.conversion.writers.journal import Journal
writer, path, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
write_at, numbers = NewFile.write_at, itertools.count(1)

def torn(file, offset, content):
    is_last = next(numbers) == last
    write_at(file, offset, content[: len(content) // 2] if is_last else content)
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)

NewFile.write_at = torn
WRITERS[writer](path, lazies(large()), journal=Journal(path, plan=PLAN), tick=no_tick)
"""


def large() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {f"t{number}": torch.randn(1000 + 100 * number) for number in range(30)}


def writes_of(writer: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the file is written to, when nothing happens."""
    write_at, sizes = NewFile.write_at, []

    def counted(file: NewFile, offset: int, content: bytes | memoryview) -> None:
        sizes.append(len(content))
        write_at(file, offset, content)

    with monkeypatch.context() as patched:
        patched.setattr(NewFile, "write_at", counted)
        WRITERS[writer](path, lazies(large()), tick=no_tick)
    return len(sizes)


@pytest.mark.parametrize("moment", ["among the tensors", "after them", "in the last write"])
@every_writer
def test_after_a_kill_in_any_write_the_file_is_as_if_nothing_had_happened(
    writer: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "undisturbed").mkdir()
    writes = writes_of(writer, tmp_path / "undisturbed" / "file", monkeypatch)
    at = {"among the tensors": random.Random(writer).randrange(8, 30), "after them": writes - 1}.get(moment, writes)
    script = _KILLED.format(here=str(Path(__file__).parent))
    words = [sys.executable, "-c", script, writer, str(tmp_path / "file"), str(at)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    kept = len((tmp_path / "file.journal").read_text().splitlines()) - 1
    assert kept
    journal = Journal(tmp_path / "file", plan=PLAN)
    assert WRITERS[writer](tmp_path / "file", lazies(large()), journal=journal, tick=no_tick) == digests(large())
    assert len(journal.kept) == kept
    assert (tmp_path / "file").read_bytes() == (tmp_path / "undisturbed" / "file").read_bytes()
