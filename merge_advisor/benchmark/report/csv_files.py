"""Tables written as CSV that a spreadsheet can open safely, the same bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.errors import RunError
from merge_advisor.plain_text import printable
from merge_advisor.whole_files import write_text

CsvCell = str | int | float | bool | None
"""What a cell holds; None is written as an empty cell."""
_FORMULA = ("=", "+", "-", "@")
"""What a spreadsheet takes for a formula at the start of a cell."""


@dataclass(frozen=True, slots=True)
class CsvTable:
    """A table to be written as CSV.

    >>> CsvTable("arms", ("arm", "accuracy"), (("base", 0.5),)).columns
    ('arm', 'accuracy')
    """

    name: str
    """Its file is `NAME.csv`."""
    columns: tuple[str, ...]
    rows: tuple[tuple[CsvCell, ...], ...]


def write_tables(folder: Path, tables: Iterable[CsvTable]) -> None:
    r"""Write each table as `NAME.csv` into a folder; the same values give the same bytes.

    Args:
        folder: is made where it is absent.
        tables: with different names.

    Raises:
        RunError: no permission, no room, or something else under the folder's name.

    >>> write_tables(Path("tables"), [CsvTable("arms", ("arm", "accuracy"), (("base", 0.5),))])
    >>> Path("tables/arms.csv").read_text()
    'arm,accuracy\nbase,0.5\n'
    """
    import pandas as pd

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); remove what is there") from error
    for table in tables:
        rows = [[safe_cell(cell) for cell in row] for row in table.rows]
        # dtype object: otherwise pandas turns a column of numbers with an empty cell into floats, and 3 into 3.0
        frame = pd.DataFrame(rows, columns=list(table.columns), dtype=object)
        write_text(folder / f"{table.name}.csv", frame.to_csv(index=False, lineterminator="\n"))


def safe_cell(cell: CsvCell) -> CsvCell:
    """Return a cell that no spreadsheet acts on, a number without rounding errors.

    Args:
        cell: text that looks like a formula gets an apostrophe; a number keeps ten digits, and none that is not finite.

    >>> safe_cell("=1+1"), safe_cell(0.1 + 0.2)
    ("'=1+1", 0.3)
    """
    if isinstance(cell, str):
        text = printable(cell)
        return "'" + text if text.startswith(_FORMULA) else text
    if isinstance(cell, float):
        # ten digits: the rounding errors of a sum are not written (0.1 + 0.2 is 0.3)
        return float(f"{cell:.10g}") if math.isfinite(cell) else None
    return cell
