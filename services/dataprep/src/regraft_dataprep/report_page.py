"""`corpus_report.html`: the corpus report for people, one file without scripts or anything from elsewhere.

The numbers are those of `corpus_report.json`, which programs read. Every text in the page goes through
`report_text.shown`, and a policy forbids the browser to load or run anything. The trade-off: it shows what was counted
and decided; for a single document look into `documents.parquet`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from regraft_dataprep.report_plots import Bar, histogram, horizontal_bars, percent
from regraft_dataprep.report_text import changes, count, shown, verdict

_LANGUAGES_SHOWN = 8

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --line: #ddd; --paper: #fff; --train: #3b74b0;
  --eval: #d1761f; --lost: #b2484f; --plain: #7d8894; --mark: #ffe69a }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ddd; --soft: #999; --line: #3a3a3a; --paper: #181818;
  --train: #6ba3dc; --eval: #e39a4f; --lost: #d9777d; --plain: #8f9aa6; --mark: #665200 } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; color: var(--ink);
  background: var(--paper) }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin: 2em 0 .5em } h3 { font-size: 1em }
.wide { overflow-x: auto } table { border-collapse: collapse }
td, th { padding: .25em 1.2em .25em 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
td { overflow-wrap: anywhere } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.facts td:first-child, .bad td:nth-child(2) { white-space: nowrap; overflow-wrap: normal }
svg { display: block; width: 100%; min-width: 30em; max-width: 680px; height: auto; margin: .5em 0 }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) } svg line { stroke: var(--line) }
.train { fill: var(--train); background: var(--train) } .eval { fill: var(--eval); background: var(--eval) }
.lost { fill: var(--lost) } .plain { fill: var(--plain) }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(18em, 1fr)); gap: 0 1.5em; break-inside: avoid;
  border-bottom: 1px solid var(--line); padding: .6em 0 }
.pair div { min-width: 0 } .pair span.side { color: var(--soft); font-size: .85em }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.45 ui-monospace, monospace; margin: .2em 0 }
mark { background: var(--mark); color: inherit; border-bottom: 2px solid currentColor; print-color-adjust: exact }
.code { font-size: .8em; border: 1px solid; border-radius: 3px; padding: 0 .2em; margin: 0 .1em }
@media print { body { max-width: none; margin: 0 } .wide { overflow: visible; break-inside: avoid }
  tr { break-inside: avoid } h2, h3, h2 + p { break-after: avoid } .key { print-color-adjust: exact } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_page(report: Mapping[str, Any]) -> str:
    """The page for a corpus report."""
    sections = {
        "Where the documents went": _fates(report),
        "Splits": splits_table(report["splits"]),
        "Document lengths": _lengths(report["splits"]),
        "Held-out text that is trained on": "".join(f"<p>{sentence}</p>" for sentence in verdict(report)),
        "Cleaning": _cleaning(report["cleaning"]),
        "What cleaning changed": "".join(map(_example, report["cleaning_examples"])),
        "Languages": _languages(report["languages"]),
        "Records that could not be read": _bad_records(report),
    }
    return page(_lead(report), _facts(report), sections)


def page(lead: str, facts: str, sections: Mapping[str, str]) -> str:
    """A whole page of these pieces of HTML; sections without content are left out."""
    body = "\n".join(f"<h2>{title}</h2>\n{content}" for title, content in sections.items() if content)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width'>"
        f"<title>Corpus report</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>Corpus report</h1>\n{lead}\n{facts}\n{body}\n</body></html>\n"
    )


def _lead(report: Mapping[str, Any]) -> str:
    train, held_out = report["splits"]["train"], report["splits"]["eval"]
    return (
        f"<p>{report['documents_out']:,} of {count(report['documents_in'], 'document')} were prepared: "
        f"{count(train['examples'], 'window')} to train on and {held_out['examples']:,} held out.</p>"
    )


def _facts(report: Mapping[str, Any]) -> str:
    labels = {
        "source": "Source",
        "source_files": "Files",
        "source_bytes": "Bytes",
        "source_sha256": "sha256",
        "documents_in": "Documents in the corpus",
        "documents_out": "Documents prepared",
        "bad_records": "Records that could not be read",
        "stray_lines_ignored": "Lines outside of any document",
    }
    rows = [(label, report[key]) for key, label in labels.items()]
    duplicates = {"exact": "Duplicates dropped, exact", "near": "Duplicates dropped, near"}
    rows += [(label, report["duplicates"][key]) for key, label in duplicates.items()]
    rows += [] if report["epochs"] is None else [("Epochs of the job that it was made for", report["epochs"])]
    return facts_table(rows)


def facts_table(rows: Iterable[Sequence[Any]]) -> str:
    """Names and values."""
    return f"<div class='facts'>{_table(('', ''), rows)}</div>"


def _fates(report: Mapping[str, Any]) -> str:
    """A waterfall: each loss begins where the one before it has ended."""
    left = report["documents_in"]
    bars = [Bar("in the corpus", left, f"{left:,}")]
    losses = [("without text", report["documents_dropped_empty"])]
    losses += [(step["step"], step["documents_in"] - step["documents_out"]) for step in report["cleaning"]]
    losses.append(("like a trained one", left - sum(lost for _, lost in losses) - report["documents_out"]))
    for label, lost in losses:
        left -= lost
        if lost or label in {step["step"] for step in report["cleaning"]}:
            bars.append(Bar(label, lost, f"−{lost:,}" if lost else "0", "lost", start=left))
    start = 0
    for name, split in report["splits"].items():
        bars.append(Bar(name, split["documents"], f"{split['documents']:,}", name, start=start))
        start += split["documents"]
    return _plot(horizontal_bars(bars, title="What became of the documents"))


def splits_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """The splits side by side, as far as something is known of them."""
    labels = {
        "documents": "Documents",
        "characters": "Characters",
        "bytes": "Bytes of text",
        "tokens": "Tokens, with one for the end of each document",
        "loss_tokens": "Tokens that are predicted",
        "examples": "Windows",
        "padding_share": "Share of padding",
        "tokens_per_word": "Tokens per word",
        "tokens_per_document": "Tokens per document",
        "longest_document_tokens": "Longest document (tokens)",
        "first": "First date",
        "last": "Last date",
    }
    shares = {"padding_share"}
    rows = [
        (label, *(percent(split[key]) if key in shares else split.get(key) for split in splits.values()))
        for key, label in labels.items()
    ]
    return _table(("", *splits), [row for row in rows if any(value is not None for value in row[1:])], numbers=True)


def _lengths(splits: Mapping[str, Mapping[str, Any]]) -> str:
    lengths = {name: split["lengths"] for name, split in splits.items()}
    if not any(number for buckets in lengths.values() for _, number in buckets):
        return "<p>No documents.</p>"
    keys = "".join(f"<span class='key {html.escape(name)}'></span>{html.escape(name)}" for name in lengths)
    title = "Documents by number of tokens"
    return f"<p>Share of each split's documents.{keys}</p>" + _plot(histogram(lengths, title=title))


def _cleaning(steps: Sequence[Mapping[str, Any]]) -> str:
    drawn = []
    for what, title in (("documents", "Documents dropped"), ("characters", "Characters removed")):
        lost = [(step["step"], step[f"{what}_in"], step[f"{what}_in"] - step[f"{what}_out"]) for step in steps]
        bars = [
            Bar(
                name, max(number, 0), f"{number:,} ({percent(number / total)})" if number > 0 else f"{number:,}", "lost"
            )
            for name, total, number in lost
        ]
        drawn.append(f"<h3>{title}</h3>{_plot(horizontal_bars(bars, title=f'{title} by each step'))}")
    return "".join(drawn) if steps else ""


def _example(example: Mapping[str, str]) -> str:
    texts = zip(("before", "after"), changes(example["before"], example["after"]), strict=True)
    sides = (
        f"<div><span class='side'>{side}</span><p class='text' dir='auto'>{text}</p></div>" for side, text in texts
    )
    return f"<div class='pair'>{''.join(sides)}</div>"


def _languages(shares: Mapping[str, float]) -> str:
    if not shares:
        return ""
    ranked = list(shares.items())
    bars = [Bar(code, share, percent(share)) for code, share in ranked[:_LANGUAGES_SHOWN]]
    rest = sum(share for _, share in ranked[_LANGUAGES_SHOWN:])
    bars += [Bar("others", rest, percent(rest))] if rest else []
    plot = _plot(horizontal_bars(bars, title="Languages"))
    return f"<p>Guessed from the beginnings of some documents of the train split.</p>{plot}"


def _bad_records(report: Mapping[str, Any]) -> str:
    first = report["bad_records_first"]
    if not report["bad_records"]:
        return ""
    rows = [(record["file"], f"{record['unit']} {record['number']:,}", record["cause"]) for record in first]
    listed = f", of which the first {len(first)} are listed" if len(first) < report["bad_records"] else ""
    table = _table(("File", "Where", "Cause"), rows)
    return f"<p>{count(report['bad_records'], 'record')}{listed}.</p><div class='bad'>{table}</div>"


def _plot(svg: str) -> str:
    return f"<div class='wide'>{svg}</div>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: bool = False) -> str:
    kind = " class='n'" if numbers else ""
    titles = "".join(f"<th{kind if number else ''}>{shown(title)}</th>" for number, title in enumerate(head))
    top = f"<tr>{titles}</tr>" if any(head) else ""
    body = "".join(
        f"<tr>{''.join(_cell(value, number=numbers and place > 0) for place, value in enumerate(row))}</tr>"
        for row in rows
    )
    return f"<div class='wide'><table>{top}{body}</table></div>"


def _cell(value: Any, *, number: bool) -> str:
    kind = " class='n'" if number else ""
    if isinstance(value, int | float):
        return f"<td{kind}>{f'{value:,}' if isinstance(value, int) else f'{value:,.4g}'}</td>"
    return f"<td{kind}>{'' if value is None else shown(str(value))}</td>"
