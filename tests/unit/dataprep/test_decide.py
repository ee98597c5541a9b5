"""What becomes of every document: what comes of carrying out the steps one after the other on plain lists."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import ftfy
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from piece_making import EOS, WORDS, corpus_of, words
from regraft.errors import InvalidDataError
from regraft.specs.cleaning import CleaningStep
from regraft.specs.dataset import ValidationSpec
from regraft_dataprep.decide import DROPPED, EVAL, TRAIN, Corpus, Decision, StepCount, decide
from regraft_dataprep.document import Document

Steps = TypeAdapter(tuple[CleaningStep, ...])
DAY = datetime(2008, 1, 1)
APART = ValidationSpec(fraction=0.5, near_duplicates=None)

TEXTS = st.sampled_from(
    ["", " ", "a", "a\n", "a\r\n", "b ", "&amp;", "&", "é", "e\u0301", "café", "cafÃ©", "1 2 3", "x\nx\nx", "some more"]
)
ORDERS = st.permutations(
    [
        "fix_text",
        "drop_empty",
        "drop_duplicates",
        {"length": {"min_characters": 2, "max_characters": 8}},
        {"quality": {}},
    ]
).flatmap(lambda steps: st.integers(0, len(steps)).map(lambda count: tuple(steps[:count])))


class Outcome(NamedTuple):
    fate: list[int]
    counts: list[StepCount]


def kept_by(step: Any, text: str) -> str | None:
    """A text after a step that looks at nothing else."""
    if step == "fix_text":
        return ftfy.fix_text(text)
    if step == "drop_empty":
        return text if text.split() else None
    if "length" in step:
        return text if 2 <= len(text) <= 8 else None
    lines = [line for line in text.splitlines() if line.strip()]
    letters = [character for character in text if character.isalpha() or character.isspace()]
    return text if len(letters) >= len(text) / 2 and len(set(lines)) >= len(lines) / 2 else None


def one_after_the_other(texts: Sequence[str], steps: Sequence[Any]) -> Outcome:
    """Each step goes over all that is left before the next one begins."""
    left = [(at, text) for at, text in enumerate(text for text in texts if text)]
    fate, counts = [0] * len(left), []
    for number, step in enumerate(steps, start=1):
        seen: set[str] = set()
        kept = []
        for at, text in left:
            found = (None if text in seen else text) if step == "drop_duplicates" else kept_by(step, text)
            seen.add(text)
            if found is None:
                fate[at] = number
            else:
                kept.append((at, found))
        name = step if isinstance(step, str) else next(iter(step))
        sizes = [sum(len(text) for _, text in documents) for documents in (left, kept)]
        counts.append(StepCount(name, len(left), len(kept), *sizes))
        left = kept
    return Outcome(fate, counts)


def decided(
    documents: Sequence[Document],
    *steps: Any,
    validation: ValidationSpec = APART,
    held_out: Sequence[bool] | None = None,
    parts: int = 2,
) -> Decision:
    """The decision about a corpus in so many pieces; with `held_out`, a piece for each of its values."""
    checked = Steps.validate_python(steps)
    bounds = np.linspace(0, len(documents), (len(held_out) if held_out else parts) + 1, dtype=int)
    cut = [documents[first:last] for first, last in pairwise(bounds)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(Path(folder), cut, steps=checked, held_out=held_out)
        return decide(corpus, steps=checked, validation=validation)


def check(decision: Decision, outcome: Outcome) -> None:
    assert decision.fate.tolist() == outcome.fate
    assert decision.steps == outcome.counts
    assert ((decision.sides == DROPPED) == (decision.fate > 0)).all()


@given(st.lists(TEXTS, max_size=20), ORDERS, st.integers(1, 4))
@settings(deadline=None, max_examples=200)
def test_fates_and_counts_are_those_of_one_step_after_the_other(
    texts: list[str], steps: tuple[Any, ...], parts: int
) -> None:
    outcome = one_after_the_other(texts, steps)
    assume(outcome.fate)  # a corpus without any text has its own error, before this
    documents = [Document(text) for text in texts]
    if outcome.fate.count(0) < 2:
        with pytest.raises(InvalidDataError, match="two documents"):
            decided(documents, *steps, parts=parts)
        return
    check(decided(documents, *steps, parts=parts), outcome)


def test_the_check_notices_steps_in_another_order() -> None:
    texts = ["&amp;", "&", "a", "b ", "b "]
    documents = [Document(text) for text in texts]
    outcome = one_after_the_other(texts, ["fix_text", "drop_duplicates"])
    check(decided(documents, "fix_text", "drop_duplicates"), outcome)
    with pytest.raises(AssertionError):
        check(decided(documents, "drop_duplicates", "fix_text"), outcome)


def test_of_equal_documents_the_first_stays_whichever_piece_it_is_in() -> None:
    documents = [Document(text) for text in ("w1", "w2", "w1", "w3", "w1", "w2")]
    for parts in (1, 2, 6):
        assert decided(documents, "drop_duplicates", parts=parts).fate.tolist() == [0, 0, 1, 0, 1, 1]


def test_duplicates_of_a_document_that_a_later_step_drops_are_duplicates() -> None:
    decision = decided(
        [Document("x" * 9), Document("x" * 9), Document("ab"), Document("cd")],
        "drop_duplicates",
        {"length": {"max_characters": 8}},
    )
    assert decision.fate.tolist() == [2, 1, 0, 0]


# The split


def on_days(*days: int | None) -> list[Document]:
    dates = [None if day is None else DAY + timedelta(days=day) for day in days]
    return [Document(words([at]), timestamp=date) for at, date in enumerate(dates)]


def held_out_rows(decision: Decision) -> list[int]:
    return np.flatnonzero(decision.sides == EVAL).tolist()


def test_the_latest_documents_are_held_out_undated_ones_counting_as_the_oldest() -> None:
    half = ValidationSpec(fraction=0.5, near_duplicates=None)
    assert held_out_rows(decided(on_days(5, None, 1, 9, None, 7), validation=half)) == [0, 3, 5]
    assert held_out_rows(decided(on_days(None, None, 1, None), validation=half)) == [2, 3]
    assert held_out_rows(decided(on_days(2, 2, 2, 1), validation=half)) == [1, 2]


@given(st.lists(st.none() | st.integers(0, 3), min_size=2, max_size=12), st.sampled_from([0.1, 0.3, 0.5]))
@settings(deadline=None, max_examples=50)
def test_dates_that_are_equal_or_missing_follow_the_corpus(days: list[int | None], fraction: float) -> None:
    validation = ValidationSpec(fraction=fraction, near_duplicates=None)
    order = sorted(range(len(days)), key=lambda at: (-1 if days[at] is None else days[at], at))
    count = min(max(round(fraction * len(days)), 1), len(days) - 1)
    assert held_out_rows(decided(on_days(*days), validation=validation)) == sorted(order[len(days) - count :])


def test_dropped_documents_have_no_part_in_the_split() -> None:
    documents = [Document("w1"), Document("w2"), Document("w2"), Document("w2"), Document("w2")]
    assert decided(documents, "drop_duplicates").sides.tolist() == [TRAIN, EVAL, *[DROPPED] * 3]


def numbered(count: int, *, ids: bool) -> list[Document]:
    return [Document(words([at % 7] if ids else [at]), id=f"story {at}" if ids else "") for at in range(count)]


@pytest.mark.parametrize("ids", [True, False])
def test_a_hashed_document_stays_on_its_side_when_the_corpus_grows(ids: bool) -> None:
    validation = ValidationSpec(fraction=0.2, order="hashed", near_duplicates=None)
    documents = numbered(2000, ids=ids)
    large = decided(documents, validation=validation).sides
    small = decided(documents[300:900], validation=validation, parts=3).sides
    np.testing.assert_array_equal(small, large[300:900])
    assert abs(np.mean(large == EVAL) - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 2000)


def test_the_id_decides_where_there_is_one_and_the_text_where_there_is_none() -> None:
    validation = ValidationSpec(fraction=0.5, order="hashed", near_duplicates=None)
    names = [f"story {number}" for number in range(40)]
    numbers = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for name in names]
    expected = [EVAL if number < 2**63 else TRAIN for number in numbers]
    assert len(set(expected)) == 2
    by_id = decided([Document("w1", id=name) for name in names], validation=validation)
    by_text = decided([Document(name) for name in names], validation=validation)
    assert by_id.sides.tolist() == by_text.sides.tolist() == expected


def test_pieces_that_are_named_are_held_out_and_nothing_else() -> None:
    documents = on_days(9, 8, 7, 1, 2, 3)
    assert decided(documents, held_out=[False, True, False]).sides.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("texts", "held_out", "split"),
    [(["w1", "  "], [False, True], "eval"), (["  ", "w1"], [False, True], "train")],
)
def test_a_split_that_cleaning_has_emptied_is_refused(texts: list[str], held_out: list[bool], split: str) -> None:
    with pytest.raises(InvalidDataError, match=f"no document is left for the {split} split") as caught:
        decided([Document(text) for text in texts], "drop_empty", held_out=held_out)
    assert caught.value.reason == "empty_split"


def test_a_hash_that_puts_all_on_one_side_is_refused() -> None:
    validation = ValidationSpec(fraction=1e-9, order="hashed")
    with pytest.raises(InvalidDataError, match="all 3 documents fall on one side"):
        decided(numbered(3, ids=True), validation=validation)


# Near duplicates


def jaccard(one: Sequence[int], other: Sequence[int]) -> float:
    """Of the sets of triples, EOS among them, by Python's own sets."""
    first, second = ({(*ids, -1)[at : at + 3] for at in range(len(ids) - 1)} for ids in (tuple(one), tuple(other)))
    return len(first & second) / len(first | second)


def pair(share: float, *, seed: int, size: int = 800) -> tuple[str, str]:
    """Two texts of which this share of all triples is common."""
    random = np.random.default_rng(seed)
    one, other = (random.choice(WORDS, size, replace=False).tolist() for _ in range(2))
    common = round(2 * share / (1 + share) * (size - 1)) + 2
    mixed = one[:common] + other[common:]
    assert jaccard(one, mixed) == pytest.approx(share, abs=0.005)
    return words(one), words(mixed)


STRANGERS = [words(range(start, start + 50)) for start in range(0, 200, 50)]


def across(near_duplicates: float | None, *, share: float, seed: int) -> Decision:
    """A pair of which one is trained on and one held out, among strangers."""
    one, other = pair(share, seed=seed)
    documents = [Document(text) for text in (*STRANGERS[:2], one, other, *STRANGERS[2:])]
    return decided(documents, validation=ValidationSpec(fraction=0.5, near_duplicates=near_duplicates))


@pytest.mark.parametrize("seed", range(4))
def test_a_held_out_document_that_is_like_one_trained_on_is_trained_on(seed: int) -> None:
    assert across(0.8, share=0.92, seed=seed).sides.tolist() == [TRAIN] * 4 + [EVAL] * 2
    assert across(0.8, share=0.92, seed=seed).moved == 1


@pytest.mark.parametrize(("near_duplicates", "share"), [(0.8, 0.5), (None, 0.92), (1.0, 0.92)])
def test_one_that_is_not_so_much_alike_stays_held_out(near_duplicates: float | None, share: float) -> None:
    decision = across(near_duplicates, share=share, seed=0)
    assert decision.sides.tolist() == [TRAIN] * 3 + [EVAL] * 3
    assert decision.moved == 0


def test_with_files_to_hold_out_it_is_dropped_instead() -> None:
    one, other = pair(0.92, seed=1)
    documents = [Document(text) for text in (STRANGERS[0], one, other, STRANGERS[1])]
    decision = decided(documents, held_out=[False, True], validation=ValidationSpec())
    assert decision.sides.tolist() == [TRAIN, TRAIN, DROPPED, EVAL]
    assert (decision.fate.tolist(), decision.moved) == ([0] * 4, 1)


def test_near_duplicates_are_dropped_by_their_step_and_the_first_stays() -> None:
    (one, other), (third, half) = pair(0.92, seed=2), pair(0.5, seed=3)
    documents = [Document(text) for text in (STRANGERS[0], one, third, other, one, half, STRANGERS[0])]
    step = {"drop_near_duplicates": {"threshold": 0.8}}
    assert decided(documents, step).fate.tolist() == [0, 0, 0, 1, 1, 0, 1]
    decision = decided(documents, "drop_duplicates", step)
    assert decision.fate.tolist() == [0, 0, 0, 2, 1, 0, 1]
    assert [(count.documents_in, count.documents_out) for count in decision.steps] == [(7, 5), (5, 4)]
    assert decided(documents, step, "drop_duplicates").fate.tolist() == [0, 0, 0, 1, 1, 0, 1]


def test_what_cleaning_has_dropped_already_is_not_looked_for_again() -> None:
    (one, other), (third, fourth) = pair(0.92, seed=2), pair(0.92, seed=3)
    documents = [Document(text) for text in (one, other, third, fourth)]
    decision = decided(
        documents,
        {"drop_near_duplicates": {"threshold": 0.8}},
        validation=ValidationSpec(fraction=0.5, near_duplicates=0.8),
    )
    assert (decision.sides.tolist(), decision.moved) == ([TRAIN, DROPPED, EVAL, DROPPED], 0)


def families(count: int) -> list[Document]:
    """Documents with two somewhat changed copies each, and as many strangers, in random order."""
    random = np.random.default_rng(5)
    numbers = []
    for _ in range(count):
        original = random.choice(WORDS, 300, replace=False)
        for share in (0.0, 0.002, 0.004):
            numbers.append(np.where(random.random(300) < share, random.integers(0, WORDS, 300), original))
        numbers.append(random.choice(WORDS, 300, replace=False))
    return [Document(words(numbers[at].tolist())) for at in random.permutation(len(numbers))]


def alike_across(corpus: Corpus, decision: Decision) -> int:
    """Held-out documents that agree in at least 80 % of their signature with one trained on, by comparing all."""
    signed = np.concatenate([piece.signatures[:] for piece in corpus.pieces if piece.signatures is not None])
    trained = signed[decision.sides == TRAIN]
    return sum(int(((trained == own).mean(axis=1) >= 0.8).any()) for own in signed[decision.sides == EVAL])


def test_no_held_out_document_is_left_that_is_like_one_trained_on(tmp_path: Path) -> None:
    documents = families(60)
    corpus = corpus_of(tmp_path, [documents[:90], documents[90:]])
    loose = decide(corpus, steps=(), validation=ValidationSpec(fraction=0.2, near_duplicates=None))
    assert alike_across(corpus, loose) > 10
    strict = decide(corpus, steps=(), validation=ValidationSpec(fraction=0.2))
    assert alike_across(corpus, strict) == 0
    assert strict.moved >= alike_across(corpus, loose)
    assert (strict.sides == EVAL).any()


# Long documents


def long_document(*texts: str, day: int | None = None) -> list[Document]:
    when = None if day is None else DAY + timedelta(days=day)
    return [Document(text, timestamp=when, continues=at < len(texts)) for at, text in enumerate(texts, start=1)]


@pytest.mark.parametrize("order", ["chronological", "hashed"])
def test_the_rows_of_a_long_document_stay_together(order: Any) -> None:
    validation = ValidationSpec.model_validate({"fraction": 0.5, "order": order})
    documents = [row for number in range(20) for row in long_document(*(f"w{number} part {part}" for part in range(3)))]
    sides = decided(documents, validation=validation, parts=1).sides.reshape(20, 3)
    assert (sides == sides[:, :1]).all()
    assert len(np.unique(sides)) == 2


def test_the_rows_of_a_long_document_are_nobodys_duplicates(tmp_path: Path) -> None:
    documents = [Document("w1"), *long_document("w1", "w1", "w1"), Document("w2"), Document("w1")]
    steps = Steps.validate_python(["drop_duplicates", {"drop_near_duplicates": {"threshold": 0.8}}])
    corpus = corpus_of(tmp_path, [documents], steps=steps)
    assert decide(corpus, steps=steps, validation=APART).fate.tolist() == [0, 0, 0, 0, 0, 1]
    assert corpus.pieces[0].ids[:].tolist() == [3, EOS, 3, 3, 3, EOS, 4, EOS, 3, EOS]


def test_its_last_row_brings_the_end_token_even_when_its_text_is_dropped(tmp_path: Path) -> None:
    documents = [*long_document("w1 w2", "w3 w4", "w5"), Document("w6 w7"), Document("w8 w9")]
    steps = Steps.validate_python([{"length": {"min_characters": 5}}])
    corpus = corpus_of(tmp_path, [documents], steps=steps)
    decision = decide(corpus, steps=steps, validation=APART)
    assert decision.sides.tolist() == [TRAIN, TRAIN, TRAIN, EVAL, EVAL]
    assert corpus.pieces[0].ids[:].tolist() == [3, 4, 5, 6, EOS, 8, 9, EOS, 10, 11, EOS]


def test_without_its_first_row_a_long_document_is_dropped_whole() -> None:
    documents = [Document("w1"), *long_document("w2 " * 9, "w3", "w4 " * 9, "w5"), Document("w6"), Document("w7")]
    decision = decided(documents, {"length": {"max_characters": 8}}, parts=1)
    assert decision.sides.tolist() == [TRAIN, *[DROPPED] * 4, EVAL, EVAL]
    assert decision.fate.tolist() == [0, 1, 1, 1, 1, 0, 0]
