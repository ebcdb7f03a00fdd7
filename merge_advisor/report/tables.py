"""Tables of text, for a terminal and for Markdown. What stands in a cell is anyone's text: it is escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MARKED = frozenset("\\`*_{}[]<>|~#&$")
"""Characters that mean something in Markdown; a backslash before each makes it a character again."""


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return an aligned table for a terminal: headers, a rule, one line per row; no final newline.

    Args:
        headers: one per column.
        rows: cells, as many per row as there are headers; what a terminal would act on is escaped.
        right: positions of the columns aligned on the right (numbers).

    Raises:
        ValueError: a row of another length.
    """
    table = [[printable(cell) for cell in row] for row in (headers, *rows)]
    if any(len(row) != len(headers) for row in table):
        raise ValueError(f"a row of the table has not {len(headers)} cells")
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        padded = []
        for column, cell in enumerate(row):
            space = " " * (widths[column] - width(cell))
            padded.append(space + cell if column in right else cell + space)
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return a Markdown table, every cell escaped; no final newline.

    Raises:
        ValueError: a row of another length.
    """
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"a row of the table has not {len(headers)} cells")
    rule = ["---:" if column in right else "---" for column in range(len(headers))]
    lines = [[escaped(cell) for cell in headers], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return "".join("\\" + c if c in MARKED else c for c in printable(text))


def printable(text: str) -> str:
    """Return text on one line without anything a terminal acts on: control codes and the like as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, length: int) -> str:
    """Return the first `length` characters, the last of them "…" where something was cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def width(text: str) -> int:
    """Columns a terminal gives to a text: two to wide (East Asian) characters, none to combining ones."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)
