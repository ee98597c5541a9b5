"""The work folder: units appear whole, claims are exclusive, and those of the dead count for nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from regraft_dataprep import work
from regraft_dataprep.work import STALE_SECONDS, WorkFolder

IMPORTS = "import sys, time\nfrom pathlib import Path\nfrom regraft_dataprep.work import WorkFolder\n"
RACE = """
folder = WorkFolder(Path(sys.argv[1]))
(folder.path / ("ready-" + sys.argv[2])).touch()
while not (folder.path / "go").exists():
    pass
print(*[unit for unit in (f"unit-{number}" for number in range(200)) if folder.claim(unit)])
sys.stdout.flush()
sys.stdin.read()
"""
HOLD = """
folder = WorkFolder(Path(sys.argv[1]))
print(folder.claim("unit-0"), flush=True)
with folder.make("unit-0") as draft:
    (draft / "half").touch()
    print("drafted", flush=True)
    sys.stdin.read()
"""


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", IMPORTS + code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@contextmanager
def another_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with started(code, *arguments) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], count: int = 1) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def claims(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".claims").iterdir())


def drafts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".tmp-*"))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# Claims


def test_a_claim_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    mine, other = WorkFolder(tmp_path), WorkFolder(tmp_path)
    assert mine.claim("unit")
    assert not other.claim("unit")
    assert other.claim("another unit")
    mine.release("unit")
    mine.release("unit")  # twice is no harm
    assert other.claim("unit")


def test_processes_that_race_for_units_get_each_of_them_once(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    with another_process(RACE, str(tmp_path), "0") as one, another_process(RACE, str(tmp_path), "1") as other:
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.01)
        (tmp_path / "go").touch()
        first, second = (lines(process)[0].split() for process in (one, other))
        assert not set(first) & set(second)
        assert len(first) + len(second) == 200
        assert not any(folder.claim(unit) for unit in (*first[:5], *second[:5]))  # both still live


def test_the_claim_of_a_process_that_is_dead_is_taken_at_once(tmp_path: Path) -> None:
    with another_process(HOLD, str(tmp_path)) as process:
        assert lines(process) == ["True"]
        folder = WorkFolder(tmp_path)
        assert not folder.claim("unit-0")
        process.kill()
        process.wait()
        assert folder.claim("unit-0")
        assert not WorkFolder(tmp_path).claim("unit-0")


def test_a_claim_that_nobody_has_touched_for_long_is_taken(tmp_path: Path) -> None:
    mine, other = WorkFolder(tmp_path), WorkFolder(tmp_path)
    assert mine.claim("unit")
    age(tmp_path / ".claims" / "unit", STALE_SECONDS - 5)
    assert not other.claim("unit")
    age(tmp_path / ".claims" / "unit", STALE_SECONDS + 1)
    mine.beat(["unit", "one that was never claimed"])
    assert not other.claim("unit")
    age(tmp_path / ".claims" / "unit", STALE_SECONDS + 1)
    assert other.claim("unit")
    assert not mine.claim("unit")


def test_the_claim_of_another_machine_counts_until_it_is_stale(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    claim = tmp_path / ".claims" / "unit"
    claim.write_text("another-machine-999999999")
    assert not folder.claim("unit")
    age(claim, STALE_SECONDS + 1)
    assert folder.claim("unit")


def test_a_claim_in_the_making_counts(tmp_path: Path) -> None:
    (WorkFolder(tmp_path).path / ".claims" / "unit").touch()  # made, and not written to yet
    assert not WorkFolder(tmp_path).claim("unit")


def test_whether_somebody_is_at_a_unit_can_be_asked_without_claiming_it(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    assert not folder.is_claimed("unit")
    assert folder.claim("unit")
    assert WorkFolder(tmp_path).is_claimed("unit")
    age(tmp_path / ".claims" / "unit", STALE_SECONDS + 1)
    assert not folder.is_claimed("unit")
    assert claims(tmp_path) == ["unit"]


# Units


def test_a_unit_appears_whole_and_not_before(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    with folder.make("unit") as draft:
        (draft / "content").write_text("whole")
        assert not folder.is_done("unit")
    assert folder.is_done("unit")
    assert (folder.folder("unit") / "content").read_text() == "whole"
    assert drafts(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_unit_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    folder = WorkFolder(tmp_path)
    with pytest.raises(error), folder.make("unit") as draft:
        (draft / "content").write_text("half")
        raise error("planted")
    assert not folder.is_done("unit")
    assert drafts(tmp_path) == []
    with folder.make("unit") as draft:
        assert list(draft.iterdir()) == []


def test_of_two_that_made_a_unit_the_first_to_finish_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = WorkFolder(tmp_path), WorkFolder(tmp_path)
    monkeypatch.setattr(other, "_owner", "another-1")
    with one.make("unit") as first, other.make("unit") as second:
        assert first != second
        (first / "content").write_text("by the second to finish")
        (second / "content").write_text("by the first to finish")
    assert (one.folder("unit") / "content").read_text() == "by the first to finish"
    assert drafts(tmp_path) == []


def test_a_draft_of_the_same_process_is_begun_afresh(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    draft = tmp_path / f".tmp-unit-{folder._owner}"
    draft.mkdir()
    (draft / "left over").touch()
    with folder.make("unit"):
        pass
    assert list(folder.folder("unit").iterdir()) == []


def test_a_unit_that_cannot_be_put_in_its_place_is_an_error(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    (tmp_path / "unit").touch()  # a file where the unit should be
    with pytest.raises(OSError, match="unit"), folder.make("unit"):
        pass
    assert not folder.is_done("unit")


def test_a_file_is_put_in_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    folder.put("setup.json", b"a long content")
    folder.put("setup.json", b"short")
    assert (tmp_path / "setup.json").read_bytes() == b"short"
    assert drafts(tmp_path) == []


# Clearing up


def test_what_the_dead_have_left_is_cleared_and_what_the_living_are_at_is_not(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    with another_process(HOLD, str(tmp_path)) as process:
        assert lines(process, 2) == ["True", "drafted"]
        assert len(drafts(tmp_path)) == 1
        WorkFolder(tmp_path).clear()
        assert claims(tmp_path) == ["unit-0"]
        assert len(drafts(tmp_path)) == 1
        process.kill()
        process.wait()
    with folder.make("unit-1"):
        pass
    WorkFolder(tmp_path).clear()
    assert claims(tmp_path) == drafts(tmp_path) == []
    assert folder.is_done("unit-1")


def test_a_draft_of_another_machine_is_cleared_once_it_is_old(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    draft = tmp_path / ".tmp-plan-another-machine-17"
    draft.mkdir()
    folder.clear()
    assert draft.is_dir()
    age(draft, STALE_SECONDS + 1)
    folder.clear()
    assert not draft.exists()


def test_of_everything_nothing_is_left(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "deep" / "work")
    with folder.make("unit"):
        folder.claim("unit")
    folder.remove()
    folder.remove()
    assert not (tmp_path / "deep" / "work").exists()


def test_a_beat_comes_several_times_before_a_claim_is_stale() -> None:
    assert work.BEAT_SECONDS * 5 < STALE_SECONDS
