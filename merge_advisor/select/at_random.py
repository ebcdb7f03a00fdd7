"""Candidates at random: the control that every other strategy has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

from merge_advisor.select.evidence import K_REACHED, Choice, Evidence, Pick
from merge_advisor.select.halving import HALVING_SHARES, NO_HALVING
from merge_advisor.select.ranking import anchored
from merge_advisor.select.sets import best_set


@dataclass(frozen=True)
class Random:
    """Take k candidates at random, or the best of several random sets.

    One seed's smaller choices are the beginnings of its larger ones where sets is 1.

    >>> import numpy as np
    >>> evidence = Evidence(("a", "b", "c"), np.eye(3), lambda: np.ones(3), rng=np.random.default_rng(7))
    >>> choice = Random().select(evidence, 3)
    >>> sorted(pick.position for pick in choice.picks), choice.used
    ([0, 1, 2], frozenset({'rng'}))
    """

    sets: int = 1
    """Sets drawn; of several, the one of lowest measured loss is taken: random with a budget to spend."""
    halving: bool = True
    """Measure only the better half of the sets on the second half of the choosing rows (successive halving)."""

    name: ClassVar[str] = "random"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "nothing; with sets > 1, 1.5 forward passes a set over the choosing rows (2 without halving)"
    stops: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.sets < 1:
            raise ValueError(f"sets={self.sets} is less than 1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; each set of k is equally likely to be drawn, none twice, and gains are not measured.

        A set is worth its lowest loss at full strength (weight 1 each) and at the average (1/k each).
        """
        n, anchor = len(evidence.ids), evidence.anchor
        possible = comb(n, k) if anchor is None else comb(n - 1, k - 1)
        sets: dict[frozenset[int], tuple[int, ...]] = {}
        while len(sets) < min(self.sets, possible):
            # the beginning of a permutation, not a draw of k: a larger k then adds members and replaces none
            members = tuple(anchored((int(p) for p in evidence.rng.permutation(n)), anchor)[:k])
            sets.setdefault(frozenset(members), members)
        drawn = list(sets.values())
        shares = HALVING_SHARES if self.halving else NO_HALVING
        best = drawn[0] if self.sets == 1 else best_set(evidence, drawn, shares)[0]
        return Choice(tuple(Pick(position) for position in best), K_REACHED, used=frozenset({"rng"}))
