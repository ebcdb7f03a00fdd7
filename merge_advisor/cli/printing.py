"""Results on stdout: one JSON object, tables and text by Rich on a terminal, plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from merge_advisor.cli.messages import with_flags
from merge_advisor.plain_text import printable, printable_lines
from merge_advisor.report.document import Code, Paragraph, Table, TextBlock
from merge_advisor.report.terminal import to_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from merge_advisor.cli.options import OutputOptions


def print_json(value: Any, *, line: bool = False) -> None:
    """Print a value as one JSON object.

    Args:
        value: made of dicts, lists, text, numbers, booleans and None.
        line: on one line, at once: others follow.

    >>> print_json({"k": 4})
    {
     "k": 4
    }
    """
    text = json.dumps(value, indent=None if line else 1, sort_keys=True, ensure_ascii=False)
    # JSON escapes control characters below 32 alone; what is left stands inside of strings, where \u means the same
    print("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text), flush=line)


def print_result(output: OutputOptions, value: Any, blocks: Sequence[TextBlock], *, gap: str = "\n\n") -> None:
    """Print one JSON object or text on stdout, as the options want it.

    Args:
        output: what the options say.
        value: for JSON.
        blocks: for text.
        gap: as of `print_blocks`.
    """
    if output.json:
        print_json(value)
    else:
        print_blocks(blocks, gap=gap)


def print_blocks(blocks: Sequence[TextBlock], *, gap: str = "\n\n") -> None:
    """Print blocks: by Rich, at the terminal's width, where stdout is a terminal; as plain text elsewhere.

    Args:
        blocks: from top to bottom.
        gap: what stands between two of them.

    >>> print_blocks([Paragraph("verdict: merge"), Paragraph("it is better")], gap="; ")
    verdict: merge; it is better
    """
    if sys.stdout.isatty():
        _print_rich(blocks, gap)
    else:
        print(to_text(blocks, gap=gap))


def flagged(blocks: Sequence[TextBlock], command: str) -> list[TextBlock]:
    """Return blocks that name flags where the library names parameters.

    Args:
        blocks: paragraphs and tables of the library's own words.
        command: the command that was called.

    Returns:
        the blocks.

    >>> flagged([Paragraph("note: a larger `shots` takes them in")], "plan")[0].text
    'note: a larger --shots takes them in'
    """
    return [_flagged(block, command) for block in blocks]


def _flagged(block: TextBlock, command: str) -> TextBlock:
    match block:
        case Paragraph():
            return replace(block, text=with_flags(block.text, command))
        case Table():
            return replace(block, rows=tuple(tuple(with_flags(cell, command) for cell in row) for row in block.rows))
        case Code():
            return block  # has flags where it needs them: it is there to be copied


def _print_rich(blocks: Sequence[TextBlock], gap: str) -> None:
    from rich.console import Console
    from rich.text import Text

    # names and texts come from anyone's files: nothing of them is markup, an emoji code or a number to colour
    console = Console(markup=False, highlight=False, emoji=False)
    for number, block in enumerate(blocks):
        if number:
            console.print("\n" * (gap.count("\n") - 1), end="")
        match block:
            case Paragraph():
                console.print(Text(printable(block.strong), style="bold") + Text(printable_lines(block.text)))
            case Table():
                _print_table(console, block)
            case Code():
                if block.title:
                    console.print(Text(printable(block.title), style="bold"))
                for line in block.lines:  # never broken over two lines: they are there to be copied
                    console.print(Text("  " + printable(line)), soft_wrap=True)


def _print_table(console: Console, block: Table) -> None:
    from rich.text import Text

    if block.caption:
        console.print(Text(printable(block.caption), style="bold"))
    console.print(_rich_table(block))


def _rich_table(block: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column, header in enumerate(block.headers):
        # a name is folded, never cut: it is what the reader types next
        right = column in block.right
        table.add_column(Text(printable(header)), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in block.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
