"""The fields of one record of a task file: text where text is wanted, and a clear error where it is not there."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.plain_text import printable


class JsonNumber(str):
    """A JSON number as it is written: `1.50` stays `1.50`, and no size is too large.

    >>> JsonNumber("1.50"), JsonNumber("7").whole, JsonNumber("1.50").whole
    ('1.50', True, False)
    """

    @property
    def whole(self) -> bool:
        """Whether it is written as an integer from 0 on."""
        return self.isascii() and self.isdigit()


@dataclass(slots=True)
class Noticed:
    """What was noticed while records were read, for the notes of a file.

    >>> Noticed().numbers
    0
    """

    mapped: bool = False
    """Whether the user named the fields."""
    mappings: Counter[str] = field(default_factory=Counter)
    """Fields read, with how many rows had them."""
    unused: Counter[str] = field(default_factory=Counter)
    numbers: int = 0
    """Numbers taken as text."""
    booleans: int = 0
    """The same of true and false."""
    systems: int = 0
    """Fields `system`, taken as system prompts."""
    tools: int = 0
    """Turns of a chat that call tools or are what these answered, left out."""
    parts: int = 0
    """Parts of messages that are no text, left out."""
    outputs: int = 0
    """Outputs in a file that is read for its inputs."""
    places: list[tuple[str, str, str]] = field(default_factory=list)
    """Of each row whose answer was given as the place or key of a choice: the field, the place or key, the choice."""


def field_error(place: object, what: str) -> TaskError:
    """Return the error of a place in a file.

    Args:
        place: the file, or the file and what in it.
        what: what is wrong, and what to do.
    """
    return TaskError(printable(f"{place}: {what}"))


def text_of(value: Any, name: str, place: str, noticed: Noticed) -> str:
    """Return a field's value as text.

    Args:
        value: as the JSON has it.
        name: of the field, for the error.
        place: the file and what in it, for the error.
        noticed: counts numbers.

    Raises:
        TaskError: it is no text, number, true or false, it is empty, or it holds half of a character.
    """
    if isinstance(value, JsonNumber):
        noticed.numbers += 1
    elif isinstance(value, bool):
        noticed.booleans += 1
        value = json.dumps(value)
    elif not isinstance(value, str):
        raise field_error(place, f"{name} is {kind_of(value)}, not text; write it as one string")
    if not value.strip():
        raise field_error(place, f"{name} is empty; fill it in or drop the row")
    try:  # JSON can spell half a character, "\\ud800", which no tokenizer takes
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])[1:-1]
        raise field_error(
            place, f"{name} holds {half}, half of a character; repair the text or drop the row"
        ) from error
    return str(value)


def kind_of(value: Any) -> str:
    """Return what kind of JSON value it is, in words.

    >>> kind_of([]), kind_of(JsonNumber("1")), kind_of(None)
    ('a list', 'a number', 'null')

    Args:
        value: any.
    """
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    names: dict[type, str] = {dict: "an object", list: "a list", JsonNumber: "a number", str: "text"}
    return names[type(value)]


def quoted(value: Any) -> str:
    """Return a value in quotes, cut to 40 characters.

    >>> quoted("yes")
    '"yes"'

    Args:
        value: any.
    """
    text = str(value)
    return json.dumps(text if len(text) <= 40 else text[:39] + "…", ensure_ascii=False)


def listed(names: list[str]) -> str:
    """Return names in quotes, the first six of them.

    >>> listed(["a", "b"])
    '"a", "b"'

    Args:
        names: of fields.
    """
    more = [f"{len(names) - 6} more"] if len(names) > 6 else []
    return ", ".join([quoted(name) for name in names[:6]] + more)
