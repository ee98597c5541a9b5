"""Cleaning steps: what they change, what they drop, what they count."""

from __future__ import annotations

import random

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from regraft.specs.cleaning import CORRECTED, CleaningStep
from regraft_dataprep.cleaning import Cleaner, name_of
from regraft_dataprep.cleaning.filters import letters, repeated_lines
from regraft_dataprep.cleaning.text import fix_text
from regraft_dataprep.document import Document

Steps = TypeAdapter(tuple[CleaningStep, ...])
WORDS = [
    "market",
    "shares",
    "rose",
    "fell",
    "on",
    "after",
    "before",
    "bank",
    "oil",
    "gold",
    "news",
    "traders",
    "said",
    "the",
    "a",
    "of",
    "in",
]


def clean(texts: list[str], *steps: object) -> list[str]:
    cleaner = Cleaner(Steps.validate_python(steps))
    found = [cleaner.clean(Document(text, str(number))) for number, text in enumerate(texts)]
    return [document.text for document in found if document is not None]


def story(seed: int, *, words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


AWKWARD = st.text(st.sampled_from("ab \t\n\r&;<>#x39ampquot‘’“ﬁé\x85\x00\x1b[0mÃ©â€™Ω\ufeff\u3000ｆ"), max_size=40)


@given(st.one_of(AWKWARD, st.text(max_size=40), st.text(st.characters(max_codepoint=127), max_size=60)))
def test_skipping_ftfy_changes_nothing(text: str) -> None:
    assert fix_text(text) == ftfy.fix_text(text)


def test_mojibake_and_entities_are_mended() -> None:
    assert clean(["AT&amp;T said â€œyesâ€\x9d in cafÃ©"], "fix_text") == ['AT&T said "yes" in café']


def test_empty_documents_and_exact_duplicates_are_dropped_and_the_first_stays() -> None:
    assert clean(["a", " \n", "b", "a", "b "], "drop_empty", "drop_duplicates") == ["a", "b", "b "]


def test_documents_that_become_equal_by_mending_are_duplicates() -> None:
    assert clean(["café", "cafÃ©"], *CORRECTED) == ["café"]
    assert len(clean(["café", "cafÃ©"], "drop_duplicates", "fix_text")) == 2


def test_near_duplicates_are_dropped_and_others_are_kept() -> None:
    first, other = story(1), story(2)
    nearly = first.replace(" ", "  ", 3) + " correction"
    step = {"drop_near_duplicates": {"threshold": 0.8}}
    assert clean([first, other, nearly, first], step) == [first, other]
    half = " ".join(first.split()[:100]) + " " + " ".join(other.split()[100:])
    assert clean([first, half], step) == [first, half]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_a_pair_well_above_the_threshold_is_found(threshold: float) -> None:
    texts = [story(seed) for seed in range(40)]
    changed = [text + " end" for text in texts]
    assert len(clean([*texts, *changed], {"drop_near_duplicates": {"threshold": threshold}})) <= 42


def test_length_counts_characters_and_both_bounds_belong_to_it() -> None:
    step = {"length": {"min_characters": 2, "max_characters": 3}}
    assert clean(["a", "ab", "abc", "abcd"], step) == ["ab", "abc"]


def test_quality_drops_what_hardly_reads_as_text() -> None:
    table, list_ = "1.2 3.4 5.6 | 7.8 9.0", "same line\n" * 10
    assert clean(["Shares rose on Monday.", table, list_], {"quality": {}}) == ["Shares rose on Monday."]
    assert letters("") == 1.0
    assert repeated_lines("a\n\na\nb\n") == pytest.approx(1 / 3)


def test_every_step_counts_what_it_was_given_and_what_it_let_through() -> None:
    cleaner = Cleaner(Steps.validate_python(["fix_text", "drop_empty", "drop_duplicates"]))
    for number, text in enumerate(["&amp;", "", "&", "long text"]):
        cleaner.clean(Document(text, str(number)))
    found = [(c.step, c.documents_in, c.documents_out, c.characters_in, c.characters_out) for c in cleaner.counts()]
    assert found == [
        ("fix_text", 4, 4, 15, 11),
        ("drop_empty", 4, 3, 11, 11),
        ("drop_duplicates", 3, 2, 11, 10),
    ]


def test_a_document_that_nothing_changes_is_handed_on_as_it_is() -> None:
    document = Document("plain text", "id", {"timestamp": "2008-01-01"})
    assert Cleaner(CORRECTED).clean(document) is document


def test_a_changed_document_keeps_its_id_and_metadata() -> None:
    document = Cleaner(CORRECTED).clean(Document("&amp;", "id", {"timestamp": "2008-01-01"}))
    assert document == Document("&", "id", {"timestamp": "2008-01-01"})


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
