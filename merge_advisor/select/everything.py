"""The whole pool: no choice at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.ranking import anchored, make_pick, ranked
from merge_advisor.select.similarity import task_similarity


@dataclass(frozen=True)
class All:
    """Take the whole pool, whatever k is; the most similar candidate is called the anchor.

    >>> import numpy as np
    >>> evidence = Evidence(("a", "b", "c"), np.array([[1, 0], [0, 1], [1, 1]]), lambda: np.array([3, 1]))
    >>> [evidence.ids[pick.position] for pick in All().select(evidence, 1).picks]
    ['a', 'c', 'b']
    """

    centre: bool = False
    """Subtract the pool's mean delta from pool and task before ordering."""

    name: ClassVar[str] = "all"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = ""

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is its cosine with the task delta, k is ignored."""
        scores = task_similarity(evidence, self.centre)
        order = anchored(ranked(scores), evidence.anchor)
        picks = tuple(make_pick(position, scores[position]) for position in order)
        return Choice(picks, "the whole pool", used=frozenset({"task_delta"}))
