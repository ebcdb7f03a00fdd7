"""Predicted against measured gains: does what choosing promised on its rows come true on the held-out ones?

A promise is the mean predicted gain of one arm on one task. Gains are over the base on the same unit, in nats, more is
better. Means are over families, intervals as in `resampling.bootstrap_interval`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.means import (
    base_values,
    family_means,
    mean,
    metric_value,
)
from merge_advisor.benchmark.values import Result, Unit
from merge_advisor.json_form import STRICT

_BINS = 5
"""Bins of promises, fewer where there are fewer than two promises a bin."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Predicted and measured gain of one arm on one task, means over its results.

    >>> Promise("nearest", "dates", "time", predicted=0.4, measured=0.1).measured
    0.1
    """

    __pydantic_config__ = STRICT

    arm: str
    task: str
    family: str
    predicted: float
    """Base's loss minus the merge's on the choosing rows, nats (see `values.Result.predicted`)."""
    measured: float
    """The same on the held-out rows."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Promises that predict about the same gain: a point of a reliability diagram.

    >>> ReliabilityBin(0.2, 0.1, lowest=0.0, highest=0.3, count=12, families=("time",)).count
    12
    """

    __pydantic_config__ = STRICT

    predicted: float
    """Mean of the predicted gains, nats."""
    measured: float
    """Mean of the measured ones."""
    lowest: float
    """Smallest predicted gain in it."""
    highest: float
    """Largest predicted gain in it."""
    count: int
    """Promises in it; bins hold equal counts, give or take one."""
    families: tuple[str, ...]
    """Families they come from, sorted."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well predicted gains order the measured ones.

    >>> results = []
    >>> for number, family in enumerate(("time", "numbers", "words")):
    ...     unit = Unit(f"task {number}", family)
    ...     results.append(Result(unit, "base", "own-out", 4, loss=2.0))
    ...     results.append(Result(unit, "a", "own-out", 4, loss=2.0 - number, predicted=0.5 * number))
    >>> agreement(results, ["a"]).tau
    1.0
    """

    __pydantic_config__ = STRICT

    arms: tuple[str, ...]
    """Arms that have both, in the order asked for."""
    tau: float | None
    """Kendall's tau-b over the promises; None where there are fewer than two, or one side is all ties."""
    lower: float | None
    """Lower end of the 95% interval, families resampled; None where there are fewer than two families."""
    upper: float | None
    """Upper end."""
    within: float | None
    """Mean tau-b among the merges of one unit (over units, tasks, families): are the better merges of a task those that
    predict more? `tau` also profits from tasks that differ in how much there is to gain. None with one merge a unit."""
    within_lower: float | None
    """Lower end of its 95% interval; None with fewer than two families."""
    within_upper: float | None
    """Upper end."""
    promises: tuple[Promise, ...]
    """By arm, family, task."""
    bins: tuple[ReliabilityBin, ...]
    """By predicted gain; empty where there is no promise."""
    families: int
    reason: str
    """The finding in one sentence."""


def agreement(results: Sequence[Result], arms: Sequence[str], *, seed: int = 0) -> Agreement:
    """Compare predicted with measured gains, both as the drop of the loss against the base.

    Args:
        results: all views and k of the arms are used, oracles and failed ones are not; the base's are among them.
        arms: those whose gains are compared.
        seed: draws the resamples.

    Returns:
        Kendall's tau-b with its interval, and the promises behind it.
    """
    base = base_values(results, "loss")
    pairs = _pairs([result for result in results if result.arm in arms and result.unit in base], measured_gain(results))
    promises = _promises(pairs, arms)
    tau, low, high = _tau_over_promises(promises, seed)
    taus = {unit: kendall_tau_b([drop[1:] for drop in drops]) for unit, drops in pairs.items()}
    by_unit = {unit: within for unit, within in taus.items() if within is not None}
    inner = list(family_means(by_unit).values())
    ends = resampling.bootstrap_interval(inner, seed=seed) or (None, None)
    families = len({promise.family for promise in promises})
    return Agreement(
        arms=tuple(arm for arm in arms if any(promise.arm == arm for promise in promises)),
        tau=tau,
        lower=low,
        upper=high,
        within=mean(inner) if inner else None,
        # the interval of a mean is not bounded, tau is
        within_lower=None if ends[0] is None else max(-1.0, ends[0]),
        within_upper=None if ends[1] is None else min(1.0, ends[1]),
        promises=promises,
        bins=_bins(promises),
        families=families,
        reason=_reason(tau, low, high, len(promises), families),
    )


def measured_gain(results: Sequence[Result]) -> Callable[[Result], float | None]:
    """Return a function from a result to its measured gain: the base's held-out loss minus its own, nats.

    Where the arm chose by choices the gain is that of the right choice, which the result holds itself; the function
    gives None where neither is known.

    Args:
        results: the base's are among them.
    """
    base = base_values(results, "loss")

    def gain(result: Result) -> float | None:
        reached = metric_value(result, "loss")
        if result.came is not None:
            return result.came
        return None if reached is None or result.unit not in base else reached - base[result.unit]

    return gain


def _pairs(
    results: Sequence[Result], gain: Callable[[Result], float | None]
) -> dict[Unit, list[tuple[str, float, float]]]:
    """Return by unit: arm, predicted and measured drop of the loss of each result that has both."""
    pairs = defaultdict(list)
    for result in results:
        came = gain(result)
        if came is not None and result.predicted is not None and not result.oracle:
            pairs[result.unit].append((result.arm, result.predicted, came))
    return pairs


def _promises(pairs: Mapping[Unit, Sequence[tuple[str, float, float]]], arms: Sequence[str]) -> tuple[Promise, ...]:
    groups = defaultdict(list)
    for unit, drops in pairs.items():
        for arm, predicted, measured in drops:
            groups[arms.index(arm), unit.family, unit.task].append((predicted, measured))
    return tuple(
        Promise(arms[arm], task, family, *(mean(side) for side in zip(*groups[arm, family, task], strict=True)))
        for arm, family, task in sorted(groups)
    )


def kendall_tau_b(pairs: Sequence[Sequence[float]] | Float64Array) -> float | None:
    """Return Kendall's tau-b, its tie-corrected form (Kendall 1945, Biometrika 33:239); None where a side is all ties.

    scipy's gives the number alone; the sums behind it are needed here for the resamples, and one rule serves both.

    Args:
        pairs: (n, 2), one point each.

    >>> kendall_tau_b([(0.1, 0.0), (0.2, 0.3), (0.3, 0.1)])
    0.3333333333333333
    """
    same, one, other = _concordance(np.asarray(pairs, dtype=np.float64).reshape(-1, 2))
    scale = float(np.sqrt(one.sum() * other.sum()))
    return float(same.sum()) / scale if scale else None


def _concordance(points: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return for all pairs of points, (n, n): agreement of their orders (-1, 0, 1), and whether each side differs."""
    first, second = (np.sign(side[:, None] - side[None, :]) for side in points.T)
    return first * second, np.abs(first), np.abs(second)


def _tau_over_promises(promises: Sequence[Promise], seed: int) -> tuple[float | None, float | None, float | None]:
    """Return tau-b over promises with its percentile interval, whole families resampled."""
    points = np.array([(promise.predicted, promise.measured) for promise in promises]).reshape(-1, 2)
    tau = kendall_tau_b(points)
    families = sorted({promise.family for promise in promises})
    if tau is None or len(families) < 2:
        return tau, None, None
    member = np.array([[promise.family == family for promise in promises] for family in families], dtype=np.float64)
    drawn = resampling.bootstrap_counts(len(families), seed)
    # a family drawn twice pairs with its copy as with itself: sums by pair of families are all that is needed
    same, one, other = (
        np.einsum("bf,fg,bg->b", drawn, member @ table @ member.T, drawn, optimize=True)
        for table in _concordance(points)
    )
    scale = np.sqrt(one * other)
    taus = same[scale > 0] / scale[scale > 0]  # a resample of one family that is all ties has no tau
    low, high = np.quantile(taus, [(1 - resampling.LEVEL) / 2, (1 + resampling.LEVEL) / 2])
    return tau, float(low), float(high)


def _bins(promises: Sequence[Promise]) -> tuple[ReliabilityBin, ...]:
    order = sorted(promises, key=lambda promise: promise.predicted)
    number = max(1, min(_BINS, len(order) // 2))
    cuts = [round(len(order) * place / number) for place in range(number + 1)]
    return tuple(
        ReliabilityBin(
            predicted=mean([promise.predicted for promise in part]),
            measured=mean([promise.measured for promise in part]),
            lowest=part[0].predicted,
            highest=part[-1].predicted,
            count=len(part),
            families=tuple(sorted({promise.family for promise in part})),
        )
        for first, last in pairwise(cuts)
        if (part := order[first:last])
    )


def _reason(tau: float | None, low: float | None, high: float | None, promises: int, families: int) -> str:
    if tau is None:
        return f"promises with a measured gain are too few or too equal to put in order ({promises} found)"
    over = f"over {promises} promises of {families} {'family' if families == 1 else 'families'}"
    if low is None or high is None:
        return f"Kendall's tau-b is {tau:+.2f} {over}; one family has no interval"
    direction = "more is gained where more is promised" if low > 0 else "less is gained where more is promised"
    finding = direction if low > 0 or high < 0 else "promises are not shown to tell anything"
    return f"Kendall's tau-b is {tau:+.2f} ({low:+.2f} to {high:+.2f}) {over}: {finding}"
