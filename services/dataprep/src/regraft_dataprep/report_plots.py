"""The plots of the corpus report's page: SVG elements made of numbers, without a library.

Colours are the page's CSS classes, so that one drawing serves light, dark and paper. Every bar has its number beside it
or in its tooltip. The trade-off: two kinds of plot, for at most some dozens of bars, and no text is measured: a label
longer than its column is cut.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_WIDTH = 680
_LABELS, _NUMBERS = 180, 110  # columns left and right of horizontal bars
_ROW, _THICK = 24, 16
_LABEL_CHARACTERS = 26
_LEFT, _BOTTOM, _HEIGHT = 52, 40, 200  # axes of columns
_STEPS = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25)  # between the lines behind columns
_LINES = 4

Buckets = Sequence[Sequence[int]]
"""Upper bound and count of each."""


class Bar(NamedTuple):
    """A horizontal bar, from `start` on."""

    label: str
    value: float
    shown: str
    kind: str = "plain"
    """CSS class."""
    start: float = 0.0


def percent(share: float) -> str:
    """0.0042 as '0.42 %'."""
    return "under 0.01 %" if 0 < share < 0.0001 else f"{100 * share:.3g} %"


def horizontal_bars(bars: Sequence[Bar], *, title: str) -> str:
    """Bars below one another, all to one scale."""
    most = max((bar.start + bar.value for bar in bars), default=0) or 1
    drawn = (_horizontal(row, bar, scale=(_WIDTH - _LABELS - _NUMBERS) / most) for row, bar in enumerate(bars))
    return _svg("".join(drawn), height=len(bars) * _ROW, title=title)


def histogram(splits: Mapping[str, Buckets], *, title: str) -> str:
    """Columns side by side: for each bucket the share of each split's documents."""
    buckets = _filled(splits)
    totals = {name: sum(count for _, count in rows) or 1 for name, rows in splits.items()}
    counts = {name: dict(map(tuple, rows)) for name, rows in splits.items()}
    shares = {
        name: [(bound, counts[name].get(bound, 0), counts[name].get(bound, 0) / totals[name]) for bound in buckets]
        for name in splits
    }
    highest = max((share for rows in shares.values() for _, _, share in rows), default=0)
    most = _LINES * next((step for step in _STEPS if _LINES * step >= highest), _STEPS[-1])
    parts = [_lines(most), *(_columns(name, number, shares, most) for number, name in enumerate(shares))]
    parts += [_bound(place, bound, of=len(buckets)) for place, bound in enumerate(buckets)]
    middle = (_LEFT + _WIDTH) / 2
    parts.append(f"<text x='{middle}' y='{_HEIGHT + _BOTTOM - 4}' text-anchor='middle'>tokens, up to</text>")
    return _svg("".join(parts), height=_HEIGHT + _BOTTOM, title=title)


def _horizontal(row: int, bar: Bar, *, scale: float) -> str:
    top, left = row * _ROW + (_ROW - _THICK) / 2, _LABELS + bar.start * scale
    width = max(bar.value * scale, 1.0 if bar.value else 0.0)  # what is there is seen
    label = bar.label if len(bar.label) <= _LABEL_CHARACTERS else bar.label[: _LABEL_CHARACTERS - 1] + "…"
    middle = top + _THICK - 4
    return (
        f"<text x='{_LABELS - 8}' y='{middle:g}' text-anchor='end'>{html.escape(label)}</text>"
        f"<rect class='{bar.kind}' x='{left:.1f}' y='{top:g}' width='{width:.1f}' height='{_THICK}'/>"
        f"<text x='{left + width + 6:.1f}' y='{middle:g}'>{html.escape(bar.shown)}</text>"
    )


def _filled(splits: Mapping[str, Buckets]) -> list[int]:
    """Bounds from the first to the last bucket with a document in any split."""
    bounds = sorted({bound for rows in splits.values() for bound, _ in rows})
    filled = {bound for rows in splits.values() for bound, count in rows if count}
    return [bound for bound in bounds if min(filled) <= bound <= max(filled)] if filled else []


def _lines(most: float) -> str:
    """Horizontal lines and their shares."""
    drawn = []
    for line in range(_LINES + 1):
        y = _HEIGHT - (_HEIGHT - 12) * line / _LINES
        drawn.append(f"<line x1='{_LEFT}' x2='{_WIDTH}' y1='{y:g}' y2='{y:g}'/>")
        drawn.append(f"<text x='{_LEFT - 6}' y='{y + 4:g}' text-anchor='end'>{percent(most * line / _LINES)}</text>")
    return "".join(drawn)


def _columns(name: str, number: int, shares: Mapping[str, list[tuple[int, int, float]]], most: float) -> str:
    step = (_WIDTH - _LEFT) / max(len(shares[name]), 1)
    width = 0.8 * step / len(shares)
    drawn = []
    for place, (bound, count, share) in enumerate(shares[name]):
        x, height = _LEFT + step * (place + 0.1) + width * number, (_HEIGHT - 12) * share / most
        tip = f"{name}, {_range(bound)} tokens: {count:,} documents, {percent(share)}"
        drawn.append(
            f"<rect class='{html.escape(name)}' x='{x:.1f}' y='{_HEIGHT - height:.1f}' width='{width:.1f}' "
            f"height='{height:.1f}'><title>{html.escape(tip)}</title></rect>"
        )
    return "".join(drawn)


def _bound(place: int, bound: int, *, of: int) -> str:
    x = _LEFT + (_WIDTH - _LEFT) / of * (place + 0.5)
    return f"<text x='{x:.1f}' y='{_HEIGHT + 16}' text-anchor='middle'>{_short(bound)}</text>"


def _range(bound: int) -> str:
    return f"{bound // 2 + 1:,} to {bound:,}" if bound > 1 else "0 or 1"


def _short(bound: int) -> str:
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if bound >= size:
            return f"{bound // size}{unit}"
    return str(bound)


def _svg(content: str, *, height: int, title: str) -> str:
    label = html.escape(title)
    return f"<svg role='img' aria-label='{label}' viewBox='0 0 {_WIDTH} {height}'>{content}</svg>"
