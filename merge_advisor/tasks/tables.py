"""Tables as text or as Parquet: their rows as records, as JSON would have them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.limits import TASK_BYTES
from merge_advisor.regular_files import is_irregular
from merge_advisor.tasks.fields import JsonNumber, LabelName, NoText, field_error, quoted, too_large
from merge_advisor.tasks.json_records import begins_json, read_cell, twice_in

TABLES = {".csv": ",", ".tsv": "\t"}
"""Endings of tables as text, with what separates their cells."""
_LISTS = ("choices", "endings", "options")
"""Columns of a table whose cells are JSON lists of what a whole number beside them may name."""
_ROWS_AT_ONCE = 1000
"""Rows of a Parquet file that are made into records at once."""
_NESTED = (*_LISTS, "answers", "messages", "conversations")
"""Columns of a table whose cells are JSON."""


def table_records(path: Path, text: str, ending: str) -> Iterator[tuple[str, Any]]:
    """Yield each line of a table as text as a record, with its place.

    Args:
        path: of the file.
        text: what it holds.
        ending: one of `TABLES`.

    Yields:
        A place, "file:line", and a record.

    Raises:
        TaskError: a line is none of a table.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text, ending), strict=True)
    csv.field_size_limit(2**31 - 1)
    header: list[str] | None = None
    begins = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            said = f"no cell of a table ({error}); quote it, or save as JSONL"
            raise field_error(f"{path}:{reader.line_num}", said) from error
        if cells is None:
            return
        place, begins = f"{path}:{begins}", reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if (twice := twice_in(header)) is not None:
                raise field_error(place, f"column {quoted(twice)} is there twice; keep one")
            continue
        if len(cells) != len(header):
            said = f"{len(cells)} cells, the first line names {len(header)}; quote text that holds a separator"
            raise field_error(place, said)
        yield place, _cells(dict(zip(header, cells, strict=True)), path, place)


def _separator(text: str, ending: str) -> str:
    """What separates cells: what the ending says, or where the header has none of these a semicolon or a tab."""
    usual = TABLES[ending]
    header = text.lstrip().partition("\n")[0]
    return next((mark for mark in (usual, ";", "\t") if mark in header), usual)


def _cells(record: dict[str, Any], path: Path, place: str) -> dict[str, Any]:
    """The record of a line: nested cells read, and whole numbers as such where there are choices they may name."""
    for name in _NESTED:
        cell = record.get(name)
        if begins_json(cell):
            record[name] = read_cell(cell, name, place)
        elif cell == "":
            record[name] = None
    if any(record.get(name) is not None for name in _LISTS):
        return {
            name: JsonNumber(cell) if isinstance(cell, str) and JsonNumber(cell).whole else cell
            for name, cell in record.items()
        }
    return record


def read_cells(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with lists and objects where a known column holds them as JSON, as tables in a data set do.

    >>> read_cells({"choices": '["red", "blue"]', "answers": "[none]"})
    {'choices': ['red', 'blue'], 'answers': '[none]'}

    Args:
        record: of a table.
    """
    found = dict(record)
    for name in _NESTED:
        cell = record.get(name)
        if begins_json(cell):
            with contextlib.suppress(TaskError):
                found[name] = read_cell(cell, name, "")
    return found


def parquet_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each row of a Parquet file as a record, with its place.

    Args:
        path: of the file.

    Yields:
        A place, "file: row n", and a record.

    Raises:
        TaskError: it cannot be read, or is too large.
    """
    import pyarrow

    if is_irregular(path):  # its end is read first, so that a pipe cannot be
        raise field_error(path, "is no regular file; give one")
    try:
        yield from _parquet_rows(path)
    except FileNotFoundError as error:
        raise field_error(path, "no such file; give the path of a task file") from error
    except (OSError, pyarrow.ArrowException, ValueError, ArithmeticError, LookupError, TypeError) as error:
        # those of Python are of dates that it does not have, and of time zones that are none
        reason = str(error).partition("\n")[0][:200]
        raise field_error(path, f"cannot be read as Parquet ({reason}); save it again, or as JSONL") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    if path.is_dir():  # of several files; what they hold is known once it is read
        table = pyarrow.parquet.read_table(path)
        schema, batches = table.schema, iter(table.to_batches(_ROWS_AT_ONCE))
    else:
        file = pyarrow.parquet.ParquetFile(path)
        groups = range(file.metadata.num_row_groups)
        if (size := sum(file.metadata.row_group(group).total_byte_size for group in groups)) > TASK_BYTES.most:
            raise too_large(path, size)
        schema, batches = file.schema_arrow, file.iter_batches(_ROWS_AT_ONCE)
    names = _label_names(schema.metadata or {})
    # as Python's values a table takes many times its bytes: a part at a time
    records = (record for batch in batches for record in batch.to_pylist())
    for number, record in enumerate(records, start=1):
        yield f"{path}: row {number}", settled(plain_record(record, names))


def plain_record(record: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a record as JSON would have it, numbered labels by their names.

    >>> plain_record({"text": "fine", "label": 1, "score": 0.5}, {"label": ["bad", "good"]})
    {'text': 'fine', 'label': 'good', 'score': '0.5'}

    Args:
        record: of a table.
        names: of the labels of a column.
    """
    plain = {name: _plain(value) for name, value in record.items()}
    for column, labels in names.items():
        value = record.get(column)
        if isinstance(value, int) and value < len(labels):
            plain[column] = LabelName.of(labels, value)
    return plain


def settled(value: Any) -> Any:
    """Return a value of a plain record with null for what is no number, and the text of bytes.

    They stay what they are before a sample is taken by hash, so that it is the same as ever.

    >>> settled({"a": JsonNumber("nan"), "b": [JsonNumber("1")], "c": PlainBytes.of(b"red")})
    {'a': None, 'b': ['1'], 'c': 'red'}

    Args:
        value: of a plain record, or all of it.
    """
    if isinstance(value, dict):
        return {name: settled(item) for name, item in value.items()}
    if isinstance(value, list):
        return [settled(item) for item in value]
    if isinstance(value, PlainBytes):
        try:
            return value.raw.decode()
        except UnicodeDecodeError:
            return NoText.of(str(value), "bytes that are not UTF-8; write it as text")
    return None if isinstance(value, JsonNumber) and value == "nan" else value


class PlainBytes(str):
    """Bytes of a table, as Python writes them.

    >>> PlainBytes.of(b"red"), PlainBytes.of(b"red").raw
    ("b'red'", b'red')
    """

    raw: bytes = b""

    @classmethod
    def of(cls, raw: bytes) -> PlainBytes:
        """Return bytes as text that keeps them.

        Args:
            raw: the bytes.
        """
        text = cls(raw)
        text.raw = raw
        return text


def _label_names(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """The names of numbered labels by column, which the `datasets` library keeps beside its tables."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {column: list(kind["names"]) for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _plain(value: Any) -> Any:
    """A value as JSON would have it."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, bytes):
        return PlainBytes.of(value)
    return JsonNumber(value) if isinstance(value, (int, float)) else str(value)
