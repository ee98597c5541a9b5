"""The forgetting table: what training changed on the job's own text, beside what it changed on the other sets."""

from __future__ import annotations

from collections.abc import Mapping

from regraft.specs import EvaluateResult, Scores
from regraft.specs.monitoring import OWN_SET
from regraft.specs.stages import Change

Table = Mapping[str, Mapping[str, Scores]]
"""Checkpoint to set to scores."""

_ROWS = (("loss", "loss", "{:.4f}"), ("perplexity", "perplexity", "{:.3f}"), ("accuracy", "accuracy", "{:.2%}"))
_BYTES = ("bits_per_byte", "bits per byte", "{:.4f}")


def changes(table: Table) -> dict[str, Change]:
    """By set; empty unless both `base` and `trained` were scored."""
    if not {"base", "trained"} <= table.keys():
        return {}
    return {name: _change(table["base"][name], table["trained"][name]) for name in table["base"]}


def markdown(result: EvaluateResult) -> str:
    """All scores in a table, one row per set and score; ends with a newline."""
    sets = {OWN_SET: result.scores, **result.sets}
    names = list(result.scores)
    head = ["set", "score", *names, *(["change"] if result.changes else [])]
    rows = [row for name, found in sets.items() for row in _rows(name, found, names, result.changes.get(name))]
    lines = [_line(head), _line(["---", "---", *["---:"] * (len(head) - 2)]), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def _change(base: Scores, trained: Scores) -> Change:
    known = base.bits_per_byte is not None and trained.bits_per_byte is not None
    return Change(
        loss=trained.loss - base.loss,
        perplexity=trained.perplexity / base.perplexity - 1,
        accuracy=trained.accuracy - base.accuracy,
        bits_per_byte=trained.bits_per_byte - base.bits_per_byte if known else None,  # type: ignore[operator]
    )


def _rows(name: str, found: Mapping[str, Scores], names: list[str], change: Change | None) -> list[list[str]]:
    any_bytes = any(scores.bits_per_byte is not None for scores in found.values())
    rows = []
    for field, title, shape in (*_ROWS, *([_BYTES] if any_bytes else [])):
        values = [getattr(found[who], field) for who in names]
        cells = ["" if value is None else shape.format(value) for value in values]
        rows.append([name, title, *cells, *([] if change is None else [_changed(field, shape, change)])])
    return rows


def _changed(field: str, shape: str, change: Change) -> str:
    value = getattr(change, field)
    if value is None:
        return ""
    # Of perplexities the relation is what compares between sets; of the others the difference.
    return f"{value:+.1%}" if field == "perplexity" else shape.replace(":", ":+").format(value)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
