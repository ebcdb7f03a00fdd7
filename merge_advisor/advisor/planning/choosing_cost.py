"""What choosing costs, counted by running a strategy on invented evidence: the dry runs of plans and benchmarks.

This works for any registered strategy, and the rules are those that results are charged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_advisor.advisor.planning.choosing import SEARCH
from merge_advisor.advisor.planning.choosing_losses import rows_in
from merge_advisor.select.evidence import Evidence
from merge_advisor.select.run_strategy import run_strategy
from merge_advisor.types import BACKWARD
from merge_advisor.weights.updates import LowRankUpdate

if TYPE_CHECKING:
    from merge_advisor.arrays import FloatingArray
    from merge_advisor.select.evidence import Resource


class ChoosingCost(NamedTuple):
    """What a strategy takes, at most.

    >>> choosing_cost("random", models=9, k=2, rows=[20]).used
    frozenset({'rng'})
    """

    forwards: int
    """Forward passes over one row, without the search of the global scale."""
    used: frozenset[Resource]
    """What it looks at, see `Choice.used`."""


def choosing_cost(strategy: str, models: int, k: int, rows: Sequence[int]) -> ChoosingCost:
    """Return what choosing takes.

    >>> choosing_cost("top_k", models=9, k=2, rows=[20]).forwards
    0

    Args:
        strategy: its spec.
        models: candidates that it chooses among.
        k: members at most.
        rows: choosing rows of each task.

    Raises:
        SpecError: no such strategy.
    """
    asked = _Asked(rows)
    choice = run_strategy(strategy, asked.evidence(models), k)
    return ChoosingCost(asked.forwards, frozenset(choice.used))


def choosing_passes(strategy: str, models: int, k: int, rows: Sequence[int]) -> int:
    """Return the forward passes over one row that choosing takes at most, the search of the global scale among them.

    >>> choosing_passes("top_k", 9, 2, [20])
    160

    Args:
        strategy: its spec.
        models: candidates that it chooses among.
        k: members at most.
        rows: choosing rows of each task.

    Raises:
        SpecError: no such strategy.
    """
    return choosing_cost(strategy, models, k, rows).forwards + SEARCH * sum(rows)


@dataclass(eq=False)
class _Asked:
    """Counts what a strategy calls of invented evidence, in which every partner helps, but only at the average."""

    parts: Sequence[int]
    """Choosing rows of each task."""
    forwards: int = 0
    known: dict[tuple[tuple[int, float], ...], int] = field(default_factory=dict)
    """Rows measured, by merge."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def _rows(self, share: float) -> int:
        return sum(rows_in(share, rows) for rows in self.parts)

    def loss(self, weights: Mapping[int, float], share: float = 1.0) -> float:
        """Return a loss that falls with every member, so that nothing stops early; at full strength it does not fall.

        Later positions are slightly better: what looks at more of them chooses others, and pays for them.
        """
        merge, rows = tuple(sorted(weights.items())), self._rows(share)
        self.forwards += max(0, rows - self.known.get(merge, 0))
        self.known[merge] = max(rows, self.known.get(merge, 0))
        full = len(weights) > 1 and max(weights.values()) > 1 / len(weights) + 1e-9
        return 9.0 if full else 5.0 * 0.9 ** len(weights) - 1e-6 * sum(weights)

    def gains(self, models: int, share: float) -> FloatingArray:
        """Return the same falling gains every time, all above 0."""
        self.forwards += BACKWARD * self._rows(share)
        return np.linspace(2, 1, models)

    def evidence(self, models: int) -> Evidence:
        """Return invented deltas, texts and weights of so many candidates."""
        # more dimensions than models, so that no delta is a sum of others and `additive` does not stop early
        deltas = self.rng.normal(size=(models, 2 * models)) + 1
        factors = [self.rng.normal(size=(models, 2, 3)).astype(np.float32) for _ in range(2)]
        return Evidence(
            ids=tuple(f"model {number:05}" for number in range(models)), deltas=deltas,
            task_delta=lambda: deltas.sum(axis=0), texts=("word",) * models, query="word", rows=sum(self.parts),
            rng=np.random.default_rng(0), shot_loss=self.loss,
            gradient_gain=lambda weights, share=1.0: self.gains(models, share),
            weights_of=lambda place: {"layer": LowRankUpdate(factors[0][place], factors[1][place].T)},
        )  # fmt: skip
