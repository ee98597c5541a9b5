"""The rules of TRC2's cleaning, on lines and stories."""

from __future__ import annotations

import pytest

from regraft.specs.cleaning import TRC2_RULES
from regraft_dataprep.clean import ESCAPED, RULES, clean_lines, clean_story


@pytest.mark.parametrize(
    ("line", "cleaned"),
    [
        (b"<DOCNO>TRC2-2008-08-10-0000</DOCNO>", b""),
        (b"<BLOGS08DAY>295</BLOGS08DAY>", b""),
        (b"a</B>b</C>c<D>d<E>e", b"ab</C>cd<E>e"),  # the first of each kind only
        (b"a <b>bold</b> word", b"a <b>bold</b> word"),  # upper-case tags only
        (b"2008-08-10 14:07:45 OIL RISES", b"OIL RISES"),
        (b"OIL 2008-08-10", b"OIL 2008-08-10"),
        (b"- 12:30 - ", b""),
        (b"see TRC2-2008-08-10-0000 and TRC2-2008-08-10-0001", b"see  and TRC2-2008-08-10-0001"),
        (b"a [ID:nL1] b [ID:nL2] c", b"a  c"),  # greedy
        (b"a ] b [ c", b"a ] b [ c"),
        (b"a ] b [ c ] d", b"a ] b  d"),
        (b"text (Click on the Z... for more", b"text "),
        (b"text (click on the Z)", b"text (click on the Z)"),
        (b"[(Click on the Z] kept", b" kept"),  # brackets go before the advertisement
        (b"<A>1 x", b"x"),  # the tag goes before the stamp
        (b"caf\xc3\xa9 \xff\xfe caf\xe9", "café  caf".encode()),
        (b"\xe2<A>\x82\xac", "€".encode()),  # bytes are judged after the passes joined them
        (b"AT&amp;T", b"AT&amp;T"),
    ],
)
def test_a_line_is_cleaned_as_documented(line: bytes, cleaned: bytes) -> None:
    assert clean_lines(line) == cleaned
    assert clean_lines(b"%s\n%s\n\n%s" % (line, line, line)) == b"%s\n%s\n\n%s" % (cleaned, cleaned, cleaned)


@pytest.mark.parametrize(
    ("first", "line", "cleaned"),
    [
        (0, "<</A>>", ""),
        (1, "<A>12 x", "x"),
        (2, "1TRC2-5 6", " 6"),
        (3, "TRC2-[x]9", "9"),
        (4, "[a (Click on the Zoo] b", " b"),
        (5, "(Click on the \udcffZ) a", "(Click on the Z) a"),
    ],
)
def test_no_two_neighbours_may_change_places(first: int, line: str, cleaned: str) -> None:
    order = list(TRC2_RULES)
    assert clean_lines(line.encode(errors=ESCAPED)).decode() == cleaned
    order[first], order[first + 1] = order[first + 1], order[first]
    for name in order:
        line = RULES[name](line)
    assert line != cleaned


def test_rules_take_time_in_proportion_to_the_text() -> None:
    for mark in (b"<", b"</", b"[", b"]", b"TRC2-", b"- ", b"(Click on the ", b"[x\n", b"</A", b"\r", b"\xe2"):
        clean_lines(mark * 200_000)  # a rule that looks back, or ahead, from each mark takes minutes


def test_a_story_is_its_cleaned_lines_without_blank_ends() -> None:
    lines = [
        b"",
        b"<CONTENT>",
        b"2008-08-10 14:07:45 OIL RISES",
        b"",
        b"LONDON - Oil rose.",
        b" \t",
        b"</CONTENT>",
    ]
    assert clean_story(b"\n".join(lines)) == "OIL RISES\n\nLONDON - Oil rose."


@pytest.mark.parametrize("lines", [[], [b""], [b"<CONTENT>", b"2008-08-10 14:07:45 ", b" ", b"\xff", b"</CONTENT>"]])
def test_a_story_without_text_is_empty(lines: list[bytes]) -> None:
    assert clean_story(b"\n".join(lines)) == ""
