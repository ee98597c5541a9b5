"""TensorBoard's event files, against bytes that its own libraries wrote, and read back by a reader written here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import NEOX, Recorder, task, windows, write_dataset, write_model, write_split

from event_points import fields, messages, points
from regraft.errors import InterruptedStageError, InvalidInputError
from regraft_worker.trainer import loop
from regraft_worker.trainer.event_file import EventFile, crc32c
from regraft_worker.trainer.trackers import tags, trackers_for


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
