"""Read task files, whatever they are written in; everything is kept as the text it is.

The names of a row's fields say what it is (`layouts.LAYOUTS`); an empty line joins the fields of an input. Of a chat
the last turn (an assistant's) is the output; a single user turn before it is the input as it is. Any longer chat is
kept turn by turn for the base's chat template, and for all else it is one text, its turns separated by an empty line
and labelled `System:`, `User:`, `Assistant:`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from merge_advisor.errors import TaskError
from merge_advisor.limits import ROW_BYTES, TASK_ROWS
from merge_advisor.plain_text import printable
from merge_advisor.tasks.data_sets import DATA_SET_ROWS, DataSet, data_set_of, read_data_set
from merge_advisor.tasks.field_map import FieldMap, parse_field_map
from merge_advisor.tasks.fields import (
    NoAnswerError,
    Noticed,
    field_error,
    how_many,
    kind_of,
    listed,
    quoted,
)
from merge_advisor.tasks.labels import minus_is_none, with_label_choices
from merge_advisor.tasks.layouts import is_letter, letter_columns
from merge_advisor.tasks.record_rows import filled, labelled_row, unlabelled_row
from merge_advisor.tasks.records import is_table, read_records
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

    @property
    def data_set(self) -> DataSet | None:
        return data_set_of(self.path)

    @property
    def name(self) -> str:
        """Of the task."""
        return Path(self.path.name.removesuffix(".gz")).stem if self.data_set is None else self.data_set.name

    @property
    def shown(self) -> str:
        """What notes call it: no path of this machine."""
        return self.path.name if self.data_set is None else self.data_set.shown

    @property
    def is_table(self) -> bool:
        """Whether its cells are text, numbers too."""
        return self.data_set is None and is_table(self.path)

    def records(self) -> tuple[Iterable[tuple[str, Any]], str]:
        """What it holds, with the places, and what is to be said of that."""
        if self.data_set is None:
            return read_records(self.path, self.wanted), ""
        return read_data_set(self.data_set, most=self.most or DATA_SET_ROWS, offline=self.offline)


def _read(
    source: _Source,
    minimum: int,
    row_of: Callable[[Mapping[str, Any], str, Noticed], Row],
    field_map: FieldMap | None,
    labels: Sequence[str],
) -> TaskFile:
    def read_as(noticed: Noticed) -> tuple[list[Row], str]:
        def made(record: Any, place: str) -> Row:
            return _mapped(record, place, source, noticed, row_of, field_map)

        return _usable(records, source, made, noticed, minimum)

    noticed = Noticed(mapped=field_map is not None, label=field_map is not None and field_map.has_label)
    records, taken = source.records()
    read, unusable = read_as(noticed)
    if (settled := _settled(read, noticed, labels)) is not None:
        noticed = settled
        records = records if source.data_set else source.records()[0]
        read, unusable = read_as(noticed)
    read, found, said = with_label_choices(read, noticed, labels)
    if row_of is unlabelled_row and labels and any(not row.choices for row in read):
        said = [*said, f"inputs without choices choose among those that the task's rows share: {listed(list(labels))}"]
        read = [row if row.choices else replace(row, choices=tuple(labels)) for row in read]
    rows = tuple(dict.fromkeys(read))
    if len(rows) < minimum:
        same = f" ({len(read)} equal ones)" if len(read) > len(rows) else ""
        what = f"{how_many(len(rows), 'row')}{same}, the minimum is {minimum}; add examples"
        raise field_error(source.data_set or source.path, what)
    notes = (*filter(None, (taken, unusable)), *file_notes(rows, len(read), noticed), *said)
    mapping = ", ".join(dict.fromkeys(one.mapping for one in noticed.readings))
    return TaskFile(
        name=printable(source.name),
        rows=rows,
        notes=tuple(printable(f"{source.shown}: {note}") for note in notes),
        mapping=mapping if field_map is None else printable(field_map.text),
        read=len(read),
        understood=printable(understood_line(source.shown, rows, noticed, found, field_map)),
        labels=found,
    )


def _settled(rows: Sequence[Row], noticed: Noticed, labels: Sequence[str]) -> Noticed | None:
    """What to read a file with again, now that all its answers are known; None where nothing would change."""
    decided = {}
    for kind in {kind for kind, _ in noticed.either}:
        places, texts = noticed.only_place[kind], noticed.only_text[kind]
        if places or texts or (kind, True) in noticed.either:
            decided[kind] = places >= texts
    minus = noticed.minus and minus_is_none({row.output for row in rows}, labels)
    if minus or any(decided.get(kind, used) != used for kind, used in noticed.either):
        return Noticed(noticed.mapped, noticed.label, decided=decided, unlabelled=minus)
    return None


def _usable(
    records: Iterable[tuple[str, Any]], source: _Source, made: Callable[[Any, str], Row], noticed: Noticed,
    minimum: int,
) -> tuple[list[Row], str]:  # fmt: skip
    """The rows of the records that have an answer, and a note; of a data set also without those that cannot be used."""
    read: list[Row] = []
    refused: list[TaskError] = []
    unusable: list[str] = []
    whole, most = str(source.data_set or source.path), TASK_ROWS.most
    for place, record in records:
        short = printable(source.shown + place.removeprefix(whole))
        if len(read) == most:
            raise field_error(whole, f"holds {TASK_ROWS.over} rows; give a part of it, or {TASK_ROWS.remedy()}")
        try:
            read.append(replace(_small(made(record, place), place), place=short))
        except NoAnswerError as error:
            noticed.left.setdefault(error.reason, []).append(short)
            refused.append(error)
        except TaskError as error:
            if source.data_set is None:
                raise
            # nobody can correct a row of another's data set
            unusable.append(str(error).replace(place, short))
            refused.append(error)
    # where most cannot be used the data set is something else than it was taken for
    if refused and len(read) < max(minimum, len(unusable)):
        raise refused[0]
    left = (
        f"{how_many(len(unusable), 'row')} left out that cannot be used; the first: {unusable[0]}" if unusable else ""
    )
    return read, left


def _small(row: Row, place: str) -> Row:
    """The row, refused where its text is far longer than any that is not a mistake: tokens take 200 times its bytes."""
    texts = (row.input, *(row.answers or (row.output,)), *(row.choices or ()))
    most = ROW_BYTES.most
    if (
        sum(map(len, texts)) * 4 > most
        and (size := sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)) > most
    ):
        raise field_error(place, f"has {ROW_BYTES.over}; shorten it or drop the row, or {ROW_BYTES.remedy(size)}")
    return row


def _mapped(
    record: Any, place: str, source: _Source, noticed: Noticed,
    row_of: Callable[[Mapping[str, Any], str, Noticed], Row], field_map: FieldMap | None,
) -> Row:  # fmt: skip
    """The row of a record, by the map where there is one."""
    if not isinstance(record, dict):
        raise field_error(place, f"{kind_of(record)}, not an object; write one JSON object with {source.wanted}")
    if field_map is None:
        return row_of(record, place, noticed)
    given = field_map.apply(record, place, inputs=row_of is unlabelled_row, table=source.is_table)
    letters = letter_columns(record)
    if is_letter(given.get("output")) and letters and not field_map.labels and not set(letters) & field_map.fields:
        said = f"the output {quoted(given['output'])} names one of the columns {', '.join(letters)}, which no one sees"
        raise field_error(place, f"{said}; give `fields={field_map.text},choices={'+'.join(letters)}`")
    row = row_of(given, place, noticed)
    noticed.unused.update(filled(record) - field_map.fields)
    return row
