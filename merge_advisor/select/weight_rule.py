"""The one weight rule of all strategies: a direction whose weights sum to 1, times one global scale.

One rule for all, so that a comparison of strategies compares their selections and not how each sets its scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from merge_advisor.select.evidence import Choice


def weights_direction(choice: Choice) -> tuple[float, ...]:
    """Return the weights by pick, summing to 1: the strategy's own, else uniform.

    >>> from merge_advisor.select import Pick
    >>> weights_direction(Choice((Pick(4), Pick(1)), "k reached"))
    (0.5, 0.5)

    Args:
        choice: of a strategy.
    """
    return choice.direction or (1 / len(choice.picks),) * len(choice.picks)


def line_search(loss_at: Callable[[float], float], members: int, budget: int = 8) -> tuple[float, float, int]:
    """Find the global scale of a direction whose weights sum to 1.

    Measures 0 (the base), ½, 1 (the mean of the members), √k and k (each of k members at full strength; 1½ where k is
    1), then narrows the bracket around the lowest: by the parabola through it where that is safe, else by golden
    section. Deterministic; a loss that is NaN loses.

    >>> line_search(lambda scale: (scale - 1.5) ** 2, members=2)
    (1.5, 0.0, 8)

    Args:
        loss_at: shot loss at a scale.
        members: k, at least 1.
        budget: most evaluations, at least 2.

    Returns:
        The scale, its loss and the number of evaluations: the lowest of all measured, the smaller scale in a tie, so
        never worse than the base.
    """
    seen: dict[float, float] = {}

    def measure(scale: float) -> None:
        loss = float(loss_at(scale))
        seen[scale] = loss if not math.isnan(loss) else math.inf

    # the base first: whatever the budget, the result is never worse than it
    for scale in first_scales(members)[:budget]:
        measure(scale)
    while len(seen) < budget:
        between = _next_scale(seen)
        if between is None:
            break
        measure(between)
    best = min(seen, key=lambda scale: (seen[scale], scale))
    return best, seen[best], len(seen)


def first_scales(members: int) -> list[float]:
    """Return the scales that `line_search` measures whatever it finds, in their order.

    >>> first_scales(4)
    [0.0, 1.0, 0.5, 2.0, 4.0]

    Args:
        members: k, at least 1.
    """
    # √k: so scaled, k updates of one norm that have nothing in common make a merge of that norm
    top = float(members) if members > 1 else 1.5
    return [0.0, 1.0, *sorted({0.5, round(math.sqrt(members), 4), top} - {1.0})]


def _next_scale(seen: Mapping[float, float]) -> float | None:
    """Return the next scale, between the neighbours of the lowest point; None where nothing is left to tell apart."""
    scales = sorted(seen)
    at = scales.index(min(seen, key=lambda scale: (seen[scale], scale)))
    middle = scales[at]
    left, right = scales[max(at - 1, 0)], scales[min(at + 1, len(scales) - 1)]
    apart = 0.02 * max(middle, 0.5)  # a nearer point costs as much and changes next to nothing
    vertex = _vertex([(x, seen[x]) for x in (left, middle, right)]) if left < middle < right else None
    if vertex is not None and left + apart < vertex < right - apart and abs(vertex - middle) > apart:
        return round(vertex, 4)
    # into the wider side: a narrow one has been measured more closely already
    far = left if middle - left > right - middle else right
    if abs(far - middle) <= 2 * apart:
        return None
    return round(middle + (far - middle) * (3 - math.sqrt(5)) / 2, 4)


def _vertex(points: Sequence[tuple[float, float]]) -> float | None:
    """Return where the parabola through three points is lowest; None where it has no lowest point."""
    (x0, y0), (x1, y1), (x2, y2) = points
    if not all(math.isfinite(y) for y in (y0, y1, y2)):
        return None
    lower, upper = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    below = 2 * (lower - upper)
    # at a lowest middle point `lower` is <= 0 and `upper` >= 0; both 0 is a plateau
    return x1 - ((x1 - x0) * lower - (x1 - x2) * upper) / below if below < 0 else None
