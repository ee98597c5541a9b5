"""Cleaning of lines and stories."""

from __future__ import annotations

import pytest

from regraft_dataprep.clean import clean_line, clean_story, has_text


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
    assert clean_line(line) == cleaned


def test_a_story_is_its_cleaned_lines_without_header_and_blank_ends() -> None:
    lines = [
        b"",
        b"<DOCNO>an-id-that-no-pass-removes</DOCNO>",
        b"<BLOGS08DAY>day one</BLOGS08DAY>",
        b"<CONTENT>",
        b"2008-08-10 14:07:45 OIL RISES",
        b"",
        b"LONDON - Oil rose.",
        b" \t",
        b"</CONTENT>",
    ]
    assert clean_story(lines) == "OIL RISES\n\nLONDON - Oil rose."
    assert has_text(lines)


@pytest.mark.parametrize("lines", [[], [b""], [b"<CONTENT>", b"2008-08-10 14:07:45 ", b" ", b"\xff", b"</CONTENT>"]])
def test_a_story_without_text_is_empty(lines: list[bytes]) -> None:
    assert clean_story(lines) == ""
    assert not has_text(lines)
