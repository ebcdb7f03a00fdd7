"""Greedy choice by the measured loss of merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import TYPE_CHECKING

from merge_advisor.select.likeness import anchored, chosen, pick

if TYPE_CHECKING:
    from merge_advisor.select.evidence import Choice, Evidence


def loss_of(evidence: Evidence, weights: Mapping[int, float]) -> float:
    """Shot loss of a merge, nats per token; infinite where it is no number, so that it loses every comparison."""
    loss = float(evidence.shot_loss(weights))
    return loss if isfinite(loss) else inf


def by_loss(losses: Mapping[int, float], anchor: int | None) -> list[int]:
    """Positions by rising loss, the demanded anchor first, ties to the smaller position."""
    return anchored(sorted(losses, key=lambda position: (losses[position], position)), anchor)


def forward_selection(evidence: Evidence, shortlist: Sequence[int], k: int, least: float) -> Choice:
    """Take the single candidate of lowest loss, then partners while the measured loss of the merge falls.

    A merge of m is measured with weights 1/m. A partner has to lower the loss by more than `least` of what it is.
    The gain of a pick is the drop of the loss, that of the first against the base. At most 1 + Σ over picks of
    (length of the shortlist - picks before) losses are measured.
    """
    base = loss_of(evidence, {})
    losses = {position: loss_of(evidence, {position: 1.0}) for position in shortlist}
    members = by_loss(losses, evidence.anchor)[:1]
    loss = losses[members[0]]
    picks = [pick(members[0], base - loss)]
    while len(picks) < k:
        weight = 1 / (len(members) + 1)
        losses = {p: loss_of(evidence, dict.fromkeys((*members, p), weight)) for p in shortlist if p not in members}
        best = min(losses, key=lambda position: (losses[position], position), default=None)
        if best is None or not losses[best] < loss * (1 - least):
            break
        picks.append(pick(best, loss - losses[best]))
        members, loss = [*members, best], losses[best]
    return chosen(picks, k)
