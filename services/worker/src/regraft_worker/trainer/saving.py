"""When a run's checkpoints are begun, what is told of them once they are written, and what happens when they are not.

The main process writes. All processes take part in the copy of sharded weights, so all decide alike when it is due.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from regraft.errors import StorageFailedError
from regraft.ports import Progress
from regraft.specs import TrainingSpec
from regraft.specs.monitoring import is_better
from regraft.storage import is_published, to_uri
from regraft_worker.trainer import checkpoint
from regraft_worker.trainer.checkpoint import Reported
from regraft_worker.trainer.folders import OPTIMIZER, step_folder, steps_in
from regraft_worker.trainer.inputs import Inputs
from regraft_worker.trainer.retention import prune
from regraft_worker.trainer.snapshot import Snapshot
from regraft_worker.trainer.state import Best, TrainingState
from regraft_worker.trainer.world import World
from regraft_worker.trainer.writing import CheckpointWriter, Written


class Saving:
    """The checkpoints of one run."""

    def __init__(
        self,
        folder: Path,
        spec: TrainingSpec,
        inputs: Inputs,
        progress: Progress,
        world: World,
        *,
        reports: Iterable[Reported],
        step: int,
    ) -> None:
        self._folder, self._spec, self._inputs = folder, spec, inputs
        self._progress, self._world, self._reports = progress, world, reports
        self._writer = CheckpointWriter(in_background=spec.checkpoint.background)
        self.begun_step = self.saved_step = step
        """Of the newest checkpoint that was begun, and that is there."""
        self._best_before: Best | None = None
        self._failed: Written | None = None
        self._stall: float | None = None
        self._begun_at = time.monotonic()

    def save(
        self, state: TrainingState, snap: Callable[[], Snapshot | None], fingerprint: int, *, may_be_best: bool
    ) -> TrainingState:
        """Begin the checkpoint of this state; returns the state with what was noted in it."""
        began = time.monotonic()
        self.wait()  # memory holds one copy; it is free once the write before has ended
        state = self._with_ledger(self.heeded(state), fingerprint)
        if may_be_best:
            state = self._with_best(state)
        snapshot = snap()
        self.begun_step, self._begun_at = state.step, time.monotonic()
        if snapshot is not None:
            reports = list(self._reports)
            self._writer.start(state, lambda now: self._write(now, snapshot, reports), self._prune)
        self._stall = (self._stall or 0.0) + time.monotonic() - began
        return state

    def heeded(self, state: TrainingState) -> TrainingState:
        """Tell what became of checkpoints since the last call; one that could not be written is not the best one."""
        for written in self._writer.take():
            self._tell(written)
            best = state.best
            if written.folder is None and best is not None and best.step == written.state.step:
                state = state.model_copy(update={"best": self._best_before})
        return state

    def finished(self, state: TrainingState) -> TrainingState:
        """Wait for the last one.

        Raises:
            OSError, StorageFailedError, InvalidDataError: it could not be written.
        """
        self.wait()
        state = self.heeded(state)
        failed = self._failed if self._failed and self._failed.state.step == state.step else None
        if self._world.agree(failed is not None):
            raise _cause(failed)
        stall = self.stall()
        if stall:
            self._progress.step(state.step, stall, total=self._inputs.max_steps, tokens=state.tokens_seen)
        return state

    def is_time(self) -> bool:
        """True when the last one is long enough ago."""
        minutes = self._spec.checkpoint.every_minutes
        return minutes is not None and self._world.agree(time.monotonic() - self._begun_at >= 60 * minutes)

    def waited(self, seconds: float) -> None:
        """A step waited for the copy that the last checkpoint is written from."""
        if self._stall is not None:
            self._stall += seconds

    def stall(self) -> dict[str, float]:
        """Seconds that training waited for checkpoints since the last call; nothing when there were none."""
        stall, self._stall = self._stall, None
        return {} if stall is None else {"checkpoint_stall_seconds": stall}

    def newest_scheduled(self, state: TrainingState) -> tuple[TrainingState, int]:
        """Step of the newest one of the schedule, 0 when there is none: a function of the step and nothing else."""
        self.wait()
        state, every = self.heeded(state), self._spec.checkpoint.every_steps
        found = 0
        if self._world.rank == 0:
            past = sorted((step for step, _ in steps_in(self._folder) if step <= state.step), reverse=True)
            found = next((step for step in past if step % every == 0 and self._is_whole(step)), 0)
        return state, int(self._world.total(torch.tensor([found])).item())

    def wait(self) -> None:
        """Until nothing is being written."""
        self._writer.wait()

    def close(self) -> None:
        """Wait, and tell the rest."""
        self.wait()
        for written in self._writer.take():
            self._tell(written)
        self._writer.close()

    def _write(self, state: TrainingState, snapshot: Snapshot, reports: list[Reported]) -> Path:
        return checkpoint.write(
            self._folder,
            state,
            snapshot,
            description=self._inputs.description,
            base=self._inputs.base,
            reports=reports,
        )

    def _prune(self, state: TrainingState) -> list[Path]:
        return prune(self._folder, state)

    def _is_whole(self, step: int) -> bool:
        folder = step_folder(self._folder, step)
        return (folder / OPTIMIZER).is_file() and is_published(folder)

    def _with_ledger(self, state: TrainingState, fingerprint: int) -> TrainingState:
        signed = fingerprint - 2**64 if fingerprint >= 2**63 else fingerprint
        of_all = int(self._world.total(torch.tensor([signed])).item()) % 2**64  # sums wrap, as they should
        if state.ledger is None:
            return state
        return state.model_copy(update={"ledger": state.ledger.extended(to=state.step, fingerprint=of_all)})

    def _with_best(self, state: TrainingState) -> TrainingState:
        metric, mode = self._spec.checkpoint.keep_best, self._spec.checkpoint.keep_best_mode
        value = state.scores.get(metric) if metric else None
        if metric is None or value is None:
            return state
        if state.best is not None and not is_better(value, state.best.value, metric=metric, mode=mode):
            return state
        self._best_before = state.best
        return state.model_copy(update={"best": Best(metric=metric, value=value, step=state.step)})

    def _tell(self, written: Written) -> None:
        name = step_folder(self._folder, written.state.step).name
        for failure in written.failures:
            self._progress.event(f"writing {name}: {failure}", level="warn", data={"checkpoint": name})
        if written.folder is None:
            self._failed = written
            kept = f"{step_folder(self._folder, self.saved_step).name} is kept" if self.saved_step else "there is none"
            self._progress.event(f"checkpoint {name} could not be written; {kept}", level="error")
            return
        self.saved_step = written.state.step
        self._progress.artifact("checkpoint", to_uri(written.folder), written.state.summary())
        for deleted in written.deleted:
            self._progress.artifact("pruned", to_uri(deleted), {})


def _cause(failed: Written | None) -> Exception:
    """What ends the run: a full disk as such, anything else as storage that failed."""
    error = None if failed is None else failed.error
    if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        failure = StorageFailedError(
            f"the last checkpoint could not be written: {error}",
            remedy="Those before it are there; calling again goes on from the newest.",
        )
        failure.__cause__ = error
        return failure
    return error or StorageFailedError("the main process could not write the last checkpoint")
