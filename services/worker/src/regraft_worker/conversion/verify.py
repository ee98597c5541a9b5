"""Proof that what was written is what was read: bit for bit, finite, and exact through the Cerebras layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from regraft.errors import InterruptedStageError, InvalidDataError
from regraft.families import Architecture, Family
from regraft.keymap import find_hf
from regraft.ports import Progress
from regraft_worker.conversion.tensors import Named, cs_row_to_hf, hf_to_cs, same_bits


class Steps:
    """Counts tensors for a `Progress`, and stops the work when it is asked to."""

    def __init__(self, progress: Progress, *, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def check(self) -> None:
        """Raise InterruptedStageError when the stage shall stop."""
        if self._progress.should_stop():
            raise InterruptedStageError("stopped before the result was published; nothing of it is kept")

    def done(self) -> None:
        """One more tensor is through."""
        self.check()
        self._done += 1
        self._progress.step(self._done, {}, total=self._total)


def finite(tensors: Iterable[Named], steps: Steps) -> Iterator[Named]:
    """Pass tensors on, each checked and counted.

    Raises:
        InvalidDataError: one of them has a value that is not finite.
    """
    for name, tensor in tensors:
        # A NaN comes out as both extremes; unlike `isfinite` this needs no memory of the tensor's size.
        low, high = torch.aminmax(tensor)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InvalidDataError(
                f"{bad} of {tensor.numel()} values of '{name}' are not finite",
                field="checkpoint",
                value=name,
                remedy="Use a checkpoint whose weights are all finite; this one cannot be trained.",
                reason="weights_not_finite",
            )
        yield name, tensor
        steps.done()


def compare(source: Iterable[Named], written: Iterable[Named], steps: Steps) -> None:
    """Both give the same tensors in the same order, bit for bit.

    Raises:
        InvalidDataError: they do not.
    """
    for (name, tensor), (found_name, found) in zip(source, written, strict=True):
        if name != found_name or not same_bits(tensor, found):
            raise _not_exact(f"'{name}' was read back with other values than were written", name)
        steps.done()


def cs_round_trip(
    tensors: Callable[[], Iterator[Named]], family: Family, architecture: Architecture
) -> Iterator[Named]:
    """Pass tensors on, each checked to survive Hugging Face -> Cerebras -> Hugging Face."""
    for name, tensor in tensors():
        row = find_hf(family, architecture, name)
        assert row is not None, "readers yield tensors of the model only"
        back = cs_row_to_hf(row, architecture, dict(hf_to_cs(family, architecture, name, tensor)))
        if not same_bits(tensor, back):
            raise _not_exact(f"'{name}' does not survive the Cerebras layout", name)
        yield name, tensor


def _not_exact(message: str, name: str) -> InvalidDataError:
    return InvalidDataError(
        message,
        field="checkpoint",
        value=name,
        remedy="Try again; if it stays, report it together with the checkpoint's config.json.",
        reason="conversion_not_exact",
    )
