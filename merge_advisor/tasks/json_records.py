"""JSON of task files: one value, a value per line, or objects that go on over several lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from merge_advisor.errors import TaskError
from merge_advisor.tasks.fields import CHATS, JsonNumber, NoText, field_error, quoted

_DEEP = "nested too deeply; a row is one flat object with text fields"


def json_records(path: Path, text: str, ending: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """Yield each record of a text with its place, "file:line" or "file: row n".

    Args:
        path: of the file.
        text: what it holds.
        ending: what its name says that it is, `.json` for one value.
        wanted: what a record holds, for the messages.

    Yields:
        A place and a JSON value, numbers as `JsonNumber`.

    Raises:
        TaskError: it is no JSON.
    """
    if _is_one_value(text, ending):
        for number, record in enumerate(_rows_of(_parse(text, path, None), path, wanted), start=1):
            yield f"{path}: row {number}", record
    elif _is_spread(text):
        yield from _spread(path, text)
    else:
        # not splitlines(): that also breaks at characters JSON allows inside a string
        for line, record in enumerate(text.split("\n"), start=1):
            if record.strip():
                yield f"{path}:{line}", _parse(record, path, line)


def read_cell(cell: str, name: str, place: str) -> Any:
    """Return the list or object that is written in a cell as JSON.

    >>> read_cell('["red", 2]', "choices", "rows.csv:2")
    ['red', '2']

    Args:
        cell: begins with a bracket.
        name: of its column.
        place: the file and what in it, for the error.

    Raises:
        TaskError: it is no JSON.
    """
    try:
        return _DECODER.decode(cell)
    except (RecursionError, ValueError) as error:
        said = _DEEP if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        remedy = "write lists by `json.dumps`, not as Python prints them, or save as Parquet or JSONL"
        raise field_error(place, f"{name} begins as a list does and is not JSON ({said}); {remedy}") from error


def begins_json(value: Any) -> TypeGuard[str]:
    """Return whether a value is text that begins as a JSON list or object does.

    >>> begins_json(' ["red"]'), begins_json(["red"])
    (True, False)

    Args:
        value: any.
    """
    return isinstance(value, str) and value.lstrip()[:1] in ("[", "{")


def _is_one_value(text: str, ending: str) -> bool:
    """Whether the file is one JSON value; a `.json` that holds an object per line is not."""
    start = text.lstrip()
    if ending != ".json" and not start.startswith("["):
        return False
    line, _, others = start.partition("\n")
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return True
    if not isinstance(first, dict):
        return True
    return not others.strip() and any(isinstance(value, (list, dict)) for value in first.values())


def _rows_of(whole: Any, path: Path, wanted: str) -> list[Any]:
    """The rows of one JSON value: a list, an object that holds one, or columns."""
    if isinstance(whole, dict):
        if "examples" in whole:
            whole = whole["examples"]
        elif "Definition" in whole and _is_rows(whole.get("Instances")):  # Super-NaturalInstructions
            asked = _text(whole["Definition"])
            whole = [{"instruction": asked, **instance} for instance in whole["Instances"]]
        elif any(_is_rows(whole.get(name)) and {"role", "from"} & whole[name][0].keys() for name in CHATS):
            whole = [whole]
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


def _text(value: Any) -> Any:
    """The lines of a text that is a list of them."""
    return "\n".join(value) if isinstance(value, list) and all(isinstance(line, str) for line in value) else value


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
    return NoText.of(name, f"{name}, which is no JSON value; write the text that is meant, in quotes")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := twice_in(name for name, _ in pairs)) is not None:
        raise ValueError(f"field {quoted(twice)} is there twice in one object; keep one")
    return dict(pairs)


def twice_in(names: Iterable[str]) -> str | None:
    """Return the first name that is there twice; None where there is none.

    >>> twice_in(["a", "b", "a"])
    'a'

    Args:
        names: of fields or columns.
    """
    return next((name for name, n in Counter(names).items() if n > 1), None)


_DECODER = json.JSONDecoder(
    parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_constant, object_pairs_hook=_object
)
