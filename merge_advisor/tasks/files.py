"""Read task files: JSONL, a JSON array, or BBH's own JSON; everything is kept as the text it is.

The names of a row's fields say what it is (`_MAPPINGS`). An empty line joins `instruction` and a non-empty `input`. Of
`messages`, the last (an assistant's) is the output; a single user turn before it is the input as it is; any longer chat
becomes one text, its turns separated by an empty line and labelled `System:`, `User:`, `Assistant:`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from merge_advisor.plain_text import printable
from merge_advisor.tasks.choices import Choices, read_choices, right_choice
from merge_advisor.tasks.fields import JsonNumber, Noticed, field_error, kind_of, listed, quoted, text_of
from merge_advisor.types import Row

MINIMUM_ROWS = 2
"""Rows a task has at least, and shots that a split leaves at least."""


class _Mapping(NamedTuple):
    input: str
    output: str
    choices: str = "choices"
    keyed: bool = False
    """Whether the output is a letter or a place, written as text; it is then read only where there are choices."""


_MAPPINGS = (
    _Mapping("instruction", "output"),  # before input/output, which would lose the instruction
    _Mapping("input", "output"),
    _Mapping("prompt", "completion"),
    _Mapping("question", "answer"),
    _Mapping("context", "completion"),
    _Mapping("input", "target"),
    _Mapping("question", "answerKey", keyed=True),  # ARC, CommonsenseQA
    _Mapping("question_stem", "answerKey", keyed=True),  # OpenBookQA
    _Mapping("ctx", "label", "endings", keyed=True),  # HellaSwag
)
"""Fields that are recognised, besides chat `messages`; the first that fits a row counts."""

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


def _read(path: Path, minimum: int, wanted: str, row_of: Callable[[Any, str, Noticed], Row]) -> TaskFile:
    """Read a file; `wanted` says what a row has, for the messages."""
    noticed = Noticed()
    read = []
    for place, record in _records(path, _decode(path), wanted):
        if not isinstance(record, dict):
            raise field_error(place, f"{kind_of(record)}, not an object; write one JSON object with {wanted}")
        read.append(row_of(record, place, noticed))
    rows = tuple(dict.fromkeys(read))
    if len(rows) < minimum:
        same = f" ({len(read)} equal ones)" if len(read) > len(rows) else ""
        raise field_error(path, f"{_count(len(rows), 'row')}{same}, the minimum is {minimum}; add examples")
    notes = tuple(printable(f"{path.name}: {note}") for note in _notes(rows, len(read), noticed))
    return TaskFile(printable(path.stem), rows, notes, ", ".join(noticed.mappings), len(read))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


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


def _records(path: Path, text: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """Yield each record with its place, "file:line" or "file: row n"."""
    if not text.strip():
        raise field_error(path, f"empty; write one JSON object with {wanted} per line")
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
        raise field_error(path, f"holds no rows; write one JSON object with {wanted} per line")
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
            text, parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_constant, object_pairs_hook=_object
        )
    except RecursionError as error:
        raise field_error(place, "nested too deeply; a row is one flat object with text fields") from error
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno if line is None else line}"
        remedy = "write one JSON object per line" if line else "correct the JSON"
        raise field_error(place, f"not JSON ({error.msg}, column {error.colno}); {remedy}") from error
    except ValueError as error:
        raise field_error(place, str(error)) from error


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value; write the text that is meant, in quotes")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"field {quoted(twice)} is there twice in one object; keep one")
    return by_name


def _row(record: dict[str, Any], place: str, noticed: Noticed) -> Row:
    fields = {name: value for name, value in record.items() if value is not None}
    mapping = next((mapping for mapping in _MAPPINGS if _fits(mapping, fields)), None)
    choices: Choices | None
    if mapping:
        text, used = _input(fields, mapping.input, place, noticed)
        choices = read_choices(fields.get(mapping.choices), mapping.choices, place, noticed)
        given = fields[mapping.output]
        if choices is None:
            output = text_of(given, mapping.output, place, noticed)
        else:
            output = right_choice(choices, given, mapping.output, place, noticed, keyed=mapping.keyed)
        label = "+".join(used) + "/" + mapping.output
        used = (*used, mapping.output, mapping.choices)
    elif "messages" in fields:
        used, label = ("messages", "choices"), "messages"
        text, output = _chat(fields["messages"], place, noticed)
        choices = read_choices(fields.get("choices"), "choices", place, noticed)
        if choices is not None:
            output = right_choice(choices, output, "answer", place, noticed)
    else:
        raise field_error(place, _unmapped(record))
    noticed.mappings[label] += 1
    noticed.unused.update(fields.keys() - set(used))
    return Row(text, output, None if choices is None else choices.texts)


def _fits(mapping: _Mapping, fields: dict[str, Any]) -> bool:
    return {mapping.input, mapping.output, *([mapping.choices] if mapping.keyed else [])} <= fields.keys()


def _unlabelled_row(record: dict[str, Any], place: str, noticed: Noticed) -> Row:
    fields = {name: value for name, value in record.items() if value is not None}
    mappings = [mapping for mapping in _MAPPINGS if mapping.input in fields]
    # where an output is there too, what a row of a task file would be read from
    whole = next((mapping for mapping in mappings if _fits(mapping, fields)), None)
    choices = "choices"
    used: tuple[str, ...]
    seen: tuple[str, ...]
    if whole is None and "messages" in fields:
        text, answered = _asked(fields["messages"], place, noticed)
        used = seen = ("messages",)
    elif mappings:
        found = whole or mappings[0]
        text, used = _input(fields, found.input, place, noticed)
        seen, answered, choices = (*used, found.output), whole is not None, found.choices
    else:
        raise field_error(place, _without_input(record))
    noticed.outputs += answered
    noticed.mappings["+".join(used)] += 1
    noticed.unused.update(fields.keys() - {*seen, choices})
    listed_choices = read_choices(fields.get(choices), choices, place, noticed)
    return Row(text, "", None if listed_choices is None else listed_choices.texts)


def _input(fields: dict[str, Any], name: str, place: str, noticed: Noticed) -> tuple[str, tuple[str, ...]]:
    """Return the input that a field holds, and the fields it was read from."""
    text = text_of(fields[name], name, place, noticed)
    if name == "instruction" and fields.get("input", "") != "":
        return text + "\n\n" + text_of(fields["input"], "input", place, noticed), (name, "input")
    return text, (name,)


def _chat(messages: Any, place: str, noticed: Noticed) -> tuple[str, str]:
    turns = _turns(messages, place, noticed)
    roles = [role for role, _ in turns]
    if roles[-1:] != ["assistant"] or "user" not in roles:
        raise field_error(
            place, "messages must hold a user turn and end with the assistant's answer; complete the chat"
        )
    return _as_text(turns[:-1]), turns[-1][1]


def _asked(messages: Any, place: str, noticed: Noticed) -> tuple[str, bool]:
    """Return a chat without its answer, and whether it has one."""
    turns = _turns(messages, place, noticed)
    answered = turns[-1:] != [] and turns[-1][0] == "assistant"
    asked = turns[:-1] if answered else turns
    if not asked or asked[-1][0] != "user":
        raise field_error(place, "messages must end with a user turn, or with the answer to it; complete the chat")
    return _as_text(asked), answered


def _as_text(turns: list[tuple[str, str]]) -> str:
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{_ROLES[role]}: {content}" for role, content in turns)


def _turns(messages: Any, place: str, noticed: Noticed) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise field_error(place, "messages is no list of objects; give each message a role and a content")
    turns = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise field_error(place, f"messages[{number}] has role {quoted(role)}; use one of: {', '.join(_ROLES)}")
        turns.append((role, text_of(message.get("content"), f"messages[{number}].content", place, noticed)))
    return turns


def _unmapped(record: dict[str, Any]) -> str:
    """Say which fields a row has and how to rename them."""
    if not record:
        return "an object without fields; give input and output"
    has = f"has {'field' if len(record) == 1 else 'fields'} {listed(list(record))}"
    named = next((mapping for mapping in _MAPPINGS if _fits(mapping, record)), None)
    for name in (named.input, named.output) if named else ():
        if record[name] is None:
            return f"{name} is null; fill it in or drop the row"
    by_name = {name.lower(): name for name, value in record.items() if value is not None}
    source = next((by_name[name] for name in _LIKE_INPUT if name in by_name), None)
    target = next((by_name[name] for name in _LIKE_OUTPUT if name in by_name), None)
    wanted = [(name, new) for name, new in ((source, "input"), (target, "output")) if name is not None and name != new]
    renamed = " and ".join(f"{quoted(name)} to {quoted(new)}" for name, new in wanted)
    if source and target:
        return f"{has}; rename {renamed}"
    if source or target:
        absent = "output" if source else "input"
        return f"{has} and no {absent}; " + (f"rename {renamed} and " if renamed else "") + f"add {quoted(absent)}"
    return f"{has}; rename them or give input/output (or prompt/completion, question/answer, messages)"


def _without_input(record: dict[str, Any]) -> str:
    """Say the same of a row that has to have an input alone."""
    names = ("input", "instruction", "prompt", "question", "context", "messages")
    null = next((name for name in names if name in record), None)
    if null:
        return f"{null} is null; fill it in or drop the row"
    by_name = {name.lower(): name for name, value in record.items() if value is not None}
    source = next((by_name[name] for name in _LIKE_INPUT if name in by_name), None)
    has = f"has {'field' if len(record) == 1 else 'fields'} {listed(list(record))}" if record else "has no fields"
    remedy = f'rename {quoted(source)} to "input"' if source else f"give input (or {', '.join(names[1:])})"
    return f"{has} and no input; {remedy}"


def _notes(rows: tuple[Row, ...], read: int, noticed: Noticed) -> Iterator[str]:
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
    if noticed.places:
        read_as = f"{_count(len(noticed.places), 'answer')} read as the place of a choice, from 0, or its key"
        yield f"{read_as} ({noticed.places[0]}); where the answer itself is meant, write it as text"
    if noticed.outputs:
        yield f"outputs of {_count(noticed.outputs, 'row')} not looked at"
    if len(noticed.mappings) > 1:
        yield "rows with different fields: " + ", ".join(f"{name} ({n})" for name, n in noticed.mappings.items())
    if noticed.unused:
        yield f"not used: {listed(sorted(noticed.unused))}; what a model should see belongs into the input"
    chosen = sum(row.choices is not None for row in rows)
    if 0 < chosen < len(rows):
        yield f"choices on {chosen} of {len(rows)} rows only"
