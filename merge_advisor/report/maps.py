"""The similarity map: where the task's delta lies among those of the pool, and which models were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.report.labels import LABEL_ROOM, Labels
from merge_advisor.report.svg import WIDTH, PlotPoint, brief, dots, figure, fitted, marked
from merge_advisor.report.values import SimilarityMap
from merge_advisor.types import SHOTS_LORA, Member, Selection

HEIGHT = 320
"""Units of the map's height."""
_EDGE = 14
"""Units kept free around the points."""
_NAMED = 8
"""Candidates named beside members, nearest first, where there is room; members all named, with or without room."""
TOOLTIPS = 250
"""Candidates with a tooltip, nearest first; the rest are points."""


def similarity_map(
    key: str, placed: SimilarityMap, selection: Selection, similarity: Mapping[str, float | None] | None = None
) -> str:
    """Return the pool's deltas and the task's on two axes of one scale; members are named, and the nearest others.

    Args:
        key: makes the ids of this plot unique on its page.
        placed: where each model lies.
        selection: its members are marked, the anchor with a diamond.
        similarity: cosine of each candidate's delta with the task's; without it the distance on the map tells which
            candidates are near.

    Returns:
        One SVG element.
    """
    known = similarity or {}
    task, *places = _laid([placed.task, *placed.candidates.values()])
    points = dict(zip(placed.candidates, places, strict=True))
    near = sorted(points, key=lambda name: (-_nearness(known.get(name), points[name], task), name))
    chosen = [member for member in selection.members if member.id in points]
    ids = {member.id for member in chosen}
    others = [name for name in near if name not in ids]
    own = any(member.id == SHOTS_LORA for member in selection.members)
    word = "task (shots_lora, a member)" if own else "task"
    parts = [*_marks(points, chosen, others, known), marked("cross", *task, 5, "task", word)]
    # on a map of many points a name cannot keep off all of them: it keeps off members and other names
    crowd = points.values() if len(points) < 200 else (points[member.id] for member in chosen)
    labels = Labels([task, *crowd], HEIGHT)
    labels.put(task, word, "strong", needed=True)
    short = brief([*placed.candidates], LABEL_ROOM)
    for member in chosen:
        needed = member.role == "anchor" or len(chosen) <= _NAMED
        labels.put(points[member.id], short[member.id], "strong", needed=needed)
    for name in others[:_NAMED]:
        labels.put(points[name], short[name], "tick", needed=False)
    nearest = ", ".join(fitted(name, 400) for name in near[:3])
    words = f"{len(points)} candidates around the task; nearest: {nearest}"
    return figure(key, "Where the task lies among the pool", words, HEIGHT, [*parts, *labels.parts])


def _marks(
    points: Mapping[str, PlotPoint],
    chosen: Sequence[Member],
    others: Sequence[str],
    known: Mapping[str, float | None],
) -> list[str]:
    """The candidates, members on top of the others and near ones on top of far ones."""
    parts = [dots((points[name] for name in others[TOOLTIPS:]), "candidates")]
    parts += [
        marked("circle", *points[name], 2.6, "candidate", _words(name, known.get(name)))
        for name in reversed(others[:TOOLTIPS])  # the nearest are drawn last: the pointer finds them first
    ]
    for member in chosen:
        shape, size = ("diamond", 5.0) if member.role == "anchor" else ("circle", 4.5)
        words = f"{member.role}: {_words(member.id, member.similarity)}"
        parts.append(marked(shape, *points[member.id], size, "member", words))
    return parts


def _nearness(similarity: float | None, place: PlotPoint, task: PlotPoint) -> float:
    """What candidates are ordered by: the cosine, or the distance on the map below every cosine."""
    if similarity is not None:
        return similarity
    return -2 - ((place[0] - task[0]) ** 2 + (place[1] - task[1]) ** 2)


def _words(name: str, similarity: float | None) -> str:
    return name[:120] + ("" if similarity is None else f", similarity {similarity:.3f}")


def _laid(points: Sequence[PlotPoint]) -> list[PlotPoint]:
    """Places on the plot: one scale for both axes, the middle of the points in the middle."""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    # one scale for both axes, or distances on the map would mean nothing; 1e-6: all points may be one
    units = min((WIDTH - 2 * _EDGE) / max(right - left, 1e-6), (HEIGHT - 2 * _EDGE) / max(high - low, 1e-6))
    return [
        (WIDTH / 2 + (x - (left + right) / 2) * units, HEIGHT / 2 - (y - (low + high) / 2) * units) for x, y in points
    ]
