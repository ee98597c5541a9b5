"""What is required of a corpus, bound by bound."""

from __future__ import annotations

from typing import Any

import pytest

from regraft.errors import InvalidDataError
from regraft.specs.dataset import RequirementsSpec
from regraft_dataprep.requirements import check_requirements


def report(**changes: Any) -> dict[str, Any]:
    train = {"padding_share": 0.1, "tokens_per_word": 1.5, "tokens": 1000}
    facts = {
        "documents_in": 100,
        "documents_out": 80,
        "duplicates": {"exact": 4, "near": 1},
        "overlap": {"share": 0.02},
        "languages": {"en": 0.9, "de": 0.1},
    }
    return {**facts, **changes, "splits": {"train": {**train, **changes.get("train", {})}}}


MET = [
    ("min_train_tokens", 1000, 1001, "1000"),
    ("max_dropped_share", 0.2, 0.19, "0.2"),
    ("max_duplicate_share", 0.05, 0.049, "0.05"),
    ("max_padding_share", 0.1, 0.09, "0.1"),
    ("max_eval_overlap", 0.02, 0.01, "0.02"),
    ("max_tokens_per_word", 1.5, 1.4, "1.5"),
    ("languages", ("de", "en"), ("de", "fr"), "en"),
]


@pytest.mark.parametrize(("name", "met", "missed", "found"), MET)
def test_a_bound_that_is_just_met_passes_and_the_next_one_fails(
    name: str, met: object, missed: object, found: str
) -> None:
    check_requirements(RequirementsSpec.model_validate({name: met}), report())
    with pytest.raises(InvalidDataError, match=f"{found} was found") as caught:
        check_requirements(RequirementsSpec.model_validate({name: missed}), report())
    assert caught.value.field == f"dataset.require.{name}"
    assert caught.value.reason == "requirement_not_met"


def test_every_bound_there_is_is_tested_here() -> None:
    assert {name for name, *_ in MET} == set(RequirementsSpec.model_fields)


def test_nothing_is_required_by_default() -> None:
    poor = report(documents_out=1, languages={"xx": 1.0}, overlap={"share": 1.0}, train={"tokens": 1})
    check_requirements(RequirementsSpec(), poor)


def test_what_could_not_be_measured_meets_any_bound() -> None:
    unknown = report(languages={}, overlap={"share": None}, train={"tokens_per_word": None})
    bounds = {"languages": ["en"], "max_eval_overlap": 0.0, "max_tokens_per_word": 0.1}
    check_requirements(RequirementsSpec.model_validate(bounds), unknown)


def test_a_bound_of_nothing_is_a_bound() -> None:
    with pytest.raises(InvalidDataError, match="max_padding_share"):
        check_requirements(RequirementsSpec(max_padding_share=0.0), report())
