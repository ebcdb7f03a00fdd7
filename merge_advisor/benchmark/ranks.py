"""Mean ranks of all arms over families, and which arms cannot be told apart: a critical-difference picture's numbers.

Whether any two arms differ is asked pair by pair with the sign-flip test over families, Holm-adjusted over all pairs.
Nemenyi's test on mean ranks is not used: whether two arms differ there depends on which other arms are in the table
(Benavoli, Corani and Mangili 2016, "Should we really use post-hoc tests based on mean-ranks?", JMLR 17(5)), and ranks
throw away by how much one is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_advisor.benchmark.values import Metric, Result, View
from merge_advisor.types import STRICT


@dataclass(frozen=True, slots=True)
class PairTest:
    """Two arms over families."""

    __pydantic_config__ = STRICT

    better: str
    """The one with the lower mean rank; of equals, the first by name."""
    than: str
    mean: float
    """Mean difference over families, points or nats."""
    sign_flip: float
    adjusted: float
    """Holm-adjusted over all pairs."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Arms by mean rank over families; oracles are left out."""

    __pydantic_config__ = STRICT

    arms: tuple[str, ...]
    """Best first; equal ranks by name."""
    mean_ranks: tuple[float, ...]
    """1 is best; ties share the mean of their ranks."""
    families: tuple[str, ...]
    """Families in which all arms have results, on the units that all arms have."""
    friedman: float
    """p of no difference among the arms, ranks permuted within families; 1.0 where nothing can be compared."""
    pairs: tuple[PairTest, ...]
    cliques: tuple[tuple[str, ...], ...]
    """Longest runs of two or more neighbours in `arms` of which no two differ at adjusted p < .05."""
    reason: str
    """What the ranking rests on, and what it cannot show."""


def rank_arms(results: Sequence[Result], metric: Metric, view: View, k: int, *, seed: int = 0) -> Ranking: ...
