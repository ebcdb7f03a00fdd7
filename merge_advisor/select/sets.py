"""Sets of candidates, compared as merges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.select.forward_selection import by_loss, finite_shot_loss
from merge_advisor.select.halving import best_of
from merge_advisor.select.likeness import make_pick

if TYPE_CHECKING:
    from merge_advisor.select.evidence import Evidence, Pick


def even_sets(positions: Sequence[int], k: int, count: int) -> list[tuple[int, ...]]:
    """Sets of k of some positions, no set twice, all positions about equally often; the same on every call.

    The positions are shuffled (fixed seed) and cut into sets, again and again.

    Args:
        positions: k or more.
        k: members of a set.
        count: sets wanted; all there are, where they are no more.
    """
    if comb(len(positions), k) <= count:
        return list(combinations(positions, k))
    rng = np.random.default_rng(0)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        order = rng.permutation(len(positions))
        for start in range(0, len(positions) - k + 1, k):
            found[tuple(positions[place] for place in sorted(order[start : start + k]))] = None
    return list(found)[:count]


def best_set(
    evidence: Evidence, sets: Sequence[tuple[int, ...]], shares: Sequence[float]
) -> tuple[tuple[int, ...], float]:
    """The set of the lowest loss, and that loss: the lower one of full strength (weights 1) and the mean (1/k).

    Members that know different things are best at full strength, members that know the same as their mean. Measuring
    twice as many sets once, at the mean or in between, finds worse ones (`eval/halving.md`).
    """

    def loss(members: tuple[int, ...], share: float) -> float:
        weights = dict.fromkeys((1.0, 1 / len(members)))
        return min(finite_shot_loss(evidence, dict.fromkeys(members, weight), share) for weight in weights)

    return best_of(sets, loss, shares)


def picks_of(evidence: Evidence, members: Sequence[int], share: float) -> list[Pick]:
    """A set as picks, measured on a share of the rows: the best alone first, the gain of each as it joins those before.

    The weight is the better one of full strength and the mean, as in `best_set`.
    """

    def loss(members: Sequence[int], weight: float) -> float:
        return finite_shot_loss(evidence, dict.fromkeys(members, weight), share)

    order = by_loss({position: loss([position], 1.0) for position in members}, evidence.anchor)
    weight = min((1.0, 1 / len(order)), key=lambda weight: loss(order, weight))
    losses = [loss(order[:count], weight) for count in range(len(order) + 1)]
    return [
        make_pick(position, before - now) for position, before, now in zip(order, losses[:-1], losses[1:], strict=True)
    ]
