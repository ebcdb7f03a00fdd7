"""Stated probabilities against what came: is a chance of 80% one that comes true four times in five?

A forecast is the chance that `auto` states where what it took needs the pool: that it has less loss than the best that
needs none. What came is the same on the held-out rows, where the arm that takes the best without a pool was measured on
the same unit. Forecasts are scored by Brier's score, the mean of (chance - came)² (Brier 1950, Mon. Weather Rev. 78:1),
against a forecaster who always states how often it came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from merge_advisor import registry
from merge_advisor.adapt.auto import Auto
from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.means import mean
from merge_advisor.benchmark.values import Arm, Result, Setup, Unit
from merge_advisor.json_form import STRICT

_BINS = 5
"""Bins of forecasts, fewer where there are fewer than four a bin."""
_ENOUGH = 30
"""Forecasts without which nothing is said about how good they are."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A stated chance and what came.

    >>> Forecast("dates", "time", chance=0.8, gain=0.1).came
    True
    """

    __pydantic_config__ = STRICT

    task: str
    family: str
    chance: float
    """Stated probability that the gain is above 0."""
    gain: float
    """By how much less the held-out loss was, nats."""

    @property
    def came(self) -> bool:
        """Whether it was a gain."""
        return self.gain > 0


@dataclass(frozen=True, slots=True)
class ForecastBin:
    """Forecasts of about the same chance: a point of a reliability diagram.

    >>> ForecastBin(chance=0.8, came=0.75, count=12).count
    12
    """

    __pydantic_config__ = STRICT

    chance: float
    """Mean of the stated chances."""
    came: float
    """Share of them that came true."""
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How good the stated chances of an arm are.

    >>> units = [Unit(f"task {number}", "time") for number in range(4)]
    >>> results = [Result(unit, "auto", "own-out", 4, judged=1.0, chance=0.7) for unit in units]
    >>> alone = [Result(unit, "alone", "own-out", 4, judged=judged) for unit, judged in zip(units, (2, 2, 2, 0))]
    >>> calibration([*results, *alone], "auto", "alone").brier
    0.19
    """

    __pydantic_config__ = STRICT

    arm: str
    than: str
    """The arm that needs no pool."""
    forecasts: tuple[Forecast, ...]
    """By family, task, draw."""
    brier: float
    """Mean of (chance - came)²; 0 is best."""
    constant: float
    """Brier's score of always stating how often it came."""
    gap: float
    """How often it came minus the mean chance, mean over families: above 0, too little was stated."""
    lower: float | None
    """Lower end of its 95% interval, families resampled; None where there are fewer than two."""
    upper: float | None
    """Upper end."""
    bins: tuple[ForecastBin, ...]
    """By chance."""
    reason: str
    """The finding in one sentence."""

    @property
    def calibrated(self) -> bool:
        """Whether users may be shown them: they are many, not off on the whole, and no worse than one number."""
        known = self.lower is not None and self.upper is not None and self.lower <= 0 <= self.upper
        return known and len(self.forecasts) >= _ENOUGH and self.brier <= self.constant


def calibrations(setup: Setup, results: Sequence[Result], view: str, k: int) -> tuple[Calibration, ...]:
    """Return how good the chances are that each arm of `auto` states, where an arm takes the best without a pool.

    Args:
        setup: holds the arms.
        results: those of families that ideas were not tried out on.
        view: which results.
        k: which results.
    """
    here = [result for result in results if (result.view, result.k, result.status) == (view, k, "done")]
    autos = {arm.name: made for arm in setup.arms if (made := _auto(arm)) is not None}
    found = []
    # the first of those that cross-fit alike; how many rates it tries is its own affair
    alone = {rule.folds: name for name, rule in reversed(autos.items()) if not rule.pool}
    for name, made in autos.items():
        than = alone.get(made.folds)
        if made.pool and than is not None and (one := calibration(here, name, than)).forecasts:
            found.append(one)
    return tuple(found)


def _auto(arm: Arm) -> Auto | None:
    made = registry.build("adaptation", arm.adaptation) if arm.adaptation else None
    return made if isinstance(made, Auto) else None


def calibration(results: Sequence[Result], arm: str, than: str, *, seed: int = 0) -> Calibration:
    """Return the chances that an arm states compared with what came.

    Args:
        results: of one view and k.
        arm: the one that states chances; units where it states none are left out.
        than: the one that needs no pool.
        seed: draws the resamples.
    """
    other = {result.unit: result.judged for result in results if result.arm == than}
    forecasts = tuple(
        Forecast(unit.task, unit.family, chance, against - judged)
        for unit, chance, judged in _stated(results, arm)
        if (against := other.get(unit)) is not None
    )
    came = [float(forecast.came) for forecast in forecasts]
    rate = mean(came) if came else 0.0
    brier = mean([(one.chance - one.came) ** 2 for one in forecasts]) if came else 0.0
    by_family = defaultdict(list)
    for forecast in forecasts:
        by_family[forecast.family].append(float(forecast.came) - forecast.chance)
    gaps = [mean(values) for _, values in sorted(by_family.items())]
    low, high = resampling.bootstrap_interval(gaps, seed=seed) or (None, None)
    gap, constant = mean(gaps) if gaps else 0.0, rate * (1 - rate)
    return Calibration(
        arm, than, forecasts, brier, constant, gap, low, high, _bins(forecasts),
        _reason(forecasts, brier, constant, (gap, low, high), len(gaps)),
    )  # fmt: skip


def _stated(results: Sequence[Result], arm: str) -> list[tuple[Unit, float, float]]:
    stated = [
        (result.unit, result.chance, result.judged)
        for result in results
        if result.arm == arm and result.chance is not None and result.judged is not None
    ]
    return sorted(stated, key=lambda one: (one[0].family, one[0].task, one[0].shot_draw))


def _bins(forecasts: Sequence[Forecast]) -> tuple[ForecastBin, ...]:
    order = sorted(forecasts, key=lambda forecast: forecast.chance)
    number = max(1, min(_BINS, len(order) // 4))
    cuts = [round(len(order) * place / number) for place in range(number + 1)]
    return tuple(
        ForecastBin(mean([one.chance for one in part]), mean([float(one.came) for one in part]), len(part))
        for first, last in pairwise(cuts)
        if (part := order[first:last])
    )


def _reason(
    forecasts: Sequence[Forecast], brier: float, constant: float, gap: tuple[float, float | None, float | None], n: int
) -> str:
    if not forecasts:
        return "no chance was stated that something is known about"
    mean_gap, low, high = gap
    ends = "" if low is None or high is None else f" ({100 * low:+.0f} to {100 * high:+.0f})"
    families = "family" if n == 1 else "families"
    said = (
        f"gains came {100 * mean_gap:+.0f} points{ends} more often than stated, over {len(forecasts)} chances of {n} "
        f"{families}; Brier score {brier:.3f}, always stating how often it came: {constant:.3f}"
    )
    return said if len(forecasts) >= _ENOUGH else f"{said}; fewer than {_ENOUGH} chances say little"
