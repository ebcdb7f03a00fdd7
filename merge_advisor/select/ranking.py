"""From scores to a choice: rankings with ties to the smaller position, the demanded anchor first, picks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.select.evidence import K_REACHED, NOTHING_ADDED, Choice, Pick

if TYPE_CHECKING:
    from merge_advisor.arrays import FloatingArray
    from merge_advisor.select.evidence import Resource


def ranked(scores: FloatingArray) -> list[int]:
    """Return the positions by falling score; ties go to the smaller position, NaN comes last.

    >>> ranked(np.array([0.2, 0.7, float("nan"), 0.7]))
    [1, 3, 0, 2]

    Args:
        scores: (n,) by position.
    """
    clean = np.where(np.isnan(scores), -np.inf, scores)
    # the stable sort is what keeps ties in the order of positions
    return [int(position) for position in np.argsort(-clean, kind="stable")]


def anchored(order: Iterable[int], anchor: int | None) -> list[int]:
    """Return the order with the demanded anchor, if any, at the front.

    >>> anchored([3, 1, 2], 2), anchored([3, 1, 2], None)
    ([2, 3, 1], [3, 1, 2])

    Args:
        order: positions, the best first.
        anchor: `Evidence.anchor`.
    """
    order = list(order)
    return order if anchor is None else [anchor, *(p for p in order if p != anchor)]


def while_positive(order: Sequence[int], scores: FloatingArray, k: int, used: Iterable[Resource] = ()) -> Choice:
    """Return the first position in any case, then the next ones while their score is above 0.

    >>> choice = while_positive([2, 0, 1], np.array([0.5, -0.1, 0.9]), k=3)
    >>> [pick.position for pick in choice.picks], choice.stopped
    ([2, 0], 'another partner adds nothing')

    Args:
        order: positions, the best first (a demanded anchor before them).
        scores: (n,) by position; the score of a pick becomes its gain.
        k: most positions taken.
        used: see `Choice.used`.
    """
    kept = list(order[:1])
    for position in order[1:k]:
        if not scores[position] > 0:  # not `<= 0`: NaN stops as well
            break
        kept.append(position)
    return make_choice([make_pick(position, scores[position]) for position in kept], k, used=used)


def make_pick(position: int, gain: float) -> Pick:
    """Make a pick of plain Python numbers; a gain that is NaN or infinite becomes None.

    >>> make_pick(3, 0.5), make_pick(1, float("inf"))
    (Pick(position=3, gain=0.5), Pick(position=1, gain=None))

    Args:
        position: of the candidate.
        gain: what adding it gained.
    """
    # numpy numbers would not be written to plan.json, nor would JSON have a word for NaN
    return Pick(int(position), float(gain) if np.isfinite(gain) else None)


def make_choice(
    picks: Sequence[Pick],
    k: int,
    direction: tuple[float, ...] | None = None,
    used: Iterable[Resource] = (),
) -> Choice:
    """Make the answer: it stopped at k, or before k because another partner adds nothing.

    >>> make_choice([Pick(0), Pick(2)], k=2).stopped, make_choice([Pick(0)], k=2).stopped
    ('k reached', 'another partner adds nothing')

    Args:
        picks: in the order of choosing, the anchor first.
        k: most picks there could be.
        direction: see `Choice.direction`.
        used: see `Choice.used`.
    """
    return Choice(tuple(picks), K_REACHED if len(picks) >= k else NOTHING_ADDED, direction, frozenset(used))
