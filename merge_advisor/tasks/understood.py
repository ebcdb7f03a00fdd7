"""What a task file was understood as: one line that names every field read and every field left out, and notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from merge_advisor.tasks.field_map import FieldMap
from merge_advisor.tasks.fields import Noticed, Reading, how_many, listed, quoted
from merge_advisor.types import Row


def understood_line(
    name: str, rows: Sequence[Row], noticed: Noticed, labels: Sequence[str], field_map: FieldMap | None
) -> str:
    """Return what a file was understood as, in one line.

    Args:
        name: of the file.
        rows: as they were read.
        noticed: what was noticed meanwhile.
        labels: that rows choose among, where the file itself gives no choices.
        field_map: what the user says that fields are, where he says so.
    """
    many = len(noticed.readings) > 1
    read = [_reading(reading, field_map, count if many else 0) for reading, count in noticed.readings.items()]
    parts = [f"{name}: {how_many(len(rows), 'row')}, read as {' and as '.join(read)}"]
    if labels:
        parts.append(f"{len(labels)} labels to choose among: {', '.join(quoted(label) for label in labels)}")
    if noticed.unused:
        parts.append(f"{how_many(len(noticed.unused), 'field')} left out: {', '.join(sorted(noticed.unused))}")
    return "; ".join(parts)


def _reading(reading: Reading, field_map: FieldMap | None, count: int) -> str:
    rows = f", {how_many(count, 'row')}" if count else ""
    if field_map is not None:
        return f"the map says ({field_map.text}{rows})"
    fields = dict.fromkeys((*reading.asked, *reading.choices, *([reading.output] if reading.output else [])))
    chosen = " with choices" if reading.choices else ""
    return f"{reading.kind}{chosen} (fields {', '.join(fields)}{rows})"


def file_notes(rows: Sequence[Row], read: int, noticed: Noticed) -> Iterator[str]:
    """Yield what a reader should know of a file, a line each.

    Args:
        rows: none of them twice.
        read: how many there were with repeated ones.
        noticed: what was noticed while they were read.

    Yields:
        notes.
    """
    if read > len(rows):
        yield f"{how_many(read - len(rows), 'duplicate row')} dropped"
    for reason, places in noticed.left.items():
        yield f"{how_many(len(places), 'row')} left out: {reason} (the first: {places[0]})"
    outputs: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        outputs[row.input].add(row.output)
    mixed = sum(len(different) > 1 for different in outputs.values())
    if mixed:
        yield f"{how_many(mixed, 'input')} with more than one output; all kept"
    if noticed.several:
        with_several = f"{how_many(noticed.several, 'row')} with several right answers"
        yield f"{with_several}: any of them counts as right, the first is trained on and has the loss"
    yield from _texts(noticed)
    if noticed.outputs:
        yield f"outputs of {how_many(noticed.outputs, 'row')} not looked at"
    chosen = sum(row.choices is not None for row in rows)
    if 0 < chosen < len(rows):
        yield f"choices on {chosen} of {len(rows)} rows only"


def _texts(noticed: Noticed) -> Iterator[str]:
    """What was made of values that are no text, and of the parts of chats."""
    if noticed.numbers:
        yield f"{how_many(noticed.numbers, 'number')} taken as text"
    if noticed.places:
        # a place that is written as the choice itself would show nothing
        name, given, text, first = next((found for found in noticed.places if found[1] != found[2]), noticed.places[0])
        read_as = f"{how_many(len(noticed.places), 'answer')} read as the place of a choice, from {first}, or its key"
        yield f"{read_as} ({name} {given} is {quoted(text)}); where the answer itself is meant, write it as text"
    unsure = [one for (kind, as_place), found in noticed.either.items() if not as_place and _unsure(noticed, kind)
              for one in found]  # fmt: skip
    if unsure:
        name, given, other = unsure[0]
        read_as = (
            f"{how_many(len(unsure), 'answer')} read as the choice itself, though it may be the letter or place of"
        )
        yield f"{read_as} another ({name} {given}, else {quoted(other)}); where that is meant, write the choice as text"
    if noticed.booleans:
        yield f"{how_many(noticed.booleans, 'boolean')} taken as text, true or false"
    if noticed.systems:
        taken = f"{listed(sorted(noticed.system_fields))} of {how_many(noticed.systems, 'row')}"
        yield f"{taken} taken as the system prompt; rename it if it is none"
    if noticed.tools:
        yield f"{how_many(noticed.tools, 'turn')} of tools left out; a model is asked without them"
    if noticed.cut:
        yield f"{how_many(noticed.cut, 'chat')} cut behind the last answer in words, which is the answer of the row"
    if noticed.parts:
        yield f"{how_many(noticed.parts, 'part')} of messages left out that are no text"


def _unsure(noticed: Noticed, kind: str) -> bool:
    """Whether the rows of a file do not say, or not all the same, what an answer is that may be two."""
    return bool(noticed.only_place[kind]) == bool(noticed.only_text[kind])
