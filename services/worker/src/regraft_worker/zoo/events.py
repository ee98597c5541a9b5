"""TensorBoard event files of `regraft run`, in the folders and under the tags that the release writes.

Flat files: training in `train/`, scores in `eval/`, whatever the mode; the trainer form: both in a folder named by the
time of the run; with a `summary_dir`, both there, but those of a run that only scores in `eval/` below it, for its loss
and its rates have the tags of training. Beside the release's tags are those of `regraft train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from regraft.specs.monitoring import OWN_SET
from regraft_worker.trainer.event_file import EventFile
from regraft_worker.trainer.guard import Guard
from regraft_worker.trainer.measures import throughput
from regraft_worker.trainer.trackers import tags


class Events:
    """The event files of one run; each is made at its first point. A failure to write them ends nothing."""

    def __init__(
        self,
        model_dir: Path,
        *,
        era: str,
        stamp: str,
        summary_dir: str | None,
        first_step: int | None,
        warn: Callable[[str], None],
    ) -> None:
        """`first_step` is that of a training; null: the run only scores. `warn` is told of the first failure."""
        one = model_dir / stamp if era == "2.10" else None
        if summary_dir:
            one = Path(summary_dir) / ("eval" if first_step is None else "")
        self._apart = one is None or first_step is None
        self._train = EventFile(one or model_dir / "train", first_step=first_step)
        self._eval = self._train if one else EventFile(model_dir / "eval", first_step=first_step)
        self._guard = Guard("TensorBoard", warn, failures=(OSError,))

    def trained(
        self, step: int, metrics: Mapping[str, float], rates: tuple[float, float], *, batch_size: int, tokens: int
    ) -> None:
        """Metrics of a step, by the trainer's names; the rates of its line; the tokens seen until then."""
        named = _named({**metrics, **throughput(rates, batch_size=batch_size), "tokens": float(tokens)})
        self._guard(partial(self._train.scalars, step, named))

    def scored(self, step: int, metrics: Mapping[str, float], rates: tuple[float, float], *, batch_size: int) -> None:
        """Scores of the model after `step` steps, named `<set>_<score>`, and the rates of scoring."""
        named = _named(metrics)
        if self._apart:  # in one file with training, these are tags of training
            named |= throughput(rates, batch_size=batch_size)
            if (loss := metrics.get(f"{OWN_SET}_loss")) is not None:
                named["loss"] = loss
        self._guard(partial(self._eval.scalars, step, named))


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    return {tag: value for name, value in metrics.items() for tag in tags(name)}
