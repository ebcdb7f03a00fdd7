"""Read task files: JSONL, a JSON array, or BBH's own JSON; everything is kept as the text it is.

The names of a row's fields say what it is (`_MAPPINGS`). An empty line joins `instruction` and a non-empty `input`. Of
`messages`, the last (an assistant's) is the output; a single user turn before it is the input as it is; any longer chat
becomes one text, its turns separated by an empty line and labelled `System:`, `User:`, `Assistant:`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.plain_text import printable
from merge_advisor.types import Row

MINIMUM_ROWS = 2
"""Rows a task has at least, and shots that a split leaves at least."""

_MAPPINGS = (
    ("instruction", "output"),  # before input/output, which would lose the instruction
    ("input", "output"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("context", "completion"),
    ("input", "target"),
)
"""Names of input and output that are recognised, besides chat `messages`; the first that fits a row counts."""

# common names, for the remedy only: to guess silently which field is the answer would be worse than to ask
_LIKE_INPUT = (
    "input prompt question instruction context text query sentence source problem document article premise".split()
)
_LIKE_OUTPUT = "output completion answer target response label solution summary translation result reply".split()
_ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


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


class _Number(str):
    """A JSON number as it is written: `1.50` stays `1.50`, and no size is too large."""


@dataclass(slots=True)
class _Noticed:
    mappings: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    numbers: int = 0
    outputs: int = 0
    """Outputs in a file that is read for its inputs."""


def read_rows(path: Path, *, minimum: int = MINIMUM_ROWS) -> TaskFile:
    """Return the rows of a task file.

    Args:
        path: JSONL (one object per line), a JSON array of such objects, or a JSON object whose `examples` is one.
        minimum: rows it must have at least, equal ones counted once.

    Raises:
        TaskError: the file cannot be opened, is not UTF-8, not JSON, has too few rows, or a row cannot be used; the
            message names the file and the line (the row, in a file that is one JSON value).
    """
    return _read(path, minimum, "input and output", _row)


def read_inputs(path: Path) -> TaskFile:
    """Return the rows of a file of inputs, unlabelled: the same formats without outputs; where there are some, noted.

    A chat ends with a user's turn, or with the assistant's answer to it, which is an output.

    Args:
        path: JSONL, a JSON array, or a JSON object whose `examples` is one.

    Raises:
        TaskError: as `read_rows`.
    """
    return _read(path, 1, "input", _unlabelled_row)


def _read(path: Path, minimum: int, wanted: str, row_of: Callable[[Any, str, _Noticed], Row]) -> TaskFile:
    """Read a file; `wanted` says what a row has, for the messages."""
    noticed = _Noticed()
    read = []
    for place, record in _records(path, _decode(path), wanted):
        if not isinstance(record, dict):
            raise _error(place, f"{_kind(record)}, not an object; write one JSON object with {wanted}")
        read.append(row_of(record, place, noticed))
    rows = tuple(dict.fromkeys(read))
    if len(rows) < minimum:
        same = f" ({len(read)} equal ones)" if len(read) > len(rows) else ""
        raise _error(path, f"{_count(len(rows), 'row')}{same}, the minimum is {minimum}; add examples")
    notes = tuple(printable(f"{path.name}: {note}") for note in _notes(rows, len(read), noticed))
    return TaskFile(printable(path.stem), rows, notes, ", ".join(noticed.mappings), len(read))


def _error(place: object, what: str) -> TaskError:
    return TaskError(printable(f"{place}: {what}"))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise _error(path, "no such file; give the path of a task file (JSONL)") from error
    except IsADirectoryError as error:
        raise _error(path, "a folder, not a file; give the path of one task file (JSONL)") from error
    except OSError as error:
        raise _error(path, f"cannot be read ({error.strerror}); check the path and its permissions") from error
    # JSON text has no zero byte, so that an early one shows a wide encoding without a mark
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        raise _error(path, "encoded as UTF-16 or UTF-32; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _error(f"{path}:{line}", f"byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error


def _records(path: Path, text: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """Yield each record with its place, "file:line" or "file: row n"."""
    if not text.strip():
        raise _error(path, f"empty; write one JSON object with {wanted} per line")
    if not _is_one_value(path, text):
        # not splitlines(): that also breaks at characters JSON allows inside a string
        for line, record in enumerate(text.split("\n"), start=1):
            if record.strip():
                yield f"{path}:{line}", _parse(record, path, line)
        return
    whole = _parse(text, path, None)
    if isinstance(whole, dict):
        whole = whole.get("examples", [whole])
    if not isinstance(whole, list) or not whole:
        raise _error(path, f"holds no rows; write one JSON object with {wanted} per line")
    for number, record in enumerate(whole, start=1):
        yield f"{path}: row {number}", record


def _is_one_value(path: Path, text: str) -> bool:
    """Whether the file is one JSON value; a `.json` that holds an object per line is not."""
    start = text.lstrip()
    if path.suffix.lower() != ".json" and not start.startswith("["):
        return False
    try:
        first = json.loads(start.partition("\n")[0])
    except (ValueError, RecursionError):
        return True
    return not isinstance(first, dict) or isinstance(first.get("examples"), list)


def _parse(text: str, path: Path, line: int | None) -> Any:
    place = path if line is None else f"{path}:{line}"
    try:
        return json.loads(
            text, parse_int=_Number, parse_float=_Number, parse_constant=_constant, object_pairs_hook=_object
        )
    except RecursionError as error:
        raise _error(place, "nested too deeply; a row is one flat object with text fields") from error
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno if line is None else line}"
        remedy = "write one JSON object per line" if line else "correct the JSON"
        raise _error(place, f"not JSON ({error.msg}, column {error.colno}); {remedy}") from error
    except ValueError as error:
        raise _error(place, str(error)) from error


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value; write the text that is meant, in quotes")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"field {_quoted(twice)} is there twice in one object; keep one")
    return by_name


def _row(record: dict[str, Any], place: str, noticed: _Noticed) -> Row:
    fields = {name: value for name, value in record.items() if value is not None}
    mapping = next((pair for pair in _MAPPINGS if pair[0] in fields and pair[1] in fields), None)
    if mapping:
        text, used = _input(fields, mapping[0], place, noticed)
        output = _text(fields[mapping[1]], mapping[1], place, noticed)
        label = "+".join(used) + "/" + mapping[1]
        used = (*used, mapping[1])
    elif "messages" in fields:
        used, label = ("messages",), "messages"
        text, output = _chat(fields["messages"], place, noticed)
    else:
        raise _error(place, _unmapped(record))
    noticed.mappings[label] += 1
    noticed.unused.update(fields.keys() - {*used, "choices"})
    return Row(text, output, _choices(fields.get("choices"), output, place, noticed))


def _unlabelled_row(record: dict[str, Any], place: str, noticed: _Noticed) -> Row:
    fields = {name: value for name, value in record.items() if value is not None}
    pairs = [pair for pair in _MAPPINGS if pair[0] in fields]
    # where an output is there too, what a row of a task file would be read from
    whole = next((pair for pair in pairs if pair[1] in fields), None)
    used: tuple[str, ...]
    seen: tuple[str, ...]
    if whole is None and "messages" in fields:
        text, answered = _asked(fields["messages"], place, noticed)
        used = seen = ("messages",)
    elif pairs:
        name, output = whole or pairs[0]
        text, used = _input(fields, name, place, noticed)
        seen, answered = (*used, output), whole is not None
    else:
        raise _error(place, _without_input(record))
    noticed.outputs += answered
    noticed.mappings["+".join(used)] += 1
    noticed.unused.update(fields.keys() - {*seen, "choices"})
    return Row(text, "", _choices(fields.get("choices"), None, place, noticed))


def _input(fields: dict[str, Any], name: str, place: str, noticed: _Noticed) -> tuple[str, tuple[str, ...]]:
    """Return the input that a field holds, and the fields it was read from."""
    text = _text(fields[name], name, place, noticed)
    if name == "instruction" and fields.get("input", "") != "":
        return text + "\n\n" + _text(fields["input"], "input", place, noticed), (name, "input")
    return text, (name,)


def _text(value: Any, name: str, place: str, noticed: _Noticed) -> str:
    if isinstance(value, _Number):
        noticed.numbers += 1
    elif not isinstance(value, str):
        raise _error(place, f"{name} is {_kind(value)}, not text; write it as one string")
    if not value.strip():
        raise _error(place, f"{name} is empty; fill it in or drop the row")
    try:  # JSON can spell half a character, "\\ud800", which no tokenizer takes
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])[1:-1]
        raise _error(place, f"{name} holds {half}, half of a character; repair the text or drop the row") from error
    return str(value)


def _chat(messages: Any, place: str, noticed: _Noticed) -> tuple[str, str]:
    turns = _turns(messages, place, noticed)
    roles = [role for role, _ in turns]
    if roles[-1:] != ["assistant"] or "user" not in roles:
        raise _error(place, "messages must hold a user turn and end with the assistant's answer; complete the chat")
    return _as_text(turns[:-1]), turns[-1][1]


def _asked(messages: Any, place: str, noticed: _Noticed) -> tuple[str, bool]:
    """Return a chat without its answer, and whether it has one."""
    turns = _turns(messages, place, noticed)
    answered = turns[-1:] != [] and turns[-1][0] == "assistant"
    asked = turns[:-1] if answered else turns
    if not asked or asked[-1][0] != "user":
        raise _error(place, "messages must end with a user turn, or with the answer to it; complete the chat")
    return _as_text(asked), answered


def _as_text(turns: list[tuple[str, str]]) -> str:
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{_ROLES[role]}: {content}" for role, content in turns)


def _turns(messages: Any, place: str, noticed: _Noticed) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _error(place, "messages is no list of objects; give each message a role and a content")
    turns = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise _error(place, f"messages[{number}] has role {_quoted(role)}; use one of: {', '.join(_ROLES)}")
        turns.append((role, _text(message.get("content"), f"messages[{number}].content", place, noticed)))
    return turns


def _choices(value: Any, output: str | None, place: str, noticed: _Noticed) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise _error(place, f"choices is {_kind(value)}, not a list; list the answers to choose among, or leave it out")
    choices = tuple(_text(choice, f"choices[{number}]", place, noticed) for number, choice in enumerate(value))
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise _error(place, "choices needs at least two answers, all different; correct it or leave it out")
    if output is not None and output not in choices:
        raise _error(place, f"the output {_quoted(output)} is none of its choices; correct one of them")
    return choices


def _kind(value: Any) -> str:
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    names: dict[type, str] = {dict: "an object", list: "a list", _Number: "a number", str: "text"}
    return names[type(value)]


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text if len(text) <= 40 else text[:39] + "…", ensure_ascii=False)


def _unmapped(record: dict[str, Any]) -> str:
    """Say which fields a row has and how to rename them."""
    if not record:
        return "an object without fields; give input and output"
    has = f"has {'field' if len(record) == 1 else 'fields'} {_listed(list(record))}"
    named = next((pair for pair in _MAPPINGS if pair[0] in record and pair[1] in record), ())
    for name in named:
        if record[name] is None:
            return f"{name} is null; fill it in or drop the row"
    by_name = {name.lower(): name for name, value in record.items() if value is not None}
    source = next((by_name[name] for name in _LIKE_INPUT if name in by_name), None)
    target = next((by_name[name] for name in _LIKE_OUTPUT if name in by_name), None)
    wanted = [(name, new) for name, new in ((source, "input"), (target, "output")) if name is not None and name != new]
    renamed = " and ".join(f"{_quoted(name)} to {_quoted(new)}" for name, new in wanted)
    if source and target:
        return f"{has}; rename {renamed}"
    if source or target:
        absent = "output" if source else "input"
        return f"{has} and no {absent}; " + (f"rename {renamed} and " if renamed else "") + f"add {_quoted(absent)}"
    return f"{has}; rename them or give input/output (or prompt/completion, question/answer, messages)"


def _without_input(record: dict[str, Any]) -> str:
    """Say the same of a row that has to have an input alone."""
    names = ("input", "instruction", "prompt", "question", "context", "messages")
    null = next((name for name in names if name in record), None)
    if null:
        return f"{null} is null; fill it in or drop the row"
    by_name = {name.lower(): name for name, value in record.items() if value is not None}
    source = next((by_name[name] for name in _LIKE_INPUT if name in by_name), None)
    has = f"has {'field' if len(record) == 1 else 'fields'} {_listed(list(record))}" if record else "has no fields"
    remedy = f'rename {_quoted(source)} to "input"' if source else f"give input (or {', '.join(names[1:])})"
    return f"{has} and no input; {remedy}"


def _listed(names: list[str]) -> str:
    more = [f"{len(names) - 6} more"] if len(names) > 6 else []
    return ", ".join([_quoted(name) for name in names[:6]] + more)


def _notes(rows: tuple[Row, ...], read: int, noticed: _Noticed) -> Iterator[str]:
    if read > len(rows):
        yield f"{_count(read - len(rows), 'duplicate row')} dropped"
    outputs: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        outputs[row.input].add(row.output)
    mixed = sum(len(different) > 1 for different in outputs.values())
    if mixed:
        yield f"{_count(mixed, 'input')} with more than one output; all kept"
    if noticed.numbers:
        yield f"{_count(noticed.numbers, 'number')} taken as text"
    if noticed.outputs:
        yield f"outputs of {_count(noticed.outputs, 'row')} not looked at"
    if len(noticed.mappings) > 1:
        yield "rows with different fields: " + ", ".join(f"{name} ({n})" for name, n in noticed.mappings.items())
    if noticed.unused:
        yield f"not used: {_listed(sorted(noticed.unused))}; what a model should see belongs into the input"
    chosen = sum(row.choices is not None for row in rows)
    if 0 < chosen < len(rows):
        yield f"choices on {chosen} of {len(rows)} rows only"
