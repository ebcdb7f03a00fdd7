"""What a report says beside the values of `merge_advisor.types`: the map of a pool, and how a merge was tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from merge_advisor.json_form import STRICT

RowsPart = Literal["tuning", "confirmation", "cross-fitted", "held-out"]
"""Which rows a comparison is on; cross-fitted: those learned from, each held out of the training it is judged by."""
_LESS_IS_BETTER = ("loss", "choice loss", "errors a row")


@dataclass(frozen=True, slots=True)
class SimilarityMap:
    """A pool's deltas and the task's, at unit length, on their first two principal axes.

    >>> SimilarityMap(task=(0.1, 0.2), candidates={"a": (0.1, 0.3)}, shares=(0.4, 0.2)).candidates["a"]
    (0.1, 0.3)
    """

    __pydantic_config__ = STRICT

    task: tuple[float, float]
    candidates: dict[str, tuple[float, float]]
    """Place by id."""
    shares: tuple[float, float]
    """Share of the variance that lies along each axis, 0..1."""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """One merge that was tried.

    >>> TrialReport(3, "tpe", (0.5, 0.7), weights=(1.0,), composition="exact", whole=True, forwards=20).value
    0.6
    """

    __pydantic_config__ = STRICT

    number: int
    """Its place among the finished trials, from 0."""
    label: str
    """"plan", "uniform", "anchor", "base" for the first ones, the sampler's name after."""
    values: tuple[float | None, ...]
    """What it was judged by, less is better: one number, or one per task; None where it gave no number."""
    weights: tuple[float, ...]
    """(k,), in the order of the report's members."""
    composition: str
    whole: bool
    """Whether it saw all rows; otherwise its value is an estimate from those seen before it was stopped."""
    forwards: int
    """Forward passes over one row that it cost."""

    @property
    def value(self) -> float | None:
        """The mean of its values; None where one of them is no finite number."""
        numbers = [value for value in self.values if value is not None and math.isfinite(value)]
        return math.fsum(numbers) / len(numbers) if numbers and len(numbers) == len(self.values) else None


@dataclass(frozen=True, slots=True)
class Side:
    """Reference and winner on one part of a task's rows.

    >>> Side("my task", "held-out", "accuracy", 40, reference=0.5, winner=0.75).gain
    0.25
    """

    __pydantic_config__ = STRICT

    task: str
    part: RowsPart
    metric: str
    """"loss" (nats per token), "choice loss" (nats), "errors a row", "accuracy" or "exact_match" (0..1), or another."""
    rows: int
    reference: float | None
    winner: float | None
    lower: float | None = None
    """Lower end of the paired 95% interval of what the winner gains, positive is better; None: not measured."""
    upper: float | None = None

    @property
    def gain(self) -> float | None:
        """By how much the winner is better than the reference, whatever the metric."""
        if self.reference is None or self.winner is None:
            return None
        return self.reference - self.winner if self.metric in _LESS_IS_BETTER else self.winner - self.reference


@dataclass(frozen=True, slots=True)
class TunedAdaptation:
    """What an adaptation made of the merge that a search found, and whether that is the run's model now.

    >>> TunedAdaptation("continue", "continue", tuned=False, reason="the plan's model stays", forwards=240).tuned
    False
    """

    __pydantic_config__ = STRICT

    asked: str
    """Spec of the adaptation."""
    chosen: str
    """Name of the one that made the model, where `auto` was asked for."""
    tuned: bool
    """Whether what it made of the tuned merge is the run's model; otherwise the plan's own model stays."""
    reason: str
    """Why, in one sentence with its numbers."""
    forwards: int
    """What it cost, in forward passes over one row."""


@dataclass(frozen=True, slots=True)
class TuningReport:
    """How the weights of a run were tuned, and what came of it.

    >>> first = TrialReport(0, "plan", (0.5,), (1.0,), "exact", True, 10)
    >>> better = TrialReport(1, "tpe", (0.4,), (0.8,), "exact", True, 10)
    >>> tuning = TuningReport("tpe", "mean loss", ("a",), (1.0,), (first, better), winner=1, reference="plan")
    >>> tuning.won.label, tuning.forwards
    ('tpe', 20)
    """

    __pydantic_config__ = STRICT

    sampler: str
    goal: str
    """What is minimised, in words: "mean loss of the tuning rows (nats per token), 5 folds"."""
    members: tuple[str, ...]
    """(k,) ids, the anchor first."""
    planned: tuple[float, ...]
    """(k,) weights of the plan."""
    trials: tuple[TrialReport, ...]
    """In the order they finished."""
    winner: int
    """Number of the trial whose merge is the recipe now, or what was trained for it began with."""
    reference: str
    """Label of what the winner is compared with, e.g. "plan"."""
    sides: tuple[Side, ...] = ()
    """Tuning rows before held-out rows."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks the values belong to, where a trial has several."""
    notes: tuple[str, ...] = ()
    adaptation: TunedAdaptation | None = None
    """What was trained from the tuned merge; None where nothing was."""

    @property
    def won(self) -> TrialReport | None:
        """The winning trial; None where it is not among the trials."""
        return next((trial for trial in self.trials if trial.number == self.winner), None)

    @property
    def forwards(self) -> int:
        """What all trials cost, in forward passes over one row."""
        return sum(trial.forwards for trial in self.trials)


def best_so_far(trials: tuple[TrialReport, ...]) -> list[float | None]:
    """Return after each trial the least value of a whole trial up to it; None as long as there is none.

    Args:
        trials: in the order they finished.

    >>> values = (0.9, 0.5, 0.7)
    >>> best_so_far(tuple(TrialReport(n, "tpe", (v,), (1.0,), "exact", True, 1) for n, v in enumerate(values)))
    [0.9, 0.5, 0.5]
    """
    least: list[float | None] = []
    best: float | None = None
    for trial in trials:
        # a trial that was stopped early has only an estimate, which may lie below what it would have reached
        value = trial.value if trial.whole else None
        if value is not None and (best is None or value < best):
            best = value
        least.append(best)
    return least
