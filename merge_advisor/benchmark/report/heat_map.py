"""The heat map of a benchmark: tasks, by family, times arms, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from merge_advisor.benchmark.analysis.curves import TaskTable
from merge_advisor.benchmark.report.wording import amount
from merge_advisor.report.svg import EM, WIDTH, breadth, coordinate, element, figure, finite_numbers, label, tooltip

_STEPS = 4
"""Classes of colour on each side of zero."""
_NAMES = 160
"""Units kept free for the names of tasks."""
_HIGH = 15
"""Units of a row of tasks."""
_NUMBERED, _SMALL = 24, 17
"""Least width of a cell that its number fits into, and fits into in small letters."""

_Differences = Sequence[Sequence[float | None]]
"""(tasks, arms), up is better; None where there is no result."""


def heat_limit(differences: _Differences) -> float:
    """Return the difference at which the colours end: nine in ten lie within; 0.0 where all are zero or absent.

    Args:
        differences: (tasks, arms).

    >>> heat_limit([[1.0, -2.0, None], [4.0, 0.0, None]])
    4.0
    """
    # zeros are left out: many tasks that no arm moves would otherwise give all others the strongest colour
    sizes = sorted(abs(value) for row in differences for value in finite_numbers(row) if value)
    return sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))] if sizes else 0.0


def heat_map(key: str, title: str, table: TaskTable, differences: _Differences, *, points: bool) -> str:
    """Return tasks, by family, times arms; the colour of a cell is the arm's difference to the reference.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        table: tasks, families and arms.
        differences: (tasks, arms), up is better; None where there is no result.
        points: whether they are points of accuracy, or nats.

    Returns:
        One SVG element; empty without tasks or arms.
    """
    if not table.tasks or not table.arms:
        return ""
    wide = (WIDTH - _NAMES) / len(table.arms)
    limit, top = heat_limit(differences), min(max(breadth(arm) for arm in table.arms) * EM + 8, 120.0)
    parts, y = _arm_names(table.arms, wide, top), top
    families = [
        (family, list(rows))
        for family, rows in groupby(zip(table.tasks, table.families, differences, strict=True), key=itemgetter(1))
    ]
    headed = len(families) < len(table.tasks)
    for family, rows in families:
        tasks = [task for task, _, _ in rows]
        alone = not headed or tasks == [family]  # a heading over one task of its own name would say it twice
        if headed:
            y += 6 if alone else 17
        if not alone:
            parts.append(label(2, y - 4, family, class_="strong family"))
        names = tasks if alone else _under(family, tasks)
        for name, (task, _, values) in zip(names, rows, strict=True):
            parts.append(label(2 if alone else 10, y + 11, name, room=_NAMES - 14, class_="tick"))
            for place, value in enumerate(values):
                where = f"{task[:120]}, {table.arms[place][:120]}: "
                kind = heat_class(value, limit)
                parts.append(_cell(_NAMES + place * wide, y, wide, value, kind, where, points=points))
            y += _HIGH
    return figure(key, title, f"{len(table.tasks)} tasks by {len(table.arms)} arms", y + 2, parts)


def _arm_names(arms: Sequence[str], wide: float, top: float) -> list[str]:
    """Names over the columns, turned: columns are narrower than names."""
    parts = []
    for place, arm in enumerate(arms):
        turned = label(0, 0, arm, room=top - 6, class_="tick")
        x = _NAMES + (place + 0.5) * wide + 4
        parts.append(element("g", turned, transform=f"translate({coordinate(x)} {coordinate(top - 5)}) rotate(-90)"))
    return parts


def _under(family: str, tasks: Sequence[str]) -> list[str]:
    """Names of tasks under the heading of their family, without the part before `__` that all begin with."""
    first = tasks[0].partition("__")[0] + "__"
    shared = first if len(tasks) > 1 and all(task.startswith(first) for task in tasks) else family
    return [task.removeprefix(shared).lstrip("_") or task for task in tasks]


def _cell(x: float, y: float, wide: float, value: float | None, kind: str, where: str, *, points: bool) -> str:
    """A cell with its number, where that fits."""
    shown = amount(value, "accuracy" if points else "loss")
    title = tooltip(where + (shown or "no result"))
    cell = element("rect", title, x=x, y=y, width=wide - 1, height=_HIGH - 1, class_=f"heat {kind}")
    if wide < _SMALL or value is None or not shown:
        return cell
    # shortest form that keeps the sign: "+3", "-.02"; anything that rounds to zero is "0"
    short = f"{round(value):+d}" if points else f"{value:+.2f}".replace("0.", ".")
    short = short if short.strip("+-.0") else "0"
    size = "cell" if wide >= _NUMBERED else "cell small"
    return cell + element("text", short, x=x + wide / 2 - 0.5, y=y + 10.5, text_anchor="middle", class_=size)


def heat_class(value: float | None, limit: float) -> str:
    """Return the CSS class of a difference: "up1" to "up4", "down1" to "down4", "same" or "none".

    Args:
        value: the difference; None where there is no result.
        limit: the difference at which the colours end, see `heat_limit`.

    >>> heat_class(2.0, 4.0), heat_class(-9.0, 4.0), heat_class(None, 4.0)
    ('up2', 'down4', 'none')
    """
    if value is None or not math.isfinite(value):
        return "none"
    share = abs(value) / limit if limit else 0.0
    step = min(_STEPS, math.ceil(share * _STEPS - 1e-9))  # 0.5 * 4 must be step 2 in spite of rounding errors
    if step <= 0:
        return "same"
    return f"{'up' if value > 0 else 'down'}{step}"
