"""Early stopping: a run ends once a score has not improved for a number of evaluations."""

from __future__ import annotations

from regraft.specs.monitoring import EarlyStoppingSpec, is_better
from regraft_worker.trainer.state import Watched


def watched(spec: EarlyStoppingSpec, past: Watched | None, value: float) -> Watched:
    """What is known after one more evaluation."""
    if past is None or is_better(value, past.best, metric=spec.metric, mode=spec.mode, by=spec.min_delta):
        return Watched(best=value)
    return Watched(best=past.best, waited=past.waited + 1)


def reason_to_stop(spec: EarlyStoppingSpec, state: Watched) -> str | None:
    """Why the run ends here, None when it goes on."""
    if state.waited < spec.patience:
        return None
    return f"{spec.metric} has not improved on {state.best:.6g} for {state.waited} evaluations"
