"""A cheap ranking of the pool, then measured losses among the best few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.forward_selection import forward_selection
from merge_advisor.select.likeness import anchored, likeness, ranked


@dataclass(frozen=True)
class Rerank:
    """Rank the pool cheaply, then choose among the best few by the measured loss of their merges."""

    first: str = "gradient"
    """The cheap ranking: "gradient" (first-order gain) or "delta" (cosine with the task delta)."""
    pool: int = 8
    """How many the ranking passes on for the anchor (k where k is larger); half as many for each partner."""
    least: float = 0.005
    """Smallest share of the merge's loss a partner has to take off."""
    centre: bool = False
    """With first=delta: subtract the pool's mean delta from pool and task."""

    name: ClassVar[str] = "rerank"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = (
        "the ranking (a backward pass a member), at most 1 + 2·pool·k forward passes over the choosing rows"
    )
    stops: ClassVar[str] = "when no partner lowers the measured loss of the merge by the stated share"

    def __post_init__(self) -> None:
        if self.first not in ("gradient", "delta"):
            raise ValueError(f"first={self.first} is unknown; choose one of: gradient, delta")
        if self.pool < 1:
            raise ValueError(f"pool={self.pool} is less than 1")
        if not 0 <= self.least < 1:
            raise ValueError(f"least={self.least} is not in 0..1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose by measured loss; the gain of a pick is the drop of the merge's loss, nats per token.

        With first=gradient the ranking is taken anew beside every member: what the base lacks most may be what the
        anchor already gives, and a complement shows only in the gradient at the merge so far.
        """
        scores = evidence.gradient_gain({}) if self.first == "gradient" else likeness(evidence, self.centre)
        shortlist = anchored(ranked(scores), evidence.anchor)[: max(self.pool, k)]
        if self.first == "delta":
            return forward_selection(evidence, shortlist, k, self.least)

        def beside(merge: Mapping[int, float]) -> list[int]:
            found = [position for position in ranked(evidence.gradient_gain(merge)) if position not in merge]
            return found[: (self.pool + 1) // 2]

        return forward_selection(evidence, shortlist, k, self.least, beside)
