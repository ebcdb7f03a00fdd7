"""Mean ranks of all arms over families, and which arms do not differ: the numbers of a critical-difference diagram.

Whether two arms differ is asked pair by pair with the sign-flip test over families, Holm-adjusted over all pairs.
Nemenyi's test on mean ranks is not used: whether two arms differ there depends on which other arms are in the table
(Benavoli, Corani and Mangili 2016, "Should we really use post-hoc tests based on mean-ranks?", JMLR 17(5)), and ranks
throw away by how much one is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.means import DECIMALS, family_means, mean, values_by_arm
from merge_advisor.benchmark.analysis.resampling import ALPHA
from merge_advisor.benchmark.values import Metric, Result, View
from merge_advisor.json_form import STRICT


@dataclass(frozen=True, slots=True)
class PairTest:
    """Whether two arms differ over families.

    >>> PairTest("default", "random", mean=1.5, sign_flip=0.01, adjusted=0.03).adjusted
    0.03
    """

    __pydantic_config__ = STRICT

    better: str
    """The one with the lower mean rank; of equals, the first by name."""
    than: str
    mean: float
    """Mean difference over families, points or nats."""
    sign_flip: float
    """Two-sided p."""
    adjusted: float
    """Holm-adjusted over all pairs."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Arms by mean rank over families; oracles are left out.

    >>> from merge_advisor.benchmark.values import Unit
    >>> results = [
    ...     Result(Unit(f"task {n}", f"family {n}"), arm, "own-out", 4, accuracy=reached)
    ...     for n in range(3) for arm, reached in (("a", 0.6), ("b", 0.4 + n / 10))
    ... ]
    >>> ranking = rank_arms(results, "accuracy", "own-out", 4)
    >>> ranking.arms, ranking.mean_ranks, ranking.cliques
    (('a', 'b'), (1.166666667, 1.833333333), (('a', 'b'),))
    """

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


def rank_arms(results: Sequence[Result], metric: Metric, view: View, k: int, *, seed: int = 0) -> Ranking:
    """Rank the arms and controls that have results in a view at one k, oracles apart, within every family.

    Only units on which all of them have a result count, so that all are ranked on the same units.

    Args:
        results: of all arms.
        metric: what they are ranked by.
        view: which results.
        k: which results.
        seed: draws the permutations of the Friedman test.

    Returns:
        A ranking without arms where fewer than two arms share units; its reason says so.
    """
    from scipy.stats import rankdata

    # an oracle would push every other arm down a rank
    oracles = {result.arm for result in results if result.oracle}
    fair = {arm: values for arm, values in values_by_arm(results, metric, view, k).items() if arm not in oracles}
    units = [unit for unit in next(iter(fair.values()), {}) if all(unit in values for values in fair.values())]
    means = {arm: family_means({unit: values[unit] for unit in units}) for arm, values in fair.items()}
    families = tuple(next(iter(means.values()), {}))
    arms = sorted(means)
    if not families or len(arms) < 2:
        few = f"{len(arms)} arms with results on the same units in view {view} at k = {k}: nothing to rank"
        return Ranking((), (), (), 1.0, (), (), few)
    table = np.array([[means[arm][family] for arm in arms] for family in families])
    ranks = rankdata(-table, axis=1)
    order = sorted(range(len(arms)), key=lambda index: (ranks[:, index].mean(), arms[index]))
    arms, table, ranks = [arms[index] for index in order], table[:, order], ranks[:, order]
    pairs = _pair_tests(arms, table, seed)
    left_out = len({unit for values in fair.values() for unit in values}) - len(units)
    return Ranking(
        arms=tuple(arms),
        mean_ranks=tuple(mean(column.tolist()) for column in ranks.T),
        families=families,
        friedman=friedman_test(ranks, seed=seed),
        pairs=pairs,
        cliques=_cliques(arms, pairs),
        reason=_reason(len(arms), len(families), len(units), left_out),
    )


def friedman_test(ranks: Float64Array, *, seed: int = 0) -> float:
    """Return p of Friedman's test: the share of permutations within rows whose rank sums spread as much.

    By permutation: the usual chi-square approximation is poor for few families.

    Args:
        ranks: (families, arms) mid-ranks of each family.
        seed: draws `resampling.RESAMPLES` permutations.

    >>> friedman_test(np.array([[1.0, 2.0, 3.0]] * 4)) < 0.05
    True
    """
    centred = ranks - ranks.mean()
    reached = (centred.sum(0) ** 2).sum() * (1 - 1e-9)
    rng, spreads = np.random.default_rng(seed), np.zeros((resampling.RESAMPLES, ranks.shape[1]))
    for row in centred:
        spreads += rng.permuted(np.tile(row, (resampling.RESAMPLES, 1)), axis=1)
    return float(1 + ((spreads**2).sum(1) >= reached).sum()) / (1 + resampling.RESAMPLES)


def _pair_tests(arms: Sequence[str], table: Float64Array, seed: int) -> tuple[PairTest, ...]:
    pairs = list(combinations(range(len(arms)), 2))
    # rounded as means are: sums that differ in their last digit would break ties
    differences = [np.round(table[:, first] - table[:, second], DECIMALS) for first, second in pairs]
    p_values = [resampling.sign_flip_test(values, seed=seed) for values in differences]
    return tuple(
        PairTest(arms[first], arms[second], mean(values.tolist()), p, adjusted)
        for (first, second), values, p, adjusted in zip(
            pairs, differences, p_values, resampling.holm_p_values(p_values), strict=True
        )
    )


def _cliques(arms: Sequence[str], pairs: Sequence[PairTest]) -> tuple[tuple[str, ...], ...]:
    """Return the longest runs of neighbours of which no two differ; a run inside another one is left out."""
    apart = {(pair.better, pair.than) for pair in pairs if pair.adjusted < ALPHA}
    cliques: list[tuple[str, ...]] = []
    reached = 0
    for first in range(len(arms)):
        last = first + 1
        while last < len(arms) and not any((arms[one], arms[last]) in apart for one in range(first, last)):
            last += 1
        if last - first > 1 and last > reached:
            cliques.append(tuple(arms[first:last]))
            reached = last
    return tuple(cliques)


def _reason(arms: int, families: int, units: int, left_out: int) -> str:
    pairs = arms * (arms - 1) // 2
    text = f"{arms} arms on {units} units of {families} {'family' if families == 1 else 'families'}"
    least = 2.0 ** (1 - families) * pairs
    if least >= ALPHA:
        text += f"; too few families for any of {pairs} pairs to differ (least adjusted p {min(1.0, least):.3g})"
    return text + (f"; {left_out} units left out, not done in all arms" if left_out else "")
