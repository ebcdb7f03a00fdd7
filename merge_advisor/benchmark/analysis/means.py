"""From results to one number a family: draws are averaged within their task, tasks within their family.

More is better in every number here: accuracy in points (hundredths), losses with their sign turned, in nats per token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from merge_advisor.benchmark.values import Metric, Result, Unit, View

DECIMALS = 9
"""Decimals that means are rounded to, so that equal arms tie in whatever order their numbers were added."""


def metric_value(result: Result, metric: Metric) -> float | None:
    """Return what a result reached, more is better; None where it failed or has no such metric.

    Args:
        result: of an arm or a control.
        metric: "accuracy" (points), or "loss" or "judged" (minus the loss, nats).

    >>> metric_value(Result(Unit("dates", "time"), "nearest", "own-out", 4, accuracy=0.5, loss=1.2), "loss")
    -1.2
    """
    loss = result.judged if metric == "judged" else result.loss
    value = 100 * result.accuracy if metric == "accuracy" else None if loss is None else -loss
    return value if result.status == "done" and value is not None and math.isfinite(value) else None


def without_tried(results: Sequence[Result], tried: Sequence[str]) -> list[Result]:
    """Return the results that conclusions are drawn from: those of families that no strategy was tried out on.

    Args:
        results: of all families.
        tried: the families that strategies were tried out on.
    """
    return [result for result in results if result.unit.family not in tried]


def values_by_arm(results: Sequence[Result], metric: Metric, view: View, k: int) -> dict[str, dict[Unit, float]]:
    """Return the values of all arms in one view at one k, unit by unit, arms in the order of their first result.

    Args:
        results: those of another view or k, failed ones and those without the metric are left out.
        metric: see `metric_value`.
        view: which results.
        k: which results.
    """
    values: dict[str, dict[Unit, float]] = {}
    for result in results:
        if result.view == view and result.k == k and (value := metric_value(result, metric)) is not None:
            values.setdefault(result.arm, {})[result.unit] = value
    return values


def task_means(values: Mapping[Unit, float]) -> dict[tuple[str, str], float]:
    """Return the mean over the units of each task, by (family, task), sorted.

    Args:
        values: one number a unit.
    """
    groups = defaultdict(list)
    for unit, value in values.items():
        groups[unit.family, unit.task].append(value)
    return {name: mean(groups[name]) for name in sorted(groups)}


def family_means(values: Mapping[Unit, float]) -> dict[str, float]:
    """Return the mean over the tasks of each family of the means over their units, by family, sorted.

    A task with more draws, or a family with more tasks, weighs no more than others.

    Args:
        values: one number a unit.

    >>> family_means({Unit("a", "f", 0): 1.0, Unit("a", "f", 1): 3.0, Unit("b", "f", 0): 8.0})
    {'f': 5.0}
    """
    groups = defaultdict(list)
    for (family, _), value in task_means(values).items():
        groups[family].append(value)
    return {family: mean(tasks) for family, tasks in groups.items()}


def mean(values: Sequence[float]) -> float:
    """Return the mean, exact in any order of adding, rounded to `DECIMALS`.

    Args:
        values: one or more numbers.
    """
    return round(math.fsum(values) / len(values), DECIMALS)


def paired_differences(values: Mapping[Unit, float], reference: Mapping[Unit, float]) -> dict[Unit, float]:
    """Return the differences to a reference on the units that both have.

    Args:
        values: of one arm, by unit.
        reference: of the other arm, by unit.
    """
    return {unit: value - reference[unit] for unit, value in values.items() if unit in reference}


def base_values(results: Sequence[Result], metric: Metric) -> dict[Unit, float]:
    """Return the base's values by unit; neither view nor k changes the base, so a result in any of them serves.

    Args:
        results: of all arms.
        metric: see `metric_value`.
    """
    values: dict[Unit, float] = {}
    for result in results:
        if result.arm == "base" and (value := metric_value(result, metric)) is not None:
            values.setdefault(result.unit, value)
    return values
