"""The answers a row chooses among, and which of them is right: data sets give it as text, as a place, or by a key."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merge_advisor.tasks.fields import JsonNumber, Noticed, field_error, kind_of, quoted, text_of


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
        TaskError: something else; fewer than two choices, or equal ones; not a key for each.
    """
    if value is None:
        return None
    entries = value
    keys: tuple[str, ...] = ()
    if isinstance(value, dict) and len(value) > 1 and all(isinstance(entry, str) for entry in value.values()):
        entries, keys = list(value.values()), tuple(value)  # MedQA: a letter and its text
    elif isinstance(value, dict) and isinstance(value.get("text"), list):
        entries, keys = value["text"], _keys(value.get("label"))
    elif isinstance(value, list) and value and all(isinstance(entry, dict) and "text" in entry for entry in value):
        entries, keys = [entry["text"] for entry in value], _keys([entry.get("label") for entry in value])
    if not isinstance(entries, list):
        remedy = "list the answers to choose among, or leave it out"
        raise field_error(place, f"{name} is {kind_of(value)}, not a list; {remedy}")
    texts = tuple(text_of(entry, f"{name}[{number}]", place, noticed) for number, entry in enumerate(entries))
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise field_error(place, f"{name} needs at least two answers, all different; correct it or leave it out")
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
        TaskError: one is no text, or two are equal.
    """
    texts = tuple(text_of(fields[name], name, place, noticed) for name in names)
    if len(set(texts)) < len(texts):
        raise field_error(place, f"{' and '.join(names)} must all differ; correct them or drop the row")
    return Choices(texts, numbers=any(isinstance(fields[name], JsonNumber) for name in names), fields=tuple(names),
                   first=first)  # fmt: skip


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(str(key) for key in value if key is not None) if isinstance(value, list) else ()


def right_choice(choices: Choices, value: Any, name: str, place: str, noticed: Noticed, *, keyed: bool = False) -> str:
    """Return the right one of a row's choices.

    A JSON integer is a place from 0, as data sets are published, unless choices are JSON numbers themselves. Text is
    the answer, or a key that the record gives; only in a layout that is known for it a letter or a place in text.

    >>> right_choice(Choices(("3", "1", "0", "2")), JsonNumber("1"), "answer", "rows.jsonl:1", Noticed())
    '1'
    >>> right_choice(Choices(("red", "blue")), "1", "label", "rows.jsonl:1", Noticed(), keyed=True)
    'blue'

    Args:
        choices: of the row.
        value: of the field that says which is right.
        name: of the field.
        place: the file and what in it, for the error.
        noticed: keeps what was made of a place or key.
        keyed: whether the layout's text is a letter or a place.

    Raises:
        TaskError: it is none of them, or may mean either of two.
    """
    if isinstance(value, JsonNumber) and value.whole and not choices.keys and not (keyed and choices.fields):
        return _by_number(choices, value, name, place, noticed)
    text = text_of(value, name, place, noticed)
    found = _place_of(choices, text, keyed=keyed)
    if found is not None:
        return _noticed(choices, found, text, name, noticed)
    if text not in choices.texts:
        which = f", which are {_range(choices)}" if keyed and choices.fields else ""
        raise field_error(place, f"the {name} {quoted(text)} is none of its choices{which}; correct one of them")
    return text


def _by_number(choices: Choices, value: JsonNumber, name: str, place: str, noticed: Noticed) -> str:
    # no size is too large for a JSON number, but for a place it is
    found = int(value) - choices.first if len(value) < 9 else len(choices.texts)
    fits = 0 <= found < len(choices.texts)
    itself = value in choices.texts
    if choices.numbers and itself:
        if fits and choices.texts[found] != value:
            raise field_error(
                place, f"the {name} {value} may be the choice {value} or the one at place {value}, which is "
                f"{quoted(choices.texts[found])}; write it as text"
            )  # fmt: skip
        noticed.numbers += 1
        return str(value)
    if fits:
        return _noticed(choices, found, value, name, noticed)
    if itself:
        noticed.numbers += 1
        return str(value)
    raise field_error(
        place, f"the {name} {quoted(value)} is none of its choices, which are {_range(choices)}; correct it"
    )


def _range(choices: Choices) -> str:
    return f"{choices.first} to {choices.first + len(choices.texts) - 1}"


def _place_of(choices: Choices, text: str, *, keyed: bool) -> int | None:
    """The place that a key names; None where it names none."""
    for named in (choices.keys, choices.fields):
        if text in named:
            return named.index(text)
    if not keyed or choices.keys:
        return None
    if len(text) == 1 and text in string.ascii_uppercase:
        found = string.ascii_uppercase.index(text)
    elif text.isascii() and text.isdigit() and len(text) < 9:
        found = int(text) - choices.first
    else:
        return None
    return found if 0 <= found < len(choices.texts) else None


def _noticed(choices: Choices, found: int, given: str, name: str, noticed: Noticed) -> str:
    noticed.places.append((name, given, choices.texts[found], choices.first))
    return choices.texts[found]
