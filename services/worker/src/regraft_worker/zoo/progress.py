"""The trainer's reports as log lines and `.mdl` files."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from logging import Logger
from pathlib import Path

from regraft.ports import Level, NullProgress
from regraft.specs import TrainingSpec
from regraft.storage import local_path
from regraft_worker.trainer.measures import Rates
from regraft_worker.zoo.events import Events
from regraft_worker.zoo.log import saving_line, score_lines, step_line
from regraft_worker.zoo.mdl import Position, write_mdl
from regraft_worker.zoo.params import Params
from regraft_worker.zoo.reader import Reader

_LEVELS: Mapping[Level, int] = {"info": 20, "warn": 30, "error": 40}


class RunProgress(NullProgress):
    """Ctrl-C and SIGTERM ask the core to save and stop; a second one ends the process."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self._stop = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def event(self, message: str, *, level: Level = "info", data: Mapping[str, object] | None = None) -> None:
        self.logger.log(_LEVELS[level], message)

    def should_stop(self) -> bool:
        return self._stop

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stop = True
        signal.signal(number, signal.SIG_DFL)
        self.logger.warning("stopping after this step")


class ScoreProgress(RunProgress):
    """The clock of an evaluation, which starts when the model is loaded."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger)
        self.rates: Rates | None = None

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        self.rates = self.rates or Rates()


class TrainProgress(RunProgress):
    """Lines and points of steps, and a `checkpoint_<step>.mdl` for every checkpoint of the trainer."""

    def __init__(
        self,
        logger: Logger,
        params: Params,
        training: TrainingSpec,
        *,
        device: str,
        start: int,
        model_dir: Path,
        batches: Mapping[str, int],
        events: Events,
    ) -> None:
        super().__init__(logger)
        assert params.train is not None, "a training run"
        self.params, self.training, self.device = params, training, device
        self.reader: Reader = params.train
        self.start, self.model_dir, self.batches, self.events = start, model_dir, batches, events
        self._said = {"Train": start, "Eval": start}
        self.saved: list[Path] = []
        self._steps: set[int] = set()
        self._rates: Rates | None = None

    def step(
        self, step: int, metrics: Mapping[str, float], *, total: int | None = None, tokens: int | None = None
    ) -> None:
        """The trainer repeats what it said before a stop; only what is new becomes a line."""
        if step <= self.start:
            return
        scored = "val_loss" in metrics and self._is_new("Eval", step)
        if scored and self._rates is not None:
            self._rates.leave_out(metrics["evaluation_seconds"])
        due = step % self.params.control.log_steps == 0 or step == self.training.max_steps
        if "train_loss" in metrics and due and self._is_new("Train", step):
            self._say_step(step, metrics, tokens or 0)
        if scored:
            self._say_scores(step, metrics)

    def should_stop(self) -> bool:
        """Asked before each step, so the clock of the steps starts here, when all is loaded."""
        self._rates = self._rates or Rates()
        self._rates.go_on()
        return super().should_stop()

    def rest(self) -> None:
        """A part of the training has ended; until the next step is made its clock stands still."""
        if self._rates is not None:
            self._rates.rest()

    def artifact(self, kind: str, uri: str, metadata: Mapping[str, object]) -> None:
        folder = local_path(uri)
        step = int(folder.name.rpartition("-")[2]) if kind == "checkpoint" else 0
        if step > self.start and self.params.control.checkpoint_steps:
            self.save(folder, step)

    def save(self, folder: Path, step: int) -> None:
        """Write the checkpoint of the trainer in `folder` as a `.mdl`, once."""
        if step in self._steps:
            return
        self._steps.add(step)
        path = self.model_dir / f"checkpoint_{step}.mdl"
        if path.exists():  # of another run; the Model Zoo keeps it, too
            path = self.model_dir / f"checkpoint_{step}_{time.strftime('%Y%m%d_%H%M%S')}.mdl"
        self.logger.info(saving_line(step, era=self.params.era))
        write_mdl(
            path,
            folder,
            step=step,
            training=self.training,
            era=self.params.era,
            position=Position(
                samples=step * self.training.batch_size,
                seed=self.training.seed,
                map_style=self.reader.map_style,
                shuffle=self.training.shuffle,
            ),
            hdf5=self.params.hdf5,
        )
        self.saved.append(path)
        if self.params.era != "1.8":
            self.logger.info(f"Saved checkpoint {path}")
        self._prune()

    def _prune(self) -> None:
        keep = self.params.control.keep
        while keep is not None and len(self.saved) > keep:
            self.saved.pop(0).unlink(missing_ok=True)

    def _is_new(self, kind: str, step: int) -> bool:
        new = step > self._said[kind]
        self._said[kind] = max(step, self._said[kind])
        return new

    def _say_step(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        era, batch = self.params.era, self.training.batch_size
        assert self._rates is not None, "asked for before the first step"
        rates, loss = self._rates.at((step - self.start) * batch), metrics["train_loss"]
        self.logger.info(step_line("Train", era=era, device=self.device, step=step, loss=loss, rates=rates))
        own = {name: value for name, value in metrics.items() if not self._is_of_scoring(name)}
        self.events.trained(step, own, rates, batch_size=batch, tokens=tokens)

    def _say_scores(self, step: int, metrics: Mapping[str, float]) -> None:
        """Of all sets together, the rate; of each, the rest."""
        era, sets = self.params.era, zip(self.batches.values(), self.params.scored, strict=True)
        rate = sum(batches * reader.batch_size for batches, reader in sets) / metrics["evaluation_seconds"]
        rates = (rate, rate)
        for name, batches in self.batches.items():
            scores = {what: metrics[f"{name}_{what}"] for what in ("loss", "perplexity", "accuracy")}
            loss = scores["loss"]
            line = step_line("Eval", era=era, device=self.device, step=step, loss=loss, rates=rates, batches=batches)
            for said in (line, *score_lines(scores, era=era)):
                self.logger.info(said)
        found = {name: value for name, value in metrics.items() if self._is_of_scoring(name)}
        self.events.scored(step, found, rates, batch_size=self.params.scored[0].batch_size)

    def _is_of_scoring(self, metric: str) -> bool:
        return metric == "evaluation_seconds" or any(metric.startswith(f"{name}_") for name in self.batches)
