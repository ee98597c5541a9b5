"""The corpus report as a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from regraft.specs.dataset import DatasetSpec
from regraft.specs.stages import PrepareTask
from regraft.storage import local_path
from regraft_dataprep.pipeline import prepare
from regraft_dataprep.report_page import report_page
from regraft_dataprep.report_plots import Bar, histogram, horizontal_bars, percent
from regraft_dataprep.report_text import changes, shown, verdict
from regraft_dataprep.resources import Resources
from regraft_dataprep.sources import _pieces, text

HOSTILE = "</script><img src=x onerror='alert(1)'>\"&\x00\x1b\u202e\u2066end"


def a_step(name: str, documents: tuple[int, int], characters: tuple[int, int]) -> dict[str, Any]:
    return {
        "step": name,
        **dict(zip(("documents_in", "documents_out"), documents, strict=True)),
        **dict(zip(("characters_in", "characters_out"), characters, strict=True)),
    }


@pytest.fixture
def report() -> dict[str, Any]:
    split = {
        "documents": 1234,
        "characters": 99_999,
        "bytes": 100_001,
        "tokens": 5678,
        "loss_tokens": 5677,
        "examples": 12,
        "padding_share": 0.0425,
        "tokens_per_word": 1.25,
        "tokens_per_document": 4.5,
        "longest_document_tokens": 60,
        "lengths": [[1, 0], [2, 5], [4, 15]],
        "first": "2008-01-01T00:00:00",
        "last": None,
    }
    return {
        "source": HOSTILE,
        "source_sha256": "ab" * 32,
        "source_bytes": 99,
        "source_files": 3,
        "stray_lines_ignored": 17,
        "bad_records": 2,
        "bad_records_first": [{"file": HOSTILE, "number": 4321, "cause": HOSTILE, "unit": "line"}],
        "documents_in": 2000,
        "documents_out": 1300,
        "documents_dropped_empty": 100,
        "cleaning": [
            a_step("fix_text", (1900, 1900), (100, 90)),
            a_step("drop_duplicates", (1900, 1300), (90, 45)),
        ],
        "duplicates": {"exact": 600, "near": 0},
        "cleaning_examples": [{"before": HOSTILE, "after": "end"}],
        "languages": {"en": 0.75, "<de>": 0.25},
        "held_out_like_trained": 7,
        "overlap": {"spans": 7095, "share": 0.004, "documents_half_seen": 3},
        "epochs": 2.25,
        "splits": {"train": split, "eval": {**split, "documents": 66, "lengths": [[1, 0], [2, 0], [4, 0], [8, 2]]}},
    }


class Strict(HTMLParser):
    """Tags that are opened are closed in their order; nothing runs and nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "img", "iframe", "link", "object", "embed", "a", "form"}
        assert not any(name.startswith("on") or name in {"src", "href", "style"} for name, _ in attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        assert tag in {"rect", "line"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(page: str) -> None:
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"https?://|url\(|@import", page)


def test_it_is_well_formed_and_needs_nothing_from_elsewhere(report: dict[str, Any]) -> None:
    check(report_page(report))


def test_the_check_finds_what_it_looks_for() -> None:
    for planted in ("<p><b></p></b>", "<img>", "<p onclick='x'></p>", "<p>http://example.org</p>", "<p>"):
        with pytest.raises(AssertionError):
            check(planted)


def test_text_from_the_corpus_is_escaped_and_does_not_hide_or_turn_anything(report: dict[str, Any]) -> None:
    page = report_page(report)
    assert "&lt;/script&gt;&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt;" in page
    assert "<span class='code'>U+202E</span>" in page
    assert not set(page) & set("\x00\x1b\u202e\u2066")
    page.encode()


def test_the_epochs_are_shown_where_they_are_known(report: dict[str, Any]) -> None:
    row = "<td>Epochs of the job that it was made for</td>"
    assert f"{row}<td>2.25</td>" in report_page(report)
    assert row not in report_page({**report, "epochs": None})


def test_lone_surrogates_are_shown_by_their_number() -> None:
    assert shown("a\ud800") == "a<span class='code'>U+D800</span>"


def test_joiners_and_right_to_left_text_stay_as_they_are_unless_they_were_changed() -> None:
    persian = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert shown(persian) == persian
    before, after = changes("a\u200cb", "ab")
    assert before == "a<mark><span class='code'>U+200C</span></mark>b"
    assert after == "ab"


def test_what_was_changed_is_marked_on_both_sides() -> None:
    assert changes("it\u2019s &amp; so", "it's & so") == (
        "it<mark>\u2019</mark>s &amp;<mark>amp;</mark> so",
        "it<mark>&#x27;</mark>s &amp; so",
    )
    assert changes("one\r\ntwo", "one\ntwo")[0] == "one<mark><span class='code'>U+000D</span></mark>\ntwo"
    assert changes("a\nb", "a b")[0] == "a<mark>↵\n</mark>b"
    assert changes("same", "same") == ("same", "same")
    assert changes("", "") == ("", "")


def test_the_end_that_the_shorter_example_still_has_is_no_change() -> None:
    """Both are cut at the same length, so what is removed in one lets more of the other be seen."""
    assert changes("a&amp;b the end", "a&b the end is") == (
        "a&amp;<mark>amp;</mark>b the end",
        "a&amp;b the end<mark> is</mark>",
    )
    assert changes("a&amp;b the e", "a&b the end i")[1] == "a&amp;b the end i"


def test_numbers_are_shown(report: dict[str, Any]) -> None:
    page = report_page(report)
    for number in ("1,300 of 2,000 documents", "5,678", "1.25", "4.25 %", "17", "2008-01-01", "line 4,321", "−600"):
        assert number in page
    assert "600 (31.6 %)" in page  # of the documents that drop_duplicates was given
    assert "2 records, of which the first 1 are listed" in page
    assert "Last date" not in page  # nobody has one


def test_the_verdict_is_in_plain_words(report: dict[str, Any]) -> None:
    moved, overlap, judgement = verdict(report)
    assert moved == "7 documents were to be held out, but like one that is trained on, so they are trained on too."
    assert overlap == (
        "0.4 % of the held-out text stands word for word in the train split as well, by 7,095 sampled spans of 13 "
        "tokens; 3 of 66 held-out documents are at least half seen."
    )
    assert judgement == "The held-out loss will be that of text the model has not seen."


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "None of the held-out text"),
        (0.0001, "Less than 0.05 %"),
        (0.05, "a little lower"),
        (0.5, "require.max_eval_overlap"),
        (None, "too short to tell"),
    ],
)
def test_the_verdict_follows_the_share(report: dict[str, Any], share: float | None, words: str) -> None:
    report["overlap"]["share"] = share
    assert words in " ".join(verdict(report))


def test_documents_that_were_named_to_be_held_out_are_left_out(report: dict[str, Any]) -> None:
    report["documents_out"] = 1293
    assert verdict(report)[0].endswith("so they are left out.")
    assert "like a trained one" in report_page(report)


def test_bars_are_as_long_as_their_numbers_and_begin_where_they_should() -> None:
    drawn = horizontal_bars([Bar("a", 100, "100"), Bar("b", 25, "25", "lost", start=75), Bar("c", 0, "0")], title="t")
    places = [(float(x), float(width)) for x, width in re.findall(r"<rect [^>]*x='([\d.]+)'.*?width='([\d.]+)'", drawn)]
    assert places == [(180.0, 390.0), (472.5, 97.5), (180.0, 0.0)]


def test_a_small_number_is_still_seen() -> None:
    drawn = horizontal_bars([Bar("a", 10**9, ""), Bar("b", 1, "")], title="t")
    assert re.findall(r"<rect [^>]*width='([\d.]+)'", drawn)[1] == "1.0"


def test_columns_are_shares_of_their_split_from_the_first_filled_bucket_on(report: dict[str, Any]) -> None:
    splits = {name: split["lengths"] for name, split in report["splits"].items()}
    drawn = histogram(splits, title="t")
    heights = [float(height) for height in re.findall(r"<rect .*?height='([\d.]+)'", drawn)]
    assert heights == [47.0, 141.0, 0.0, 0.0, 0.0, 188.0]  # 5 and 15 of 20, and 2 of 2
    assert "eval, 5 to 8 tokens: 2 documents, 100 %" in drawn
    assert "0 or 1 tokens" not in drawn


def test_an_empty_report_is_no_error(report: dict[str, Any]) -> None:
    for split in report["splits"].values():
        split["lengths"] = []
    page = report_page({**report, "cleaning": [], "cleaning_examples": [], "languages": {}, "bad_records": 0})
    check(page)
    assert "No documents." in page
    for title in ("Cleaning", "What cleaning changed", "Languages", "Records that could not be read"):
        assert f"<h2>{title}</h2>" not in page


def test_shares_are_rounded_and_never_to_nothing() -> None:
    assert [percent(share) for share in (0, 0.00001, 0.0042, 0.9531, 1)] == [
        "0 %",
        "under 0.01 %",
        "0.42 %",
        "95.3 %",
        "100 %",
    ]


def test_the_page_of_a_real_corpus_with_a_long_document(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that is read in pieces is one document in every count."""
    monkeypatch.setattr(_pieces, "_PIECE_BYTES", 200)
    monkeypatch.setattr(_pieces, "_MAX_PIECE_BYTES", 400)
    monkeypatch.setattr(text, "_FRAGMENT_BYTES", 50)
    contents = ["The long one &amp; more. " * 100, "short\u2019s", "short\u2019s", "another one", "the last"]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.txt").write_text(content)
    dataset = {"source": "text", "uri": str(tmp_path), "max_sequence_length": 16, "validation": {"fraction": 0.3}}
    task = PrepareTask(
        dataset=DatasetSpec.model_validate(dataset),
        tokenizer_uri=str(tokenizer_dir),
        vocab_size=512,
        output_uri=str(tmp_path / "out"),
    )
    folder = local_path(prepare(task, resources=Resources(processes=1)).uri)
    report = json.loads((folder / "corpus_report.json").read_text())
    assert (report["documents_in"], report["documents_out"], report["duplicates"]["exact"]) == (5, 4, 1)
    assert [(step["documents_in"], step["documents_out"]) for step in report["cleaning"]] == [(5, 5), (5, 5), (5, 4)]
    page = (folder / "corpus_report.html").read_text()
    check(page)
    assert "<mark>amp;</mark>" in page
    assert "−1<" in page
    assert "like a trained one" not in page
