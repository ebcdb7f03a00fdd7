"""The best of several by a loss on rows, without measuring everybody on all rows: successive halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")

SHARES = (0.5, 1.0)
"""Shares of the choosing rows that are looked at one after the other; the last is all of them. A quarter is too few
where a task is several things at once: the kind that a member serves may not be among them (`eval/halving.md`)."""
WHOLE = (1.0,)
"""No halving: everybody is measured on all rows."""


def rounds(size: int, shares: Sequence[float] = SHARES) -> list[tuple[int, float]]:
    """How many are measured in each round, and on which share of the rows.

    After a round the better half goes on, rounded up; one alone is measured on all rows at once.
    """
    found = []
    for share in shares:
        if size > 1 or share == shares[-1]:
            found.append((size, share))
            size = (size + 1) // 2
    return found


def best_of(
    items: Sequence[_T], loss: Callable[[_T, float], float], shares: Sequence[float] = SHARES
) -> tuple[_T, float]:
    """The one of lowest loss, and its loss on all rows; ties go to the earlier one.

    Jamieson and Talwalkar 2016, "Non-stochastic best arm identification": what is far behind on a few rows is not
    measured on the others. What it saves and misses: `eval/halving.md`.

    Args:
        items: one or more.
        loss: of an item, on a share of the rows.
        shares: rising, the last 1.
    """
    left, losses = list(items), [0.0]
    for size, share in rounds(len(left), shares):
        losses = [loss(item, share) for item in left[:size]]
        order = sorted(range(size), key=lambda place: (losses[place], place))
        left, losses = [left[place] for place in order], [losses[place] for place in order]
    return left[0], losses[0]
