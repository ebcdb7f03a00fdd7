"""The answers a row chooses among, and which of them is right: data sets give it as text, as a place, or by a key."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.tasks.fields import (
    JsonNumber,
    LabelName,
    NoAnswerError,
    Noticed,
    field_error,
    kind_of,
    quoted,
    text_of,
    whole_number,
)
from merge_advisor.tasks.json_records import begins_json, read_cell
from merge_advisor.tasks.layouts import Keyed


@dataclass(frozen=True, slots=True)
class Choices:
    """The answers of one row.

    >>> Choices(("red", "blue"), keys=("A", "B")).texts
    ('red', 'blue')
    """

    texts: tuple[str, ...]
    """At least two, all different."""
    keys: tuple[str, ...] = ()
    """What each is called, where the record says so."""
    numbers: bool = False
    """Whether one of them is a JSON number, so that a number can be an answer itself."""
    fields: tuple[str, ...] = ()
    """Names of the fields that they stand in, where each has one of its own."""
    first: int = 0
    """What the first one's place is counted as."""


def read_choices(value: Any, name: str, place: str, noticed: Noticed) -> Choices | None:
    """Return the choices of a row; None where it has none.

    Args:
        value: a list of texts; an object of keys and texts; ARC's object of two lists, `text` and `label`; a list of
            objects with these; or None.
        name: of the field, for the error.
        place: the file and what in it, for the error.
        noticed: counts numbers.

    Raises:
        NoAnswerError: two are equal.
        TaskError: something else; fewer than two choices; not a key for each.
    """
    if value is None:
        return None
    if begins_json(value):
        value = read_cell(value, name, place)
    entries = value
    keys: tuple[str, ...] = ()
    if isinstance(value, dict) and len(filled := _filled(value)) > 1:
        entries, keys = list(filled.values()), tuple(filled)  # MedQA: a letter and its text
    elif isinstance(value, dict) and isinstance(value.get("text"), list):
        entries, keys = value["text"], _keys(value.get("label"))
    elif isinstance(value, list) and value and all(isinstance(entry, dict) and "text" in entry for entry in value):
        entries, keys = [entry["text"] for entry in value], _keys([entry.get("label") for entry in value])
    if not isinstance(entries, list):
        remedy = "list the answers to choose among, or leave it out"
        raise field_error(place, f"{name} is {kind_of(value)}, not a list; {remedy}")
    texts = tuple(text_of(entry, f"{name}[{number}]", place, noticed) for number, entry in enumerate(entries))
    if len(set(texts)) < 2:
        raise field_error(place, f"{name} needs at least two answers, all different; correct it or leave it out")
    if len(set(texts)) < len(texts):
        raise NoAnswerError(place, f"{name} has the same answer twice", "correct it or leave it out")
    if keys and (len(keys) != len(texts) or len(set(keys)) < len(keys)):
        raise field_error(place, f"{name} has no label of its own for each text; correct it")
    return Choices(texts, keys, any(isinstance(entry, JsonNumber) for entry in entries))


def choices_of_fields(
    fields: Mapping[str, Any], names: Sequence[str], place: str, noticed: Noticed, *, first: int = 0
) -> Choices:
    """Return the choices of a row that stand in a field each.

    Args:
        fields: of the record.
        names: of the fields.
        place: the file and what in it, for the error.
        noticed: counts numbers.
        first: what the first one's place is counted as.

    Raises:
        NoAnswerError: two are equal.
        TaskError: one is no text.
    """
    texts = tuple(text_of(fields[name], name, place, noticed) for name in names)
    if len(set(texts)) < len(texts):
        raise NoAnswerError(place, f"{' and '.join(names)} do not all differ", "correct them or drop the row")
    return Choices(texts, numbers=any(isinstance(fields[name], JsonNumber) for name in names), fields=tuple(names),
                   first=first)  # fmt: skip


def _filled(value: dict[str, Any]) -> dict[str, str]:
    """The entries of an object of texts, without those that hold nothing; none of another object."""
    filled = {key: text for key, text in value.items() if text is not None}
    return filled if all(isinstance(text, str) for text in filled.values()) else {}


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(str(key) for key in value if key is not None) if isinstance(value, list) else ()


def scored_texts(value: Any, name: str, place: str) -> list[tuple[str, bool]]:
    """Return the choices of a field that says of each whether it is right, and that.

    >>> scored_texts({"red": JsonNumber("1"), "blue": JsonNumber("0")}, "target_scores", "rows.jsonl:1")
    [('red', True), ('blue', False)]
    >>> scored_texts({"choices": ["red", "blue"], "labels": [JsonNumber("1"), JsonNumber("0")]}, "mc1", "rows.jsonl:1")
    [('blue', False), ('red', True)]

    Args:
        value: BIG-bench's `target_scores`, or TruthfulQA's lists `choices` and `labels`, in sorted order: there the
            right one comes first.
        name: of the field, for the error.
        place: the file and what in it, for the error.

    Raises:
        TaskError: it is neither.
    """
    fields = value if isinstance(value, dict) else {}
    texts, scores = fields.get("choices"), fields.get("labels")
    listed = isinstance(texts, list) and isinstance(scores, list)
    if not listed:
        texts, scores = list(fields), list(fields.values())
    pairs = list(zip(texts or [], scores or [], strict=False))
    if not pairs or not all(isinstance(text, str) and isinstance(score, JsonNumber) for text, score in pairs):
        raise field_error(place, f"{name} rates no choices; give it an object of texts and their scores")
    numbers = [float(score) for _, score in pairs]
    best = max(numbers) if max(numbers) > min(numbers) else None
    rated = [(text, float(score) == best) for text, score in pairs]
    return sorted(rated) if listed else rated


def right_choice(
    choices: Choices, value: Any, name: str, place: str, noticed: Noticed, *, keyed: Keyed = "never", index: Any = None
) -> str:  # fmt: skip
    """Return the right one of a row's choices.

    A JSON integer is a place from 0, as data sets are published, unless choices are JSON numbers themselves; a named
    label is a place too. Text is the answer, or a key that the record gives; a letter or a place in text only in a
    layout that is known for it. What may be either is what the other rows of the file are.

    >>> right_choice(Choices(("3", "1", "0", "2")), JsonNumber("1"), "answer", "rows.jsonl:1", Noticed())
    '1'
    >>> right_choice(Choices(("red", "blue")), "1", "label", "rows.jsonl:1", Noticed(), keyed="always")
    'blue'

    Args:
        choices: of the row.
        value: of the field that says which is right.
        name: of the field.
        place: the file and what in it, for the error.
        noticed: keeps what was made of a place or key.
        keyed: whether text is a letter or a place.
        index: what another field says of the place; None where there is none.

    Raises:
        NoAnswerError: it is -1.
        TaskError: it is none of them, or may mean either of two.
    """
    if isinstance(value, LabelName) and (found := _by_label(choices, value)) is not None:
        return _noticed(choices, found, value, name, noticed)
    if isinstance(value, JsonNumber) and value not in choices.texts and (whole := whole_number(value)) is not None:
        value = JsonNumber(whole)  # pandas has 1.0 where a number is missing
    number = isinstance(value, JsonNumber) and value.whole
    text = str(value) if number else text_of(value, name, place, noticed)
    for named in (choices.keys, choices.fields):
        if text in named:
            return _noticed(choices, named.index(text), text, name, noticed)
    at = None if choices.keys or (keyed == "never" and not number) else _place_of(choices, text)
    itself = text in choices.texts
    if at is not None and (keyed == "always" or not itself):
        noticed.only_place[_kind(text)] += not itself
        return _noticed(choices, at, text, name, noticed)
    if not itself:
        raise _none_of(choices, text, name, place, ranged=number or (keyed == "always" and choices.fields != ()))
    if at is not None and _is_place(choices, value, at, name, place, noticed, index):
        return _noticed(choices, at, text, name, noticed)
    noticed.numbers += number
    noticed.only_text[_kind(text)] += at is None and (number or keyed != "never")
    return text


def _by_label(choices: Choices, label: LabelName) -> int | None:
    """The place that a label's number is; None where its name says more: a key, a field, a place in digits, a text."""
    kind = _kind(label)
    says_more = kind != "" if choices.fields else kind == "" and label in choices.texts
    if choices.keys or label in choices.fields or says_more:
        return None
    return label.number if label.number < len(choices.texts) else None


def _is_place(
    choices: Choices, value: str, at: int, name: str, place: str, noticed: Noticed, index: Any
) -> bool:  # fmt: skip
    """Whether what may be a choice or a place is the place."""
    number = isinstance(value, JsonNumber)
    if choices.texts[at] == value:
        return number and not choices.numbers
    said = None if index is None else _place_of(choices, str(index))
    if said is not None and choices.texts[said] in (value, choices.texts[at]):
        return said == at
    if number and choices.numbers:
        raise field_error(
            place, f"the {name} {value} may be the choice {value} or the one at place {value}, which is "
            f"{quoted(choices.texts[at])}; write it as text"
        )  # fmt: skip
    kind = _kind(value)
    as_place = noticed.decided.get(kind, number)
    noticed.either.setdefault((kind, as_place), []).append((name, str(value), choices.texts[at]))
    return as_place


def _none_of(choices: Choices, text: str, name: str, place: str, *, ranged: bool) -> TaskError:
    if text == "-1":
        return NoAnswerError(place, f"{name} is -1, which stands for no label")
    which = f", which are {choices.first} to {choices.first + len(choices.texts) - 1}" if ranged else ""
    remedy = "correct it" if which else "correct one of them"
    return field_error(place, f"the {name} {quoted(text)} is none of its choices{which}; {remedy}")


def _kind(text: str) -> str:
    """What a text may be a place in: letters or digits; empty where it is none."""
    if text.isascii() and len(text) < 9:
        return "letters" if len(text) == 1 and text.isalpha() else "digits" if text.isdigit() else ""
    return ""  # no size is too large for a JSON number, but for a place it is


def _place_of(choices: Choices, text: str) -> int | None:
    """The place that a letter (a small one where that is no choice itself) or digits name; None where there is none."""
    kind = _kind(text)
    letter = text if text in choices.texts else text.upper()
    found = -1
    if kind == "letters":
        found = string.ascii_uppercase.find(letter)
    elif kind == "digits":
        found = int(text) - choices.first
    return found if 0 <= found < len(choices.texts) else None


def _noticed(choices: Choices, found: int, given: str, name: str, noticed: Noticed) -> str:
    noticed.places.append((name, str(given), choices.texts[found], choices.first))
    return choices.texts[found]
