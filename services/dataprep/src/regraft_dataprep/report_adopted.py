"""`corpus_report.html` of windows that another tool has made: there are no documents to tell of.

The page is made like `report_page`, of the same pieces. Not for what a preparation makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regraft_dataprep.report_page import facts_table, page, splits_table
from regraft_dataprep.report_text import count

_FACTS = {
    "source": "Source",
    "source_files": "Files",
    "source_bytes": "Bytes",
    "source_sha256": "sha256",
    "epochs": "Epochs of the job that it was made for",
}
_CHECKED = (
    "<p>Every value was checked: ids and labels lie within the tokenizer's vocabulary, masks are 0 or 1, and in "
    "windows of three rows labels are the inputs shifted by one. What text they stand for, and how much of the "
    "held-out text is trained on, is not known here.</p>"
)


def adoption_page(report: Mapping[str, Any]) -> str:
    """The page for the report on an adoption."""
    train, held_out = report["splits"]["train"], report["splits"]["eval"]
    windows = f"{count(train['examples'], 'window')} to train on and {held_out['examples']:,} held out"
    rows = [(label, report[key]) for key, label in _FACTS.items() if report[key] is not None]
    sections = {"Splits": splits_table(report["splits"]), "What was checked": _CHECKED}
    return page(f"<p>{windows} were taken over as they are.</p>", facts_table(rows), sections)
