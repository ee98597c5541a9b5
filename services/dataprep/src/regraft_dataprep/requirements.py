"""Bounds that a dataset sets on its corpus: checked when the corpus is known, before its files are written.

They are not part of a dataset's name, so one that was made under other bounds, or none, is found by a task that sets
some; what its own report says is compared with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regraft.errors import InvalidDataError
from regraft.specs.dataset import RequirementsSpec
from regraft_dataprep.sources.base import BadRecord, too_many

REPORT = "corpus_report.json"


def read_report(folder: Path) -> dict[str, Any]:
    """The corpus report of a published dataset.

    Raises:
        InvalidDataError: it has none, or none that can be read.
    """
    try:
        report: dict[str, Any] = json.loads((folder / REPORT).read_bytes())
    except (FileNotFoundError, ValueError) as error:
        raise InvalidDataError(
            "a published dataset lacks its corpus report",
            value=str(folder / REPORT),
            remedy="Delete the folder; it will be made again.",
            reason="corrupt_artifact",
        ) from error
    return report


def check_bad_records(report: Mapping[str, Any], *, limit: int) -> None:
    """Raises InvalidDataError: more records could not be read than may be. The report has the first of them."""
    bad = report["bad_records"]
    if bad > limit:
        raise too_many(bad, limit, BadRecord(**report["bad_records_first"][: limit + 1][-1]))


def check_requirements(require: RequirementsSpec, report: Mapping[str, Any]) -> None:
    """Compare the corpus report with the bounds.

    Raises:
        InvalidDataError: one is not met; the message has what was found.
    """
    train = report["splits"]["train"]
    at_most = {
        "max_dropped_share": _share(report["documents_in"] - report["documents_out"], report["documents_in"]),
        "max_duplicate_share": _share(sum(report["duplicates"].values()), report["documents_in"]),
        "max_padding_share": train["padding_share"],
        "max_eval_overlap": report["overlap"]["share"],
        "max_tokens_per_word": train["tokens_per_word"],
    }
    for name, found in at_most.items():
        bound = getattr(require, name)
        if bound is not None and found is not None and found > bound:
            raise _not_met(name, bound=bound, found=found)
    if require.min_train_tokens is not None and train["tokens"] < require.min_train_tokens:
        raise _not_met("min_train_tokens", bound=require.min_train_tokens, found=train["tokens"])
    main = next(iter(report["languages"]), None)
    if require.languages and main is not None and main not in require.languages:
        raise _not_met("languages", bound=list(require.languages), found=main)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _not_met(name: str, *, bound: object, found: object) -> InvalidDataError:
    shown = f"{found:.4g}" if isinstance(found, float) else str(found)
    return InvalidDataError(
        f"the corpus does not meet this: {shown} was found",
        field=f"dataset.require.{name}",
        value=bound,
        remedy="Look at the corpus and its cleaning, or change the bound.",
        reason="requirement_not_met",
    )
