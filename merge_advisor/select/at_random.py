"""Choosing blindly: the control every other strategy has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import K_REACHED, Choice, Evidence, Pick
from merge_advisor.select.forward_selection import loss_of
from merge_advisor.select.likeness import anchored


@dataclass(frozen=True)
class Random:
    """Take k candidates at random, or the best of several random sets.

    One seed's smaller choices are the beginnings of its larger ones where sets is 1.
    """

    sets: int = 1
    """Sets drawn; of more than one, the best by measured loss is taken: random with a budget to spend."""

    name: ClassVar[str] = "random"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing; with sets > 1, two forward passes a set over the choosing rows"
    stops: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.sets < 1:
            raise ValueError(f"sets={self.sets} is less than 1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose k of the n candidates, each set equally likely to be drawn; gains are not measured.

        A set is worth its lowest loss at full strength (weight 1 each) and at the average (1/k each).
        """
        drawn = [
            tuple(anchored((int(p) for p in evidence.rng.permutation(len(evidence.ids))), evidence.anchor)[:k])
            for _ in range(self.sets)
        ]
        best = drawn[0] if self.sets == 1 else min(drawn, key=lambda members: _loss(evidence, members))
        return Choice(tuple(Pick(position) for position in best), K_REACHED)


def _loss(evidence: Evidence, members: Sequence[int]) -> float:
    weights = dict.fromkeys((1.0, 1 / len(members)))
    return min(loss_of(evidence, dict.fromkeys(members, weight)) for weight in weights)
