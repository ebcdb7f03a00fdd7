"""A cheap ranking of the pool, then measured losses among the best few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from merge_advisor.arrays import FloatingArray
from merge_advisor.select.evidence import FEW_ROWS, K_REACHED, Choice, Evidence
from merge_advisor.select.forward_selection import forward_selection
from merge_advisor.select.halving import HALVING_SHARES, NO_HALVING
from merge_advisor.select.ranking import anchored, make_choice, ranked
from merge_advisor.select.sets import best_set, even_sets, picks_of
from merge_advisor.select.similarity import task_similarity
from merge_advisor.select.text import text_similarity

_FIRST = ("gradient", "delta", "text")
"""The cheap rankings."""


@dataclass(frozen=True)
class Rerank:
    """Rank the pool cheaply, then choose among the best few by the measured loss of their merges.

    >>> import numpy as np
    >>> evidence = Evidence(
    ...     ("a", "b", "c"), np.eye(3), lambda: np.ones(3),
    ...     gradient_gain=lambda weights, share: np.array([0.3, 0.2, 0.1]),
    ...     shot_loss=lambda weights, share: 3.0 - 0.5 * weights.get(0, 0) - weights.get(2, 0),
    ... )
    >>> [evidence.ids[pick.position] for pick in Rerank().select(evidence, 3).picks]
    ['c', 'a']
    """

    first: str = "gradient"
    """The cheap ranking: "gradient" (first-order gain), "delta" (cosine with the task delta) or "text" (names and model
    cards against the examples)."""
    pool: int = 8
    """How many of the best ranked are measured as anchor (k where k is larger); half as many as each partner, and twice
    as many serve for the sets."""
    sets: int = 8
    """Whole sets of k, from k = 3 on, that are measured beside the merge built step by step; 0: none."""
    least: float = 0.005
    """Smallest share of the merge's loss a partner has to take off."""
    screen: float = 1.0
    """Share of the choosing rows that the gradient is taken on (four rows a task at least)."""
    few: int = 1
    """Most members where fewer than ten rows choose. They cannot tell which partners help: with five, the best single
    model has less loss on other rows than the best merge of four (`eval/adaptations_tried.md`)."""
    halving: bool = True
    """Measure only the better half of the merges on the second half of the choosing rows (successive halving)."""
    centre: bool = False
    """With first=delta: subtract the pool's mean delta from pool and task."""

    name: ClassVar[str] = "rerank"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = (
        "the ranking (by gradient a backward pass a member), at most 1 + 1.5·(pool·k + sets) forward passes over the "
        "choosing rows (a third more without halving)"
    )
    stops: ClassVar[str] = (
        "when no partner lowers the measured loss of the merge by the stated share; of fewer than ten rows at one model"
    )

    def __post_init__(self) -> None:
        if self.first not in _FIRST:
            raise ValueError(f"first={self.first} is unknown; choose one of: {', '.join(_FIRST)}")
        if self.pool < 1:
            raise ValueError(f"pool={self.pool} is less than 1")
        if self.sets < 0:
            raise ValueError(f"sets={self.sets} is less than 0")
        if self.few < 1:
            raise ValueError(f"few={self.few} is less than 1")
        if not 0 <= self.least < 1:
            raise ValueError(f"least={self.least} is not in 0..1")
        if not 0 < self.screen <= 1:
            raise ValueError(f"screen={self.screen} is not above 0 and at most 1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is the drop of the merge's measured loss, nats per token.

        Going step by step finds members that complete each other, and stops where no single partner helps; whole sets
        of the best ranked get past that. The gains of their members are measured on the rows of the screen. With
        first=gradient the ranking is computed again beside every merge so far: what the base lacks most may be what
        the anchor already gives, and a complement shows only in the gradient at the merge so far.
        """
        shares = HALVING_SHARES if self.halving else NO_HALVING
        by_gradient = self.first == "gradient"
        asked = k
        if evidence.rows < FEW_ROWS:
            k = min(k, self.few)
        order = anchored(ranked(self._scores(evidence)), evidence.anchor)

        def beside(merge: Mapping[int, float]) -> list[int]:
            # half as many as for the anchor: there is one round of them for every member
            gains = evidence.gradient_gain(merge, self.screen)
            return [position for position in ranked(gains) if position not in merge][: (self.pool + 1) // 2]

        picks, loss = forward_selection(
            evidence, order[: max(self.pool, k)], k, self.least, beside if by_gradient else None, shares
        )
        sets = self._sets(order[: 2 * max(self.pool, k)], evidence.anchor, k)
        if sets:
            members, lowest = best_set(evidence, sets, shares)
            if lowest < loss:
                picks = picks_of(evidence, members, self.screen)
        choice = make_choice(picks, k, used=("task_delta",) if self.first == "delta" else ())
        if k < asked and choice.stopped == K_REACHED:
            most = "one model" if k == 1 else f"{k} models at most"
            return replace(choice, stopped=f"fewer than {FEW_ROWS} rows choose {most} (few={k})")
        return choice

    def _scores(self, evidence: Evidence) -> FloatingArray:
        if self.first == "gradient":
            return evidence.gradient_gain({}, self.screen)
        return text_similarity(evidence) if self.first == "text" else task_similarity(evidence, self.centre)

    def _sets(self, order: list[int], anchor: int | None, k: int) -> list[tuple[int, ...]]:
        if not self.sets or k < 3:  # a step of the forward selection measures the pairs
            return []
        if anchor is None:
            return even_sets(order, k, self.sets)
        return [(anchor, *others) for others in even_sets(order[1:], k - 1, self.sets)]
