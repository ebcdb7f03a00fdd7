"""What a plan promised against what was measured, gain against k, cost against gain, and the table by task.

Values for the report to draw. Gains are over the base on the same unit, more is better: points of accuracy, or nats per
token. Means are over families, intervals as in `resampling.interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from merge_advisor.benchmark.values import Metric, Result, View
from merge_advisor.types import STRICT


@dataclass(frozen=True, slots=True)
class Promise:
    """One arm on one task, mean over its results."""

    __pydantic_config__ = STRICT

    arm: str
    task: str
    family: str
    predicted: float
    """Base's loss minus the merge's on the choosing rows, nats per token."""
    measured: float
    """The same on the held-out rows."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Promises that predict about the same."""

    __pydantic_config__ = STRICT

    predicted: float
    """Mean of the predicted gains, nats per token."""
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
    bins: tuple[Bin, ...]
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


def agreement(results: Sequence[Result], arms: Sequence[str], *, seed: int = 0) -> Agreement: ...


def k_sweep(results: Sequence[Result], metric: Metric, view: View) -> tuple[Sweep, ...]: ...


def cost_gain(results: Sequence[Result], metric: Metric, view: View, k: int) -> tuple[CostPoint, ...]: ...


def task_table(results: Sequence[Result], metric: Metric, view: View, k: int) -> TaskTable: ...
