"""Tables for a terminal, and text cut to length."""

import pytest

from merge_advisor.plain_text import shortened
from merge_advisor.report.markdown import markdown_table
from merge_advisor.report.terminal import text_table, width


def test_a_table_for_the_terminal() -> None:
    table = text_table(["model", "score"], [["base", "9.5%"], ["漢字", "100.0%"], ["e\u0301\x1b[0m", ""]], right=[1])
    assert table.splitlines() == [
        "model      score",
        "--------  ------",
        "base        9.5%",
        "漢字      100.0%",
        "e\u0301\\x1b[0m",
    ]
    assert {width(line) for line in table.splitlines()[:4]} == {16}
    assert "\x1b" not in table
    with pytest.raises(ValueError, match="2 cells"):
        text_table(["a", "b"], [["c"]])
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["a", "b"], [["c"]])


def test_text_is_cut_with_a_sign() -> None:
    assert shortened("abcdef", 6) == "abcdef" and shortened("abcdefg", 6) == "abcde…"
