"""The command line: errors without tracebacks, job files, progress lines."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from regraft.cli_jobs import _stage_line
from regraft.client import Client, UnreachableError
from regraft.embedded import free_port
from regraft.errors import InvalidInputError
from regraft.jobfile import read_job_file
from regraft.watch import Watcher, format_duration, progress_line


def stage(**changes: Any) -> dict[str, Any]:
    return {"name": "train", "status": "running", "message": None, "attempts": [1], "progress": None, **changes}


def progress(step: int, total: int | None = 10) -> dict[str, Any]:
    metrics = {"train_loss": 5.25, "train_lr": 0.1}
    return {"step": step, "total_steps": total, "tokens_seen": 12345, "seconds_left": 90.0, "metrics": metrics}


def job(status: str, *stages: dict[str, Any]) -> dict[str, Any]:
    return {"status": status, "message": None, "stages": list(stages)}


def test_an_error_is_one_message_and_exit_status_1() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "regraft", "jobs", "list"],
        env={"REGRAFT_API_URL": f"http://127.0.0.1:{free_port()}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no answer from the API")
    assert "regraft up" in done.stderr
    assert "Traceback" not in done.stderr


def test_watching_gives_an_absent_api_some_patience_and_then_gives_up() -> None:
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(UnreachableError):
        list(client.watch("job-x", every=0.01, patience=0.05))


def test_paths_in_a_job_file_start_from_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "dataset: {uri: ../corpus, tokenizer: checkpoint}\nbase_checkpoint: {uri: file:///abs}\ntarget: {kind: cpu}\n"
    )
    found = read_job_file(file)
    assert found["dataset"] == {"uri": (tmp_path.parent / "corpus").as_uri(), "tokenizer": "checkpoint"}
    assert found["base_checkpoint"] == {"uri": "file:///abs"}


@pytest.mark.parametrize(("text", "what"), [("[1]", "holds no job"), ("a: [", "is not YAML"), (None, "cannot be read")])
def test_a_bad_job_file_is_refused(tmp_path: Path, text: str | None, what: str) -> None:
    file = tmp_path / "job.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InvalidInputError, match=what):
        read_job_file(file)


def test_progress_shows_step_tokens_loss_and_time_left() -> None:
    assert progress_line(stage(progress=progress(4))) == "4/10 steps  12,345 tokens  loss 5.2500  1 min 30 s left"
    assert progress_line(stage(progress=progress(4, None))).startswith("4 steps  12,345 tokens")
    assert progress_line(stage()) == ""


def test_a_watcher_prints_changes_once_and_the_last_step_always() -> None:
    out = io.StringIO()
    watcher = Watcher(out)
    for _ in range(2):
        watcher.show(job("running", stage(progress=progress(1))))
    watcher.show(job("running", stage(progress=progress(2))))  # within the same second: left out
    watcher.show(job("running", stage(progress=progress(10))))
    watcher.show(job("succeeded", stage(status="succeeded"), stage(name="prepare", status="cached")))
    lines = out.getvalue().splitlines()
    assert [line.split()[1] for line in lines if "/10" in line] == ["1/10", "10/10"]
    assert sum("running" in line for line in lines) == 2
    assert any("cached: made by an earlier job" in line for line in lines)
    assert lines[-1] == "job succeeded"


def test_a_watcher_names_attempts_and_reasons() -> None:
    out = io.StringIO()
    Watcher(out).show(job("running", stage(attempts=[1, 2])))
    Watcher(out).show(job("failed", stage(status="failed", message="no text")))
    assert "attempt 2" in out.getvalue()
    assert "failed: no text" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7320, "2 h 02 min")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_stage_line_has_what_matters() -> None:
    line = _stage_line(stage(progress=progress(4), result={"uri": "file:///x"}, attempts=[1, 2]))
    assert "4/10" in line
    assert "1 min 30 s left" in line
    assert "attempt 2" in line
    assert line.endswith("file:///x")
