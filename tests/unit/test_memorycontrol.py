"""The counter of both versions of the memory controller, and what it tells."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from regraft import verdict
from regraft.memorycontrol import oom_kills


@pytest.mark.parametrize("where", ["own group", "container"])
def test_both_versions_are_read(tmp_path: Path, where: str) -> None:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    groups = {line.split(":")[1]: line.split(":", 2)[2].lstrip("/") for line in lines}
    if "memory" in groups:
        folder = tmp_path / "memory" / (groups["memory"] if where == "own group" else "")
        name, text = "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
    else:
        folder = tmp_path / (groups[""] if where == "own group" else "")
        name, text = "memory.events", "low 0\nhigh 0\nmax 4\noom 3\noom_kill 3\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    assert oom_kills(os.getpid(), root=tmp_path) == 3


def test_without_a_controller_nothing_is_claimed(tmp_path: Path) -> None:
    assert oom_kills(os.getpid(), root=tmp_path) is None


@pytest.mark.parametrize(
    ("code", "tail", "oom_killed", "reason"),
    [
        (-signal.SIGKILL, "", True, "out_of_memory"),
        (137, "", True, "out_of_memory"),
        (-signal.SIGKILL, "", False, "killed"),
        (137, "", False, "killed"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", False, "out_of_memory"),
        (-signal.SIGABRT, "terminate called after throwing an instance of 'std::bad_alloc'", False, "out_of_memory"),
        (-signal.SIGSEGV, "", True, "crashed"),
        (1, "ZeroDivisionError", False, "crashed"),
    ],
)
def test_what_an_end_without_a_word_means(code: int, tail: str, oom_killed: bool, reason: str) -> None:
    assert verdict.crashed(code, Path("x.log"), tail=tail, oom_killed=oom_killed).reason == reason
