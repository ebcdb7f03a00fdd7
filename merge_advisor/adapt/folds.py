"""Cross-fitting: every row is judged by a model that was not trained on it, and all rows are trained on.

The rows are cut into F folds. F models are trained, each without one fold, which says when it stops and judges it.
Their mean (of the updates, each at 1/F) is the result: it has seen all rows, and costs no further training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from merge_advisor.adapt.values import NOTHING, Trained, TrainingRequest
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.arrays import Float64Array
from merge_advisor.compose.exact import Exact
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import RESIDUAL, Candidate, Row

FOLDS = 4
"""Of 20 rows each is then judged by a model that was trained on 15."""


def check_folds(count: int) -> None:
    """Refuse a number of folds that leaves no rows to train on.

    >>> check_folds(0), check_folds(2)
    (None, None)

    Args:
        count: F; 0 where nothing is cross-fitted.

    Raises:
        ValueError: 1, or below 0.
    """
    if count < 0 or count == 1:
        raise ValueError(f"folds={count}: each is trained without one part of the rows, so at least 2; or 0, for one")


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Rows to train on, and those left out.

    >>> Fold(rows=(Row("a", "b"),), out=(Row("c", "d"),)).out[0].output
    'd'
    """

    rows: tuple[Row, ...]
    out: tuple[Row, ...]
    name: str = ""
    """Which rows are trained on, for the progress."""

    def named(self, what: str) -> str:
        """Return what is trained with the rows that it is trained on.

        >>> Fold((), (), "half 1 of 2").named("shots")
        'shots, half 1 of 2'

        Args:
            what: is trained.
        """
        return f"{what}, {self.name}" if self.name else what


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """What cross-fitting gave.

    >>> CrossFit((), ()).trained
    ()
    """

    folds: tuple[Fold, ...]
    trained: tuple[Trained, ...]
    """One model a fold."""

    @property
    def numbers(self) -> int:
        """How many numbers each of them trained."""
        return max((trained.record.numbers for trained in self.trained), default=0)


def folds_of(tasks: Sequence[Sequence[Row]], count: int = FOLDS) -> tuple[Fold, ...]:
    """Return folds of the rows, each with about the same share of every task; rows of one input are left out together.

    >>> rows = [Row(f"say {n}", f"{n}") for n in range(5)]
    >>> [[row.output for row in fold.out] for fold in folds_of([rows], 2)]
    [['0', '2', '4'], ['1', '3']]

    Args:
        tasks: the rows, task by task; all together at least two.
        count: F; fewer where there are fewer rows.
    """
    rows = [row for part in tasks for row in part]
    of_input = _input_places(tasks, count)
    # where all rows have one input it cannot be kept in one fold: rows are dealt one by one
    places = [of_input[row.plain_input] for row in rows] if len(of_input) > 1 else list(range(len(rows)))
    count = min(count, max(len(of_input), 2))
    folds = []
    for number in range(count):
        out = tuple(row for place, row in zip(places, rows, strict=True) if place % count == number)
        kept = tuple(row for place, row in zip(places, rows, strict=True) if place % count != number)
        if out and kept:
            folds.append(Fold(kept, out))
    return tuple(replace(fold, name=_name_of(number, len(folds))) for number, fold in enumerate(folds, 1))


def _name_of(number: int, count: int) -> str:
    return f"half {number} of {count}" if count == 2 else f"without part {number} of {count}"


def _input_places(tasks: Sequence[Sequence[Row]], count: int) -> dict[str, int]:
    """The number that deals the rows of an input to a fold: its place in its task, whose rows are ordered by hash."""
    inputs = [list(dict.fromkeys(row.plain_input for row in rows)) for rows in tasks]
    found = {name: place for names in reversed(inputs) for place, name in enumerate(names)}
    count = min(count, len(found))
    # tasks so tiny, or with so many inputs in common, that some folds would be empty: numbered over all of them
    if max(map(len, inputs)) < count or len({place % count for place in found.values()}) < 2:
        return {name: place for place, name in enumerate(dict.fromkeys(name for names in inputs for name in names))}
    return found


def rows_apart(folds: Sequence[Fold]) -> tuple[tuple[Row, ...], ...]:
    """Return for each fold the rows that choose a merge for it, none of which it judges.

    Choosing costs more than training, so of an even number of folds not each has a merge of its own: each half of them
    chooses one, for the folds of the other half. Of an odd number each is chosen by all rows that the fold trains on.

    >>> folds = folds_of([[Row(f"say {n}", f"{n}") for n in range(8)]], 4)
    >>> [[row.output for row in rows] for rows in rows_apart(folds)]
    [['1', '5', '3', '7'], ['0', '4', '2', '6'], ['1', '5', '3', '7'], ['0', '4', '2', '6']]

    Args:
        folds: every row is left out by one.
    """
    if len(folds) % 2:
        return tuple(fold.rows for fold in folds)
    halves = [tuple(row for fold in folds[start::2] for row in fold.out) for start in (1, 0)]
    return tuple(halves[number % 2] for number in range(len(folds)))


def chosen_apart(bench: Workbench, folds: Sequence[Fold]) -> tuple[WeightedMerge, ...]:
    """Return for each fold the merge that `rows_apart` chooses for it.

    Args:
        bench: chooses them, each once.
        folds: every row is left out by one.
    """

    def chosen(rows: tuple[Row, ...]) -> WeightedMerge:
        return bench.once(digest_of(["chosen", [row.digest for row in rows]]), lambda: bench.chosen_by(rows))

    return tuple(map(chosen, rows_apart(folds)))


def judged_merges(bench: Workbench, folds: Sequence[Fold], *, apart: bool) -> Sequence[WeightedMerge]:
    """Return for each fold the merge that the rows it leaves out judge.

    Args:
        bench: holds the chosen merge.
        folds: every row is left out by one.
        apart: whether it is chosen without those rows; else the one that all rows chose stands for it.
    """
    return chosen_apart(bench, folds) if apart else [bench.merge] * len(folds)


def cross_fit(bench: Workbench, request: Callable[[Fold], TrainingRequest], count: int = FOLDS) -> CrossFit:
    """Return the folds with one model trained without each.

    Args:
        bench: trains them.
        request: what to train on a fold.
        count: F.
    """
    folds = folds_of(bench.tasks, count)
    return CrossFit(folds, tuple(bench.train(request(fold)) for fold in folds))


def out_of_fold(bench: Workbench, fit: CrossFit, model: Callable[[Trained], WeightedMerge]) -> Float64Array:
    """Return the loss of each row learned from under the model of the fold that it was left out of.

    Args:
        bench: measures them.
        fit: the folds and their models.
        model: the merge that a fold's trained adapter becomes part of.

    Returns:
        (n,) float64 in the order of `bench.learning`.
    """
    return judged_out(bench, fit.folds, [model(trained) for trained in fit.trained])


def judged_out(bench: Workbench, folds: Sequence[Fold], models: Sequence[WeightedMerge]) -> Float64Array:
    """Return the loss of each row learned from under the model of the fold that leaves it out, (n,) float64.

    Args:
        bench: measures them.
        folds: every row is left out by one.
        models: of each fold.
    """
    pairs = zip(folds, models, strict=True)
    return in_order(bench, folds, [bench.losses(model, fold.out) for fold, model in pairs])


def in_order(bench: Workbench, folds: Sequence[Fold], losses: Sequence[Sequence[float] | Float64Array]) -> Float64Array:
    """Return losses of the rows that each fold leaves out in the order of all rows, (n,) float64.

    Args:
        bench: holds the rows.
        folds: every row is left out by one.
        losses: of the rows that each leaves out.
    """
    found: dict[str, float] = {}
    for fold, values in zip(folds, losses, strict=True):
        found |= dict(zip([row.digest for row in fold.out], values, strict=True))
    return np.array([found[row.digest] for row in bench.learning])


def watched_out_of_fold(bench: Workbench, fit: CrossFit, starts: Sequence[WeightedMerge] = ()) -> Float64Array:
    """Return the same of each fold's model at weight 1, from what training saw; only what it did not see is measured.

    Args:
        bench: measures what is missing.
        fit: the folds and their models.
        starts: what each was trained on top of; none: the base.
    """
    if not all(trained.record.rows for trained in fit.trained):
        begun = starts or [NOTHING] * len(fit.folds)
        models = [with_trained(start, one.candidate, 1.0) for start, one in zip(begun, fit.trained, strict=True)]
        return judged_out(bench, fit.folds, models)
    return in_order(bench, fit.folds, [trained.record.rows for trained in fit.trained])


def with_trained(start: WeightedMerge, candidate: Candidate, weight: float) -> WeightedMerge:
    """Return a merge with a trained adapter beside its members.

    Args:
        start: the merge.
        candidate: the adapter.
        weight: of it; 0 leaves it out.
    """
    if not weight:
        return start
    return WeightedMerge((*start.members, (candidate, weight)), start.composition, start.layers, start.rank)


def mean_of(bench: Workbench, fit: CrossFit, name: str = RESIDUAL) -> Candidate:
    """Return the mean of the folds' adapters as one adapter: their factors side by side, F times the rank.

    Args:
        bench: keeps it.
        fit: the folds' models.
        name: id of the adapter.
    """
    deltas = [bench.weights_of(trained.candidate) for trained in fit.trained]
    return bench.keep(Exact().compose(deltas, [1 / len(deltas)] * len(deltas)), name)
