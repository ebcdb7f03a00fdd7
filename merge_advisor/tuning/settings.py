"""What a search is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from merge_advisor.errors import InputError
from merge_advisor.tuning.racing import RACING, Racing
from merge_advisor.tuning.values import Goal, Point, SearchSpace, Trial

SearchProgress = Callable[[int, int | None, float | None, float | None], None]
"""Called with the trials done, their total (None: not known), the least value so far (None: none, or several values)
and the seconds left (None: not known)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may cost; the first limit reached ends it.

    >>> Budget(trials=40)
    Budget(trials=40, forwards=None, seconds=None)
    >>> Budget(seconds=0)
    Traceback (most recent call last):
    merge_advisor.errors.InputError: a budget of 0 seconds allows nothing; give more than 0

    Raises:
        InputError: no limit, or one that is not above 0.
    """

    trials: int | None = None
    """Trials in all, the starts and those of earlier sessions included."""
    forwards: int | None = None
    """Forward passes in all; a trial is begun only if all its rows still fit."""
    seconds: float | None = None
    """Seconds of this session; no trial is begun after them."""

    def __post_init__(self) -> None:
        limits = {"trials": self.trials, "forwards": self.forwards, "seconds": self.seconds}
        if all(limit is None for limit in limits.values()):
            raise InputError("a search needs a budget; give trials, forwards or seconds")
        for name, limit in limits.items():
            if limit is not None and not limit > 0:  # "not >" refuses NaN as well
                raise InputError(f"a budget of {limit:g} {name} allows nothing; give more than 0")


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a search is run, beside its problem, its space and its sampler.

    >>> from merge_advisor.tuning.goals import MeanGoal
    >>> SearchSettings(MeanGoal(), Budget(trials=40), seed=0).racing
    Racing(first=5, level=0.95)
    """

    goal: Goal
    """What a trial is worth."""
    budget: Budget
    """What the search may cost."""
    seed: int
    """Of the sampler and of the order of rows."""
    starts: Sequence[tuple[str, Point]] = ()
    """(label, point) tried first and never pruned; the base goes first where the goal is relative to it."""
    racing: Racing | None = RACING
    """When trials are pruned; None: never. A Pareto search and trials with a gradient are never pruned."""
    guard: int | None = None
    """Forward passes that one call of the problem's guard costs; None: there is no guard."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The trials of a search, and why it ended.

    >>> SearchResult((), "40 trials done").stopped
    '40 trials done'
    """

    trials: tuple[Trial, ...]
    """All finished trials, by number."""
    stopped: str
    """Why it ended, in words."""


def start_points(space: SearchSpace, members: int) -> tuple[tuple[str, Point], ...]:
    """Return the merges tried first, with labels: the plan, all members at equal weight, the anchor alone, the base.

    >>> space = SearchSpace(Point((0.8, 0.4), "exact"))
    >>> [(label, point.weights) for label, point in start_points(space, 2)]
    [('plan', (0.8, 0.4)), ('uniform', (0.5, 0.5)), ('anchor', (1.0, 0.0)), ('base', (0.0, 0.0))]

    Args:
        space: holds the plan, as its start.
        members: k, the anchor first.
    """
    plan = space.start
    return (
        ("plan", plan),
        ("uniform", replace(plan, weights=(1 / members,) * members, layers=())),
        ("anchor", replace(plan, weights=(1.0,) + (0.0,) * (members - 1), layers=())),
        ("base", replace(plan, weights=(0.0,) * members, layers=())),
    )
