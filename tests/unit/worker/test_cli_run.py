"""`regraft run` as a command: flags with one and two dashes, refusals without tracebacks, SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regraft.cli import make_app
from regraft.errors import InvalidInputError
from zoo_runs import FLAT, changed, here, run

RUN = ["run", "CPU", "--mode", "train", "--params", str(FLAT)]


@pytest.fixture(autouse=True)
def _data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    here(tmp_path)


def refused(*words: str) -> InvalidInputError:
    found = CliRunner().invoke(make_app(), list(words)).exception
    assert isinstance(found, InvalidInputError)
    return found


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ([*RUN, "--num_csx", "2"], "--num_csx"),
        ([*RUN, "--compile_only"], "--compile_only"),
        ([*RUN, "-mount_dirs", "/data"], "--mount_dirs"),
        ([*RUN, "--job_labels", "a=b"], "--job_labels"),
        ([*RUN, "--dist_backend", "nccl"], "--dist_backend"),
        ([*RUN, "--logging", "LOUD"], "--logging"),
        ([*RUN, "--checkpoint_format", "hdf5"], "--checkpoint_format"),
        (["run", "CSX", *RUN[2:], "--checkpoint_format", "torch"], "--checkpoint_format"),
        (["run", "CSX", *RUN[2:]], "REGRAFT_CEREBRAS_CLIENT"),
        (["run", "CPU", "weight_streaming", *RUN[2:]], "device"),
        (["run", "TPU", *RUN[2:]], "device"),
        (["run", "CPU", "-m", "fit", "-p", str(FLAT)], "--mode"),
    ],
)
def test_flags_that_have_no_meaning_here_are_refused_by_name(words: list[str], field: str) -> None:
    assert refused(*words).field == field


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(*RUN).field == "WORLD_SIZE"


def test_a_refusal_is_one_line_and_exit_status_1(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "regraft", "run", "CPU", "-mode", "train", "-params", "absent.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --params: ")
    assert "Traceback" not in done.stderr


def test_a_stopped_run_saves_and_goes_on(tmp_path: Path) -> None:
    params = changed(tmp_path, runconfig={"checkpoint_steps": 100_000, "max_steps": 100_000})
    words = [sys.executable, "-m", "regraft", "run", "CPU", "-m", "train", "-p", str(params), "-o", "out"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = next(line for line in child.stdout if "Step=3" in line)
        os.kill(child.pid, signal.SIGTERM)
        assert line
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "stopped after step" in errors
    assert "Traceback" not in errors
    (saved,) = (tmp_path / "out").glob("checkpoint_*.mdl")
    step = int(saved.stem.rpartition("_")[2])
    assert [*run(tmp_path / "out", params, max_steps=step + 1).steps] == [step + 1]
    assert not [*(tmp_path / "out").glob(".regraft*")]
