"""Blocks as plain text for a terminal, and the width that a terminal gives to a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from merge_advisor.plain_text import printable, printable_lines
from merge_advisor.report.document import Code, Paragraph, Table, TextBlock


def to_text(blocks: Sequence[TextBlock], *, gap: str = "\n\n") -> str:
    """Return blocks as plain text, without a final newline.

    Args:
        blocks: from top to bottom.
        gap: what stands between two of them.

    >>> print(to_text([Paragraph("verdict: merge"), Code(("merge-advisor tune run",), title="next")]))
    verdict: merge
    <BLANKLINE>
    next
      merge-advisor tune run
    """
    return gap.join(_block(block) for block in blocks)


def _block(block: TextBlock) -> str:
    match block:
        case Paragraph():
            return printable(block.strong) + printable_lines(block.text)
        case Table():
            table = text_table(block.headers, block.rows, right=block.right)
            return f"{printable(block.caption)}\n{table}" if block.caption else table
        case Code():
            title = [printable(block.title)] if block.title else []
            return "\n".join([*title, *(f"  {printable(line)}" for line in block.lines)])


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    r"""Return an aligned table: headers, a rule, one line per row; no final newline.

    Args:
        headers: one per column.
        rows: cells, as many per row as there are headers; what a terminal would act on is escaped.
        right: positions of the columns aligned on the right (numbers).

    Raises:
        ValueError: a row of another length.

    >>> print(text_table(["model", "score"], [["base", "9.5%"], ["merge", "100.0%"]], right=[1]))
    model   score
    -----  ------
    base     9.5%
    merge  100.0%
    """
    table = [[printable(cell) for cell in row] for row in (headers, *rows)]
    if any(len(row) != len(headers) for row in table):
        raise ValueError(f"a row of the table does not have {len(headers)} cells")
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        padded = []
        for column, cell in enumerate(row):
            space = " " * (widths[column] - width(cell))
            padded.append(space + cell if column in right else cell + space)
        lines.append("  ".join(padded).rstrip())  # trailing blanks would wrap on a narrow terminal
    lines.insert(1, "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def width(text: str) -> int:
    """Return the columns that a terminal gives to a text: two to East Asian wide characters, none to combining ones.

    Args:
        text: one printable line.

    >>> width("漢字")
    4
    """
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
