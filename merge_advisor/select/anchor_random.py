"""One near candidate, the rest at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import K_REACHED, Choice, Evidence, Pick
from merge_advisor.select.likeness import anchored, likeness, make_pick, ranked


@dataclass(frozen=True)
class AnchorRandom:
    """Take the candidate most similar to the task as anchor and k - 1 others at random (arXiv 2509.04442)."""

    centre: bool = False
    """Subtract the pool's mean delta from pool and task before the anchor is sought."""

    name: ClassVar[str] = "anchor_random"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = ""

    def select(self, evidence: Evidence, k: int) -> Choice:
        """Choose the anchor by cosine (its gain), the partners with equal chance (no gain measured)."""
        scores = likeness(evidence, self.centre)
        anchor = anchored(ranked(scores), evidence.anchor)[0]
        others = [int(p) for p in evidence.rng.permutation(len(evidence.ids)) if p != anchor]
        picks = (make_pick(anchor, scores[anchor]), *(Pick(position) for position in others[: k - 1]))
        return Choice(picks, K_REACHED, used=frozenset({"task_delta", "rng"}))
