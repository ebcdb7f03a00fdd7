"""Read task files, whatever they are written in; everything is kept as the text it is.

The names of a row's fields say what it is (`layouts.LAYOUTS`); an empty line joins the fields of an input. Of a chat
the last turn (an assistant's) is the output; a single user turn before it is the input as it is. Any longer chat is
kept turn by turn for the base's chat template, and for all else it is one text, its turns separated by an empty line
and labelled `System:`, `User:`, `Assistant:`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from merge_advisor.errors import TaskError
from merge_advisor.plain_text import printable
from merge_advisor.tasks.data_sets import DATA_SET_ROWS, data_set_of, read_data_set
from merge_advisor.tasks.field_map import FieldMap, parse_field_map
from merge_advisor.tasks.fields import NoAnswerError, Noticed, counted, field_error, kind_of
from merge_advisor.tasks.labels import with_label_choices
from merge_advisor.tasks.record_rows import filled, labelled_row, unlabelled_row
from merge_advisor.tasks.records import read_records
from merge_advisor.tasks.understood import file_notes, understood_line
from merge_advisor.types import Row

MINIMUM_ROWS = 2
"""Rows a task has at least, and shots that a split leaves at least."""


@dataclass(frozen=True, slots=True)
class TaskFile:
    """The rows of one task file and what was noticed while reading them.

    >>> file = read_rows(Path("examples.jsonl"))
    >>> file.name, len(file.rows), file.mapping, file.rows[1].output
    ('examples', 60, 'input/output', '1 1')
    """

    name: str
    """The file's name without its ending."""
    rows: tuple[Row, ...]
    """At least `MINIMUM_ROWS`, none twice, in the order of the file."""
    notes: tuple[str, ...]
    """What a reader should know, one line each."""
    mapping: str
    """Fields that the rows were read from, e.g. "question/answer"; several are separated by ", "."""
    read: int = 0
    """Rows in the file, repeated ones included."""
    understood: str = ""
    """What the file was understood as, in one line that names every field read and every field left out."""
    labels: tuple[str, ...] = ()
    """Labels that all rows choose among, where the file itself gives no choices."""


def read_rows(
    path: Path,
    *,
    minimum: int = MINIMUM_ROWS,
    fields: str | None = None,
    labels: Sequence[str] = (),
    most: int | None = None,
    offline: bool = False,
) -> TaskFile:
    """Return the rows of a task file, or of a data set of the hub.

    Args:
        path: JSONL (one object per line), or one JSON value: an array of such objects, an object with one such array,
            or columns; a table with a header (`.csv`, `.tsv`); Parquet; a data set as `data_set_of` takes it.
        minimum: rows it must have at least, equal ones counted once.
        fields: which fields are input, output and choices, as `parse_field_map` takes it; None: those that are known.
        labels: labels of the task that the file belongs to; its rows choose among these too.
        most: rows that are taken of a data set; None: `DATA_SET_ROWS`. A file is read whole.
        offline: whether a data set is taken from the cache alone.

    Raises:
        TaskError: the file cannot be opened, is not UTF-8, not JSON, has too few rows, or a row cannot be used; the
            message names the file and the line (the row, in a file that is one JSON value).
        OfflineError: a data set is not in the cache, and fetching is off.
        ExternalError: a data set cannot be fetched.
    """
    field_map = None if fields is None else parse_field_map(fields)
    if field_map is not None and "output" not in field_map.paths:
        raise TaskError(f"`fields={fields}`: names no output; add output=FIELD")
    return _read(_Source(path, "input and output", most, offline), minimum, labelled_row, field_map, labels)


def read_inputs(
    path: Path,
    *,
    fields: str | None = None,
    labels: Sequence[str] = (),
    most: int | None = None,
    offline: bool = False,
) -> TaskFile:
    """Return the rows of a file of inputs, unlabelled: the same formats without outputs; where there are some, noted.

    A chat ends with a user's turn, or with the assistant's answer to it, which is an output.

    Args:
        path: as of `read_rows`.
        fields: as of `read_rows`; an output it names is not looked at.
        labels: labels of the task: inputs without choices choose among these.
        most: as of `read_rows`.
        offline: as of `read_rows`.

    Raises:
        TaskError: as `read_rows`.
        OfflineError: as `read_rows`.
        ExternalError: as `read_rows`.
    """
    field_map = None if fields is None else parse_field_map(fields)
    return _read(_Source(path, "input", most, offline), 1, unlabelled_row, field_map, labels)


class _Source(NamedTuple):
    """What is read, and what its messages say that a row has."""

    path: Path
    wanted: str
    most: int | None
    offline: bool


def _read(
    source: _Source,
    minimum: int,
    row_of: Callable[[Mapping[str, Any], str, Noticed], Row],
    field_map: FieldMap | None,
    labels: Sequence[str],
) -> TaskFile:
    path, wanted = source.path, source.wanted
    data_set = data_set_of(path)
    whole: str | Path = path if data_set is None else str(data_set)
    name = path.name if data_set is None else str(data_set)
    noticed = Noticed(mapped=field_map is not None, label=field_map is not None and field_map.has_label)
    notes: list[str] = []
    if data_set is None:
        records = read_records(path, wanted)
    else:
        records, note = read_data_set(data_set, most=source.most or DATA_SET_ROWS, offline=source.offline)
        notes += [note] if note else []
    read, refused = [], []
    for place, record in records:
        short = printable(name + place.removeprefix(str(whole)))
        try:
            read.append(replace(_mapped(record, place, wanted, noticed, row_of, field_map), place=short))
        except NoAnswerError as error:
            noticed.left.setdefault(error.reason, []).append(short)
            refused.append(error)
        except TaskError as error:
            if data_set is None:
                raise
            # nobody can correct a row of someone else's data set
            refused.append(error)
            noticed.left.setdefault(str(error).removeprefix(f"{place}: "), []).append(short)
    if refused and len(read) < max(minimum, len(refused) if data_set else 0):
        raise refused[0]
    read, found, said = with_label_choices(read, noticed, labels)
    if row_of is unlabelled_row and labels:
        read = [row if row.choices else replace(row, choices=tuple(labels)) for row in read]
    rows = tuple(dict.fromkeys(read))
    if len(rows) < minimum:
        same = f" ({len(read)} equal ones)" if len(read) > len(rows) else ""
        raise field_error(whole, f"{counted(len(rows), 'row')}{same}, the minimum is {minimum}; add examples")
    notes += [*file_notes(rows, len(read), noticed), *said]
    mapping = ", ".join(dict.fromkeys(one.mapping for one in noticed.readings))
    return TaskFile(
        name=printable(path.stem if data_set is None else data_set.name),
        rows=rows,
        notes=tuple(printable(f"{name}: {note}") for note in notes),
        mapping=mapping if field_map is None else printable(field_map.text),
        read=len(read),
        understood=printable(understood_line(name, rows, noticed, found, field_map)),
        labels=found,
    )


def _mapped(
    record: Any, place: str, wanted: str, noticed: Noticed,
    row_of: Callable[[Mapping[str, Any], str, Noticed], Row], field_map: FieldMap | None,
) -> Row:  # fmt: skip
    """The row of a record, by the map where there is one."""
    if not isinstance(record, dict):
        raise field_error(place, f"{kind_of(record)}, not an object; write one JSON object with {wanted}")
    if field_map is None:
        return row_of(record, place, noticed)
    given = field_map.apply(record, place, inputs=row_of is unlabelled_row)
    row = row_of(given, place, noticed)
    noticed.unused.update(filled(record) - field_map.fields)
    return row
