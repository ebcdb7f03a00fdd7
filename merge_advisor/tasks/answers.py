"""The right answers of a record: one, or several of which any counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from merge_advisor.tasks.fields import JsonNumber, LabelName, NoAnswerError, field_error, quoted
from merge_advisor.tasks.layouts import Layout

_JUDGED = ("is_correct", "label")
"""Fields that say of an answer beside them whether it is right: P3, KTO, MultiRC."""


def listed_answers(value: Any) -> list[Any] | None:
    """Return the entries of a field that lists several right answers; None where it holds one.

    >>> listed_answers({"text": ["a", "b"], "answer_start": [3, 9]}), listed_answers({"value": "a", "aliases": ["b"]})
    (['a', 'b'], ['a', 'b'])
    >>> listed_answers(["a", "b"]), listed_answers("a") is None
    (['a', 'b'], True)

    Args:
        value: of the field: a list of texts, SQuAD's object of lists, a list of objects with `text`, or TriviaQA's
            `value` and `aliases`.
    """
    if isinstance(value, dict):
        if isinstance(value.get("aliases"), list) and "value" in value:
            return [value["value"], *value["aliases"]]
        text = value.get("text")
        return text if isinstance(text, list) else [text] if isinstance(text, str) else None
    if not isinstance(value, list):
        return None
    if value and all(isinstance(entry, dict) and "text" in entry and "role" not in entry for entry in value):
        return [entry["text"] for entry in value]
    return value if all(isinstance(entry, (str, bool)) for entry in value) else None


def given_answers(
    value: Any, name: str, place: str, *, several: bool = True, choosing: bool = False
) -> tuple[list[Any], bool]:
    """Return the values that count as right answers, and whether the record lists them.

    Args:
        value: of the field.
        name: of the field.
        place: the file and what in it, for the error.
        several: whether a list stands for several answers; of labels it would be all that apply.
        choosing: whether it is one of a few, so that an empty text is none of them.

    Raises:
        NoAnswerError: none is given.
    """
    if isinstance(value, LabelName) and not value:
        raise NoAnswerError(place, f"{name} is -1, which stands for no label")
    if choosing and isinstance(value, str) and not value.strip():
        raise NoAnswerError(place, f"{name} is empty")
    found = listed_answers(value) if several else None
    if found is None:
        return [value], False
    filled = [entry for entry in found if not isinstance(entry, str) or entry.strip()]
    if not filled:
        raise NoAnswerError(place, f"{name} has no answer")
    return filled, True


def check_judged(fields: Mapping[str, Any], layout: Layout, place: str) -> tuple[str, ...]:
    """Return the field that says the answer is right, where there is one.

    Args:
        fields: of the record.
        layout: its own.
        place: the file and what in it, for the error.

    Raises:
        NoAnswerError: it says that the answer is wrong.
        TaskError: it is 0 or 1, or in another layout than KTO's true or false, and may be the answer itself.
    """
    if layout.label or layout.output in _JUDGED:
        return ()
    rated = layout.input == ("prompt",)  # KTO
    for name in _JUDGED:
        value = fields.get(name)
        said = str(value).lower()
        boolean = isinstance(value, bool) or said in ("true", "false")
        if (boolean and rated) or (name == "is_correct" and (boolean or said in ("0", "1"))):
            if said in ("false", "0"):
                raise NoAnswerError(place, f"{name} says that the {layout.output} is wrong")
            return (name,)
        number = isinstance(value, JsonNumber) and value in ("0", "1")
        if (boolean or number) and not set(layout.choice_fields) & fields.keys():
            asked, both = "+".join(layout.input), "+".join((*layout.input, layout.output))
            raise field_error(
                place, f"has {quoted(layout.output)} and {quoted(name)} {said}, and either may be the answer; give "
                f"`fields=input={both},output={name}` or `fields=input={asked},output={layout.output}`"
            )  # fmt: skip
    return ()
