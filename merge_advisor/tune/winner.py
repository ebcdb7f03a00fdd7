"""The winner of a search: what to return when the rows that chose it are few.

The best of many trials looks better than it is. Three things stand against that, each measured by simulation
(`scripts/bench/winner_rule.py`, kept in `eval/winner_rule.md`):

1. The reference is the best of base, anchor, uniform and plan on the tuning rows, and it is the result unless the rest
   holds.
2. The result is not the best trial but a point between it and the reference, w = reference + t·(best - reference), t
   in quarters. With g the mean of the paired differences on the n tuning rows, s its standard error and d the number
   of dimensions searched, t = 1 - (n-1)/(n-3) · d·s²/(4g²), and not more than the cross-validated gain is of g. Where
   the loss is a parabola, half of a gain that g² = d·s²/4 shows is what its optimum gains on noise alone, so this is
   the positive-part shrinkage of James and Stein (1961, "Estimation with quadratic loss", Proc. 4th Berkeley Symp.
   1:361): at t below 1/8 the reference stands.
3. Rows kept aside, which the search never saw, have a veto.

The cross-validated gain: over five folds of the rows, the paired difference on the fold left out between the start and
the trial that are best on the other folds. No forward more is needed; but the trials were made from all rows, so that a
search that adapts much (`gradient`) still flatters itself a little there, and it stands beside the result, not for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from merge_advisor.errors import TaskError
from merge_advisor.statistics import Interval, paired_interval
from merge_advisor.tune import Point, Trial

STARTS = ("base", "anchor", "uniform", "plan")
"""Labels of the points that are known without a search, the cheapest first."""
FOLDS = 5
FEWEST = 4
"""Rows of which a spread is known well enough to trust a gain at all."""
ASIDE, ROWS_FOR_ASIDE = 0.3, 40
"""Share of the rows worth keeping aside, and the fewest rows of which to keep any."""
MIRRORED = "lorahub"
"""The composition in which w and -w are one model."""

Array = NDArray[np.float64]
Measure = Callable[[Point], Sequence[float]]
"""Loss of a point on each row, asked for few points; infinite where the point is not allowed."""


@dataclass(frozen=True, slots=True)
class Winner:
    """What a search ends in."""

    point: Point
    label: str
    """The start's, or the label of the trial it was shrunk from."""
    share: float
    """t: 0 is the reference itself, 1 the best trial as it is."""
    reference: str
    """Label of the best start."""
    reason: str
    """Why, in one sentence with its numbers."""
    reference_losses: tuple[float, ...]
    """(n,), on the tuning rows."""
    losses: tuple[float, ...]
    """(n,), the winner's on the same rows."""
    gain: Interval | None
    """Cross-validated gain of the search over the best start, nats per token; None on one row."""
    confirmed: Interval | None
    """Gain of the winner over the reference on the rows kept aside; None where there are none, or it is the start."""


@dataclass(frozen=True, slots=True)
class _Search:
    """The trials that count, by position: the starts first."""

    trials: list[Trial]
    losses: Array
    """(trials, n)."""
    starts: int
    tasks: NDArray[np.int64]
    """(n,)."""
    worst: bool

    def judged(self, losses: Array, rows: NDArray[np.bool_] | None = None) -> Array:
        """What trials are compared by, (trials,): the mean over rows, or that of the task where it is largest."""
        rows = np.ones(len(self.tasks), dtype=bool) if rows is None else rows
        if not self.worst:
            return np.asarray(losses[:, rows].mean(1))
        present = [rows & (self.tasks == task) for task in np.unique(self.tasks[rows])]
        return np.asarray(np.max([losses[:, part].mean(1) for part in present], axis=0))

    def best(self, rows: NDArray[np.bool_] | None = None) -> tuple[int, int]:
        """Positions of the best start and of the best of all; the first of equals."""
        values = self.judged(self.losses, rows)
        return int(np.argmin(values[: self.starts])), int(np.argmin(values))


def aside(tasks: Sequence[int], seed: int) -> tuple[int, ...]:
    """Return the rows to keep from the search for the confirmation: 30%, of each task alike; none of fewer than 40.

    Args:
        tasks: (n,) the task each row belongs to.
        seed: draws them.
    """
    if len(tasks) < ROWS_FOR_ASIDE:
        return ()
    order = _dealt(tasks, seed)
    taken = np.floor(np.arange(1, len(order) + 1) * ASIDE) > np.floor(np.arange(len(order)) * ASIDE)
    return tuple(sorted(int(row) for row, take in zip(order, taken, strict=True) if take))


def choose(
    trials: Sequence[Trial],
    tasks: Sequence[int],
    measure: Measure,
    *,
    seed: int,
    confirm: Measure | None = None,
    worst: bool = False,
    unit: str = "nats",
) -> Winner:
    """Choose what a search ends in, by the rule in this module's docstring.

    Args:
        trials: the finished ones; those not run on all rows, or with a loss that is not finite, are passed over.
        tasks: (n,) the task of each tuning row.
        measure: loss on the tuning rows, for one point that was not tried at most.
        seed: makes the folds.
        confirm: loss on the rows kept aside, for the reference and the winner.
        worst: judge by the task of the largest mean loss; then no task may get worse than the reference beyond noise.
        unit: what losses are counted in, for the reason.

    Raises:
        TaskError: no start has a finite loss on all rows.
        ValueError: a trial that saw all rows has another number of losses than there are tasks.
    """
    search = _read(trials, tasks, worst)
    ref, best = search.best()
    start, top = search.trials[ref], search.trials[best]
    gain = _cross_validated(search, seed)
    score = f"{float(search.judged(search.losses[[ref]])[0]):.3f} {unit} per token on {_rows(len(tasks))}"
    found = Winner(
        start.point,
        start.label,
        0.0,
        start.label,
        "",
        _plain(search.losses[ref]),
        _plain(search.losses[ref]),
        gain,
        None,
    )

    def stays(reason: str, confirmed: Interval | None = None) -> Winner:
        return replace(found, reason=f"{start.label} stays, {score}: {reason}", confirmed=confirmed)

    lead = _interval(_differences(search, ref, search.losses[best]))
    if best == ref:
        return stays("no trial is better")
    if gain is None or lead is None:
        return stays("one row cannot tell a better point from chance")
    tried = (
        f"the best of {len(search.trials) - search.starts} trials leads by {_amount(lead, unit)} where it was chosen "
        f"and by {_amount(gain, unit)} cross-validated"
    )
    point, share = _between(start.point, top.point, _share(search, ref, best, gain.mean))
    if not share:
        return stays(f"{tried}, which is within noise")
    losses = _known(search, point)
    if losses is None:
        losses = np.asarray(measure(point), dtype=np.float64)
    ahead = _interval(_differences(search, ref, losses)) if np.isfinite(losses).all() else None
    if ahead is None or ahead.mean < share * lead.mean:  # a ridge lies between: halfway is no safer than the end
        if share < 0.5:
            return stays(f"{tried}, and nothing on the way to it is better")
        point, share, losses, ahead = top.point, 1.0, search.losses[best], lead
    if worst and (hurt := _hurt(search, ref, losses)):
        return stays(f"{tried}, but task {hurt[0]} gains {_amount(hurt[1], unit)}")
    reason = f"{tried}; {share:.0%} of the way to it from {start.label} ({score}), the lead is {_amount(ahead, unit)}"
    confirmed = None
    if confirm is not None:
        differences = np.subtract(confirm(start.point), confirm(point))
        confirmed = _interval(differences) if np.isfinite(differences).all() else None
        if not float(differences.mean()) > 0:  # not a number, too
            told = _amount(confirmed, unit) if confirmed else f"{float(differences.mean()):+.3f} {unit}"
            return stays(f"{tried}, but on the rows kept aside the lead is {told}", confirmed)
        reason += f", and on the rows kept aside {_amount(confirmed, unit)}" if confirmed else ""
    return Winner(point, top.label, share, start.label, reason, found.losses, _plain(losses), gain, confirmed)


def _plain(losses: Array) -> tuple[float, ...]:
    return tuple(losses.tolist())


def _read(trials: Sequence[Trial], tasks: Sequence[int], worst: bool) -> _Search:
    whole = [trial for trial in trials if trial.whole]
    if any(len(trial.losses) != len(tasks) for trial in whole):
        raise ValueError("a trial that saw all rows has a loss for each of them")
    finite = [t for t in whole if np.isfinite(np.array(t.losses, dtype=np.float64)).all()]
    starts = [trial for name in STARTS for trial in finite if trial.label == name]
    if not starts or not tasks:
        raise TaskError(
            f"none of {', '.join(STARTS)} has a finite loss on all {_rows(len(tasks))}; look for broken members or rows"
        )
    ordered = starts + [trial for trial in finite if trial.label not in STARTS]
    losses = np.array([trial.losses for trial in ordered], dtype=np.float64)
    return _Search(ordered, losses, len(starts), np.asarray(tasks, dtype=np.int64), worst)


def _dealt(tasks: Sequence[int], seed: int) -> list[int]:
    """The rows in a random order, task after task: dealt out in turns they spread evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(tasks))
    return sorted((int(row) for row in shuffled), key=lambda row: tasks[row])


def _counting(search: _Search, losses: Array) -> NDArray[np.bool_]:
    """The rows a gain is told on: all; judged by the worst task, that one's, where it is not more than the gain."""
    if not search.worst:
        return np.ones(len(search.tasks), dtype=bool)
    tasks = np.unique(search.tasks)
    most = tasks[int(np.argmax([losses[search.tasks == task].mean() for task in tasks]))]
    return np.asarray(search.tasks == most)


def _differences(search: _Search, ref: int, losses: Array) -> Array:
    """What a point gains over the reference, row by row of those that count."""
    return np.asarray((search.losses[ref] - losses)[_counting(search, losses)])


def _cross_validated(search: _Search, seed: int) -> Interval | None:
    n = len(search.tasks)
    fold = np.empty(n, dtype=np.int64)
    fold[_dealt(search.tasks.tolist(), seed)] = np.arange(n) % FOLDS
    differences = np.zeros(n)
    for left_out in range(min(FOLDS, n) if n > 1 else 0):
        rows = fold == left_out
        ref, best = search.best(~rows)
        differences[rows] = search.losses[ref, rows] - search.losses[best, rows]
    return _interval(differences[_counting(search, search.losses[search.best()[1]])])


def _interval(differences: Array) -> Interval | None:
    if len(differences) < 2:
        return None
    return paired_interval(differences, counts=None if differences.any() else False)


def _share(search: _Search, ref: int, best: int, honest: float) -> float:
    """Return t of the rule, rounded to quarters; `honest` is the cross-validated gain."""
    differences = _differences(search, ref, search.losses[best])
    n, mean = len(differences), float(differences.mean())
    if n < FEWEST or not mean > 0:
        return 0.0
    error = float(differences.var(ddof=1)) / n
    james_stein = 1 - (n - 1) / (n - 3) * _dimensions(search, ref) * error / (4 * mean**2)
    return round(4 * max(0.0, min(james_stein, honest / mean, 1.0))) / 4


def _dimensions(search: _Search, ref: int) -> int:
    """Directions in which the trials lie from the reference: in weights, in layer factors, and one for compositions."""
    points = [trial.point for trial in search.trials[search.starts :]]
    layers = max(len(point.layers) for point in points)
    flat = [[*point.weights, *_layers(point, layers)] for point in (search.trials[ref].point, *points)]
    moved = np.array(flat[1:]) - np.array(flat[0])
    return int(np.linalg.matrix_rank(moved)) + (len({point.composition for point in points}) > 1)


def _layers(point: Point, count: int) -> tuple[float, ...]:
    return point.layers or (1.0,) * count


def _between(ref: Point, best: Point, share: float) -> tuple[Point, float]:
    """The point at `share` of the way and its share; between two compositions there is nothing: the nearer end."""
    same = ref.composition == best.composition
    share = share if same else float(share >= 0.5)
    if share in (0.0, 1.0):
        return (best if share else ref), share
    count = max(len(ref.layers), len(best.layers))
    mirrored = ref.composition.partition(":")[0] == MIRRORED and np.dot(ref.weights, best.weights) < 0
    sign = -1.0 if mirrored else 1.0
    weights = tuple(a + share * (sign * b - a) for a, b in zip(ref.weights, best.weights, strict=True))
    pairs = zip(_layers(ref, count), _layers(best, count), strict=True)
    return replace(best, weights=weights, layers=tuple(a + share * (b - a) for a, b in pairs)), share


def _known(search: _Search, point: Point) -> Array | None:
    return next(
        (losses for trial, losses in zip(search.trials, search.losses, strict=True) if trial.point == point), None
    )


def _hurt(search: _Search, ref: int, losses: Array) -> tuple[int, Interval] | None:
    """The first task that is worse than under the reference beyond noise, and what it gains (less than 0)."""
    for task in np.unique(search.tasks):
        rows = search.tasks == task
        found = _interval((search.losses[ref] - losses)[rows])
        if found is not None and found.upper < 0:
            return int(task), found
    return None


def _amount(interval: Interval, unit: str) -> str:
    """A gain in words, e.g. "+0.071 nats (-0.020 to +0.162)"."""
    mean, low, high = (f"{value:+.3f}" for value in interval)
    return f"{mean} {unit} ({low} to {high})"


def _rows(n: int) -> str:
    return f"{n} row" if n == 1 else f"{n} rows"
