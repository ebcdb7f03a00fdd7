"""The nearest candidate, and partners at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import K_REACHED, Choice, Evidence, Pick
from merge_advisor.select.ranking import anchored, make_pick, ranked
from merge_advisor.select.similarity import task_similarity


@dataclass(frozen=True)
class AnchorRandom:
    """Take the candidate most similar to the task as anchor and k - 1 others at random (arXiv 2509.04442).

    >>> import numpy as np
    >>> evidence = Evidence(("a", "b", "c"), np.array([[1, 0], [0, 1], [1, 1]]), lambda: np.array([3, 1]))
    >>> choice = AnchorRandom().select(evidence, 2)
    >>> evidence.ids[choice.picks[0].position], choice.picks[1].gain, sorted(choice.used)
    ('a', None, ['rng', 'task_delta'])
    """

    centre: bool = False
    """Subtract the pool's mean delta from pool and task before the anchor is sought."""

    name: ClassVar[str] = "anchor_random"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = ""

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of the anchor is its cosine with the task delta, partners have none."""
        scores = task_similarity(evidence, self.centre)
        anchor = anchored(ranked(scores), evidence.anchor)[0]
        others = [int(p) for p in evidence.rng.permutation(len(evidence.ids)) if p != anchor]
        picks = (make_pick(anchor, scores[anchor]), *(Pick(position) for position in others[: k - 1]))
        return Choice(picks, K_REACHED, used=frozenset({"task_delta", "rng"}))
