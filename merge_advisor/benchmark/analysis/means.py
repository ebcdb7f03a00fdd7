"""From results to one number a family: draws are averaged within their task, tasks within their family.

More is better in every number here: accuracy in points (hundredths), losses with their sign turned, in nats per token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from merge_advisor.benchmark.values import Metric, Result, Unit, View

DECIMALS = 9
"""Means are rounded to as many, so that equal arms tie whatever order their numbers were added in."""


def metric_value(result: Result, metric: Metric) -> float | None:
    """What a result reached, more is better; None where it failed or has no such metric."""
    found = 100 * result.accuracy if metric == "accuracy" else None if result.loss is None else -result.loss
    return found if result.status == "done" and found is not None and math.isfinite(found) else None


def without_tried(results: Sequence[Result], tried: Sequence[str]) -> list[Result]:
    """Return the results that conclusions are drawn from: those of families that nothing was tried out on."""
    return [result for result in results if result.unit.family not in tried]


def values_by_arm(results: Sequence[Result], metric: Metric, view: View, k: int) -> dict[str, dict[Unit, float]]:
    """Return the values of all arms in one view at one k, unit by unit, arms in the order of their first result."""
    found: dict[str, dict[Unit, float]] = {}
    for result in results:
        if result.view == view and result.k == k and (value := metric_value(result, metric)) is not None:
            found.setdefault(result.arm, {})[result.unit] = value
    return found


def task_means(values: Mapping[Unit, float]) -> dict[tuple[str, str], float]:
    """Average units within tasks: by (family, task), sorted."""
    groups = defaultdict(list)
    for unit, value in values.items():
        groups[unit.family, unit.task].append(value)
    return {name: mean(groups[name]) for name in sorted(groups)}


def family_means(values: Mapping[Unit, float]) -> dict[str, float]:
    """Average units within tasks and tasks within families: by family, sorted."""
    groups = defaultdict(list)
    for (family, _), value in task_means(values).items():
        groups[family].append(value)
    return {family: mean(found) for family, found in groups.items()}


def mean(values: Sequence[float]) -> float:
    """The rounded mean, exact in any order of adding."""
    return round(math.fsum(values) / len(values), DECIMALS)


def paired_differences(values: Mapping[Unit, float], reference: Mapping[Unit, float]) -> dict[Unit, float]:
    """The differences on the units that both have."""
    return {unit: value - reference[unit] for unit, value in values.items() if unit in reference}


def base_values(results: Sequence[Result], metric: Metric) -> dict[Unit, float]:
    """The base's values by unit; neither view nor k changes it, so a result in any of them serves."""
    found: dict[Unit, float] = {}
    for result in results:
        if result.arm == "base" and (value := metric_value(result, metric)) is not None:
            found.setdefault(result.unit, value)
    return found
