"""The records of a task file, whatever the file is: JSON values in lines or in one, tables as text or as Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.tasks.fields import JsonNumber, LabelName, field_error, quoted

_TABLES = {".csv": ",", ".tsv": "\t"}
"""Endings of tables as text, with what separates their cells."""
_DEEP = "nested too deeply; a row is one flat object with text fields"
_LISTS = ("choices", "endings", "options")
"""Columns of a table whose cells are JSON lists of what a whole number beside them may name."""
_NESTED = (*_LISTS, "answers", "messages", "conversations")
"""Columns of a table whose cells are JSON."""


def read_records(path: Path, wanted: str) -> Iterator[tuple[str, Any]]:
    """Yield each record of a file with its place, "file:line" or "file: row n".

    Args:
        path: JSONL; one JSON value; `.csv` or `.tsv` with a header; `.parquet`.
        wanted: what a record holds, for the messages.

    Yields:
        A place and a JSON value, numbers as `JsonNumber`; it need not be an object.

    Raises:
        TaskError: the file cannot be opened or is not what its ending says; the message names file and line.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    text = _decode(path)
    if not text.strip():
        raise field_error(path, f"empty; write one JSON object with {wanted} per line")
    if is_table(path):
        yield from _table(path, text)
    elif _is_one_value(path, text):
        for number, record in enumerate(_rows_of(_parse(text, path, None), path, wanted), start=1):
            yield f"{path}: row {number}", record
    elif _is_spread(text):
        yield from _spread(path, text)
    else:
        # not splitlines(): that also breaks at characters JSON allows inside a string
        for line, record in enumerate(text.split("\n"), start=1):
            if record.strip():
                yield f"{path}:{line}", _parse(record, path, line)


def is_table(path: Path) -> bool:
    """Return whether a file is a table as text.

    >>> is_table(Path("rows.CSV")), is_table(Path("rows.jsonl"))
    (True, False)

    Args:
        path: of the file.
    """
    return path.suffix.lower() in _TABLES


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise field_error(path, "no such file; give the path of a task file (JSONL)") from error
    except IsADirectoryError as error:
        raise field_error(path, "a folder, not a file; give the path of one task file (JSONL)") from error
    except OSError as error:
        raise field_error(path, f"cannot be read ({error.strerror}); check the path and its permissions") from error
    # JSON text has no zero byte, so that an early one shows a wide encoding without a mark
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        raise field_error(path, "encoded as UTF-16 or UTF-32; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise field_error(f"{path}:{line}", f"byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error


# --- JSON ------------------------------------------------------------------------------------------------------------


def _is_one_value(path: Path, text: str) -> bool:
    """Whether the file is one JSON value; a `.json` that holds an object per line is not."""
    start = text.lstrip()
    if path.suffix.lower() != ".json" and not start.startswith("["):
        return False
    try:
        first = json.loads(start.partition("\n")[0])
    except (ValueError, RecursionError):
        return True
    return not isinstance(first, dict) or any(isinstance(value, (list, dict)) for value in first.values())


def _rows_of(whole: Any, path: Path, wanted: str) -> list[Any]:
    """The rows of one JSON value: a list, an object that holds one, or columns."""
    if isinstance(whole, dict):
        if "examples" in whole:
            whole = whole["examples"]
        elif (columns := _columns(whole)) is not None:
            whole = columns
        else:
            lists = {name: value for name, value in whole.items() if _is_rows(value)}
            if len(lists) > 1:
                sizes = ", ".join(f"{name} ({len(value)})" for name, value in list(lists.items())[:4])
                raise field_error(path, f"holds several lists of rows, {sizes}; save the one that is meant as a file")
            whole = next(iter(lists.values()), [whole])
    if isinstance(whole, list) and whole and all(isinstance(part, dict) and "paragraphs" in part for part in whole):
        whole = [question for part in whole for question in _questions(part)]
    if not isinstance(whole, list) or not whole:
        raise field_error(path, f"holds no rows; write one JSON object with {wanted} per line")
    return whole


def _questions(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of an article, each with its paragraph, as SQuAD's own files nest them."""
    for paragraph in article["paragraphs"] if isinstance(article["paragraphs"], list) else []:
        if isinstance(paragraph, dict) and isinstance(paragraph.get("qas"), list):
            for question in paragraph["qas"]:
                if isinstance(question, dict):
                    yield {"context": paragraph.get("context"), **question}


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _columns(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of a table that was written column by column, as pandas does by default; None where it is none."""
    columns = list(whole.values())
    if len(columns) < 2 or not all(isinstance(column, dict) and column for column in columns):
        return None
    keys = list(columns[0])
    if any(list(column) != keys for column in columns[1:]):
        return None
    return [{name: column[key] for name, column in whole.items()} for key in keys]


def _is_spread(text: str) -> bool:
    """Whether the first object goes on over several lines."""
    first = text.lstrip().partition("\n")[0]
    if not first.startswith("{"):
        return False
    try:
        json.loads(first)
    except RecursionError:
        return False
    except ValueError:
        return first.count("{") > first.count("}") and not first.rstrip().endswith('"')
    return False


def _spread(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield objects that stand behind one another, each over as many lines as it takes."""
    at = 0
    while (at := _skip(text, at)) < len(text):
        line = text.count("\n", 0, at) + 1
        try:
            record, at = _DECODER.raw_decode(text, at)
        except (RecursionError, ValueError) as error:
            raise _json_error(error, path, line, counted=True) from error
        yield f"{path}:{line}", record


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _parse(text: str, path: Path, line: int | None) -> Any:
    try:
        return _DECODER.decode(text)
    except (RecursionError, ValueError) as error:
        raise _json_error(error, path, line, counted=line is None) from error


def _json_error(error: RecursionError | ValueError, path: Path, line: int | None, *, counted: bool) -> TaskError:
    """What is wrong with JSON; `counted`: the decoder saw the file from its beginning, so its lines are the file's."""
    if isinstance(error, json.JSONDecodeError):
        remedy = "write one JSON object per line" if line else "correct the JSON"
        place = f"{path}:{error.lineno if counted else line}"
        return field_error(place, f"not JSON ({error.msg}, column {error.colno}); {remedy}")
    said = _DEEP if isinstance(error, RecursionError) else str(error)
    return field_error(path if line is None else f"{path}:{line}", said)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value; write the text that is meant, in quotes")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := _twice(name for name, _ in pairs)) is not None:
        raise ValueError(f"field {quoted(twice)} is there twice in one object; keep one")
    return dict(pairs)


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, n in Counter(names).items() if n > 1), None)


_DECODER = json.JSONDecoder(
    parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_constant, object_pairs_hook=_object
)


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_TABLES[path.suffix.lower()], strict=True)
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
            if (twice := _twice(header)) is not None:
                raise field_error(place, f"column {quoted(twice)} is there twice; keep one")
            continue
        if len(cells) != len(header):
            said = f"{len(cells)} cells, the first line names {len(header)}; quote text that holds a separator"
            raise field_error(place, said)
        yield place, _cells(dict(zip(header, cells, strict=True)), path, place)


def _cells(record: dict[str, Any], path: Path, place: str) -> dict[str, Any]:
    """The record of a line: nested cells read, and whole numbers as such where there are choices they may name."""
    for name in _NESTED:
        cell = record.get(name)
        if cell is not None and cell.lstrip()[:1] in ("[", "{"):
            line = int(place.rpartition(":")[2])
            record[name] = _parse(cell, path, line)
        elif cell == "":
            record[name] = None
    if any(record.get(name) is not None for name in _LISTS):
        return {
            name: JsonNumber(cell) if isinstance(cell, str) and JsonNumber(cell).whole else cell
            for name, cell in record.items()
        }
    return record


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise field_error(path, "no such file; give the path of a task file") from error
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise field_error(path, f"cannot be read as Parquet ({reason}); save it again, or as JSONL") from error
    names = _label_names(table.schema.metadata or {})
    for number, record in enumerate(table.to_pylist(), start=1):
        yield f"{path}: row {number}", plain_record(record, names)


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
    return JsonNumber(value) if isinstance(value, (int, float)) else str(value)
