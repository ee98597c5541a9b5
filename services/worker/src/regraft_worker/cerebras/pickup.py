"""A `checkpoint_<step>.mdl` of the client becomes a checkpoint of the run like any other: a verified folder.

Taken only when it is whole. Files with a mark of success (HDF5 0.5) say so themselves. Others are written in place, up
to release 2.5, so they count when they have not changed for a while, or when nobody is left to write, and can be read.

The moments come over with the weights, so the run can go on anywhere. The price: a file is read three times, to be
hashed, to be copied and to be computed with, and for the time of it the disk holds both.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.checkpoint_files import Place
from regraft.errors import InvalidDataError
from regraft_worker.cerebras.quiet import Quiet
from regraft_worker.conversion import hf
from regraft_worker.conversion.containers.base import UNREADABLE
from regraft_worker.conversion.hf import check_dtypes
from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.mapping import without_prefixes
from regraft_worker.conversion.moments import MOMENTS, TrainedState, read_trained
from regraft_worker.conversion.opened import Opened, open_checkpoint
from regraft_worker.conversion.own import own_from_hf
from regraft_worker.conversion.parity import run_side
from regraft_worker.conversion.side import Side
from regraft_worker.conversion.source import Source
from regraft_worker.conversion.verify import Steps, prove, read_through, summary_of, write_verification
from regraft_worker.trainer.checkpoint import Reported, write_step
from regraft_worker.trainer.inputs import Inputs
from regraft_worker.trainer.state import DataPosition, TrainingState

_NAME = re.compile(r"checkpoint_(\d+)(?:_\d{8}_\d{6})?\.mdl")
_MARKED = "hdf5-0.5"
_SHORTEST = 512
"""Bytes that every encoding needs for its first header."""
_VANISHED = 1e-30
"""A power of beta2 below which the number of updates cannot be told from it."""


@dataclass
class _Seen:
    size: int
    modified: int
    since: float


class Settled:
    """Which files of a folder are whole."""

    def __init__(self, *, settle_seconds: float) -> None:
        self._settle = settle_seconds
        self._seen: dict[Path, _Seen] = {}

    def whole(self, folder: Path, *, after: int, written: bool = False) -> list[tuple[int, Path]]:
        """Step and path of the whole checkpoints of later steps, in order. `written`: nobody writes any more."""
        found = {}
        for path in sorted(folder.glob("checkpoint_*.mdl")):
            match = _NAME.fullmatch(path.name)
            if match and int(match[1]) > after and self._is_whole(path, written=written):
                found[int(match[1])] = path  # of two of one step the later one
        return sorted(found.items())

    def _is_whole(self, path: Path, *, written: bool) -> bool:
        try:
            status = path.stat()
        except FileNotFoundError:
            return False  # the client has deleted it since it was listed
        seen = self._seen.get(path)
        if seen is None or (seen.size, seen.modified) != (status.st_size, status.st_mtime_ns):
            seen = self._seen[path] = _Seen(status.st_size, status.st_mtime_ns, time.monotonic())
        settled = written or time.monotonic() - seen.since >= self._settle
        try:
            with open_checkpoint(path) as opened:
                return settled or opened.encoding == _MARKED
        except InvalidDataError as error:
            if settled and status.st_size >= _SHORTEST and error.reason != UNREADABLE:
                raise
            return False  # begun, and not yet to be recognised


def register(
    path: Path,
    run: Path,
    state: TrainingState,
    inputs: Inputs,
    *,
    reports: Iterable[Reported],
    check: Callable[[], None],
) -> tuple[Path, TrainingState]:
    """Publish the client's checkpoint at `path` as that of `state.step`; `check` is called often and may raise.

    Returns the folder and the state that is in it.

    Raises:
        InvalidDataError: it is not of this model or step, or is not what was written.
    """
    with open_checkpoint(path) as opened:
        source = _source(path, opened, inputs)
        trained = _trained(opened, source, step=state.step)
        updates = _updates(trained, beta=state.training.optimizer.betas[1])
        state = state.model_copy(update={"scalars": {"updates": updates}})
        steps = Steps(Quiet(check), total=0)
        digests = read_through(source, steps)
        expected = run_side(source.side, steps.tick)

        def proof(folder: Path) -> Mapping[str, object]:
            with hf.open_folder(folder) as result:
                facts = prove(source.side, digests, expected, result, steps, hf_folder=None)
            write_verification(folder, facts)
            return summary_of(facts)

        description = replace(inputs.description, config=source.config)
        weights, moments = source.hf_tensors(), _own_moments(source, trained)
        folder = write_step(
            run, state, weights, moments, description=description, base=inputs.base, reports=reports, prove=proof
        )
    return folder, state


def moved_to(state: TrainingState, step: int, *, loss: float | None, tokens: int) -> TrainingState:
    """The state after the cluster has trained up to `step`; which windows it read is not known, only how many."""
    position = DataPosition(samples_streamed=step * state.training.batch_size, seed=state.training.seed)
    change = {"step": step, "dataloader": position, "tokens_seen": tokens, "scores": {}, "ledger": None}
    return state.model_copy(update={**change, "train_loss": state.train_loss if loss is None else loss})


def _source(path: Path, opened: Opened, inputs: Inputs) -> Source:
    """With the config of the base checkpoint: the cluster trains no other model."""
    about = inputs.description
    config = hf.load_config(inputs.base)
    architecture = about.family.read_config(config)
    side = Side(family=about.family, architecture=architecture, naming="cs", tensors=without_prefixes(opened.model))
    check_dtypes(side.tensors)
    return Source(
        place=Place(folder=path.parent, weights=path, config=inputs.base / "config.json"),
        config=config,
        side=side,
        weights=opened.files,
        files=opened.files,
        has_optimizer=opened.has_optimizer,
    )


def _trained(opened: Opened, source: Source, *, step: int) -> TrainedState:
    trained = read_trained(source.family, source.architecture, opened.tensors, opened.values)
    if trained is None or trained.global_step != step:
        raise InvalidDataError(
            "the checkpoint has no optimizer state" if trained is None else "the checkpoint is of another step",
            field="checkpoint",
            value=str(opened.path),
            remedy="Report this together with the client's log; nothing of it was used.",
            reason="unsupported_checkpoint",
        )
    return trained


def _own_moments(source: Source, trained: TrainedState) -> list[Lazy]:
    by_kind = {key: getattr(trained, key) for key in MOMENTS}
    own = {key: own_from_hf(source.family, source.architecture, found) for key, found in by_kind.items()}
    return [replace(lazy, name=f"{key}/{name}") for key, found in own.items() for name, lazy in found.items()]


def _updates(trained: TrainedState, *, beta: float) -> int:
    """Steps, but for those that dynamic loss scaling left out, as the power of beta2 tells."""
    step = trained.global_step
    if trained.beta2_power < _VANISHED or not 0 < beta < 1:
        return step
    updates = math.log(trained.beta2_power) / math.log(beta) - 1
    # Powers are multiplied up in single precision: what they are off by grows with the step.
    return max(0, round(updates)) if updates < step - 0.5 - 0.01 * step else step
