"""Accepted, but worth knowing: what experience says about a job's options. Each rule is a function of its own."""

from __future__ import annotations

from collections.abc import Iterator

from regraft import recipes
from regraft.families import Architecture
from regraft.sizing import counts_of
from regraft.specs import JobSpec, TrainingSpec

MOST_EPOCHS = 4.0
"""Repeating a corpus up to this often is nearly as good as new text (Muennighoff et al. 2023, arXiv:2305.16264)."""
FAR = 10.0
"""A peak rate that differs from its recipe's by more than this factor is more often a slip than a choice."""
_PRETRAINING = ((2e7, 1e-2), (2e8, 6e-4), (2e9, 2e-4), (8e9, 1.2e-4), (float("inf"), 1e-4))
"""Parameters up to, and the peak rate such models are trained from scratch with (Brown et al. 2020, table 2.1; the
first row is for models that only tests train)."""


def warnings_of(spec: JobSpec, architecture: Architecture | None, *, epochs: float | None) -> list[str]:
    """What is worth knowing of a job; `epochs`: how often it will read each window, if that is known."""
    found = [*_schedule(spec), *_rate_of_recipe(spec), *_epochs(epochs)]
    if architecture is not None:
        found += [*_rate(spec, architecture), *_positions(spec, architecture), *_activation(architecture)]
    return found


def peak_rate(training: TrainingSpec) -> float:
    """The highest rate of the schedule."""
    if training.schedule is None:
        return training.learning_rate
    return max((rate for part in training.schedule for rate in _rates(part.model_dump(by_alias=True))), default=0.0)


def _rates(part: object) -> Iterator[float]:
    """Every rate a part of a schedule names, whatever its kind."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("from", "to", "value", "values") and not isinstance(value, dict):
                yield from value if isinstance(value, list | tuple) else (value,)
            else:
                yield from _rates(value)


def _epochs(epochs: float | None) -> Iterator[str]:
    if epochs is not None and epochs > MOST_EPOCHS:
        yield (
            f"the job reads each training window about {epochs:.3g} times; beyond {MOST_EPOCHS:g} times little is"
            " learnt from repeating: lower training.max_steps, or take a larger corpus"
        )


def _rate(spec: JobSpec, architecture: Architecture) -> Iterator[str]:
    parameters, peak = counts_of(architecture).total, peak_rate(spec.training)
    usual = next(rate for most, rate in _PRETRAINING if parameters <= most)
    if peak > usual:
        yield (
            f"the learning rate rises to {peak:g}, above the {usual:g} that models of this size are trained from"
            " scratch with; what the base model knows may be lost"
        )


def _rate_of_recipe(spec: JobSpec) -> Iterator[str]:
    if spec.recipe is None:
        return
    filled = recipes.fill({"recipe": spec.recipe}).get("training")
    theirs, ours = peak_rate(TrainingSpec.model_validate(filled or {})), peak_rate(spec.training)
    if not theirs / FAR <= ours <= theirs * FAR:
        yield f"the learning rate rises to {ours:g}, where the recipe {spec.recipe} has {theirs:g}"


def _schedule(spec: JobSpec) -> Iterator[str]:
    parts, steps = spec.training.schedule, spec.training.max_steps
    if parts is None or steps is None:
        return
    before_last = sum(_length(part.model_dump(by_alias=True)) for part in parts[:-1])
    length = before_last + _length(parts[-1].model_dump(by_alias=True))
    if max(before_last, length) > steps:
        yield (
            f"the schedule has {max(before_last, length)} steps and training ends after {steps}, before the learning"
            " rate is where the schedule leaves it"
        )


def _length(part: object) -> int:
    """Steps of a part of a schedule; 0 for one without an end."""
    if not isinstance(part, dict):
        return 0
    inner = next(iter(part.values()))
    steps = inner.get("steps") if isinstance(inner, dict) else None
    return steps if isinstance(steps, int) else 0


def _positions(spec: JobSpec, architecture: Architecture) -> Iterator[str]:
    length, positions = spec.dataset.max_sequence_length, architecture.max_position_embeddings
    if 2 * length < positions:
        yield (
            f"the windows have {length} tokens and the model {positions} positions: how it uses longer contexts is not"
            " trained, and may get worse"
        )


def _activation(architecture: Architecture) -> Iterator[str]:
    if architecture.family == "gptj" and architecture.activation == "gelu":
        yield (
            "the checkpoint's config names the activation gelu (erf); published GPT-J weights were trained with"
            " gelu_new (tanh), which is another function: correct activation_function if these are theirs"
        )
