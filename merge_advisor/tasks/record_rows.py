"""Rows from the records of a task file: which fields are asked, which hold the answer, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_advisor.tasks.answers import check_judged, given_answers
from merge_advisor.tasks.chat import content_of, is_chat, kept_turns, turns_of, with_answer, without_answer
from merge_advisor.tasks.choices import Choices, choices_of_fields, read_choices, right_choice, scored_texts
from merge_advisor.tasks.fields import (
    CHATS,
    LabelName,
    NoAnswerError,
    Noticed,
    Reading,
    field_error,
    kind_of,
    text_of,
    whole_number,
)
from merge_advisor.tasks.layouts import LAYOUTS, Layout, input_layout_of, layout_of
from merge_advisor.tasks.remedies import without_input, without_layout
from merge_advisor.templates import as_text
from merge_advisor.types import Row, Turn

_SYSTEMS = ("system", "system_prompt", "systemInstruction", "system_instruction")
"""Fields that hold a system prompt."""
_INDEXES = ("answer_index", "answer_idx")
"""Fields that hold the place of the right choice, beside an answer that may be its letter or its text."""


def labelled_row(record: Mapping[str, Any], place: str, noticed: Noticed) -> Row:
    """Return the row of a record that has an answer.

    Args:
        record: of the file.
        place: the file and what in it, for the error.
        noticed: keeps what was made of the record.

    Raises:
        NoAnswerError: the record says that it has no right answer.
        TaskError: it cannot be used.
    """
    fields = {name: value for name, value in record.items() if value is not None}
    layout = layout_of(fields)
    chat = _chat_of(fields)
    if layout is not None:
        return _by_layout(fields, layout, place, noticed)
    if chat is None:
        _check_null(record, fields, place, noticed)
        raise field_error(place, without_layout(record))
    turns, used = _with_system(fields, turns_of(fields[chat], chat, place, noticed), place, noticed)
    before, output = with_answer(turns, chat, place, noticed)
    choices = read_choices(fields.get("choices"), "choices", place, noticed)
    if choices is not None:
        output = right_choice(choices, output, "answer", place, noticed)
    listed_in = ("choices",) if choices else ()
    _notice(fields, Reading("chats", (*used, chat), listed_in), noticed)
    return Row(as_text(before), output, None if choices is None else choices.texts, kept_turns(before))


def _chat_of(fields: Mapping[str, Any]) -> str | None:
    """The field that holds a whole chat; other texts are called conversation or contents too."""
    texts = [name for name in ("conversation", "contents") if not is_chat(fields.get(name))]
    return next((name for name in CHATS if name in fields and name not in texts), None)


def _check_null(record: Mapping[str, Any], fields: Mapping[str, Any], place: str, noticed: Noticed) -> None:
    """Refuse a record that lacks a label or the right choice as one without an answer."""
    for layout in LAYOUTS:
        found = layout.bound(fields)
        chosen = found.label or noticed.label or set(found.choice_fields) & fields.keys()
        if chosen and found.output in record and found.needed - fields.keys() == {found.output}:
            raise NoAnswerError(place, f"{found.output} is null")


def _by_layout(fields: Mapping[str, Any], layout: Layout, place: str, noticed: Noticed) -> Row:
    judged = check_judged(fields, layout, place)
    before, used = _asked_by(fields, layout, place, noticed)
    given, name = fields[layout.output], layout.output
    if layout.choices == name:
        given = [text for text, right in scored_texts(given, name, place) if right]
    label = layout.label or noticed.label
    choices = _choices(fields, layout, place, noticed)
    values, several = given_answers(
        given, name, place, several=not label and layout.keyed != "always", choosing=label or choices is not None
    )
    if label and choices is None:
        _check_minus(given, name, place, noticed)
    if not several and is_chat(given):  # a chat again; the turn in front stands for the prompt it may begin after
        after, values[0] = with_answer([("user", ""), *turns_of(given, name, place, noticed)], name, place, noticed)
        before += _beyond(before, after[1:])
    asked = _INDEXES if choices is not None and not several else ()
    indexed, index = next(((field, fields[field]) for field in asked if field in fields), ("", None))
    answers = tuple(
        dict.fromkeys(
            _answer(value, f"{name}[{at}]" if several else name, choices, layout, place, noticed, index)
            for at, value in enumerate(values)
        )
    )
    noticed.several += len(answers) > 1
    if choices is None and (label or isinstance(given, bool)):
        noticed.labelled += 1
        noticed.names |= dict.fromkeys(getattr(given, "names", ()))
    listed_in = (*layout.choice_fields, *filter(None, [indexed])) if choices else ()
    reading = Reading(layout.kind, used, listed_in, name)
    _notice(fields, reading, noticed, also=judged)
    return Row(
        as_text(before), answers[0], None if choices is None else choices.texts, kept_turns(before),
        answers if len(answers) > 1 else None,
    )  # fmt: skip


def _choices(fields: Mapping[str, Any], layout: Layout, place: str, noticed: Noticed) -> Choices | None:
    names = layout.choices
    if names == layout.output:
        return read_choices([text for text, _ in scored_texts(fields[names], names, place)], names, place, noticed)
    if isinstance(names, str):
        return read_choices(fields.get(names), names, place, noticed)
    if layout.output in names:  # the right one has a field of its own: no order is to tell which it is
        names = tuple(sorted(names, key=lambda name: str(fields[name])))
    return choices_of_fields(fields, names, place, noticed, first=layout.first)


def _check_minus(value: Any, name: str, place: str, noticed: Noticed) -> None:
    """Refuse a label of -1 as none, once it is known that it is none in its file."""
    if whole_number(value) == -1 and not isinstance(value, LabelName):
        noticed.minus = True
        if noticed.unlabelled:
            raise NoAnswerError(
                place, f"{name} is -1, no label unless the map names it (`labels=-1:NAME|0:NAME|1:NAME`)"
            )


def _answer(
    value: Any, name: str, choices: Choices | None, layout: Layout, place: str, noticed: Noticed, index: Any
) -> str:  # fmt: skip
    if choices is None or layout.output in layout.choice_fields:
        return text_of(value, name, place, noticed)
    # of fields that the user named, a letter or a place may stand for a choice that is none of these itself
    keyed = "else" if noticed.mapped and layout.keyed == "never" else layout.keyed
    return right_choice(choices, value, name, place, noticed, keyed=keyed, index=index)


def _notice(fields: Mapping[str, Any], reading: Reading, noticed: Noticed, *, also: tuple[str, ...] = ()) -> None:
    noticed.readings[reading] += 1
    noticed.unused.update(filled(fields) - {*reading.asked, *reading.choices, reading.output, *also})


def filled(fields: Mapping[str, Any]) -> set[str]:
    """Return the fields that hold something: nothing is lost with an empty one.

    Args:
        fields: of a record.
    """
    return {name for name, value in fields.items() if value is not None and value not in ("", [])}


def _beyond(before: list[Turn], chat: list[Turn]) -> list[Turn]:
    """What an answer that is a chat has in front of it; preference data repeats the prompt there."""
    return chat[len(before) :] if chat[: len(before)] == before else chat


def unlabelled_row(record: Mapping[str, Any], place: str, noticed: Noticed) -> Row:
    """Return the row of a record whose answer, where it has one, is not looked at.

    Args:
        record: of the file.
        place: the file and what in it, for the error.
        noticed: keeps what was made of the record.

    Raises:
        TaskError: it has no input.
    """
    fields = {name: value for name, value in record.items() if value is not None}
    layout = input_layout_of(fields)
    # where an output is there too, what a row of a task file would be read from
    whole = layout is not None and layout.fits(fields)
    chat = _chat_of(fields)
    seen: tuple[str, ...] = ()
    listed_in: tuple[str, ...] = ("choices",)
    choices = None
    kind = "inputs"
    if not whole and chat:
        turns, used = _with_system(fields, turns_of(fields[chat], chat, place, noticed), place, noticed)
        before, has_answer = without_answer(turns, chat, place)
        used, kind = (*used, chat), "chats"
        choices = read_choices(fields.get("choices"), "choices", place, noticed)
    elif layout is not None:
        before, used = _asked_by(fields, layout, place, noticed)
        seen, has_answer, listed_in = (layout.output,), layout.output in fields, layout.choice_fields
        if isinstance(layout.choices, str) or set(layout.choices) <= fields.keys():
            choices = _choices(fields, layout, place, noticed)
    else:
        raise field_error(place, without_input(record))
    noticed.outputs += has_answer
    _notice(fields, Reading(kind, used, listed_in if choices else ()), noticed, also=seen)
    return Row(as_text(before), "", None if choices is None else choices.texts, kept_turns(before))


def _asked_by(
    fields: Mapping[str, Any], layout: Layout, place: str, noticed: Noticed
) -> tuple[list[Turn], tuple[str, ...]]:
    """Return the turns that the fields of a layout's input hold, and the fields they were read from."""
    used = tuple(layout.asked(fields))
    if len(used) == 1 and is_chat(fields[used[0]]):
        turns = without_answer(turns_of(fields[used[0]], used[0], place, noticed), used[0], place)[0]
    else:
        for name in set(used) - set(layout.input):
            if not isinstance(fields[name], (str, bool)):
                said = f"{name} is {kind_of(fields[name])}, not text; write it as one string, or leave it out by"
                remedy = f"`fields=input={'+'.join(layout.input)},output={layout.output}`"
                raise field_error(place, f"{said} {remedy}")
        turns = [("user", "\n\n".join(text_of(fields[name], name, place, noticed) for name in used))]
    turns, system = _with_system(fields, turns, place, noticed)
    return turns, (*system, *used)


def _with_system(
    fields: Mapping[str, Any], turns: list[Turn], place: str, noticed: Noticed
) -> tuple[list[Turn], tuple[str, ...]]:
    """Return turns with the system prompt of a field of its own in front, and that field where there is one."""
    name = next((name for name in _SYSTEMS if fields.get(name, "") != ""), None)
    if name is None:
        return turns, ()
    noticed.systems += 1
    noticed.system_fields.add(name)
    said = fields[name]
    if isinstance(said, dict) and is_chat(said.get("parts")):  # Gemini
        said = said["parts"]
    return [("system", content_of(said, name, place, noticed)), *turns], (name,)
