"""Every case that a job can meet has a bound, the documents state it, and a test of the named file asserts it."""

from __future__ import annotations

import re
from pathlib import Path

from bounds import WITHIN

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "reliability.md"
ROW = re.compile(r"^\| ([\d, ]+) \| .* \| `(test_\w+\.py)` \| (\d+) s \|$", re.MULTILINE)


def test_the_bounds_are_those_of_the_document_and_asserted_where_it_says() -> None:
    rows = [(cases.split(", "), name, float(bound)) for cases, name, bound in ROW.findall(DOCUMENT.read_text())]
    assert {int(case): bound for cases, _, bound in rows for case in cases} == WITHIN
    for cases, name, _ in rows:
        asserted = re.findall(r"WITHIN\[(.+?)\]", (HERE / name).read_text())
        assert set(map(int, cases)) <= {int(number) for words in asserted for number in re.findall(r"\d+", words)}, name
