"""The fields of one record of a task file: text where text is wanted, and a clear error where it is not there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from merge_advisor.errors import TaskError
from merge_advisor.limits import TASK_BYTES
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


CHATS = ("messages", "conversations", "conversation", "contents", "chosen")
"""Fields that hold a whole chat, its last turn the answer; the last of preference data without a prompt of its own."""


class NoText(str):
    """What stands where a text could be and is none; an error only where it is read.

    >>> NoText.of("NaN", "NaN, which is no JSON value; write the text that is meant").said[:3]
    'NaN'
    """

    said: str = ""
    """What it is, and what to do."""

    @classmethod
    def of(cls, text: str, said: str) -> NoText:
        """Return what is no text.

        Args:
            text: as it is written.
            said: what it is, and what to do.
        """
        found = cls(text)
        found.said = said
        return found


class LabelName(str):
    """The name of a numbered label, as the `datasets` library keeps them; empty where a row has none (-1).

    >>> LabelName.of(["bad", "good"], 1), LabelName.of(["bad", "good"], -1), LabelName.of(["bad"], 0).names
    ('good', '', ('bad',))
    """

    names: tuple[str, ...] = ()
    """Of all labels, in their order."""
    number: int = -1
    """Which of them it is, from 0."""

    @classmethod
    def of(cls, names: Sequence[str], number: int) -> LabelName:
        """Return the name of a label.

        Args:
            names: of all.
            number: the label; one that is none of them has no name.
        """
        name = cls(names[number] if 0 <= number < len(names) else "")
        name.names = tuple(names)
        name.number = number
        return name


class NoAnswerError(TaskError):
    """A record that has no one right answer, by what it says itself; its row is left out and counted.

    >>> NoAnswerError("rows.jsonl:3", "answers is an empty list").reason
    'answers is an empty list'
    """

    def __init__(self, place: str, reason: str, remedy: str = "give it an answer") -> None:
        super().__init__(printable(f"{place}: {reason}; {remedy}"))
        self.reason = printable(reason)


class Reading(NamedTuple):
    """What records were taken for.

    >>> Reading("question answering", ("question",), ("choices",), "answer").mapping
    'question/answer'
    """

    kind: str
    """In words."""
    asked: tuple[str, ...]
    """Fields of the input, in their order."""
    choices: tuple[str, ...] = ()
    """Fields of the choices."""
    output: str = ""
    """Field of the answer; empty where it is the last turn of a chat, or not looked at."""

    @property
    def mapping(self) -> str:
        """The fields in short."""
        return "+".join(self.asked) + ("/" + self.output if self.output else "")


@dataclass(slots=True)
class Noticed:
    """What was noticed while records were read, for the notes of a file.

    >>> Noticed().numbers
    0
    """

    mapped: bool = False
    """Whether the user named the fields."""
    label: bool = False
    """Whether the output that the user named is one of a few labels."""
    readings: Counter[Reading] = field(default_factory=Counter)
    """What records were taken for, with how many of them."""
    unused: Counter[str] = field(default_factory=Counter)
    """Fields that hold something and are not read."""
    left: dict[str, list[str]] = field(default_factory=dict)
    """Why rows were left out, and their places."""
    several: int = 0
    """Rows with more than one right answer."""
    labelled: int = 0
    """Rows whose answer is one of a few labels."""
    names: dict[str, None] = field(default_factory=dict)
    """Names of all labels, where the file has them, in their order."""
    numbers: int = 0
    """Numbers taken as text."""
    booleans: int = 0
    """The same of true and false."""
    systems: int = 0
    """Rows whose system prompt is a field of its own."""
    system_fields: set[str] = field(default_factory=set)
    """These fields."""
    tools: int = 0
    """Turns of a chat that call tools or are what these answered, left out."""
    cut: int = 0
    """Chats that go on behind the last answer, cut there."""
    parts: int = 0
    """Parts of messages that are no text, left out."""
    outputs: int = 0
    """Outputs in a file that is read for its inputs."""
    decided: dict[str, bool] = field(default_factory=dict)
    """Of answers that are letters and of those that are digits, whether they are places of choices, where the rows of
    the file decide that together."""
    only_place: Counter[str] = field(default_factory=Counter)
    """How many answers of each of the two kinds can be a place alone."""
    only_text: Counter[str] = field(default_factory=Counter)
    """How many can be the choice itself alone."""
    either: dict[tuple[str, bool], list[tuple[str, str, str]]] = field(default_factory=dict)
    """Answers that may be either, by kind and whether they were read as a place: field, answer, choice at its place."""
    unlabelled: bool | None = None
    """Whether a label of -1 stands for none, once all rows of a file have been seen."""
    minus: bool = False
    """Whether a label is -1."""
    places: list[tuple[str, str, str, int]] = field(default_factory=list)
    """Of each row whose answer was given as the place or key of a choice: the field, the place or key, the choice, and
    what places are counted from."""


def field_error(place: object, what: str) -> TaskError:
    """Return the error of a place in a file.

    Args:
        place: the file, or the file and what in it.
        what: what is wrong, and what to do.
    """
    return TaskError(printable(f"{place}: {what}"))


def too_large(path: Path, size: int | None = None) -> TaskError:
    """Return the error of a file beyond `TASK_BYTES`.

    Args:
        path: the file.
        size: its bytes; None: they were not counted to the end.
    """
    return field_error(path, f"holds {TASK_BYTES.over}; give a part of it, or {TASK_BYTES.remedy(size)}")


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
    if isinstance(value, NoText):
        raise field_error(place, f"{name} is {value.said}")
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


def whole_number(value: Any) -> int | None:
    """Return the whole number that a text is; None of anything else.

    >>> whole_number("-1"), whole_number("2.0"), whole_number("2.5"), whole_number(True)
    (-1, 2, None, None)

    Args:
        value: any; as pandas writes them where a number is missing, `2.0` is 2.
    """
    digits = value.partition(".")[0] if isinstance(value, str) and not value.partition(".")[2].strip("0") else ""
    return int(digits) if digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 9 else None


def kind_of(value: Any) -> str:
    """Return what kind of JSON value it is, in words.

    >>> kind_of([]), kind_of(JsonNumber("1")), kind_of(None)
    ('a list', 'a number', 'null')

    Args:
        value: any.
    """
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    names: dict[type, str] = {dict: "an object", list: "a list", JsonNumber: "a number"}
    return names.get(type(value), "text")


def quoted(value: Any) -> str:
    """Return a value in quotes, cut to 40 characters.

    >>> quoted("yes")
    '"yes"'

    Args:
        value: any.
    """
    text = str(value)
    return json.dumps(text if len(text) <= 40 else text[:39] + "…", ensure_ascii=False)


def how_many(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural but for one.

    >>> how_many(1, "row"), how_many(0, "row")
    ('1 row', '0 rows')

    Args:
        n: how many.
        noun: in the singular.
    """
    return f"{n} {noun}" + ("" if n == 1 else "s")


def listed(names: list[str]) -> str:
    """Return names in quotes, the first six of them.

    >>> listed(["a", "b"])
    '"a", "b"'

    Args:
        names: of fields.
    """
    more = [f"{len(names) - 6} more"] if len(names) > 6 else []
    return ", ".join([quoted(name) for name in names[:6]] + more)
