"""Runs of `regraft run` in this process: what every step reported, and the lines of the log."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from regraft_worker.zoo import run as zoo_run
from regraft_worker.zoo.progress import TrainProgress

ASSETS = Path(__file__).parent / "assets" / "modelzoo"
FLAT = ASSETS / "release-1.8.0" / "params_flat.yaml"
TRAINER = ASSETS / "train" / "base_tb.yaml"
CONVERTED = ASSETS / "release-1.8.0" / "pytorch_model_to_cs-1.8.mdl"


class Told:
    """What the trainer told at each step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def losses(self) -> list[float]:
        return [metrics["train_loss"] for _, metrics in sorted(self.steps.items()) if "train_loss" in metrics]


def run(
    model_dir: Path, params: Path, *, mode: str = "train", checkpoint_format: str | None = None, **given: Any
) -> Told:
    """One run on the processor, from the current folder."""
    told = Told()

    class Listening(TrainProgress):
        def step(
            self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
        ) -> None:
            if step > self.start:
                told.steps.setdefault(step, {}).update(metrics)
            super().step(step, metrics, total=total, tokens=tokens)

    with _handlers_kept(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo_run, "TrainProgress", Listening)
        zoo_run.run(
            device="cpu",
            mode=mode,  # type: ignore[arg-type]
            params=params,
            model_dir=model_dir,
            given=given,
            checkpoint_format=checkpoint_format,
        )
    return told


def here(folder: Path) -> None:
    """The data that both params files speak of."""
    for name in ("data", "train"):
        (folder / name).mkdir()
        shutil.copy(ASSETS / "train" / "data-0.h5", folder / name)


def changed(folder: Path, source: Path = FLAT, **sections: Mapping[str, object]) -> Path:
    """A params file with some keys of its sections changed; None removes one."""
    content = yaml.safe_load(source.read_text())
    for name, keys in sections.items():
        section = {**content.get(name, {}), **keys}
        content[name] = {key: value for key, value in section.items() if value is not None}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def log(model_dir: Path) -> list[str]:
    """The lines of the last run without their times; runs of one second share a file."""
    file = max([*model_dir.glob("run_*.log"), *model_dir.rglob("run.log")], key=lambda path: path.stat().st_mtime)
    lines = [line[len("2026-11-23 18:57:54,588 ") :] for line in file.read_text().splitlines()]
    starts = [number for number, line in enumerate(lines) if "these keys have no effect" in line]
    return lines[starts[-1] :]


@contextmanager
def _handlers_kept() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
