"""Results of a benchmark by hand: one arm on one task, differences between two arms, promises, ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from merge_advisor.benchmark.values import Metric, Result, Unit


def a_result(arm: str, task: str, family: str | None = None, draw: int = 0, **fields: Any) -> Result:
    """One arm on one draw of a task; a task without a family is its own."""
    return Result(Unit(task, family or task, draw), arm, **{"view": "own-out", "k": 4, **fields})


def pairs(*differences: float, arm: str = "a", metric: Metric = "accuracy") -> list[Result]:
    """An arm against b, one task and one family for each difference (points, or nats)."""
    results = []
    for number, difference in enumerate(differences):
        for name, value in ((arm, difference), ("b", 0.0)):
            if metric == "accuracy":
                results.append(a_result(name, f"t{number}", accuracy=0.5 + value / 100))
            else:
                results.append(a_result(name, f"t{number}", loss=2.0 - value))
    return results


def promised(
    points: Iterable[Sequence[float]], arm: str = "a", family: str | None = None, **fields: Any
) -> list[Result]:
    """Results of base and an arm, one task each: (predicted, measured) drops of the loss."""
    results = []
    for number, (predicted, measured) in enumerate(points):
        results.append(a_result("base", f"t{number}", family, loss=5.0))
        results.append(a_result(arm, f"t{number}", family, loss=5.0 - measured, predicted=predicted, **fields))
    return results


def ranked(table: Iterable[Sequence[float]], **fields: Any) -> list[Result]:
    """Accuracies in points, one row a task, one column an arm: a, b, c, d."""
    return [
        a_result(arm, f"t{number}", accuracy=value / 100, **fields)
        for number, row in enumerate(table)
        for arm, value in zip("abcd", row, strict=False)
    ]
