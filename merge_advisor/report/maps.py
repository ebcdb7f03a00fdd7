"""The similarity map: where the task's delta lies among those of the pool, and which models were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merge_advisor.report.svg import BOLD, EM, WIDTH, breadth, brief, dots, figure, fitted, label, line, marked
from merge_advisor.report.values import SimilarityMap
from merge_advisor.types import SHOTS_LORA, Selection

HEIGHT = 320
EDGE = 14
"""Units kept free around the points."""
ROOM = 130
"""Units a label may take."""
NAMED = 8
"""Candidates named beside members, nearest first, where there is room; members all named, with or without room."""
TOLD = 250
"""Candidates with a tooltip, nearest first; the rest are points."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]


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
    labels = _Labels([task, *points.values()] if len(points) < 200 else [task, *(points[m.id] for m in chosen)])
    labels.put(task, word, "strong", needed=True)
    short = brief([*found.candidates], ROOM)
    for member in chosen:
        needed = member.role == "anchor" or len(chosen) <= NAMED
        labels.put(points[member.id], short[member.id], "strong", needed=needed)
    for name in others[:NAMED]:
        labels.put(points[name], short[name], "tick", needed=False)
    told = f"{len(points)} candidates around the task; nearest: " + ", ".join(fitted(name, 400) for name in near[:3])
    return figure(key, "Where the task lies among the pool", told, HEIGHT, [*parts, *labels.parts])


def _nearness(similarity: float | None, place: Point, task: Point) -> float:
    """What candidates are ordered by: the cosine, or the distance on the map below every cosine."""
    if similarity is not None:
        return similarity
    return -2 - ((place[0] - task[0]) ** 2 + (place[1] - task[1]) ** 2)


def _told(name: str, similarity: float | None) -> str:
    return name[:120] + ("" if similarity is None else f", similarity {similarity:.3f}")


def _laid(points: Sequence[Point]) -> list[Point]:
    """Places on the plot: one scale for both axes, the middle of the points in the middle."""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    units = min((WIDTH - 2 * EDGE) / max(right - left, 1e-6), (HEIGHT - 2 * EDGE) / max(high - low, 1e-6))
    return [
        (WIDTH / 2 + (x - (left + right) / 2) * units, HEIGHT / 2 - (y - (low + high) / 2) * units) for x, y in points
    ]


@dataclass(eq=False)
class _Labels:
    """Places labels one after another where they cover neither one another nor a point."""

    points: Sequence[Point]
    parts: list[str] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)

    def put(self, point: Point, text: str, class_: str, *, needed: bool) -> None:
        """Add a label beside a point, with a line to it where it had to move away; leave it out where nothing is free.

        Args:
            point: what is named.
            text: its name, cut to `ROOM`.
            class_: of the text.
            needed: place it even if it must cover something.
        """
        wide = min(breadth(fitted(text, ROOM)) * EM * (BOLD if class_ == "strong" else 1.0), ROOM)
        spots = [_spot(point, wide, away, side) for away in (0, 14, 28, 44, 62) for side in range(8 if away else 4)]
        inside = [spot for spot in spots if _inside(spot.box)]
        best = min(inside, key=lambda spot: (self._covered(spot.box), spot.away), default=None)
        if best is None or (self._covered(best.box) and not needed):
            return
        self.taken.append(best.box)
        if best.away:
            self.parts.append(line(*point, *best.tip, "leader"))
        x = {"": best.box[0], "middle": (best.box[0] + best.box[2]) / 2, "end": best.box[2]}[best.anchor]
        self.parts.append(label(x, best.box[3] - 3, text, room=ROOM, anchor=best.anchor, class_=class_))

    def _covered(self, box: Box) -> int:
        """How much a box covers; names weigh more than points."""
        return 10 * sum(_meet(box, other) for other in self.taken) + sum(
            box[0] - 2 < x < box[2] + 2 and box[1] - 2 < y < box[3] + 2 for x, y in self.points
        )


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a label can be put."""

    away: float
    """How much farther from the point than it need be."""
    box: Box
    tip: Point
    """Where a line from the point meets the label."""
    anchor: str
    """The end of the text that is nearest to the point, as SVG names it: the width of a text is only estimated."""


def _spot(point: Point, wide: float, away: float, side: int) -> _Spot:
    """The place right, left, above, below, or at one of four slants, of a point."""
    dx, dy = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7))[side]
    x, y = point[0] + dx * (8 + away), point[1] + dy * (8 + away)
    left = x if dx > 0 else x - wide if dx < 0 else x - wide / 2
    top = y - 7 + dy * 7
    return _Spot(away, (left, top, left + wide, top + 14), (x, y), "" if dx > 0 else "end" if dx < 0 else "middle")


def _inside(box: Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= HEIGHT


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
