"""Whole sets of candidates, compared as merges."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.select.forward_selection import by_loss, finite_shot_loss
from merge_advisor.select.halving import best_of
from merge_advisor.select.ranking import make_pick

if TYPE_CHECKING:
    from merge_advisor.select.evidence import Evidence, Pick


def even_sets(positions: Sequence[int], k: int, count: int) -> list[tuple[int, ...]]:
    """Return sets of k of some positions, no set twice, all positions about equally often; the same on every call.

    The positions are shuffled and cut into sets, again and again.

    >>> even_sets([4, 7, 9], 2, 10)
    [(4, 7), (4, 9), (7, 9)]

    Args:
        positions: k or more.
        k: members of a set.
        count: sets wanted; all that are possible, where they are no more.
    """
    if comb(len(positions), k) <= count:
        return list(combinations(positions, k))
    # a seed of its own and not `Evidence.rng`: the sets are a design and no chance, so `rerank` has one choice per task
    rng = np.random.default_rng(0)
    sets: dict[tuple[int, ...], None] = {}
    while len(sets) < count:
        order = rng.permutation(len(positions))
        for start in range(0, len(positions) - k + 1, k):
            sets[tuple(positions[place] for place in sorted(order[start : start + k]))] = None
    return list(sets)[:count]


def best_set(
    evidence: Evidence, sets: Sequence[tuple[int, ...]], shares: Sequence[float]
) -> tuple[tuple[int, ...], float]:
    """Return the set of the lowest loss, and that loss: the lower one of full strength (weights 1) and the mean (1/k).

    Members that know different things are best at full strength, members that know the same as their mean. Measuring
    twice as many sets once, at the mean or in between, finds worse ones (`eval/halving.md`).

    Args:
        evidence: what the strategy was given.
        sets: positions; one set or more.
        shares: of the choosing rows, round by round (`halving.best_of`).
    """

    def loss(members: tuple[int, ...], share: float) -> float:
        weights = dict.fromkeys((1.0, 1 / len(members)))  # of one member both are 1: measured once
        return min(finite_shot_loss(evidence, dict.fromkeys(members, weight), share) for weight in weights)

    return best_of(sets, loss, shares)


def picks_of(evidence: Evidence, members: Sequence[int], share: float) -> list[Pick]:
    """Return a set as picks: the best alone first, each with what it gained as it joined those before.

    The weight is the better one of full strength and the mean, as in `best_set`.

    Args:
        evidence: what the strategy was given.
        members: positions of the set.
        share: of the choosing rows that are measured.
    """

    def loss(members: Sequence[int], weight: float) -> float:
        return finite_shot_loss(evidence, dict.fromkeys(members, weight), share)

    order = by_loss({position: loss([position], 1.0) for position in members}, evidence.anchor)
    weight = min((1.0, 1 / len(order)), key=lambda weight: loss(order, weight))
    losses = [loss(order[:count], weight) for count in range(len(order) + 1)]
    return [
        make_pick(position, before - now) for position, before, now in zip(order, losses[:-1], losses[1:], strict=True)
    ]
