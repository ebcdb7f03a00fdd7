"""Fields of a task file that its user names: `input=ctx,output=label,choices=endings`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.natural_numbers import natural_number
from merge_advisor.tasks.fields import JsonNumber, LabelName, NoText, field_error, kind_of, listed, quoted, whole_number

_ROLES = ("input", "output", "choices", "labels")


@dataclass(frozen=True, slots=True)
class FieldMap:
    r"""What of a record is input, output and choices.

    >>> field_map = parse_field_map("input=passage+question,output=answers.text.0")
    >>> field_map.apply({"passage": "p", "question": "q", "answers": {"text": ["a", "b"]}, "id": 1}, "rows.jsonl:1")
    {'input': 'p\n\nq', 'output': 'a'}
    """

    text: str
    """As it was given."""
    paths: Mapping[str, tuple[str, ...]]
    """Of input, output and perhaps choices, the fields; several of the input are joined by an empty line, several of
    the choices hold one each."""
    labels: tuple[str, ...] = ()
    """What numbered labels are called; an output that is one of their numbers becomes its name."""
    numbers: tuple[int, ...] = ()
    """Their numbers, where the map gives them; else they count from 0."""

    def apply(
        self, record: Mapping[str, Any], place: str, *, inputs: bool = False, table: bool = False
    ) -> dict[str, Any]:
        """Return a record of `input`, `output` and `choices`, those that are named.

        Args:
            record: of the file.
            place: the file and what in it, for the error.
            inputs: whether the file is one of inputs, which need no outputs and no choices.
            table: whether numbers are text in it, so that beside choices a whole one is a number.

        Raises:
            TaskError: a field that is not there; or several of the input, one of which is no text or all are empty.
        """
        found = {}
        for role, paths in self.paths.items():
            if inputs and role != "input" and paths[0].partition(".")[0] not in record:
                continue
            values = [_value(record, path, place) for path in paths]
            if len(values) > 1 and role == "choices":
                values = [values]
            elif len(values) > 1:
                values = [_joined(values, "+".join(paths), place)]
            found[role] = self._named(values[0], place) if role == "output" and self.labels else values[0]
        output = found.get("output")
        if table and "choices" in found and type(output) is str and JsonNumber(output).whole:
            found["output"] = JsonNumber(output)
        return found

    def _named(self, value: Any, place: str) -> Any:
        """The name of a numbered label; of -1, where that has none, the empty one."""
        number = int(value) if isinstance(value, bool) else whole_number(value)
        numbers = self.numbers or tuple(range(len(self.labels)))
        if number is not None and number in numbers:
            return LabelName.of(self.labels, numbers.index(number))
        if isinstance(value, str) and value in self.labels:
            return LabelName.of(self.labels, self.labels.index(value))
        if number == -1 or value is None or value == "":
            return "" if number is None else LabelName.of(self.labels, -1)
        said = f"the label {quoted(value)} has no name among {listed(list(self.labels))}; add it or drop the row"
        raise field_error(place, said)

    @property
    def has_label(self) -> bool:
        """Whether the output is one of a few labels: they have names, or the field is called so."""
        return bool(self.labels) or self.paths.get("output", ("",))[0].rpartition(".")[2] in ("label", "label_text")

    @property
    def fields(self) -> frozenset[str]:
        """Names of the fields it reads, without what is inside them."""
        return frozenset(path.partition(".")[0] for paths in self.paths.values() for path in paths)


def parse_field_map(text: str) -> FieldMap:
    """Return a map of fields.

    >>> dict(parse_field_map("input=ctx,output=label,choices=endings").paths)
    {'input': ('ctx',), 'output': ('label',), 'choices': ('endings',)}

    Args:
        text: `role=field` parts joined by commas; the roles are input, output and choices. A field inside another is
            `a.b`, an entry of a list `a.0`; several fields of the input, or of the choices, are joined by `+`. With
            `labels=bad|good` the labels 0 and 1 of the output get names, with `labels=1:bad|2:good` others.

    Raises:
        TaskError: it is no such text; the message says how to write it.
    """
    example = "write input=FIELD,output=FIELD[,choices=FIELD][,labels=NAME|NAME]"
    paths: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        role, separator, named = (piece.strip() for piece in part.partition("="))
        fields = tuple(name.strip() for name in named.split("|" if role == "labels" else "+"))
        if role not in _ROLES or not separator or not all(fields):
            raise TaskError(f"`fields={text}`: {quoted(part.strip())} names no field; {example}")
        if role in paths:
            raise TaskError(f"`fields={text}`: {role} is there twice; {example}")
        if len(fields) > 1 and role == "output":
            raise TaskError(f"`fields={text}`: {role} is one field; {example}")
        paths[role] = fields
    if "input" not in paths:
        raise TaskError(f"`fields={text}`: names no input; {example}")
    labels = paths.pop("labels", ())
    numbers: tuple[int, ...] = ()
    numbered = [label.partition(":") for label in labels]
    if all(whole_number(number) is not None and name for number, _, name in numbered):
        numbers = tuple(int(number.partition(".")[0]) for number, _, _ in numbered)
        labels = tuple(name.strip() for _, _, name in numbered)
    if labels and (len(set(labels)) < max(2, len(labels)) or len(set(numbers)) < len(numbers)):
        raise TaskError(f"`fields={text}`: labels are at least two names, all different; {example}")
    return FieldMap(text, paths, labels, numbers)


def _joined(values: list[Any], named: str, place: str) -> str:
    """The text of several fields, without those that are empty."""
    texts = [json.dumps(value) if isinstance(value, bool) else value for value in values if value is not None]
    if bad := next((text for text in texts if isinstance(text, NoText)), None):
        raise field_error(place, f"of {named} one is {bad.said}")
    other = next((text for text in texts if not isinstance(text, str)), None)
    if other is not None:
        raise field_error(place, f"of {named} one is {kind_of(other)}, not text; name one field")
    filled = [text for text in texts if text.strip()]
    if not filled:
        raise field_error(place, f"{named} are all empty; fill one in or drop the row")
    return "\n\n".join(filled)


def _value(record: Mapping[str, Any], path: str, place: str) -> Any:
    """The value at a path; a field whose own name has dots counts before what is inside one."""
    if path in record:
        return record[path]
    value: Any = record
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and (at := _place_in(step, value)) is not None:
            value = value[at]
        else:
            raise field_error(place, f"has no field {quoted(path)}; it has {listed(list(record))}")
    return value


def _place_in(step: str, entries: list[Any]) -> int | None:
    """The place in a list that a step of a path names, None where it is none."""
    number = natural_number(step.lstrip("0") or step[:1])
    return number if number is not None and number < len(entries) else None
