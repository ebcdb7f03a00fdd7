"""Names beside the points of a plot, put where they cover neither one another nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from merge_advisor.report.svg import BOLD, EM, WIDTH, PlotPoint, breadth, fitted, label, line

LABEL_ROOM = 130
"""Units a name may take."""

_Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(eq=False)
class Labels:
    """Labels placed one after another where they cover neither one another nor a point.

    >>> labels = Labels([(50.0, 50.0), (60.0, 50.0)], height=100)
    >>> labels.put((50.0, 50.0), "anchor", "strong", needed=True)
    >>> len(labels.taken)
    1
    """

    points: Sequence[PlotPoint]
    """All that is drawn and should stay visible."""
    height: float
    """Units of the plot's height."""
    parts: list[str] = field(default_factory=list)
    """Markup of the labels placed so far."""
    taken: list[_Box] = field(default_factory=list)
    """Where these are."""

    def put(self, point: PlotPoint, text: str, class_: str, *, needed: bool) -> None:
        """Add a label beside a point, with a line to it where it had to move away; leave it out where nothing is free.

        Args:
            point: what is named.
            text: its name, cut to `LABEL_ROOM`.
            class_: of the text.
            needed: place it even if it must cover something.
        """
        wide = min(breadth(fitted(text, LABEL_ROOM)) * EM * (BOLD if class_ == "strong" else 1.0), LABEL_ROOM)
        # near places before far ones; the slanted four only where a line leads back to the point
        spots = [_spot(point, wide, away, side) for away in (0, 14, 28, 44, 62) for side in range(8 if away else 4)]
        inside = [spot for spot in spots if _inside(spot.box, self.height)]
        best = min(inside, key=lambda spot: (self._covered(spot.box), spot.away), default=None)
        if best is None or (self._covered(best.box) and not needed):
            return
        self.taken.append(best.box)
        if best.away:
            self.parts.append(line(*point, *best.tip, "leader"))
        x = {"": best.box[0], "middle": (best.box[0] + best.box[2]) / 2, "end": best.box[2]}[best.anchor]
        self.parts.append(label(x, best.box[3] - 3, text, room=LABEL_ROOM, anchor=best.anchor, class_=class_))

    def _covered(self, box: _Box) -> int:
        """How much a box covers; names weigh more than points."""
        # a point under a name can still be seen, two names over each other cannot be read
        return 10 * sum(_meet(box, other) for other in self.taken) + sum(
            box[0] - 2 < x < box[2] + 2 and box[1] - 2 < y < box[3] + 2 for x, y in self.points
        )


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a label can be put."""

    away: float
    """How much farther from the point than it need be."""
    box: _Box
    tip: PlotPoint
    """Where a line from the point meets the label."""
    anchor: str
    """The end of the text that is nearest to the point, as SVG names it: the width of a text is only estimated."""


def _spot(point: PlotPoint, wide: float, away: float, side: int) -> _Spot:
    """The place right, left, above, below, or at one of four slants, of a point."""
    dx, dy = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7))[side]
    x, y = point[0] + dx * (8 + away), point[1] + dy * (8 + away)
    left = x if dx > 0 else x - wide if dx < 0 else x - wide / 2
    top = y - 7 + dy * 7
    return _Spot(away, (left, top, left + wide, top + 14), (x, y), "" if dx > 0 else "end" if dx < 0 else "middle")


def _inside(box: _Box, height: float) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= WIDTH and box[3] <= height


def _meet(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
