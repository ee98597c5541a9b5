"""WikiText's tokenised English to running text: each rule, their order, and text that has nothing to undo."""

from __future__ import annotations

import pytest

from regraft_dataprep.reference.wikitext import detokenise


@pytest.mark.parametrize(
    ("tokenised", "plain"),
    [
        ("a well @-@ known 1 @,@ 234 @.@ 5", "a well-known 1,234.5"),
        ("one , two ; three : four . five ! six ? seven", "one, two; three: four. five! six? seven"),
        ("the players ' goals of James", "the players' goals of James"),
        ("James 's", "James's"),
        ("( a [ b ] { c } )", "(a [b] {c})"),
        ("( a", "( a"),
        ("he said \" yes \" and ' no ' .", "he said \"yes\" and 'no' ."),
        ("(   )", "()"),
        (" \n = Title = \n \n = = Part = = \n", "\n= Title =\n\n== Part ==\n"),
        ("= = = = deep = = = =", "==== deep ===="),
        ("= = = less = = =", "=== less ==="),
        ("20 ° C and N miles", "20°C and 1 miles"),
        ("nothing to undo, here (at all).", "nothing to undo, here (at all)."),
        ("", ""),
    ],
)
def test_each_rule(tokenised: str, plain: str) -> None:
    assert detokenise(tokenised) == plain


def test_rules_reach_over_lines_and_into_brackets() -> None:
    assert detokenise(" Stop . \n Go ( north @-@ west ) \n") == " Stop. \nGo (north-west)\n".replace(". \n", ".\n")
    assert detokenise("( a\n b )") == "(a\nb)"
