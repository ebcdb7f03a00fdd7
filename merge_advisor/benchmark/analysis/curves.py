"""Gain against k, cost against gain, and the table by task: values for the report to draw.

Gains are over the base on the same unit, more is better: points of accuracy, or nats per token. Means are over
families, intervals as in `resampling.bootstrap_interval`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.means import (
    base_values,
    family_means,
    mean,
    paired_differences,
    task_means,
    values_by_arm,
)
from merge_advisor.benchmark.values import Metric, Result, Unit, View
from merge_advisor.json_form import STRICT


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Mean gain of one arm at one k.

    >>> SweepPoint(4, mean=2.5, lower=0.5, upper=4.5, families=9, units=54).mean
    2.5
    """

    __pydantic_config__ = STRICT

    k: int
    mean: float
    lower: float | None
    """Lower end of the 95% interval; None with fewer than two families."""
    upper: float | None
    """Upper end."""
    families: int
    units: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Gain of one arm over the base, by k.

    >>> points = tuple(SweepPoint(k, k / 2, None, None, 1, 6) for k in (1, 2, 4))
    >>> [point.k for point in Sweep("nearest", points).points]
    [1, 2, 4]
    """

    __pydantic_config__ = STRICT

    arm: str
    points: tuple[SweepPoint, ...]
    """By k, rising; all on the same units, so that they differ by k alone."""
    oracle: bool = False
    """Whether it reads held-out answers."""


@dataclass(frozen=True, slots=True)
class CostPoint:
    """What an arm costs and gains.

    >>> CostPoint("nearest", forwards=260.0, mean=3.1, lower=None, upper=None, families=1, units=6).forwards
    260.0
    """

    __pydantic_config__ = STRICT

    arm: str
    forwards: float
    """Mean nominal forward passes over one row, averaged as the gains are."""
    mean: float
    """Mean gain."""
    lower: float | None
    """Lower end of the gain's 95% interval; None with fewer than two families."""
    upper: float | None
    """Upper end."""
    families: int
    units: int
    oracle: bool = False
    """Whether it reads held-out answers."""


@dataclass(frozen=True, slots=True)
class TaskTable:
    """Every arm on every task: means over the units.

    >>> results = [Result(Unit("dates", "time"), arm, "own-out", 4, accuracy=0.5) for arm in ("base", "nearest")]
    >>> table = task_table(results, "accuracy", "own-out", 4)
    >>> table.arms, table.tasks, table.values
    (('base', 'nearest'), ('dates',), ((50.0, 50.0),))
    """

    __pydantic_config__ = STRICT

    arms: tuple[str, ...]
    """In the order of their first result."""
    tasks: tuple[str, ...]
    """Sorted by family, then by name."""
    families: tuple[str, ...]
    """Family of each task."""
    values: tuple[tuple[float | None, ...], ...]
    """(tasks, arms): accuracy in points, or minus the loss in nats; None where an arm has no result on the task."""


def k_sweep(results: Sequence[Result], metric: Metric, view: View) -> tuple[Sweep, ...]:
    """Return the gain over the base by k, of every arm that has results at two k on the same units.

    Units that one of the arm's k lacks are left out of all of them. Without results of the base there is nothing.

    Args:
        results: of all arms.
        metric: what gains are measured by.
        view: which results.
    """
    base, sizes = base_values(results, metric), sorted({result.k for result in results if result.view == view})
    tables = {k: values_by_arm(results, metric, view, k) for k in sizes}
    sweeps = []
    for arm, oracle in _oracles(results).items():
        gains = {k: paired_differences(table[arm], base) for k, table in tables.items() if arm in table}
        # a k that was run on easier units would look better than it is
        shared = [unit for unit in next(iter(gains.values()), {}) if all(unit in values for values in gains.values())]
        if arm != "base" and len(gains) > 1 and shared:
            points = tuple(
                SweepPoint(k, *_over_families({unit: values[unit] for unit in shared})) for k, values in gains.items()
            )
            sweeps.append(Sweep(arm, points, oracle))
    return tuple(sweeps)


def cost_gain(results: Sequence[Result], metric: Metric, view: View, k: int) -> tuple[CostPoint, ...]:
    """Return cost and gain over the base of every other arm, in the order of their first result.

    Args:
        results: of all arms.
        metric: what gains are measured by.
        view: which results.
        k: which results.
    """
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
    """Return mean, ends of the interval, number of families and of units."""
    means = list(family_means(values).values())
    return mean(means), *(resampling.bootstrap_interval(means) or (None, None)), len(means), len(values)


def _oracles(results: Sequence[Result]) -> dict[str, bool]:
    """Return whether each arm reads held-out answers, arms in the order of their first result."""
    oracles: dict[str, bool] = {}
    for result in results:
        oracles[result.arm] = oracles.get(result.arm, False) or result.oracle
    return oracles


def task_table(results: Sequence[Result], metric: Metric, view: View, k: int) -> TaskTable:
    """Return the mean of every arm and control on every task.

    Args:
        results: of all arms.
        metric: what is averaged.
        view: which results.
        k: which results.
    """
    means = {arm: task_means(values) for arm, values in values_by_arm(results, metric, view, k).items()}
    names = sorted({name for by_task in means.values() for name in by_task})
    return TaskTable(
        arms=tuple(means),
        tasks=tuple(task for _, task in names),
        families=tuple(family for family, _ in names),
        values=tuple(tuple(by_task.get(name) for by_task in means.values()) for name in names),
    )
