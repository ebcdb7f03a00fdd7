"""Read task files, whatever they are written in; everything is kept as the text it is.

The names of a row's fields say what it is (`_MAPPINGS`). An empty line joins `instruction` and a non-empty `input`. Of
a chat the last turn (an assistant's) is the output; a single user turn before it is the input as it is. Any longer chat
is kept turn by turn for the base's chat template, and for all else it is one text, its turns separated by an empty line
and labelled `System:`, `User:`, `Assistant:`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from merge_advisor.errors import TaskError
from merge_advisor.plain_text import printable
from merge_advisor.tasks.chat import CHATS, is_chat, kept_turns, turns_of, with_answer, without_answer
from merge_advisor.tasks.choices import read_choices, right_choice
from merge_advisor.tasks.field_map import FieldMap, parse_field_map
from merge_advisor.tasks.fields import Noticed, field_error, kind_of, listed, quoted, text_of
from merge_advisor.tasks.records import read_records
from merge_advisor.templates import as_text
from merge_advisor.types import Row, Turn

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
    _Mapping("prompt", "chosen"),  # preference data
    _Mapping("text", "label_text"),
    _Mapping("text", "label"),
    _Mapping("question", "answerKey", keyed=True),  # ARC, CommonsenseQA
    _Mapping("question_stem", "answerKey", keyed=True),  # OpenBookQA
    _Mapping("ctx", "label", "endings", keyed=True),  # HellaSwag
)
"""Fields that are recognised, besides chats (`chat.CHATS`); the first that fits a row counts."""

# common names, for the remedy only: to guess silently which field is the answer would be worse than to ask
_LIKE_INPUT = (
    "input prompt question instruction context text query sentence source problem document article premise".split()
)
_LIKE_OUTPUT = "output completion answer target response label solution summary translation result reply".split()


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


def read_rows(path: Path, *, minimum: int = MINIMUM_ROWS, fields: str | None = None) -> TaskFile:
    """Return the rows of a task file.

    Args:
        path: JSONL (one object per line), or one JSON value: an array of such objects, an object with one such array,
            or columns; a table with a header (`.csv`, `.tsv`); Parquet.
        minimum: rows it must have at least, equal ones counted once.
        fields: which fields are input, output and choices, as `parse_field_map` takes it; None: those that are known.

    Raises:
        TaskError: the file cannot be opened, is not UTF-8, not JSON, has too few rows, or a row cannot be used; the
            message names the file and the line (the row, in a file that is one JSON value).
    """
    field_map = None if fields is None else parse_field_map(fields)
    if field_map is not None and "output" not in field_map.paths:
        raise TaskError(f"`fields={fields}`: names no output; add output=FIELD")
    return _read(path, minimum, "input and output", _row, field_map)


def read_inputs(path: Path, *, fields: str | None = None) -> TaskFile:
    """Return the rows of a file of inputs, unlabelled: the same formats without outputs; where there are some, noted.

    A chat ends with a user's turn, or with the assistant's answer to it, which is an output.

    Args:
        path: as of `read_rows`.
        fields: as of `read_rows`; an output it names is not looked at.

    Raises:
        TaskError: as `read_rows`.
    """
    return _read(path, 1, "input", _unlabelled_row, None if fields is None else parse_field_map(fields))


def _read(
    path: Path, minimum: int, wanted: str, row_of: Callable[[Any, str, Noticed], Row], field_map: FieldMap | None
) -> TaskFile:
    """Read a file; `wanted` says what a row has, for the messages."""
    noticed = Noticed(mapped=field_map is not None)
    read = []
    for place, record in read_records(path, wanted):
        if not isinstance(record, dict):
            raise field_error(place, f"{kind_of(record)}, not an object; write one JSON object with {wanted}")
        if field_map is None:
            read.append(row_of(record, place, noticed))
        else:
            noticed.unused.update(_filled(record) - field_map.fields)
            given = field_map.apply(record, place, inputs=row_of is _unlabelled_row)
            read.append(row_of(given, place, noticed))
    rows = tuple(dict.fromkeys(read))
    if len(rows) < minimum:
        same = f" ({len(read)} equal ones)" if len(read) > len(rows) else ""
        raise field_error(path, f"{_count(len(rows), 'row')}{same}, the minimum is {minimum}; add examples")
    notes = tuple(printable(f"{path.name}: {note}") for note in _notes(rows, len(read), noticed))
    mapping = ", ".join(noticed.mappings) if field_map is None else printable(field_map.text)
    return TaskFile(printable(path.stem), rows, notes, mapping, len(read))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _row(record: dict[str, Any], place: str, noticed: Noticed) -> Row:
    fields = {name: value for name, value in record.items() if value is not None}
    mapping = next((mapping for mapping in _MAPPINGS if _fits(mapping, fields)), None)
    chat = next((name for name in CHATS if name in fields), None)
    given: Any
    if mapping:
        before, used = _asked_by(fields, mapping.input, place, noticed)
        given, name, listed_in = fields[mapping.output], mapping.output, mapping.choices
        if is_chat(given):  # a chat again; the turn in front stands for the prompt it may begin after
            after, given = with_answer([("user", ""), *turns_of(given, name, place, noticed)], name, place)
            before += _beyond(before, after[1:])
        label, used = "+".join(used) + "/" + name, (*used, name)
    elif chat:
        turns, used = _with_system(fields, turns_of(fields[chat], chat, place, noticed), place, noticed)
        before, given = with_answer(turns, chat, place)
        used, label, name, listed_in = (*used, chat), chat, "answer", "choices"
    else:
        raise field_error(place, _unmapped(record))
    choices = read_choices(fields.get(listed_in), listed_in, place, noticed)
    if choices is None:
        output = text_of(given, name, place, noticed)
    else:
        # of fields that the user named, a letter or a place may stand for a choice that is none of these itself
        keyed = bool(mapping and mapping.keyed) or (noticed.mapped and given not in choices.texts)
        output = right_choice(choices, given, name, place, noticed, keyed=keyed)
    noticed.mappings[label] += 1
    noticed.unused.update(_filled(fields) - {*used, listed_in})
    return Row(as_text(before), output, None if choices is None else choices.texts, kept_turns(before))


def _filled(fields: dict[str, Any]) -> set[str]:
    """The fields that hold something: nothing is lost with an empty one."""
    return {name for name, value in fields.items() if value not in ("", [])}


def _fits(mapping: _Mapping, fields: dict[str, Any]) -> bool:
    return {mapping.input, mapping.output, *([mapping.choices] if mapping.keyed else [])} <= fields.keys()


def _beyond(before: list[Turn], chat: list[Turn]) -> list[Turn]:
    """What an answer that is a chat has in front of it; preference data repeats the prompt there."""
    return chat[len(before) :] if chat[: len(before)] == before else chat


def _unlabelled_row(record: dict[str, Any], place: str, noticed: Noticed) -> Row:
    fields = {name: value for name, value in record.items() if value is not None}
    mappings = [mapping for mapping in _MAPPINGS if mapping.input in fields]
    # where an output is there too, what a row of a task file would be read from
    whole = next((mapping for mapping in mappings if _fits(mapping, fields)), None)
    chat = next((name for name in CHATS if name in fields), None)
    listed_in = "choices"
    if whole is None and chat:
        turns, used = _with_system(fields, turns_of(fields[chat], chat, place, noticed), place, noticed)
        before, has_answer = without_answer(turns, chat, place)
        used = seen = (*used, chat)
    elif mappings:
        found = whole or mappings[0]
        before, used = _asked_by(fields, found.input, place, noticed)
        seen, has_answer, listed_in = (*used, found.output), whole is not None, found.choices
    else:
        raise field_error(place, _without_input(record))
    noticed.outputs += has_answer
    noticed.mappings["+".join(used)] += 1
    noticed.unused.update(_filled(fields) - {*seen, listed_in})
    choices = read_choices(fields.get(listed_in), listed_in, place, noticed)
    return Row(as_text(before), "", None if choices is None else choices.texts, kept_turns(before))


def _asked_by(fields: dict[str, Any], name: str, place: str, noticed: Noticed) -> tuple[list[Turn], tuple[str, ...]]:
    """Return the turns that a field holds, and the fields they were read from."""
    if is_chat(fields[name]):
        turns = without_answer(turns_of(fields[name], name, place, noticed), name, place)[0]
        used: tuple[str, ...] = (name,)
    else:
        text, used = text_of(fields[name], name, place, noticed), (name,)
        if name == "instruction" and fields.get("input", "") != "":
            text, used = text + "\n\n" + text_of(fields["input"], "input", place, noticed), (name, "input")
        turns = [("user", text)]
    turns, system = _with_system(fields, turns, place, noticed)
    return turns, (*system, *used)


def _with_system(
    fields: dict[str, Any], turns: list[Turn], place: str, noticed: Noticed
) -> tuple[list[Turn], tuple[str, ...]]:
    """Return turns with the system prompt of a field of its own in front, and that field where there is one."""
    if fields.get("system", "") == "":
        return turns, ()
    noticed.systems += 1
    return [("system", text_of(fields["system"], "system", place, noticed)), *turns], ("system",)


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
        # a place that is written as the choice itself would show nothing
        name, given, text = next((found for found in noticed.places if found[1] != found[2]), noticed.places[0])
        yield f"{read_as} ({name} {given} is {quoted(text)}); where the answer itself is meant, write it as text"
    if noticed.booleans:
        yield f"{_count(noticed.booleans, 'boolean')} taken as text, true or false"
    if noticed.systems:
        yield f'"system" of {_count(noticed.systems, "row")} taken as the system prompt; rename it if it is none'
    if noticed.tools:
        yield f"{_count(noticed.tools, 'turn')} of tools left out; a model is asked without them"
    if noticed.parts:
        yield f"{_count(noticed.parts, 'part')} of messages left out that are no text"
    if noticed.outputs:
        yield f"outputs of {_count(noticed.outputs, 'row')} not looked at"
    if len(noticed.mappings) > 1:
        yield "rows with different fields: " + ", ".join(f"{name} ({n})" for name, n in noticed.mappings.items())
    if noticed.unused:
        yield f"not used: {listed(sorted(noticed.unused))}; what a model should see belongs into the input"
    chosen = sum(row.choices is not None for row in rows)
    if 0 < chosen < len(rows):
        yield f"choices on {chosen} of {len(rows)} rows only"
