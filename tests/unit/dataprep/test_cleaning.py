"""Cleaning steps: what they change, what they drop, and what documents are compared by."""

from __future__ import annotations

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from regraft.specs.cleaning import CORRECTED, CleaningStep
from regraft_dataprep.cleaning import Cleaned, Cleaner, name_of
from regraft_dataprep.cleaning.filters import letters, repeated_lines
from regraft_dataprep.cleaning.text import fix_text, may_change

Steps = TypeAdapter(tuple[CleaningStep, ...])


def cleaned(text: str, *steps: object) -> Cleaned:
    return Cleaner(Steps.validate_python(steps)).clean(text)


def kept(texts: list[str], *steps: object) -> list[str]:
    found = [cleaned(text, *steps) for text in texts]
    return [one.text for one in found if not one.dropped]


MARKUP = ("<", "<b>", ">", "&", "&amp;", "&lt;", "&#x39;", "&amp;lt;", "&quot")
ENDS = ("\n", "\r\n", "\r", "\x85", "\u2028", "\t")
MENDED = ("cafÃ©", "â€™", "â€œyesâ€\x9d", "é", "e\u0301", "\u0301", "ﬁ", "ｆ", "’", "\ufeff", "\x00", "\x1b[0m", "Ω")
PIECES = st.sampled_from(["a", "b c", *MARKUP, *ENDS, *MENDED])
LINES = st.lists(PIECES, max_size=30).map("".join)
CHARACTERS = st.text(st.sampled_from("ab \t\n\r&;<>#x39ampquot‘’“ﬁé\x85\x00\x1b[0mÃ©â€™Ω\ufeff\u3000ｆ"), max_size=40)


@given(st.one_of(LINES, CHARACTERS, st.text(max_size=40), st.text(st.characters(max_codepoint=127), max_size=60)))
@settings(deadline=None, max_examples=800)
def test_skipping_ftfy_changes_nothing(text: str) -> None:
    assert fix_text(text) == ftfy.fix_text(text)


@given(LINES)
@settings(deadline=None)
def test_what_is_said_never_to_change_does_not(text: str) -> None:
    assert may_change(text) or ftfy.fix_text(text) == text


@pytest.mark.parametrize("text", ["&amp;", "\r\n", "\x85", "\x00", "\x7f", "cafÃ©", "e\u0301"])
def test_what_ftfy_changes_is_given_to_it(text: str) -> None:
    assert ftfy.fix_text(text) != text
    assert may_change(f"plain {text} plain")


def test_entities_are_left_from_the_first_line_with_markup_on() -> None:
    text = "&amp; one\r\nplain\r\n&lt; two\r\n<b> &amp; three\r\n&amp; four"
    assert fix_text(text) == "& one\nplain\n< two\n<b> &amp; three\n&amp; four"
    assert fix_text(text) == ftfy.fix_text(text)


@pytest.mark.parametrize("line", ["x" * 1_100_000, "é &amp; " * 140_000, "&amp;" * 210_000 + "<b>" + "&amp;" * 30])
def test_a_line_that_ftfy_cuts_into_pieces_is_cut_in_the_same_places(line: str) -> None:
    text = f"&amp;\r\n{line}cafÃ©\r\n&amp;"
    assert len(line) > 1_000_000
    assert fix_text(text) == ftfy.fix_text(text)


def test_mojibake_and_entities_are_mended() -> None:
    assert fix_text("AT&amp;T said â€œyesâ€\x9d in cafÃ©") == 'AT&T said "yes" in café'


def test_empty_documents_are_dropped() -> None:
    assert kept(["a", " \n", "b ", "\t"], "drop_empty") == ["a", "b "]


def test_length_counts_characters_and_both_bounds_belong_to_it() -> None:
    step = {"length": {"min_characters": 2, "max_characters": 3}}
    assert kept(["a", "ab", "abc", "abcd"], step) == ["ab", "abc"]
    assert kept(["é", "éé"], step) == ["éé"]


def test_quality_drops_what_hardly_reads_as_text() -> None:
    table, list_ = "1.2 3.4 5.6 | 7.8 9.0", "same line\n" * 10
    assert kept(["Shares rose on Monday.", table, list_], {"quality": {}}) == ["Shares rose on Monday."]
    assert letters("") == 1.0
    assert repeated_lines("a\n\na\nb\n") == pytest.approx(1 / 3)


def test_steps_are_carried_out_in_their_order_up_to_the_one_that_drops() -> None:
    short = {"length": {"max_characters": 3}}
    assert cleaned("&amp;", "fix_text", short) == Cleaned("&", 0, "&")
    assert cleaned("&amp;", short, "fix_text") == Cleaned("&amp;", 1, "&amp;")
    assert cleaned("&amp;&amp;", "fix_text", "drop_empty", {"length": {"min_characters": 9}}) == Cleaned("&&", 3, "&&")


def test_a_document_is_compared_as_it_is_at_that_step() -> None:
    assert cleaned("&amp;", "drop_duplicates", "fix_text") == Cleaned("&", 0, "&amp;")
    assert cleaned("&amp;", "fix_text", "drop_duplicates") == Cleaned("&", 0, "&")
    dropped_later = cleaned("&amp;", "drop_duplicates", "fix_text", {"length": {"min_characters": 2}})
    assert dropped_later == Cleaned("&", 3, "&amp;")
    dropped_before = cleaned(" \r\n", "drop_empty", "drop_duplicates")
    assert dropped_before == Cleaned(" \r\n", 1, " \r\n")


def test_steps_that_compare_documents_drop_none_by_themselves() -> None:
    near = {"drop_near_duplicates": {"threshold": 0.5}}
    cleaner = Cleaner(Steps.validate_python(["drop_duplicates", near]))
    assert [cleaner.clean("same").dropped for _ in range(3)] == [0, 0, 0]


def test_near_duplicates_are_compared_by_tokens_and_not_by_the_text_at_their_step() -> None:
    near = {"drop_near_duplicates": {"threshold": 0.5}}
    assert cleaned("&amp;", near, "fix_text").compared == "&"
    assert cleaned("&amp;", near, "fix_text", "drop_duplicates").compared == "&"
    assert cleaned("&amp;", "drop_duplicates", "fix_text", near).compared == "&amp;"


def test_a_text_that_nothing_changes_is_handed_on_as_it_is() -> None:
    text = "plain text, more than a letter"
    found = Cleaner(CORRECTED).clean(text)
    assert found.text is text
    assert found.compared is text


@pytest.mark.parametrize(
    "step",
    [
        "unknown",
        {"length": {"min": 1}},
        {"length": {}, "quality": {}},
        {},
        {"length": {"min_characters": 5, "max_characters": 4}},
    ],
)
def test_an_impossible_step_is_refused(step: object) -> None:
    with pytest.raises(ValidationError):
        Steps.validate_python([step])


def test_steps_keep_their_order_and_options_through_json() -> None:
    steps = Steps.validate_python(["drop_empty", {"length": {"min_characters": 9}}, "fix_text"])
    assert Steps.validate_json(Steps.dump_json(steps)) == steps
    assert [name_of(step) for step in steps] == ["drop_empty", "length", "fix_text"]
