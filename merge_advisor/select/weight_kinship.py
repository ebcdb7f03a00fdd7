"""The nearest candidate, and partners by the similarity of their weights to its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.select.evidence import Choice, Evidence, Pick
from merge_advisor.select.ranking import anchored, make_choice, make_pick, ranked
from merge_advisor.select.similarity import task_similarity, weight_cosine

_COPY = 1 - 1e-6
"""Cosine of weights from which a candidate is a multiple of the anchor."""


@dataclass(frozen=True)
class WeightKinship:
    """Take the candidate nearest by delta, then partners whose weights are least (or most) similar to its own.

    Model kinship (arXiv 2410.12613): the cosine of two weight deltas. There less related partners led repeated merging
    out of its local optima, hence the default.

    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> weights = [{"w": DenseUpdate(np.array([row], np.float32))} for row in ([1, 0], [1, 1], [0, 1])]
    >>> evidence = Evidence(("a", "b", "c"), np.eye(3), lambda: np.array([1, 0, 0]), weights_of=weights.__getitem__)
    >>> [evidence.ids[pick.position] for pick in WeightKinship().select(evidence, 3).picks]
    ['a', 'c', 'b']
    """

    kinship: str = "low"
    """"low": partners least similar to the anchor first; "high": most similar first."""
    centre: bool = False
    """Subtract the pool's mean delta from pool and task before the anchor is sought; weights are never centred."""

    name: ClassVar[str] = "weight_kinship"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas, and reading the weights of the whole pool"
    stops: ClassVar[str] = "at a multiple of the anchor or an empty update; with kinship=high also at a cosine of 0"

    def __post_init__(self) -> None:
        if self.kinship not in ("low", "high"):
            raise ValueError(f"kinship={self.kinship} is unknown; choose one of: low, high")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a partner is 1 - cosine of weights with the anchor, or the cosine (high).

        The gain of the anchor is the cosine of its delta with the task delta.
        """
        scores = task_similarity(evidence, self.centre)
        first = anchored(ranked(scores), evidence.anchor)[0]
        picks = [make_pick(first, float(scores[first]))]
        if k > 1:
            anchor = evidence.weights_of(first)
            weights = map(evidence.weights_of, range(len(evidence.ids)))
            kin = np.array([weight_cosine(anchor, delta, digits=9) for delta in weights])
            gains = kin if self.kinship == "high" else 1 - kin
            # an empty update has NaN, which compares as false
            useful = (kin < _COPY) & (gains > 0)
            order = ranked(np.where(useful, gains, -np.inf))
            partners = [p for p in order if useful[p] and p != first]
            picks += [Pick(p, float(gains[p])) for p in partners[: k - 1]]
        return make_choice(picks, k, used=("task_delta",))
