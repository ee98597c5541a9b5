"""Two processes (gloo) compute what one does, and go on from each other's checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rank_program import SAVED, losses
from tiny_runs import Recorder, task, write_dataset, write_model

from regraft.errors import InterruptedStageError, InvalidInputError
from regraft.specs import TargetSpec
from regraft_worker import launch
from regraft_worker.trainer import checkpoint, loop
from regraft_worker.trainer.ledger_check import difference, faults, find_state

TOLERANCE = 1e-5
LONG: dict[str, Any] = {
    "max_steps": 100_000,  # still going when it is asked to stop, whatever else the machine does
    "schedule": [{"constant": {"value": 1e-3}}],
    "evaluate": {"every_steps": None},
    "checkpoint": {"every_steps": 100_000, "keep_last": 3},
}
PROGRAM = Path(__file__).with_name("rank_program.py")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write_model(folder / "base")
    write_dataset(folder / "dataset")
    return folder


@pytest.fixture(scope="module")
def output(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of two processes, made by one torchrun: starting it takes longer than they do."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "one.json").write_text(json.dumps(losses(inputs, "single", save=folder / "single")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    done = subprocess.run(
        [*command, str(inputs), str(folder)],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return folder


@pytest.fixture(scope="module")
def one(output: Path) -> list[float]:
    found: list[float] = json.loads((output / "one.json").read_text())
    return found


@pytest.fixture(scope="module")
def two(output: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = json.loads((output / "losses.json").read_text())
    return found


def _apart(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(one: list[float], two: dict[str, list[float]], strategy: str) -> None:
    assert len(one) == 50
    assert one[-1] < 0.8 * one[0]  # it learns, so a step that did nothing would show
    assert _apart(two[strategy], one) < TOLERANCE


@pytest.mark.parametrize("which", ["ddp, parts of one", "fsdp, parts of one, recomputed"])
def test_accumulating_in_two_processes_changes_nothing(
    one: list[float], two: dict[str, list[float]], which: str
) -> None:
    assert _apart(two[which], one[:5]) < TOLERANCE


def test_sharded_bf16_is_bf16(one: list[float], two: dict[str, list[float]], inputs: Path) -> None:
    alone = losses(inputs, "single", upto=5, precision="bf16")

    assert _apart(two["fsdp in bf16"], alone) < 2e-3
    assert _apart(alone, one[:5]) > 1e-5


@pytest.mark.parametrize("which", ["single to ddp", "single to fsdp", "fsdp to ddp", "ddp to fsdp"])
def test_any_world_goes_on_from_any_other(one: list[float], two: dict[str, list[float]], which: str) -> None:
    assert _apart(two[which], one[SAVED:30]) < TOLERANCE


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_goes_on_from_two(one: list[float], output: Path, inputs: Path, strategy: str) -> None:
    start = checkpoint.step_folder(output / strategy, SAVED)

    assert _apart(losses(inputs, "single", start=start, upto=30), one[SAVED:30]) < TOLERANCE


@pytest.mark.parametrize("planted", ["planted: own divisor", "planted: own norm"])
def test_planted_mistakes_are_seen(one: list[float], two: dict[str, list[float]], planted: str) -> None:
    assert _apart(two[planted], one[:10]) > 5 * TOLERANCE


def test_a_stopped_run_of_two_is_finished_by_one(inputs: Path, tmp_path: Path) -> None:
    asked = task(inputs, tmp_path / "two", **LONG)
    stopped, went_on, undisturbed = Recorder(stop_after=2), Recorder(), Recorder()
    sharded = asked.model_copy(update={"target": TargetSpec(kind="cpu", devices=2, strategy="fsdp")})

    with pytest.raises(InterruptedStageError):
        launch.train(sharded, stopped)
    saved = checkpoint.latest(tmp_path / "two")
    assert saved is not None
    end = checkpoint.read_state(saved).step + 2
    launch.train(task(inputs, tmp_path / "two", **{**LONG, "max_steps": end}), went_on)
    loop.train(task(inputs, tmp_path / "one", **{**LONG, "max_steps": end}), undisturbed)

    steps = [step for step, _ in stopped.steps]
    assert steps == list(range(1, end - 1))  # each said once, by one process
    assert _apart(stopped.losses() + went_on.losses()[-2:], undisturbed.losses()) < TOLERANCE
    ledger, alone = (find_state(tmp_path / name).ledger for name in ("two", "one"))
    assert ledger is not None
    assert alone is not None
    assert ledger.last == end
    assert faults(ledger) == []
    assert difference(ledger, alone) is None


def test_when_one_process_is_killed_all_end(inputs: Path, tmp_path: Path) -> None:
    asked = task(inputs, tmp_path / "run", **LONG)
    asked = asked.model_copy(update={"target": TargetSpec(kind="cpu", devices=2, strategy="ddp")})

    class Killer(Recorder):
        def step(self, step: int, metrics: object, **more: object) -> None:  # type: ignore[override]
            if step == 3:
                self.ranks = _ranks()
                os.kill(self.ranks[-1], signal.SIGKILL)

    killer = Killer()
    with pytest.raises(launch.ProcessDiedError, match="died"):
        launch.train(asked, killer)
    assert len(killer.ranks) == 2
    assert not set(killer.ranks) & set(_ranks())


def _ranks() -> list[int]:
    """Training processes below this one."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"regraft_worker.rank" in words and grandparent == os.getpid():
            found.append(int(entry.name))
    return sorted(found)


def test_a_refusal_of_the_processes_is_told_with_its_field(inputs: Path, tmp_path: Path) -> None:
    asked = task(inputs, tmp_path / "run", batch_size=3)
    asked = asked.model_copy(update={"target": TargetSpec(kind="cpu", devices=2)})

    with pytest.raises(launch.RankError) as caught:
        launch.train(asked)

    assert (caught.value.field, caught.value.value, caught.value.reason) == ("training.batch_size", 3, "invalid_input")


def test_the_core_alone_refuses_a_group(inputs: Path, tmp_path: Path) -> None:
    asked = task(inputs, tmp_path / "run")

    with pytest.raises(InvalidInputError, match=r"target\.devices"):
        loop.train(asked.model_copy(update={"target": TargetSpec(kind="cpu", strategy="fsdp")}))
