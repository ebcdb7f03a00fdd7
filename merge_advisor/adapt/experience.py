"""What benchmarks have shown of each adaptation, and how a task's own few rows are weighed against it.

Twenty rows say little about which of several models is the best: the differences between them are about as large as the
noise of their means, and the best of several looks better than it is. So a difference is shrunk towards what tasks of
other families have shown, as far as they agree and the rows do not speak (the normal model of empirical Bayes, Efron
and Morris 1975, JASA 70:311):

    gain of an adaptation on a task    θ ~ N(gain, spread²)
    its cross-fitted difference        d ~ N(θ + optimism, s²)

with s the standard error of d over rows. The numbers come from tasks that no question is asked of any more:
`eval/adaptations_tried.md`; those of merges alone, with twenty rows, also from two draws of `eval/adaptations.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from merge_advisor.adapt.task_weights import moments
from merge_advisor.select.evidence import FEW_ROWS


@dataclass(frozen=True, slots=True)
class Experience:
    """How much less loss an adaptation has than `shots`, over tasks, in nats; more is better.

    >>> Experience(gain=0.1, spread=0.2).than(Experience(gain=0.0, spread=0.0)).spread
    0.2
    """

    gain: float
    """Mean over families, on held-out rows."""
    spread: float
    """Standard deviation over tasks, without the noise of their rows."""
    optimism: float = 0.0
    """How much more cross-fitted differences say than held-out rows: the rows chose the merge as well."""

    def than(self, other: Experience) -> Experience:
        """Return what this one gains over another one, as if their gains had nothing to do with each other.

        Args:
            other: what it is compared with.
        """
        spread = math.hypot(self.spread, other.spread)
        return Experience(self.gain - other.gain, spread, self.optimism - other.optimism)


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a gain: a normal distribution, in nats.

    >>> round(Belief(mean=0.1, error=0.1).chance, 2)
    0.84
    """

    mean: float
    error: float
    """Its standard deviation."""

    @property
    def chance(self) -> float:
        """Probability that the gain is above 0; ½ where nothing speaks for either."""
        if not self.error:
            return 0.5 if not self.mean else float(self.mean > 0)
        return 0.5 * (1.0 + math.erf(self.mean / self.error / math.sqrt(2.0)))


def believe(
    differences: Sequence[float], experience: Experience, level: float = math.inf, weights: Sequence[float] = ()
) -> Belief:
    """Return what is believed of a gain after some rows.

    Args:
        differences: by how much each row's loss is less, under models that were not trained on it; at least one.
        experience: of other tasks.
        level: mean loss of the two models, nats.
        weights: what each row counts, summing to 1; empty: all the same.

    >>> believe([0.3] * 20, Experience(gain=0.1, spread=0.0)).mean
    0.1
    """
    count, mean, variance = moments(differences, weights)
    # rows of other tasks stand in for the variance that a handful of rows cannot tell; losses are never below 0, so
    # differences of small ones are small
    sums = variance * count + _ROWS_BEFORE * min(ROW_SPREAD, level) ** 2
    noise = sums / (count + _ROWS_BEFORE) / count
    weight = experience.spread**2 / (experience.spread**2 + noise)
    found = mean - experience.optimism
    return Belief(weight * found + (1 - weight) * experience.gain, math.sqrt(weight * noise))


def _in_a_step(few: Experience, more: Experience) -> dict[int, Experience]:
    """Of one model that fewer than ten rows chose, and of the merges of several that more rows choose."""
    return {5: few, FEW_ROWS - 1: few, FEW_ROWS: more, 20: more}


EXPERIENCE: dict[str, dict[int, Experience]] = {
    "base": {5: Experience(gain=-2.9, spread=2.6), 20: Experience(gain=-1.8, spread=2.6)},
    "prompt": {5: Experience(gain=0.15, spread=0.35), 20: Experience(gain=-0.04, spread=0.25)},
    "prompt on shots": {5: Experience(gain=0.24, spread=0.35), 20: Experience(gain=-0.08, spread=0.25)},
    "shots": {20: Experience(gain=0.0, spread=0.0)},
    "merge": _in_a_step(
        Experience(gain=0.13, spread=0.45),
        Experience(gain=-0.5, spread=0.47, optimism=0.06),
    ),
    "prompt on merge": {5: Experience(gain=0.33, spread=0.3)},
    "continue from merge": {20: Experience(gain=0.02, spread=0.16)},
    "basis from merge": {
        5: Experience(gain=-0.04, spread=0.29),
        20: Experience(gain=-0.2, spread=0.38),
    },
}
"""By what is compared and the number of rows it had. A name that is not here has no place in `auto`. `basis` had merges
that were chosen anew for each fold."""
EXPERIENCE_OVER_CHOICES: dict[str, dict[int, Experience]] = {
    "prompt": {
        5: Experience(gain=0.15, spread=0.35, optimism=-0.8),
        20: Experience(gain=-0.04, spread=0.25),
    },
    "prompt on shots": {
        5: Experience(gain=0.24, spread=0.35, optimism=-0.75),
        20: Experience(gain=-0.08, spread=0.25),
    },
    "merge": _in_a_step(
        Experience(gain=0.31, spread=0.3),
        Experience(gain=-0.12, spread=0.27, optimism=0.31),
    ),
    "prompt on merge": {5: Experience(gain=0.49, spread=0.35, optimism=-0.9)},
}
"""The same where rows have choices, as far as it differs. Choices are few and their losses move together, so the best
of many merges by twenty rows fits them by chance far more than it does where each token speaks. And a prompt goes by
how often its examples have each answer: of five rows, those shown have the answer of the one left out more seldom than
all five have, so what is prompted looks worse than it is."""
ROW_SPREAD = 0.6
"""Standard deviation of a difference between two models from row to row, nats."""
_ROWS_BEFORE = 4
"""Rows that `ROW_SPREAD` counts for."""


def experience_of(name: str, rows: int, *, choices: bool = False) -> Experience:
    """Return what other tasks have shown with as many rows: between the numbers measured by their logarithm.

    >>> experience_of("shots", 12)
    Experience(gain=0.0, spread=0.0, optimism=0.0)

    Args:
        name: what is compared, a key of `EXPERIENCE`.
        rows: learned from; beyond the numbers measured the nearest one counts.
        choices: whether the rows are judged over their choices, most of them.
    """
    known = EXPERIENCE_OVER_CHOICES[name] if choices and name in EXPERIENCE_OVER_CHOICES else EXPERIENCE[name]
    numbers = sorted(known)
    places = np.log(numbers)

    def between(what: str) -> float:
        return float(np.interp(math.log(max(rows, 1)), places, [getattr(known[number], what) for number in numbers]))

    return Experience(between("gain"), between("spread"), between("optimism"))
