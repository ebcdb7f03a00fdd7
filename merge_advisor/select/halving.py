"""Successive halving: find the best of several by a loss on rows without measuring each of them on all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")

HALVING_SHARES = (0.5, 1.0)
"""Shares of the choosing rows that are measured one after the other; the last is all of them. A quarter is too few
where a task mixes several kinds of rows: the kind a member is good at may not be among them (`eval/halving.md`)."""
NO_HALVING = (1.0,)
"""Everything is measured on all rows."""


def halving_rounds(size: int, shares: Sequence[float] = HALVING_SHARES) -> list[tuple[int, float]]:
    """Return for each round how many items are measured, and on which share of the rows.

    After a round the better half goes on, rounded up; a single item is measured on all rows at once.

    >>> halving_rounds(5), halving_rounds(1)
    ([(5, 0.5), (3, 1.0)], [(1, 1.0)])

    Args:
        size: items to begin with.
        shares: of the rows, round by round; rising, the last 1.
    """
    rounds = []
    for share in shares:
        # nothing is left to compare with one item, so its rounds before the last would be wasted
        if size > 1 or share == shares[-1]:
            rounds.append((size, share))
            size = (size + 1) // 2
    return rounds


def best_of(
    items: Sequence[_T], loss: Callable[[_T, float], float], shares: Sequence[float] = HALVING_SHARES
) -> tuple[_T, float]:
    """Return the item of lowest loss, and its loss on all rows; ties go to the earlier item.

    Successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification"): what is far behind on a
    few rows is not measured on the others. What it saves and misses: `eval/halving.md`.

    >>> best_of(["x", "yy", "z"], lambda item, share: len(item) - share)
    ('x', 0.0)

    Args:
        items: one or more.
        loss: of an item, on a share of the rows.
        shares: of the rows, round by round; rising, the last 1.
    """
    left, losses = list(items), [0.0]
    for size, share in halving_rounds(len(left), shares):
        losses = [loss(item, share) for item in left[:size]]
        order = sorted(range(size), key=lambda place: (losses[place], place))
        left, losses = [left[place] for place in order], [losses[place] for place in order]
    return left[0], losses[0]
