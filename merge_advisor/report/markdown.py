"""A document as Markdown. Figures are left to the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from merge_advisor.plain_text import printable, shortened
from merge_advisor.report.document import (
    Beside,
    Block,
    BulletList,
    Code,
    Disclosure,
    Document,
    Facts,
    Figure,
    FigureGroup,
    OnlyIn,
    Paragraph,
    RowChanges,
    Section,
    Subheading,
    Table,
)

_MARKED = frozenset("\\`*_{}[]<>|~#&$")
"""Characters that mean something in Markdown; a backslash before each makes it a character again."""
_ROW_TEXT = 60
"""Characters of an input, an output or a target in a table of rows: five columns must fit side by side."""


def to_markdown(document: Document) -> str:
    """Return a document as Markdown, with a final newline; the same document gives the same bytes.

    Args:
        document: see `merge_advisor.report.document`.
    """
    parts = [f"# {escaped(document.heading.text)}", *_written(document.opening)]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    """The parts of a section; none where all its blocks are for the page."""
    # a heading over nothing but plots would promise what Markdown does not show
    body = [] if section.only == "page" else list(_written(section.blocks))
    return [f"## {escaped(section.heading.text)}", *body] if body else []


def _written(blocks: Iterable[Block]) -> Iterable[str]:
    for block in blocks:
        yield from _block(block)


def _block(block: Block) -> Iterable[str]:
    match block:
        case Paragraph():
            strong = f"**{escaped(block.strong)}**" if block.strong else ""
            yield strong + escaped(block.text)
        case Subheading():
            yield f"### {escaped(block.text)}"
        case BulletList():
            strong = f"**{escaped(block.strong)}**: " if block.strong else ""
            yield "\n".join(f"- {strong}{escaped(item)}" for item in block.items)
        case Facts():
            yield "\n".join(f"- {escaped(name)}: {escaped(value)}" for name, value in block.pairs)
        case Table():
            yield markdown_table(block.headers, block.rows, right=block.right)
        case Code():
            # an indented block shows a line as it is, whatever it holds; a fence could be closed by a line of it
            yield "\n".join("    " + printable(line) for line in block.lines)
        case RowChanges():
            yield from _row_changes(block)
        case Disclosure():
            yield f"### {escaped(block.summary)}"
            yield from _written(block.blocks)
        case OnlyIn():
            yield from _written(block.blocks) if block.medium == "markdown" else ()
        case Figure() | FigureGroup() | Beside():
            return
        case _:
            assert_never(block)


def _row_changes(block: RowChanges) -> Iterable[str]:
    yield f"### Rows {block.word} against {escaped(block.against)}: {block.count}"
    if block.rows:
        rows = [
            [shortened(printable(cell), _ROW_TEXT) for cell in (row.name, row.input, row.wanted, row.other, row.merge)]
            for row in block.rows
        ]
        yield markdown_table(("row", "input", "wanted", block.against, "merge"), rows)
    if block.count > len(block.rows):
        yield f"and {block.count - len(block.rows)} more, see the score's file"


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    r"""Return a Markdown table, every cell escaped; no final newline.

    Args:
        headers: one per column.
        rows: cells, as many per row as there are headers.
        right: positions of the columns aligned on the right (numbers).

    Raises:
        ValueError: a row of another length.

    >>> print(markdown_table(["model", "score"], [["a|b", "9.5%"]], right=[1]))
    | model | score |
    | --- | ---: |
    | a\|b | 9.5% |
    """
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"a row of the table does not have {len(headers)} cells")
    rule = ["---:" if column in right else "---" for column in range(len(headers))]
    lines = [[escaped(cell) for cell in headers], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escaped(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line.

    Args:
        text: any text.

    >>> print(escaped("a_b <script>"))
    a\_b \<script\>
    """
    # every one of them is escaped, wherever it stands: what they mean depends on the reader's dialect
    return "".join("\\" + c if c in _MARKED else c for c in printable(text))
