"""The winner of a search: what to return when the rows that chose it are few.

The best of many trials looks better than it is. The rule against that was chosen by simulation
(`scripts/bench/winner_rule.py`, kept in `eval/winner_rule.md`):

1. The reference is the best of base, anchor, uniform and plan on the tuning rows. It is the result unless the rest
   holds.
2. The gain is cross-validated: over five folds, the paired difference on the rows left out between the start and the
   trial that are best on the other rows. It costs no forward. Where it is not above 0 the reference stays. The trials
   were made from all rows, so for a search that adapts much (`gradient`) this gain is still too large, and the next
   rule is the stronger one.
3. The result is not the best trial but a point between the reference and it, reference + t·(best - reference). With g
   the mean of the paired differences on the n tuning rows, s its standard error and d the dimensions searched (n - 1 at
   most: n rows differ in no more directions, and on real adapters in fewer, see `eval/tuning.md`),
   t = 1 - (n-1)/(n-3) · d·s²/(4g²), to the nearest quarter: where the loss is a parabola, its optimum on noise alone
   gains g² = d·s²/4, and this is the positive-part shrinkage of James and Stein (1961, "Estimation with quadratic
   loss", Proc. 4th Berkeley Symp. 1:361). At less than 1/8 the reference stays.
4. Where no line connects the two (another composition), or a point on it is no better than the reference (a ridge),
   the best trial itself is the result if the 95% interval of its cross-validated gain lies above 0, else the reference.
5. Rows kept aside, which the search never saw, have a veto.
6. Where something is trained on top of the result (`plan --adaptation`), no line connects what comes of it with the
   plan's model: as in 4, it takes the plan's place only if the 95% interval of its gain lies above 0. The gain is taken
   on rows held out of the training; they chose the tuned merge, so it is still too large rather than too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from merge_advisor.arrays import Float64Array
from merge_advisor.errors import TaskError
from merge_advisor.statistics import Interval, paired_interval
from merge_advisor.tuning.values import Point, Trial

START_LABELS = ("base", "anchor", "uniform", "plan")
"""Labels of the points that are known without a search, the cheapest first."""
_FOLDS = 5
_FEWEST = 4
"""Rows whose spread is known well enough to trust a gain at all."""
_ASIDE, _ROWS_FOR_ASIDE = 0.3, 80
"""Share of the rows to keep aside, and the fewest rows to take it of: of fewer, a search loses more than it gains."""
_MIRRORED = "lorahub"
"""The composition in which w and -w are one model."""


RowLosses = Callable[[Point], Sequence[float]]
"""Returns the loss of a point on each row, infinite where the point is not allowed; called for few points."""


@dataclass(frozen=True, slots=True)
class Winner:
    """The point that a search returns, and why.

    >>> Winner(Point((0.5,), "exact"), "plan", 0.0, "plan", "plan stays", (1.0,), (1.0,), None, None).label
    'plan'
    """

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
    """Cross-validated gain of the search over the best start; None on one row."""
    confirmed: Interval | None
    """Gain of the winner over the reference on the rows kept aside; None where there are none, or it is the start."""


@dataclass(frozen=True, slots=True)
class _Search:
    """The trials that count, by position: the starts first."""

    trials: list[Trial]
    losses: Float64Array
    """(trials, n)."""
    starts: int
    tasks: NDArray[np.int64]
    """(n,)."""
    worst: bool

    def judged(self, losses: Float64Array, rows: NDArray[np.bool_] | None = None) -> Float64Array:
        """Return what trials are compared by, (trials,): the mean over rows, or the largest mean of a task."""
        rows = np.ones(len(self.tasks), dtype=bool) if rows is None else rows
        if not self.worst:
            return np.asarray(losses[:, rows].mean(1))
        present = [rows & (self.tasks == task) for task in np.unique(self.tasks[rows])]
        return np.asarray(np.max([losses[:, part].mean(1) for part in present], axis=0))

    def best(self, rows: NDArray[np.bool_] | None = None) -> tuple[int, int]:
        """Return the positions of the best start and of the best of all; the first of equals."""
        values = self.judged(self.losses, rows)
        return int(np.argmin(values[: self.starts])), int(np.argmin(values))


def confirmation_rows(tasks: Sequence[int], seed: int) -> tuple[int, ...]:
    """Return the rows to keep from the search for the confirmation: 30%, of each task alike; none of fewer than 80.

    >>> len(confirmation_rows((0,) * 100, seed=0)), confirmation_rows((0,) * 20, seed=0)
    (30, ())

    Args:
        tasks: (n,) the task each row belongs to.
        seed: draws them.
    """
    if len(tasks) < _ROWS_FOR_ASIDE:
        return ()
    order = _dealt(tasks, seed)
    taken = np.floor(np.arange(1, len(order) + 1) * _ASIDE) > np.floor(np.arange(len(order)) * _ASIDE)
    return tuple(sorted(int(row) for row, take in zip(order, taken, strict=True) if take))


def choose_winner(
    trials: Sequence[Trial],
    tasks: Sequence[int],
    measure: RowLosses,
    *,
    seed: int,
    confirm: RowLosses | None = None,
    worst: bool = False,
    unit: str = "nats",
) -> Winner:
    """Return what a search ends in, by the rule in this module's docstring.

    >>> plan, found = Point((1.0,), "exact"), Point((0.5,), "exact")
    >>> trials = [Trial(0, "plan", plan, (2.0, 2.1, 1.9, 2.0, 2.2), (2.04,), whole=True, forwards=5),
    ...     Trial(1, "tpe", found, (1.0, 1.2, 0.9, 1.0, 1.1), (1.04,), whole=True, forwards=5)]
    >>> winner = choose_winner(trials, tasks=(0,) * 5, measure=lambda point: (), seed=0)
    >>> winner.point, winner.share
    (Point(weights=(0.5,), composition='exact', layers=()), 1.0)

    Args:
        trials: the finished ones; those not run on all rows, or with a loss that is not finite, do not count.
        tasks: (n,) the task of each tuning row.
        measure: returns the losses of a point on the tuning rows; called for at most one point, not tried before.
        seed: of the folds.
        confirm: returns the losses on the rows kept aside, of the reference and of the winner.
        worst: judge by the task of the largest mean loss; then no task may get worse than the reference beyond noise.
        unit: of the losses, for the reason.

    Raises:
        TaskError: no start has a finite loss on all rows.
        ValueError: a trial that saw all rows has another number of losses than there are tasks.
    """
    search = _read(trials, tasks, worst)
    ref, best = search.best()
    start, start_losses = search.trials[ref], _plain(search.losses[ref])
    score = _score(search, ref, unit)
    gain = _cross_validated(search, seed)
    stays = Winner(
        start.point, start.label, share=0.0, reference=start.label, reason=f"{start.label} stays, {score}: ",
        reference_losses=start_losses, losses=start_losses, gain=gain, confirmed=None,
    )  # fmt: skip
    lead = _interval(_differences(search, ref, search.losses[best]))
    if best == ref:
        return _because(stays, "no trial is better")
    if gain is None or lead is None:
        return _because(stays, "one row cannot tell a better point from chance")
    seen = (
        f"the best of {len(search.trials) - search.starts} trials leads by {_amount(lead, unit)} where it was chosen "
        f"and by {_amount(gain, unit)} cross-validated"
    )
    share = _share(search, ref, best) if gain.mean > 0 else 0.0
    if not share:
        return _because(stays, f"{seen}, which is within noise")
    point, share, losses = _toward(search, ref, best, share, measure, sure=gain.lower > 0)
    if not share:
        return _because(stays, f"{seen}, but nothing on the way to it is better")
    if worst and (hurt := _hurt(search, ref, losses)):
        return _because(stays, f"{seen}, but task {hurt[0]} gains {_amount(hurt[1], unit)}")
    ahead = _interval(_differences(search, ref, losses)) or lead
    reason = f"{seen}; {share:.0%} of the way to it from {start.label} ({score}) the lead is {_amount(ahead, unit)}"
    won = Winner(point, search.trials[best].label, share, start.label, reason, start_losses, _plain(losses), gain, None)
    return won if confirm is None else _confirmed(stays, won, seen, confirm, unit)


@dataclass(frozen=True, slots=True)
class TrainedChoice:
    """Whether a model trained from a tuned merge takes the place of the plan's, and why.

    >>> TrainedChoice(False, None, "the plan's model stays").tuned
    False
    """

    tuned: bool
    gain: Interval | None
    """Of the model trained from the tuned merge over the plan's; None on one row."""
    reason: str


def choose_trained(
    planned: Sequence[float] | Float64Array, tuned: Sequence[float] | Float64Array, tasks: Sequence[int], *,
    worst: bool = False, unit: str = "nats",
) -> TrainedChoice:  # fmt: skip
    """Return whether a model trained from a tuned merge takes the place of the plan's, by rule 6 of this module.

    >>> choose_trained((2.0, 2.1, 1.9, 2.0, 2.2), (1.0, 1.2, 0.9, 1.0, 1.1), tasks=(0,) * 5).tuned
    True

    Args:
        planned: (n,) losses of the plan's model, n at least 1.
        tuned: (n,) those of the other, on the same rows.
        tasks: (n,) the task of each row.
        worst: judge by the task of the largest mean loss; then no task may get worse beyond noise.
        unit: of the losses, for the reason.
    """
    losses = np.array([planned, tuned], dtype=np.float64)
    search = _Search([], losses, 1, np.asarray(tasks, dtype=np.int64), worst)
    before, after = (float(value) for value in search.judged(losses))
    differences = _differences(search, 0, losses[1])
    gain = _interval(differences)
    lead = f"{before - after:+.3f} {unit}" if gain is None else _amount(gain, unit)
    seen = f"from the tuned merge it comes to {after:.3f} {unit} on {_rows(len(differences))} held out of its training"
    seen = f"{seen}, the plan's model to {before:.3f}, a lead of {lead}"
    if gain is None or len(differences) < _FEWEST:
        return TrainedChoice(False, gain, f"{seen}, which so few rows cannot tell from chance: the plan's model stays")
    if not gain.mean > 0:
        return TrainedChoice(False, gain, f"{seen}: the plan's model stays")
    if not gain.lower > 0:
        return TrainedChoice(False, gain, f"{seen}, which is within noise: the plan's model stays")
    if worst and (hurt := _hurt(search, 0, losses[1])):
        lost = f"but task {hurt[0]} gains {_amount(hurt[1], unit)}"
        return TrainedChoice(False, gain, f"{seen}, {lost}: the plan's model stays")
    return TrainedChoice(True, gain, f"{seen}: it takes the place of the plan's model")


def _score(search: _Search, ref: int, unit: str) -> str:
    """Return the reference's score in words: "1.234 nats per token on 20 rows"."""
    per = " per token" if unit == "nats" else ""
    return f"{float(search.judged(search.losses[[ref]])[0]):.3f} {unit}{per} on {_rows(len(search.tasks))}"


def _because(stays: Winner, reason: str) -> Winner:
    return replace(stays, reason=stays.reason + reason)


def _confirmed(stays: Winner, won: Winner, seen: str, confirm: RowLosses, unit: str) -> Winner:
    """Return the winner, or the reference where the winner is no better on the rows kept aside."""
    differences = np.subtract(confirm(stays.point), confirm(won.point))
    mean = float(differences.mean())
    gain = _interval(differences) if np.isfinite(differences).all() else None
    lead = f"on the rows kept aside the lead is {_amount(gain, unit) if gain else f'{mean:+.3f} {unit}'}"
    if not mean > 0:  # "not >" holds for NaN as well
        return replace(_because(stays, f"{seen}, but {lead}"), confirmed=gain)
    return replace(won, reason=f"{won.reason}, and {lead}", confirmed=gain)


def _toward(
    search: _Search, ref: int, best: int, share: float, measure: RowLosses, *, sure: bool
) -> tuple[Point, float, Float64Array]:
    """Return the point at `share` of the way, its share and its losses; an end of the way where it is no better."""
    start, end = search.trials[ref].point, search.trials[best].point
    if start.composition == end.composition:
        point = _between(start, end, share) if share < 1 else end
        losses = _known(search, point)
        if losses is None:
            losses = np.asarray(measure(point), dtype=np.float64)
        if np.isfinite(losses).all() and _differences(search, ref, losses).mean() > 0:
            return point, share, losses
    return (end, 1.0, search.losses[best]) if sure else (start, 0.0, search.losses[ref])


def _plain(losses: Float64Array) -> tuple[float, ...]:
    return tuple(losses.tolist())


def _read(trials: Sequence[Trial], tasks: Sequence[int], worst: bool) -> _Search:
    whole = [trial for trial in trials if trial.whole]
    if any(len(trial.losses) != len(tasks) for trial in whole):
        raise ValueError("a trial that saw all rows has a loss for each of them")
    finite = [t for t in whole if np.isfinite(np.array(t.losses, dtype=np.float64)).all()]
    starts = [trial for name in START_LABELS for trial in finite if trial.label == name]
    if not starts or not tasks:
        raise TaskError(
            f"none of {', '.join(START_LABELS)} has a finite loss on all {_rows(len(tasks))}; "
            "look for broken members or rows"
        )
    ordered = starts + [trial for trial in finite if trial.label not in START_LABELS]
    losses = np.array([trial.losses for trial in ordered], dtype=np.float64)
    return _Search(ordered, losses, len(starts), np.asarray(tasks, dtype=np.int64), worst)


def _dealt(tasks: Sequence[int], seed: int) -> list[int]:
    """Return the rows in a random order, task after task: dealt out in turns they spread evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(tasks))
    return sorted((int(row) for row in shuffled), key=lambda row: tasks[row])


def _counting(search: _Search, losses: Float64Array) -> NDArray[np.bool_]:
    """Return which rows a gain is taken over: all, or where the worst task counts, those of that task."""
    if not search.worst:
        return np.ones(len(search.tasks), dtype=bool)
    tasks = np.unique(search.tasks)
    most = tasks[int(np.argmax([losses[search.tasks == task].mean() for task in tasks]))]
    return np.asarray(search.tasks == most)


def _differences(search: _Search, ref: int, losses: Float64Array) -> Float64Array:
    """Return what a point gains over the reference, row by row of those that count."""
    return np.asarray((search.losses[ref] - losses)[_counting(search, losses)])


def _cross_validated(search: _Search, seed: int) -> Interval | None:
    n = len(search.tasks)
    fold = np.empty(n, dtype=np.int64)
    fold[_dealt(search.tasks.tolist(), seed)] = np.arange(n) % _FOLDS
    differences = np.zeros(n)
    for left_out in range(min(_FOLDS, n) if n > 1 else 0):
        rows = fold == left_out
        ref, best = search.best(~rows)
        differences[rows] = search.losses[ref, rows] - search.losses[best, rows]
    return _interval(differences[_counting(search, search.losses[search.best()[1]])])


def _interval(differences: Float64Array) -> Interval | None:
    if len(differences) < 2:
        return None
    # all 0 would be taken for right-or-wrong differences, whose interval is wide; losses that are equal are certain
    return paired_interval(differences, counts=None if differences.any() else False)


def _share(search: _Search, ref: int, best: int) -> float:
    """Return t of the rule, in quarters."""
    differences = _differences(search, ref, search.losses[best])
    n, mean = len(differences), float(differences.mean())
    if n < _FEWEST or not mean > 0:
        return 0.0
    error = float(differences.var(ddof=1)) / n  # s²
    d = min(_dimensions(search, ref), n - 1)
    return round(4 * max(0.0, 1 - (n - 1) / (n - 3) * d * error / (4 * mean**2))) / 4


def _dimensions(search: _Search, ref: int) -> int:
    """Count the directions in which the trials lie from the reference: weights, layer factors, one for compositions."""
    points = [trial.point for trial in (search.trials[ref], *search.trials[search.starts :])]
    layers = max(len(point.layers) for point in points)
    flat = [[*point.weights, *_layers(point, layers)] for point in points]
    moved = np.array(flat[1:]) - np.array(flat[0])
    return int(np.linalg.matrix_rank(moved)) + (len({point.composition for point in points}) > 1)


def _layers(point: Point, count: int) -> tuple[float, ...]:
    return point.layers or (1.0,) * count


def _between(ref: Point, best: Point, share: float) -> Point:
    """Return the point at `share` of the way between two points of one composition."""
    count = max(len(ref.layers), len(best.layers))
    # a product of sums is the same for w and -w: the way to the nearer of the two is the shorter
    mirrored = ref.composition.partition(":")[0] == _MIRRORED and np.dot(ref.weights, best.weights) < 0
    sign = -1.0 if mirrored else 1.0
    weights = tuple(a + share * (sign * b - a) for a, b in zip(ref.weights, best.weights, strict=True))
    pairs = zip(_layers(ref, count), _layers(best, count), strict=True)
    return replace(best, weights=weights, layers=tuple(a + share * (b - a) for a, b in pairs))


def _known(search: _Search, point: Point) -> Float64Array | None:
    return next(
        (losses for trial, losses in zip(search.trials, search.losses, strict=True) if trial.point == point), None
    )


def _hurt(search: _Search, ref: int, losses: Float64Array) -> tuple[int, Interval] | None:
    """Return the first task that is worse than under the reference beyond noise, and its gain (less than 0)."""
    for task in np.unique(search.tasks):
        rows = search.tasks == task
        gain = _interval((search.losses[ref] - losses)[rows])
        if gain is not None and gain.upper < 0:
            return int(task), gain
    return None


def _amount(interval: Interval, unit: str) -> str:
    """Return a gain in words, e.g. "+0.071 nats (-0.020 to +0.162)"."""
    mean, low, high = (f"{value:+.3f}" for value in interval)
    return f"{mean} {unit} ({low} to {high})"


def _rows(n: int) -> str:
    return f"{n} row" if n == 1 else f"{n} rows"
