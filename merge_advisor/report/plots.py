"""Bars and differences with intervals, and the front of points that none beats: plots of any report, as SVG.

Each plot takes no values, one, equal ones and ones that are no numbers; what cannot be drawn is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from merge_advisor.report.svg import (
    EM,
    WIDTH,
    PlotPoint,
    Scale,
    breadth,
    coordinate,
    element,
    figure,
    fitted,
    horizontal_axis,
    label,
    marked,
    scale_over,
    tooltip,
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar plot.

    >>> Bar("merge", 0.9, "90.0%", strong=True).shown
    '90.0%'
    """

    label: str
    value: float | None
    shown: str
    """The value as text, at the right."""
    other: float | None = None
    """A second value to compare with, drawn thinner below."""
    strong: bool = False


def bar_plot(key: str, title: str, rows: Sequence[Bar], *, percent: bool = False) -> str:
    """Return values as bars from zero, one row each with its label above it.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        rows: from top to bottom.
        percent: values are shares: the axis goes from 0 to 100%.

    Returns:
        One SVG element.

    >>> bar_plot("scores", "Scores", [Bar("merge", 0.9, "90.0%")], percent=True)[:38]
    '<svg role="img" aria-labelledby="score'
    """
    twin = any(row.other is not None for row in rows)
    high = 38 if twin else 32
    bottom = high * len(rows) + 2
    values = [0.0, *(row.value for row in rows), *(row.other for row in rows)]
    scale = Scale(0, 1, 2, WIDTH - 4) if percent else scale_over(values, 2, WIDTH - 4)
    parts = horizontal_axis(scale, 0, bottom, tick_text=(lambda v: f"{100 * v:.0f}%") if percent else None)
    for number, row in enumerate(rows):
        top = number * high
        room = breadth(row.shown) * EM + 10
        parts.append(label(2, top + 13, row.label, room=WIDTH - room - 4, class_="strong" if row.strong else ""))
        parts.append(label(WIDTH - 2, top + 13, row.shown, anchor="end", class_="value"))
        parts.append(_bar(scale, row.value, top + 18, 8, "bar merge" if row.strong else "bar", row.shown))
        if row.other is not None:
            parts.append(_bar(scale, row.other, top + 28, 4, "bar plan", ""))
    words = f"{len(rows)} bars, from {rows[0].label} to {rows[-1].label}" if rows else "nothing to show"
    return figure(key, title, fitted(words, 2000), bottom + 20, parts)


def _bar(scale: Scale, value: float | None, top: float, high: float, class_: str, title: str) -> str:
    if value is None or not math.isfinite(value):
        return ""
    ends = sorted((scale(0.0), scale(value)))
    wide = max(ends[1] - ends[0], 1.5)  # a value of zero is a value too
    return element("rect", tooltip(title) if title else "", x=ends[0], y=top, width=wide, height=high, class_=class_)


@dataclass(frozen=True, slots=True)
class Whisker:
    """A difference with its interval; positive is better.

    >>> Whisker("base", 1.5, 0.5, 2.5, "+1.5 (+0.5 to +2.5)").lower
    0.5
    """

    label: str
    value: float | None
    lower: float | None
    upper: float | None
    shown: str
    """The numbers as text, at the right."""
    note: str = ""
    """A second line in words, where there is more to say than fits beside the label."""
    strong: bool = False
    side: str = ""
    """"better", "worse" or "even", where the interval alone does not decide it."""


def forest_plot(key: str, title: str, rows: Sequence[Whisker], *, ends: tuple[str, str], band: float = 0.0) -> str:
    """Return differences with their intervals around a line at zero.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        rows: from top to bottom.
        ends: what lies left and right of zero, in words.
        band: half the width of a band around zero, for differences too small to matter; 0 draws none.

    Returns:
        One SVG element.
    """
    noted = 15 if any(row.note for row in rows) else 0
    high = 32 + noted
    bottom = high * len(rows) + 2
    # zero is always on the axis: which side an interval lies on is the question
    every = [0.0, band, -band, *(v for row in rows for v in (row.value, row.lower, row.upper))]
    scale = scale_over(every, 8, WIDTH - 8, margin=0.03)
    parts = horizontal_axis(scale, 0, bottom)
    small = scale(band) - scale(-band)
    for number, row in enumerate(rows):
        top = number * high
        room, weight = WIDTH - breadth(row.shown) * EM - 10, "strong" if row.strong else ""
        y = top + 22 + noted
        parts.append(element("rect", x=scale(-band), y=y - 7, width=small, height=14, class_="band") if band else "")
        parts.append(label(2, top + 13, row.label, room=room, class_=weight))
        parts.append(label(WIDTH - 2, top + 13, row.shown, anchor="end", class_="value"))
        parts.append(label(2, top + 28, row.note, class_="tick") if row.note else "")
        parts.append(_whisker(scale, row, y))
    parts += _ends(scale(0.0), bottom + 30, ends)
    words = "; ".join(f"{row.label}: {row.shown}" for row in rows) or "nothing to show"
    return figure(key, title, fitted(words, 4000), bottom + 36, parts)


def _ends(x: float, y: float, ends: tuple[str, str]) -> list[str]:
    """What lies left and right of zero, each where there is room for it."""
    sides = (("← " + ends[0], x - 8, x - 8, "end"), (ends[1] + " →", x + 8, WIDTH - x - 8, ""))
    return [
        label(place, y, text, anchor=anchor, class_="tick")
        for text, place, room, anchor in sides
        if breadth(text) * EM <= room
    ]


def _whisker(scale: Scale, row: Whisker, y: float) -> str:
    value, lower, upper = row.value, row.lower, row.upper
    if value is None or not math.isfinite(value):
        return ""
    if lower is None or upper is None or not math.isfinite(lower) or not math.isfinite(upper):
        return marked("square", scale(value), y, 4, f"mark {row.side or 'even'}", row.shown)
    side = row.side or ("better" if lower > 0 else "worse" if upper < 0 else "even")
    a, b, c = (coordinate(v) for v in (scale(lower), scale(upper), y))
    up, down = coordinate(y - 4), coordinate(y + 4)
    path = f"M{a} {c}L{b} {c}M{a} {up}L{a} {down}M{b} {up}L{b} {down}"
    return element("path", d=path, class_=f"whisker {side}") + marked(
        "square", scale(value), y, 4, f"mark {side}", row.shown
    )


def front_points(points: Sequence[PlotPoint]) -> list[PlotPoint]:
    """Return the points that no other one equals or beats on both numbers, by the first one; less is better.

    Args:
        points: pairs of numbers.

    >>> front_points([(3, 1), (1, 3), (3, 3)])
    [(1, 3), (3, 1)]
    """
    front: list[PlotPoint] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def stairs(points: Sequence[PlotPoint]) -> list[PlotPoint]:
    """Return a path through points that goes level first and then up or down.

    Args:
        points: from left to right.

    >>> stairs([(0, 2), (1, 1)])
    [(0, 2), (1, 2), (1, 1)]
    """
    path: list[PlotPoint] = []
    for point in points:
        path += [(point[0], path[-1][1])] if path else []
        path.append(point)
    return path
