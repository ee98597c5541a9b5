"""The corpus report as a page."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from regraft_dataprep.report_page import report_page


@pytest.fixture
def report() -> dict[str, Any]:
    split = {"documents": 1234, "tokens": 5678, "tokens_per_word": 1.25, "lengths": [[1, 0], [2, 5], [4, 10]]}
    return {
        "source": "<trc2>",
        "source_bytes": 99,
        "documents_in": 5,
        "documents_out": 4,
        "splits": {"train": split, "eval": {**split, "documents": 7, "lengths": []}},
        "cleaning": [
            {"step": "fix_text", "documents_in": 5, "documents_out": 4, "characters_in": 100, "characters_out": 90}
        ],
    }


class Strict(HTMLParser):
    """Tags that are opened are closed in their order."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        assert tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_is_well_formed_and_needs_nothing_from_elsewhere(report: dict[str, Any]) -> None:
    page = report_page(report)
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"https?://|<script|src=|url\(", page)


def test_it_shows_the_numbers_and_escapes_the_text(report: dict[str, Any]) -> None:
    page = report_page(report)
    assert "&lt;trc2&gt;" in page
    assert "<trc2>" not in page
    for shown in ("1,234", "5,678", "1.25", "fix_text", "up to 4"):
        assert shown in page


def test_bars_are_as_long_as_their_counts(report: dict[str, Any]) -> None:
    widths = [int(width) for width in re.findall(r"<rect [^>]*width='(\d+)'", report_page(report))]
    assert widths == [0, 210, 420]


def test_an_empty_split_and_no_cleaning_are_no_error(report: dict[str, Any]) -> None:
    report["cleaning"] = []
    page = report_page(report)
    assert "No documents." in page
    assert "<h2>Cleaning</h2>" not in page
