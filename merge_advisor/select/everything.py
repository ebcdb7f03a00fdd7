"""No choice at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.likeness import anchored, likeness, make_pick, ranked


@dataclass(frozen=True)
class All:
    """Take the whole pool, whatever k is; the most similar candidate is called the anchor."""

    centre: bool = False
    """Subtract the pool's mean delta from pool and task before ordering."""

    name: ClassVar[str] = "all"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = ""

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose all n candidates by falling cosine with the task delta (the gain); k is not asked."""
        scores = likeness(evidence, self.centre)
        order = anchored(ranked(scores), evidence.anchor)
        picks = tuple(make_pick(position, scores[position]) for position in order)
        return Choice(picks, "the whole pool", used=frozenset({"task_delta"}))
