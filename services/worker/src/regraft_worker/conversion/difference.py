"""Two checkpoints compared tensor by tensor, whatever their encodings: names, shapes, dtypes, largest difference.

Both are read block by block, so size is no matter. Names are compared without wrapper and prefix; whoever compares
two formats converts one of them first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from regraft_worker.conversion.lazy import Lazy
from regraft_worker.conversion.opened import Opened, bare

_BLOCK_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def differences(left: Opened, right: Opened, *, tolerance: float = 0.0) -> Iterator[Difference]:
    """Everything that differs, tensors first; values of tensors by more than `tolerance`."""
    ours, theirs = _by_name(left), _by_name(right)
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs or name not in ours:
            yield Difference(name, f"only in {left.path if name in ours else right.path}")
            continue
        found = _compare(ours[name], theirs[name], tolerance)
        if found:
            yield Difference(name, found)
    said, also = _values(left), _values(right)
    for name in sorted(said.keys() & also.keys()):
        if said[name] != also[name]:
            yield Difference(name, f"{said[name]!r} and {also[name]!r}")


def max_abs_difference(left: Lazy, right: Lazy) -> float:
    """Over all values, of the same shape; infinite where one is not a number and the other is."""
    rows = left.shape[0] if left.shape else 1
    step = max(1, _BLOCK_BYTES // max(1, max(left.nbytes, right.nbytes) // max(1, rows)))
    largest = 0.0
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        a, b = left.read_rows(start, stop).double(), right.read_rows(start, stop).double()
        apart = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
        largest = max(largest, float(apart.nan_to_num(nan=math.inf).max())) if apart.numel() else largest
    return largest


def _compare(left: Lazy, right: Lazy, tolerance: float) -> str:
    if left.shape != right.shape:
        return f"shapes {list(left.shape)} and {list(right.shape)}"
    apart = max_abs_difference(left, right)
    parts = [f"dtypes {_short(left)} and {_short(right)}"] if left.dtype != right.dtype else []
    if apart > tolerance:
        parts.append(f"values differ by up to {apart:.6g}")
    return ", ".join(parts)


def _short(lazy: Lazy) -> str:
    return str(lazy.dtype).removeprefix("torch.")


def _by_name(opened: Opened) -> dict[str, Lazy]:
    return {bare(name): lazy for name, lazy in opened.tensors.items()}


def _values(opened: Opened) -> dict[str, object]:
    return {name: value for name, value in opened.values.items() if not name.startswith("__")}
