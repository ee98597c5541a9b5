"""TensorBoard's event files, against bytes that its own libraries wrote, and read back by a reader written here."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tiny_runs import NEOX, Recorder, task, windows, write_dataset, write_model, write_split

from regraft.errors import InterruptedStageError, InvalidInputError
from regraft_worker.trainer import loop
from regraft_worker.trainer.event_file import EventFile, crc32c
from regraft_worker.trainer.trackers import tags, trackers_for


def _messages(path: Path) -> list[bytes]:
    """The messages of a TFRecord file, their checksums checked."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == _masked(content[:8])
        message = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length])[0] == _masked(message)
        found.append(message)
        content = content[16 + length :]
    return found


def _masked(content: bytes) -> int:
    crc = crc32c(content)
    return ((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF


def _fields(message: bytes) -> list[tuple[int, object]]:
    """Number and value of each field of a protocol buffer."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            value: object = varint()
        elif key & 7 == 2:
            size = varint()
            value, at = message[at : at + size], at + size
        else:
            shape, size = {1: ("<d", 8), 5: ("<f", 4)}[key & 7]
            (value,), at = struct.unpack(shape, message[at : at + size]), at + size
        found.append((key >> 3, value))
    return found


def _points(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) to value, over all files of a folder."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for message in _messages(path):
            event = dict(_fields(message))
            for _, value in _fields(event.get(5, b"")):  # type: ignore[arg-type]
                point = dict(_fields(value))  # type: ignore[arg-type]
                found[point[1].decode(), event.get(2, 0)] = point[2]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(("content", "crc"), [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"", 0)])
def test_checksums_are_those_of_the_rfc(content: bytes, crc: int) -> None:
    assert crc32c(content) == crc


def test_a_file_holds_its_version_a_session_start_and_the_scalars(tmp_path: Path) -> None:
    EventFile(tmp_path, first_step=300).scalars(301, {"train/loss": 2.5, "loss": 2.5})

    (path,) = tmp_path.iterdir()
    version, start, event = [dict(_fields(message)) for message in _messages(path)]
    assert version[3] == b"brain.Event:2"
    assert (start[2], start[7]) == (300, b"\x08\x01")
    assert event[2] == 301
    assert _points(tmp_path) == {("train/loss", 301): 2.5, ("loss", 301): 2.5}


def test_a_planted_wrong_bit_is_found_by_the_reader(tmp_path: Path) -> None:
    EventFile(tmp_path, first_step=0).scalars(1, {"a": 1.0})
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)

    with pytest.raises(AssertionError):
        _messages(path)


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
        ("train_lr", ("train/lr", "lr/0")),
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

    points = _points(tmp_path / "run" / "tensorboard")

    losses = {step: metrics["train_loss"] for step, metrics in progress.steps if "train_loss" in metrics}
    for tag in ("train/loss", "loss"):
        found = {step: value for (name, step), value in points.items() if name == tag}
        assert found == pytest.approx(losses)
    assert sorted(step for name, step in points if name == "more/loss") == [0, 4, 8, 12]
    assert {name for name, _ in points} >= {"train/tokens_per_second", "train/data_wait_share", "eval/accuracy"}


@pytest.mark.parametrize(("variable", "package"), [("WANDB_PROJECT", "wandb"), ("MLFLOW_TRACKING_URI", "mlflow")])
def test_a_tracker_that_is_asked_for_and_not_installed_is_refused(
    variable: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)  # what Python does for a package that is not there
    monkeypatch.setenv(variable, "x")

    with pytest.raises(InvalidInputError, match=f"pip install {package}") as caught:
        trackers_for(tmp_path, known_by=tmp_path, options={}, tensorboard=False, first_step=0)

    assert caught.value.field == variable
