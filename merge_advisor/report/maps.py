"""The similarity map: where the task's delta lies among those of the pool, and which models were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.report.labels import LABEL_ROOM, Labels
from merge_advisor.report.svg import WIDTH, PlotPoint, brief, dots, figure, fitted, marked
from merge_advisor.report.values import SimilarityMap
from merge_advisor.types import SHOTS_LORA, Selection

HEIGHT = 320
EDGE = 14
"""Units kept free around the points."""
NAMED = 8
"""Candidates named beside members, nearest first, where there is room; members all named, with or without room."""
TOLD = 250
"""Candidates with a tooltip, nearest first; the rest are points."""


def similarity_map(
    key: str, found: SimilarityMap, selection: Selection, similarity: Mapping[str, float | None] | None = None
) -> str:
    """Draw the pool's deltas and the task's on two axes of one scale; members are named, and so are the nearest others.

    Args:
        key: makes the ids of this plot unique on its page.
        found: where each model lies.
        selection: its members are marked, the anchor with a diamond.
        similarity: cosine of each candidate's delta with the task's; without it the distance on the map tells who is
            near.
    """
    known = similarity or {}
    task, *places = _laid([found.task, *found.candidates.values()])
    points = dict(zip(found.candidates, places, strict=True))
    near = sorted(points, key=lambda name: (-_nearness(known.get(name), points[name], task), name))
    chosen = [member for member in selection.members if member.id in points]
    ids = {member.id for member in chosen}
    others = [name for name in near if name not in ids]
    parts = [dots((points[name] for name in others[TOLD:]), "candidates")]
    parts += [
        marked("circle", *points[name], 2.6, "candidate", _told(name, known.get(name)))
        for name in reversed(others[:TOLD])
    ]
    for member in chosen:
        shape, size = ("diamond", 5.0) if member.role == "anchor" else ("circle", 4.5)
        told = f"{member.role}: {_told(member.id, member.similarity)}"
        parts.append(marked(shape, *points[member.id], size, "member", told))
    own = any(member.id == SHOTS_LORA for member in selection.members)
    word = "task (shots_lora, a member)" if own else "task"
    parts.append(marked("cross", *task, 5, "task", word))
    crowd = points.values() if len(points) < 200 else (points[member.id] for member in chosen)
    labels = Labels([task, *crowd], HEIGHT)
    labels.put(task, word, "strong", needed=True)
    short = brief([*found.candidates], LABEL_ROOM)
    for member in chosen:
        needed = member.role == "anchor" or len(chosen) <= NAMED
        labels.put(points[member.id], short[member.id], "strong", needed=needed)
    for name in others[:NAMED]:
        labels.put(points[name], short[name], "tick", needed=False)
    told = f"{len(points)} candidates around the task; nearest: " + ", ".join(fitted(name, 400) for name in near[:3])
    return figure(key, "Where the task lies among the pool", told, HEIGHT, [*parts, *labels.parts])


def _nearness(similarity: float | None, place: PlotPoint, task: PlotPoint) -> float:
    """What candidates are ordered by: the cosine, or the distance on the map below every cosine."""
    if similarity is not None:
        return similarity
    return -2 - ((place[0] - task[0]) ** 2 + (place[1] - task[1]) ** 2)


def _told(name: str, similarity: float | None) -> str:
    return name[:120] + ("" if similarity is None else f", similarity {similarity:.3f}")


def _laid(points: Sequence[PlotPoint]) -> list[PlotPoint]:
    """Places on the plot: one scale for both axes, the middle of the points in the middle."""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    units = min((WIDTH - 2 * EDGE) / max(right - left, 1e-6), (HEIGHT - 2 * EDGE) / max(high - low, 1e-6))
    return [
        (WIDTH / 2 + (x - (left + right) / 2) * units, HEIGHT / 2 - (y - (low + high) / 2) * units) for x, y in points
    ]
