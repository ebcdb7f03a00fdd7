"""The nearest candidate, then partners that are near the task and unlike those chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.select.diversity import DIVERSITY_OBJECTIVES
from merge_advisor.select.evidence import Choice, Evidence
from merge_advisor.select.ranking import anchored, make_choice, make_pick, ranked
from merge_advisor.select.similarity import comparable_deltas, cosines, unit_rows


@dataclass(frozen=True)
class AnchorDiverse:
    """Take the candidate most similar to the task, then partners similar to the task and unlike those chosen.

    >>> deltas = np.array([[1, 0], [1, 0.1], [0.2, 1]])
    >>> evidence = Evidence(("a", "b", "c"), deltas, lambda: np.array([3, 1]))
    >>> [evidence.ids[pick.position] for pick in AnchorDiverse(diversity=0.4).select(evidence, 2).picks]
    ['b', 'c']
    """

    objective: str = "mmr"
    """"mmr" (maximal marginal relevance), "facility" (facility location) or "kdpp" (determinantal point process)."""
    diversity: float = 0.3
    """0.01..0.99: how much difference among the members counts against similarity to the task."""
    least: float = 0.01
    """Smallest gain of a partner, as a share of the anchor's."""
    centre: bool = False
    """Subtract the pool's mean delta from pool and task first."""

    name: ClassVar[str] = "anchor_diverse"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = "when the objective rises by less than the stated share of the anchor's part"

    def __post_init__(self) -> None:
        if self.objective not in DIVERSITY_OBJECTIVES:
            raise ValueError(f"objective={self.objective} is unknown; choose one of: {', '.join(DIVERSITY_OBJECTIVES)}")
        if not 0.01 <= self.diversity <= 0.99:
            raise ValueError(f"diversity={self.diversity} is not in 0.01..0.99")
        if not 0 <= self.least < 1:
            raise ValueError(f"least={self.least} is not in 0..1")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is the rise of the objective, in the objective's unit."""
        deltas, task_delta = comparable_deltas(evidence, self.centre)
        relevance = cosines(deltas, task_delta)
        objective = DIVERSITY_OBJECTIVES[self.objective](unit_rows(deltas), relevance, self.diversity)
        position = anchored(ranked(relevance), evidence.anchor)[0]
        gain = float(objective.gains()[position])
        # the gain of a demanded anchor without a delta is -inf under kdpp: a share of it would mean nothing
        enough = max(0.0, self.least * gain if np.isfinite(gain) else 0.0)
        taken, picks = np.zeros(len(deltas), bool), [make_pick(position, gain)]
        while len(picks) < k:
            objective.add(position)
            taken[position] = True
            gains = np.where(taken, -np.inf, np.round(objective.gains(), 6))  # equal rows must tie
            position = ranked(gains)[0]
            if not gains[position] > enough:
                break
            picks.append(make_pick(position, float(gains[position])))
        return make_choice(picks, k, used=("task_delta",))
