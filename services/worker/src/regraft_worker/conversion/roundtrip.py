"""Proof that a written checkpoint holds what was read: bit for bit, and every value a number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch

from regraft.errors import InvalidDataError
from regraft_worker.conversion.bits import is_finite, same_bits
from regraft_worker.conversion.lazy import Lazy, ReadRows


def check_equal(
    given: Mapping[str, Lazy],
    found: Mapping[str, Lazy],
    tick: Callable[[int], None],
    *,
    compared: Collection[tuple[ReadRows, ReadRows]] = (),
) -> None:
    """Every tensor of `given` is in `found` under the same name with the same bits.

    `compared`: readers of either side whose rows are known to be equal and finite, and are not read again.

    Raises:
        InvalidDataError: it is not, or a value is not finite.
    """
    for name, lazy in given.items():
        back = found.get(name)
        if back is None or (back.dtype, back.shape) != (lazy.dtype, lazy.shape):
            raise not_exact(name)
        if (lazy.read_rows, back.read_rows) in compared:
            continue
        for block, again in zip(lazy.blocks(), back.blocks(), strict=True):
            _check_finite(name, block)
            if not same_bits(block, again):
                raise not_exact(name)
            tick(block.nbytes)


def _check_finite(name: str, block: torch.Tensor) -> None:
    if not is_finite(block):
        raise InvalidDataError(
            f"'{name}' has values that are not finite",
            field="checkpoint",
            value=name,
            remedy="Use a checkpoint whose weights are all finite; this one cannot be trained.",
            reason="weights_not_finite",
        )


def not_exact(name: str) -> InvalidDataError:
    """The error for a tensor that did not come back."""
    return InvalidDataError(
        f"'{name}' was read back with other values than were written",
        field="checkpoint",
        value=name,
        remedy="Try again; if it stays, report it together with the checkpoint's config.",
        reason="conversion_not_exact",
    )
