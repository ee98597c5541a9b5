"""`corpus_report.html`: the corpus report for people, one file without scripts or anything from elsewhere.

The numbers are those of `corpus_report.json`, which programs read.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_BAR_WIDTH, _BAR_HEIGHT, _LABEL_WIDTH = 420, 18, 120

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse }
td, th { padding: .25em .9em .25em 0; border-bottom: 1px solid #ddd; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } svg text { font: 12px system-ui, sans-serif; fill: #333 }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd } svg text { fill: #ccc } }
"""


def report_page(report: Mapping[str, Any]) -> str:
    """The page for a corpus report."""
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Corpus report</title><style>{_STYLE}</style>",
        "<h1>Corpus report</h1>",
        _table(("", ""), _facts(report)),
        "<h2>Splits</h2>",
        _splits(report["splits"]),
    ]
    if report.get("cleaning"):
        parts += ["<h2>Cleaning</h2>", _cleaning(report["cleaning"])]
    for name, split in report["splits"].items():
        parts += [f"<h2>Document lengths: {html.escape(name)}</h2>", _histogram(split["lengths"])]
    return "\n".join(parts) + "</html>\n"


def _facts(report: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    labels = {
        "source": "Source",
        "source_bytes": "Bytes",
        "documents_in": "Documents in the corpus",
        "documents_out": "Documents prepared",
        "source_sha256": "sha256",
    }
    return ((label, report[key]) for key, label in labels.items() if key in report)


def _splits(splits: Mapping[str, Mapping[str, Any]]) -> str:
    labels = {
        "documents": "Documents",
        "characters": "Characters",
        "tokens": "Tokens",
        "tokens_per_word": "Tokens per word",
        "tokens_per_document": "Tokens per document",
        "longest_document_tokens": "Longest document (tokens)",
        "examples": "Windows",
        "padding_share": "Share of padding",
        "first": "First date",
        "last": "Last date",
    }
    rows = [(label, *(split.get(key) for split in splits.values())) for key, label in labels.items()]
    return _table(("", *splits), [row for row in rows if any(value is not None for value in row[1:])])


def _cleaning(counts: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            count["step"],
            count["documents_in"],
            count["documents_in"] - count["documents_out"],
            count["characters_in"] - count["characters_out"],
        )
        for count in counts
    ]
    return _table(("Step", "Documents in", "Documents dropped", "Characters removed"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
        return f"<td class='n'>{shown}</td>"
    return f"<td>{html.escape('' if value is None else str(value))}</td>"


def _histogram(buckets: Sequence[Sequence[int]]) -> str:
    """Horizontal bars: documents by their number of tokens."""
    most = max((count for _, count in buckets), default=0)
    if not most:
        return "<p>No documents.</p>"
    height = len(buckets) * (_BAR_HEIGHT + 4)
    bars = "".join(_bar(row, bound, count, most=most) for row, (bound, count) in enumerate(buckets))
    width = _LABEL_WIDTH + _BAR_WIDTH + 90
    label = "Documents by number of tokens"
    return f"<svg role='img' aria-label='{label}' width='{width}' height='{height}'>{bars}</svg>"


def _bar(row: int, bound: int, count: int, *, most: int) -> str:
    top, width = row * (_BAR_HEIGHT + 4), round(_BAR_WIDTH * count / most)
    middle = top + _BAR_HEIGHT - 5
    return (
        f"<text x='{_LABEL_WIDTH - 8}' y='{middle}' text-anchor='end'>up to {bound:,}</text>"
        f"<rect x='{_LABEL_WIDTH}' y='{top}' width='{width}' height='{_BAR_HEIGHT}' fill='#4a7fb5'/>"
        f"<text x='{_LABEL_WIDTH + width + 6}' y='{middle}'>{count:,}</text>"
    )
