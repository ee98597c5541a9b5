"""Proof that a written checkpoint holds what was read: bit for bit, and every value a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from regraft.errors import InvalidDataError
from regraft_worker.conversion.lazy import Lazy


def check_equal(given: Mapping[str, Lazy], found: Mapping[str, Lazy], tick: Callable[[int], None]) -> None:
    """Every tensor of `given` is in `found` under the same name with the same bits.

    Raises:
        InvalidDataError: it is not, or a value is not finite.
    """
    for name, lazy in given.items():
        back = found.get(name)
        if back is None or (back.dtype, back.shape) != (lazy.dtype, lazy.shape):
            raise _not_exact(name)
        for block, again in zip(lazy.blocks(), back.blocks(), strict=True):
            _check_finite(name, block)
            if not torch.equal(_bits(block), _bits(again)):
                raise _not_exact(name)
            tick(block.nbytes)


def _check_finite(name: str, block: torch.Tensor) -> None:
    if not block.is_floating_point() or not block.numel():
        return
    # A NaN comes out as both extremes; unlike `isfinite` this needs no memory of the block's size.
    low, high = torch.aminmax(block)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InvalidDataError(
            f"'{name}' has values that are not finite",
            field="checkpoint",
            value=name,
            remedy="Use a checkpoint whose weights are all finite; this one cannot be trained.",
            reason="weights_not_finite",
        )


def _bits(block: torch.Tensor) -> torch.Tensor:
    return block.reshape(-1).view(torch.uint8)


def _not_exact(name: str) -> InvalidDataError:
    return InvalidDataError(
        f"'{name}' was read back with other values than were written",
        field="checkpoint",
        value=name,
        remedy="Try again; if it stays, report it together with the checkpoint's config.",
        reason="conversion_not_exact",
    )
