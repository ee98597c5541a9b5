"""What a run keeps when it goes on on another target, in words for its history.

Checkpoints are the same whatever made them, so there is nothing to convert here; what differs is what the other side
can be told, and what it does otherwise from then on.
"""

from __future__ import annotations

from regraft.ports import Progress
from regraft.specs import TargetSpec
from regraft.specs.target import CEREBRAS
from regraft_worker.trainer.state import TrainingState

_ALWAYS = ("weights", "optimizer moments", "step", "learning rate schedule")


def announce_handover(state: TrainingState, target: TargetSpec, progress: Progress, *, position: bool = True) -> None:
    """Say what goes over, if `state` was made on another kind of target; `position`: the reader goes on in the data."""
    before = state.target.kind
    if before == target.kind:
        return
    carried = [*_ALWAYS, *(["position in the data"] if position else [])]
    lost = _not_carried(state, target, position=position)
    text = f"handed over from {before} to {target.kind} at step {state.step}; carried: {', '.join(carried)}"
    data = {"from": before, "to": target.kind, "step": state.step, "carried": carried, "not_carried": lost}
    progress.event(text + (f"; not carried: {'; '.join(lost)}" if lost else ""), data=data)


def _not_carried(state: TrainingState, target: TargetSpec, *, position: bool) -> list[str]:
    lost = []
    if not position:
        lost.append("the position in the data: this release's reader starts its epoch over")
    if state.training.precision == "fp16" or CEREBRAS in (state.target.kind, target.kind):
        lost.append("the state of dynamic loss scaling, which finds its scale again")
    if CEREBRAS in (state.target.kind, target.kind):
        lost.append("the sample ledger: which windows the cluster reads is not told, only how many")
    if target.kind == CEREBRAS and state.best is not None:
        lost.append(f"the search for the best checkpoint; that of step {state.best.step} stays")
    return lost
