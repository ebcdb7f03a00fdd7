"""Running a strategy by its spec, and holding it to what it says it used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.errors import SpecError

if TYPE_CHECKING:
    from merge_advisor.arrays import FloatingArray
    from merge_advisor.select.evidence import Choice, Evidence, Resource, Strategy


def run_strategy(spec: str, evidence: Evidence, k: int) -> Choice:
    """Build a strategy from its spec and let it choose.

    >>> import numpy as np
    >>> from merge_advisor.select import Evidence
    >>> evidence = Evidence(("a", "b", "c"), np.array([[1, 0], [0, 1], [1, 1]]), lambda: np.array([3, 1]))
    >>> [pick.position for pick in run_strategy("top_k", evidence, k=2).picks]
    [0, 2]

    Args:
        spec: name and parameters, e.g. "anchor_diverse:diversity=0.5".
        evidence: what it may look at.
        k: members at most; cut to the number of candidates.

    Returns:
        What the strategy chose.

    Raises:
        SpecError: the strategy or a parameter is unknown; or it used the task delta or chance and its `Choice.used`
            does not say so.
    """
    strategy: Strategy = registry.build("strategy", spec)
    calls: list[Resource] = []

    def task_delta() -> FloatingArray:
        calls.append("task_delta")
        return evidence.task_delta()

    before = evidence.rng.bit_generator.state
    choice = strategy.select(replace(evidence, task_delta=task_delta), min(k, len(evidence.ids)))
    # the finetune is charged, and a choice drawn again, by what is stated: a lie would make costs wrong in silence
    if "task_delta" in calls and "task_delta" not in choice.used:
        raise SpecError(f"strategy '{spec}' used the task delta and does not say so: add \"task_delta\" to Choice.used")
    if evidence.rng.bit_generator.state != before and "rng" not in choice.used:
        raise SpecError(f"strategy '{spec}' drew from rng and does not say so: add \"rng\" to Choice.used")
    return choice
