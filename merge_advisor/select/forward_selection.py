"""Greedy choice by the measured loss of merges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING

from merge_advisor.select.halving import NO_HALVING, best_of
from merge_advisor.select.ranking import anchored, make_pick

if TYPE_CHECKING:
    from merge_advisor.select.evidence import Evidence, Pick


def finite_shot_loss(evidence: Evidence, weights: Mapping[int, float], share: float = 1.0) -> float:
    """Return the shot loss of a merge, nats per token; infinite where it is NaN, so that it loses every comparison.

    Args:
        evidence: what the strategy was given.
        weights: of the `exact` merge, by position; {} is the base.
        share: of the choosing rows that are measured.
    """
    loss = float(evidence.shot_loss(weights, share))
    return loss if isfinite(loss) else inf


def by_loss(losses: Mapping[int, float], anchor: int | None) -> list[int]:
    """Return the positions by rising loss, the demanded anchor first, ties to the smaller position.

    >>> by_loss({0: 2.0, 1: 1.0, 2: 1.0}, None), by_loss({0: 2.0, 1: 1.0, 2: 1.0}, 0)
    ([1, 2, 0], [0, 1, 2])

    Args:
        losses: by position.
        anchor: `Evidence.anchor`.
    """
    return anchored(sorted(losses, key=lambda position: (losses[position], position)), anchor)


def forward_selection(
    evidence: Evidence,
    shortlist: Sequence[int],
    k: int,
    least: float,
    beside: Callable[[Mapping[int, float]], Sequence[int]] | None = None,
    shares: Sequence[float] = NO_HALVING,
) -> tuple[list[Pick], float]:
    """Take the single candidate of lowest loss, then partners while the measured loss of the merge falls.

    Members that know different things are best all at full strength (weight 1 each), members that know the same are
    best averaged (weights 1/m). Each step measures full strength first and the average only where no partner helps at
    full strength: a merge that stopped at averages would never find complements, which each need their whole update.
    A partner has to lower the loss by more than `least` of what it is. The gain of a pick is the drop of the loss,
    that of the first against the base.

    Args:
        evidence: what the strategy was given.
        shortlist: positions among which the first is chosen, and the partners too where `beside` is None.
        k: most members.
        least: share of the loss a partner has to take off.
        beside: weights by position of the merge so far -> positions worth measuring as its next partner.
        shares: of the choosing rows, that the best of several is found over (`halving.best_of`).

    Returns:
        The picks, and the loss of their merge.
    """

    def best(positions: Sequence[int], members: Sequence[int] = (), weight: float = 1.0) -> tuple[int, float]:
        def loss(position: int, share: float) -> float:
            return finite_shot_loss(evidence, dict.fromkeys((*members, position), weight), share)

        # sorted, since `best_of` gives ties to the earlier one and the shortlist has the order of its ranking
        return best_of(sorted(positions), loss, shares)

    base = finite_shot_loss(evidence, {})
    first, loss = best(shortlist if evidence.anchor is None else [evidence.anchor])
    members, picks, merge = [first], [make_pick(first, base - loss)], {first: 1.0}
    while len(picks) < k:
        partners = [p for p in (beside(merge) if beside else shortlist) if p not in members]
        for weight in (1.0, 1 / (len(members) + 1)) if partners else ():
            partner, lowest = best(partners, members, weight)
            if lowest < loss * (1 - least):
                break
        else:  # no partner helps, at full strength or averaged
            break
        picks.append(make_pick(partner, loss - lowest))
        members, loss = [*members, partner], lowest
        merge = dict.fromkeys(members, weight)
    return picks, loss
