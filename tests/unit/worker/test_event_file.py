"""TensorBoard's event files, against bytes that its own libraries wrote, and read back by a reader written here."""

from __future__ import annotations

import errno
import resource
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_runs import NEOX, Recorder, task, windows, write_dataset, write_model, write_split

from event_points import fields, messages, points
from regraft.errors import InterruptedStageError, InvalidInputError
from regraft_worker.trainer import guard, loop
from regraft_worker.trainer.event_file import EventFile, crc32c
from regraft_worker.trainer.trackers import Trackers, tags, trackers_for


@pytest.mark.parametrize(("content", "crc"), [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"", 0)])
def test_checksums_are_those_of_the_rfc(content: bytes, crc: int) -> None:
    assert crc32c(content) == crc


def test_a_file_holds_its_version_a_session_start_and_the_scalars(tmp_path: Path) -> None:
    EventFile(tmp_path, first_step=300).scalars(301, {"train/loss": 2.5, "loss": 2.5})

    (path,) = tmp_path.iterdir()
    version, start, event = [dict(fields(message)) for message in messages(path)]
    assert version[3] == b"brain.Event:2"
    assert (start[2], start[7]) == (300, b"\x08\x01")
    assert event[2] == 301
    assert points(tmp_path) == {("train/loss", 301): 2.5, ("loss", 301): 2.5}


def test_a_planted_wrong_bit_is_found_by_the_reader(tmp_path: Path) -> None:
    EventFile(tmp_path, first_step=0).scalars(1, {"a": 1.0})
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)

    with pytest.raises(AssertionError):
        messages(path)


def test_the_reader_of_tensorboard_reads_the_same(tmp_path: Path) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    EventFile(tmp_path, first_step=1).scalars(7, {"val/loss": 1.25})

    accumulator = module.EventAccumulator(str(tmp_path))
    accumulator.Reload()

    assert [(point.step, point.value) for point in accumulator.Scalars("val/loss")] == [(7, 1.25)]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("train_loss", ("train/loss", "loss")),
        ("train_lr", ("train/lr", "lr/0", "lr/1")),
        ("val_perplexity", ("val/perplexity", "eval/lm_perplexity")),
        ("general_bits_per_byte", ("general/bits_per_byte",)),
        ("mfu", ("train/mfu",)),
        ("train_loss_scale", ("train/loss_scale", "loss_scale")),
        ("train_skipped_steps", ("train/skipped_steps",)),
    ],
)
def test_tags_are_those_people_know(metric: str, expected: tuple[str, ...]) -> None:
    assert tags(metric) == expected


def test_a_run_that_goes_on_shows_every_number_once(tmp_path: Path) -> None:
    write_model(tmp_path / "base", NEOX)
    write_dataset(tmp_path / "dataset")
    write_split(tmp_path / "more", windows(5, seed=9))
    evaluate = {"every_steps": 4, "sets": {"more": str(tmp_path / "more")}}
    asked = task(tmp_path, tmp_path / "run", tensorboard=True, evaluate=evaluate)
    progress = Recorder()
    with pytest.raises(InterruptedStageError):
        loop.train(asked, Recorder(stop_after=5))
    loop.train(asked, progress)

    shown = points(tmp_path / "run" / "tensorboard")

    losses = {step: metrics["train_loss"] for step, metrics in progress.steps if "train_loss" in metrics}
    for tag in ("train/loss", "loss"):
        found = {step: value for (name, step), value in shown.items() if name == tag}
        assert found == pytest.approx(losses)
    assert sorted(step for name, step in shown if name == "more/loss") == [0, 4, 8, 12]
    assert {name for name, _ in shown} >= {"train/tokens_per_second", "train/data_wait_share", "eval/accuracy"}
    assert sorted(step for name, step in shown if name == "val/seconds") == [0, 4, 8, 12]
    rates = ("local_samples_per_sec", "avg_samples_per_sec", "avg_steps_per_sec")
    for name in (*rates, "lr/0", "lr/1"):
        assert sorted(step for tag, step in shown if tag == name) == sorted(losses)
    assert all(shown[name, 12] > 0 for name in rates)
    assert shown["avg_samples_per_sec", 12] == pytest.approx(4 * shown["avg_steps_per_sec", 12])


@pytest.mark.parametrize(("variable", "package"), [("WANDB_PROJECT", "wandb"), ("MLFLOW_TRACKING_URI", "mlflow")])
def test_a_tracker_that_is_asked_for_and_not_installed_is_refused(
    variable: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)  # what Python does for a package that is not there
    monkeypatch.setenv(variable, "x")

    with pytest.raises(InvalidInputError, match=f"pip install {package}") as caught:
        trackers_for(tmp_path, known_by=tmp_path, options={}, tensorboard=False, first_step=0)

    assert caught.value.field == variable


FULL = OSError(errno.ENOSPC, "No space left on device")


class Unwell:
    """Takes the place of `wandb`, `mlflow` and the event file: fails at `where`, and counts how often it was asked."""

    def __init__(self, where: str) -> None:
        self.where, self.asked = where, 0

    def _do(self, what: str) -> SimpleNamespace:
        self.asked += 1
        if what == self.where:
            raise FULL if what == "write" else RuntimeError(f"no answer to {what}")
        return SimpleNamespace(
            log=lambda metrics, step: self._do("log"),
            finish=lambda: self._do("finish"),
            info=SimpleNamespace(run_id="made"),
        )

    def init(self, **_: object) -> SimpleNamespace:
        return self._do("init")

    def start_run(self, **_: object) -> SimpleNamespace:
        return self._do("init")

    def log_params(self, params: object) -> None:
        return

    def log_metrics(self, metrics: object, *, step: int) -> None:
        self._do("log")

    def end_run(self) -> None:
        self._do("finish")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder / "base", NEOX)
    write_dataset(folder / "dataset")
    return folder


@pytest.mark.parametrize("rest", [0.0, 1e9])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("TensorBoard", "write"),
        *((name, where) for name in ("WandB", "MLflow") for where in ("init", "log", "finish")),
    ],
)
def test_a_tracker_that_fails_is_one_warning_and_training_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str, rest: float
) -> None:
    unwell, progress = Unwell(where), Recorder()
    monkeypatch.setattr(guard, "REST_SECONDS", rest)
    monkeypatch.setattr(EventFile, "_append", lambda self, message: unwell._do("write"))
    if name != "TensorBoard":
        monkeypatch.setitem(sys.modules, name.lower(), unwell)  # type: ignore[arg-type]
        monkeypatch.setenv({"WandB": "WANDB_PROJECT", "MLflow": "MLFLOW_TRACKING_URI"}[name], "x")

    done = loop.train(task(inputs, tmp_path, max_steps=3, tensorboard=name == "TensorBoard", evaluate={}), progress)

    assert done.step == 3
    assert [metrics["train_loss"] for _, metrics in progress.steps]
    (warning,) = [text for level, text in progress.events if level == "warn"]
    assert warning.startswith(f"{name} fails, and training goes on without: ")
    if where in ("write", "init"):
        assert unwell.asked == (1 if rest else 3)


def test_a_fault_of_ours_is_no_failure_of_a_tracker(tmp_path: Path) -> None:
    board = Trackers(trackers_for(tmp_path, known_by=tmp_path, options={}, tensorboard=True, first_step=0), print)

    with pytest.raises(struct.error):
        board.log(1, {"train_loss": None}, 0)  # type: ignore[dict-item]


def test_after_a_write_that_was_cut_short_another_file_goes_on(tmp_path: Path) -> None:
    file = EventFile(tmp_path, first_step=5)
    file.scalars(5, {"loss": 1.0})
    (first,) = tmp_path.iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first.stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):  # the kernel writes ten bytes of it, as on a full disk
            file.scalars(6, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    file.scalars(7, {"loss": 3.0})

    (second,) = set(tmp_path.iterdir()) - {first}
    version, event = [dict(fields(message)) for message in messages(second)]
    assert (version[3], event[2]) == (b"brain.Event:2", 7)  # no session start: the first file's points stay
    with pytest.raises((AssertionError, struct.error)):
        messages(first)  # the reader of it stops at the half record
