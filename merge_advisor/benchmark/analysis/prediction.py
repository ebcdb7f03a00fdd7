"""What a plan promised against what was measured, gain against k, cost against gain, and the table by task.

Values for the report to draw. Gains are over the base on the same unit, more is better: points of accuracy, or nats per
token. Means are over families, intervals as in `resampling.bootstrap_interval`.
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
    paired_differences,
    task_means,
    values_by_arm,
)
from merge_advisor.benchmark.values import Metric, Result, Unit, View
from merge_advisor.types import STRICT


@dataclass(frozen=True, slots=True)
class Promise:
    """One arm on one task, mean over its results."""

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
    """Promises that predict about the same."""

    __pydantic_config__ = STRICT

    predicted: float
    """Mean of the predicted gains, nats."""
    measured: float
    """Mean of the measured ones."""
    lowest: float
    """Smallest predicted gain in it."""
    highest: float
    count: int
    """Promises in it; bins hold equal counts, give or take one."""
    families: tuple[str, ...]
    """Families they come from, sorted."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether the predicted gain of a merge tells the measured one."""

    __pydantic_config__ = STRICT

    arms: tuple[str, ...]
    """Arms that have both, in the order asked for."""
    tau: float | None
    """Kendall's tau-b over the promises; None where there are fewer than two, or one side is all ties."""
    lower: float | None
    """95% interval, families resampled; None where there are fewer than two families."""
    upper: float | None
    within: float | None
    """Mean tau-b among the merges of one unit (over units, tasks, families): does it tell good merges of a task from
    bad ones? `tau` also profits from tasks that differ in how much there is to gain. None with one merge a unit."""
    within_lower: float | None
    within_upper: float | None
    promises: tuple[Promise, ...]
    """By arm, family, task."""
    bins: tuple[ReliabilityBin, ...]
    """By predicted gain; empty where there is no promise."""
    families: int
    reason: str
    """The finding in one sentence."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One arm at one k."""

    __pydantic_config__ = STRICT

    k: int
    mean: float
    lower: float | None
    """None with fewer than two families."""
    upper: float | None
    families: int
    units: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Gain of one arm over the base, by k."""

    __pydantic_config__ = STRICT

    arm: str
    points: tuple[SweepPoint, ...]
    """By k, rising; all on the same units, so that they differ by k alone."""
    oracle: bool = False


@dataclass(frozen=True, slots=True)
class CostPoint:
    """What an arm costs and gains."""

    __pydantic_config__ = STRICT

    arm: str
    forwards: float
    """Mean nominal forward passes over one row, averaged as the gains are."""
    mean: float
    lower: float | None
    """None with fewer than two families."""
    upper: float | None
    families: int
    units: int
    oracle: bool = False


@dataclass(frozen=True, slots=True)
class TaskTable:
    """Every arm on every task: means over the units."""

    __pydantic_config__ = STRICT

    arms: tuple[str, ...]
    """In the order of their first result."""
    tasks: tuple[str, ...]
    """Sorted by family, then by name."""
    families: tuple[str, ...]
    """Family of each task."""
    values: tuple[tuple[float | None, ...], ...]
    """(tasks, arms): accuracy in points, or minus the loss in nats; None where an arm has no result on the task."""


BINS = 5
"""Bins of promises, fewer where there are fewer than two promises a bin."""


def agreement(results: Sequence[Result], arms: Sequence[str], *, seed: int = 0) -> Agreement:
    """Compare what choosing promised with what was measured, both as the drop of the loss against the base.

    Args:
        results: all views and k of the arms are used, oracles and failed ones are not; the base's are among them.
        arms: whose promises.
        seed: draws the resamples.
    """
    base = base_values(results, "loss")
    pairs = _pairs([result for result in results if result.arm in arms and result.unit in base], measured_gain(results))
    promises = _promises(pairs, arms)
    tau, low, high = _tau_over_promises(promises, seed)
    by_unit = {
        unit: found for unit, drops in pairs.items() if (found := kendall_tau_b([d[1:] for d in drops])) is not None
    }
    inner = list(family_means(by_unit).values())
    ends = resampling.bootstrap_interval(inner, seed=seed) or (None, None)
    families = len({promise.family for promise in promises})
    return Agreement(
        arms=tuple(arm for arm in arms if any(promise.arm == arm for promise in promises)),
        tau=tau,
        lower=low,
        upper=high,
        within=mean(inner) if inner else None,
        within_lower=None if ends[0] is None else max(-1.0, ends[0]),
        within_upper=None if ends[1] is None else min(1.0, ends[1]),
        promises=promises,
        bins=_bins(promises),
        families=families,
        reason=_told(tau, low, high, len(promises), families),
    )


def measured_gain(results: Sequence[Result]) -> Callable[[Result], float | None]:
    """Return a function from a result to what came of what it promised: base's held-out loss minus its own, nats."""
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
    """By unit: arm, predicted and measured drop of the loss of each result that has both."""
    found = defaultdict(list)
    for result in results:
        came = gain(result)
        if came is not None and result.predicted is not None and not result.oracle:
            found[result.unit].append((result.arm, result.predicted, came))
    return found


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

    Args:
        pairs: (n, 2), one point each.
    """
    same, one, other = _concordance(np.asarray(pairs, dtype=np.float64).reshape(-1, 2))
    scale = float(np.sqrt(one.sum() * other.sum()))
    return float(same.sum()) / scale if scale else None


def _concordance(points: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    """For all pairs of points, (n, n): agreement of their orders (-1, 0, 1), and whether each side differs."""
    first, second = (np.sign(side[:, None] - side[None, :]) for side in points.T)
    return first * second, np.abs(first), np.abs(second)


def _tau_over_promises(promises: Sequence[Promise], seed: int) -> tuple[float | None, float | None, float | None]:
    """Tau-b over promises with its percentile interval, whole families resampled."""
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
    found = same[scale > 0] / scale[scale > 0]
    low, high = np.quantile(found, [(1 - resampling.LEVEL) / 2, (1 + resampling.LEVEL) / 2])
    return tau, float(low), float(high)


def _bins(promises: Sequence[Promise]) -> tuple[ReliabilityBin, ...]:
    order = sorted(promises, key=lambda promise: promise.predicted)
    number = max(1, min(BINS, len(order) // 2))
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


def _told(tau: float | None, low: float | None, high: float | None, promises: int, families: int) -> str:
    if tau is None:
        return f"promises with a measured gain are too few or too equal to put in order ({promises} found)"
    over = f"over {promises} promises of {families} {'family' if families == 1 else 'families'}"
    if low is None or high is None:
        return f"Kendall's tau-b is {tau:+.2f} {over}; one family has no interval"
    told = "more is gained where more is promised" if low > 0 else "less is gained where more is promised"
    finding = told if low > 0 or high < 0 else "promises are not shown to tell anything"
    return f"Kendall's tau-b is {tau:+.2f} ({low:+.2f} to {high:+.2f}) {over}: {finding}"


def k_sweep(results: Sequence[Result], metric: Metric, view: View) -> tuple[Sweep, ...]:
    """Return the gain over the base by k, of every arm that has results at two k on the same units.

    Units that one of the arm's k lacks are left out of all of them. Without results of the base there is nothing.
    """
    base, sizes = base_values(results, metric), sorted({result.k for result in results if result.view == view})
    tables = {k: values_by_arm(results, metric, view, k) for k in sizes}
    sweeps = []
    for arm, oracle in _oracles(results).items():
        gains = {k: paired_differences(table[arm], base) for k, table in tables.items() if arm in table}
        shared = [unit for unit in next(iter(gains.values()), {}) if all(unit in found for found in gains.values())]
        if arm != "base" and len(gains) > 1 and shared:
            points = tuple(
                SweepPoint(k, *_over_families({unit: found[unit] for unit in shared})) for k, found in gains.items()
            )
            sweeps.append(Sweep(arm, points, oracle))
    return tuple(sweeps)


def cost_gain(results: Sequence[Result], metric: Metric, view: View, k: int) -> tuple[CostPoint, ...]:
    """Return cost and gain over the base of every other arm, in the order of their first result."""
    base, table, oracles = base_values(results, metric), values_by_arm(results, metric, view, k), _oracles(results)
    spent = {(r.arm, r.unit): float(r.forwards) for r in results if (r.view, r.k) == (view, k)}
    points = []
    for arm, values in table.items():
        gains = paired_differences(values, base)
        if arm != "base" and gains:
            forwards = mean(list(family_means({unit: spent[arm, unit] for unit in gains}).values()))
            points.append(CostPoint(arm, forwards, *_over_families(gains), oracle=oracles[arm]))
    return tuple(points)


def _over_families(values: Mapping[Unit, float]) -> tuple[float, float | None, float | None, int, int]:
    """Mean, interval, families, units."""
    found = list(family_means(values).values())
    return mean(found), *(resampling.bootstrap_interval(found) or (None, None)), len(found), len(values)


def _oracles(results: Sequence[Result]) -> dict[str, bool]:
    """Whether an arm reads held-out answers, arms in the order of their first result."""
    found: dict[str, bool] = {}
    for result in results:
        found[result.arm] = found.get(result.arm, False) or result.oracle
    return found


def task_table(results: Sequence[Result], metric: Metric, view: View, k: int) -> TaskTable:
    """Return the mean of every arm and control on every task."""
    means = {arm: task_means(values) for arm, values in values_by_arm(results, metric, view, k).items()}
    names = sorted({name for found in means.values() for name in found})
    return TaskTable(
        arms=tuple(means),
        tasks=tuple(task for _, task in names),
        families=tuple(family for family, _ in names),
        values=tuple(tuple(found.get(name) for found in means.values()) for name in names),
    )
