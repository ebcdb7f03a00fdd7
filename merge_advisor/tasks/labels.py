"""Labels of texts as choices: where the answers of a file are a few labels, every row chooses among all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from merge_advisor.tasks.fields import Noticed, Reading, listed, whole_number
from merge_advisor.types import Row

MOST_LABELS = 20
"""Labels that rows choose among at most: each is a forward of its own for every row."""


def with_label_choices(
    rows: Sequence[Row], noticed: Noticed, known: Sequence[str] = ()
) -> tuple[list[Row], tuple[str, ...], list[str]]:
    """Return rows that choose among the labels of their file, the labels, and notes; unchanged where they have none.

    They are the labels of the rows in sorted order, or all that the file names in its own; those that are known come
    first. Labels are few: at most `MOST_LABELS`, and at most half as many as rows where nothing names them.

    Args:
        rows: of one file.
        noticed: how they were read.
        known: labels of the task that the file belongs to.
    """
    used = sorted({row.output for row in rows})
    if not rows or noticed.labelled < len(rows) or any(row.choices or row.answers for row in rows):
        return list(rows), (), []
    named = list(noticed.names)
    labels = tuple(dict.fromkeys([*known, *named, *used]))
    if len(labels) > MOST_LABELS:
        said = f"{len(labels)} labels are more than {MOST_LABELS}, so rows have no choices: they are read as free text"
        return list(rows), (), [said]
    given = {*known, *named}
    if len(labels) < 2 or (not given >= set(used) and 2 * len(used) > len(rows)):
        return list(rows), (), []
    notes = []
    if not named and all(whole_number(label) is not None for label in labels):
        notes.append(_unnamed(labels, next(iter(noticed.readings)), mapped=noticed.mapped))
    return [replace(row, choices=labels) for row in rows], labels, notes


def minus_is_none(labels: Iterable[str], known: Sequence[str]) -> bool:
    """Return whether -1 among labels stands for none: not beside 1 alone, nor on a scale of fractions or below it.

    >>> minus_is_none(["-1", "0", "1"], ()), minus_is_none(["-1", "1"], ()), minus_is_none(["-2", "-1", "0"], ())
    (True, False, False)

    Args:
        labels: of a file.
        known: labels of the task that the file belongs to, which decide where there are some.
    """
    if known:
        return "-1" not in known
    scale = {label for label in labels if whole_number(label) is None and label.removeprefix("-")[:1].isdigit()}
    numbers = {number for label in labels if (number := whole_number(label)) is not None}
    return not scale and min(numbers, default=0) >= -1 and numbers != {-1, 1}


def shared_choices(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the choices that all rows have in common, empty where they differ: the labels of a task.

    Args:
        rows: of a task.

    >>> shared_choices([Row("fine", "good", ("bad", "good")), Row("poor", "bad", ("bad", "good"))])
    ('bad', 'good')
    """
    found = {row.choices for row in rows}
    only = found.pop() if len(found) == 1 else None
    return only or ()


def _unnamed(labels: Sequence[str], reading: Reading, *, mapped: bool) -> str:
    """Say that labels are numbers, and how they are given names."""
    numbers = sorted(whole_number(label) or 0 for label in labels)
    counted = numbers == list(range(len(numbers)))
    names = "|".join(f"NAME{number}" if counted else f"{number}:NAME{number}" for number in numbers)
    remedy = f"add labels={names} to `fields`"
    if not mapped and not any(set(",+=`|.") & set(name) for name in (*reading.asked, reading.output)):
        remedy = f"give `fields=input={'+'.join(reading.asked)},output={reading.output},labels={names}`"
    return f"labels are numbers without names ({listed(list(labels))}), and a model is asked for the number; {remedy}"
