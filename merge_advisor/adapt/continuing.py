"""Training on from a merge: what the pool knows is where the finetune begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from merge_advisor.adapt.directions import canonical
from merge_advisor.adapt.folds import (
    FOLDS,
    CrossFit,
    Fold,
    check_folds,
    chosen_apart,
    folds_of,
    mean_of,
    watched_out_of_fold,
    with_trained,
)
from merge_advisor.adapt.shots import SCALES, ShotsAlone, best_scale, finetune_settings
from merge_advisor.adapt.values import NOTHING, Adapted, Need, Trained, TrainingRequest
from merge_advisor.adapt.workbench import Adaptation, Workbench
from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.shapes import LoraShape, RefactoredShape, Shape
from merge_advisor.backbone.training_loss import TrainingLoss
from merge_advisor.compose.exact import Exact
from merge_advisor.errors import SpecError
from merge_advisor.merges import WeightedMerge
from merge_advisor.weights.updates import WeightDelta, inner_all

FORMS_ON_TOP = ("fresh", "refactored")
STARTS = ("merge", "anchor", "mean", "random", "base")
STOPS = ("rows", "shots")
_SUMS = ("exact", "task_arithmetic")
"""Compositions that are a plain sum."""


@dataclass(frozen=True)
class Continue:
    """Train on from the merge that was chosen: a fresh LoRA on top of it, the start itself a candidate throughout.

    >>> Continue().needs(), Continue(start="mean").needs()
    ('merge', 'pool')
    """

    start: str = "merge"
    """"merge"; or, to compare it with: "anchor" (its first member alone), "mean" (of the whole pool), "random" (as many
    random members, of the merge's norm), "base"."""
    folds: int = FOLDS
    """As of `shots`."""
    choices: float = 1.0
    """Weight of the loss over a row's choices beside that of the right answer."""
    rate: float = 1.0
    """Factor on the finetune's rate. A quarter had less loss where one finetune of 12 rows is stopped by 8 (seven tried
    tasks); cross-fitted with `stop=shots` the full rate is what `auto` takes."""
    pull: float = 0.0
    """λ of the penalty towards the start (L2-SP, arXiv 1802.01483)."""
    scaled: bool = True
    """As of `shots`, where it begins at the base: at a merge, the merge is what training falls back to."""
    stop: str = "rows"
    """When a fold's finetune ends: "rows": where the rows it leaves out lose least, the start itself a candidate at
    every check; "shots": after as many steps as a LoRA of the same rows takes from the base (see `shots`). Rows that
    chose the merge lose little under it, and say that training should end where it begins. `auto` takes "shots" with
    `folds=2`, which promises what comes; the two were not measured side by side, so neither is called the better."""
    anew: bool = False
    """Begin each fold at the merge that is chosen without the rows that judge it, so that none of them is judged by a
    merge that it helped to choose; of these merges the one whose left-out rows lose least is kept, with what was
    trained on it (better than the mean of all on 6 of 9 tried tasks of five rows). Where training helps no fold, the
    merge chosen by all stands."""
    form: str = "fresh"
    """"fresh": a LoRA that begins at nothing; "refactored": one that begins at the start's own leading directions, its
    factors of equal norms, so that training turns what is there before it adds to it."""

    name: ClassVar[str] = "continue"
    trains: ClassVar[str] = "a LoRA on top of a merge"
    cost: ClassVar[str] = "choosing the merge, and a finetune for each fold"

    def __post_init__(self) -> None:
        check_folds(self.folds)
        if self.start not in STARTS:
            raise ValueError(f"start={self.start} is none of {', '.join(STARTS)}")
        if self.form not in FORMS_ON_TOP:
            raise ValueError(f"form={self.form} is none of {', '.join(FORMS_ON_TOP)}")
        if self.stop not in STOPS:
            raise ValueError(f"stop={self.stop} is none of {', '.join(STOPS)}")
        if self.form == "refactored" and self.start == "base":
            raise ValueError("form=refactored with start=base: the base is no update to begin at; give another start")
        if self.form == "refactored" and self.anew:
            raise ValueError("form=refactored with anew=true: one set of factors cannot be that of several merges")

    @property
    def terms(self) -> TrainingLoss:
        """What is lowered on each row."""
        return TrainingLoss(choices=self.choices)

    def needs(self) -> Need:
        """Return that it needs a merge, unless it begins elsewhere."""
        needed: dict[str, Need] = {"mean": "pool", "base": "nothing"}
        return needed.get(self.start, "merge")

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        counted = self.stop == "shots"  # by a finetune from the base, and what is trained then is not watched
        scales = len(SCALES) - 1 if self.start == "base" and self.scaled and self.folds else 0
        return 1 + counted, scales + counted

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`."""
        begun = start_of(bench, self.start)
        rank, alpha = bench.settings.rank, bench.settings.alpha
        words = f"from {START_WORDS[self.start]}"
        if self.form == "refactored":
            shape: Shape = RefactoredShape(bench.targets, halves_of(bench, begun, rank), rank, alpha)
            return train_on(bench, begun, shape, self, f"{words}, its own factors")
        return train_on(bench, begun, LoraShape(bench.targets, rank, alpha), self, words)

    def starts(self, bench: Workbench) -> tuple[WeightedMerge, ...]:
        """Return the merge that each fold begins at where merges are chosen anew; none where all begin at one.

        Args:
            bench: chooses them.

        Raises:
            SpecError: as `start_of`.
        """
        return starts_of(bench, self.folds) if self.anew and self.start == "merge" and self.folds else ()

    def request(self, bench: Workbench, begun: WeightedMerge, shape: Shape, fold: Fold) -> TrainingRequest:
        """Return the finetune of one fold; where another one counts its steps, that is done first.

        Args:
            bench: says how it is trained.
            begun: the merge it begins at.
            shape: what is trained.
            fold: rows to train on, and those that say when to stop.
        """
        settings = replace(bench.settings, lr=bench.settings.lr * self.rate)
        if self.stop == "shots":
            alone = ShotsAlone(self.folds, self.choices).request(bench, fold)
            settings = replace(settings, steps=bench.train(alone).record.steps)
        return TrainingRequest(
            shape, fold.rows, fold.out, begun, settings, self.terms, self.pull, bench.seed, bench.weights(fold.out)
        )


START_WORDS = {
    "merge": "the chosen merge", "anchor": "the anchor", "mean": "the mean of the pool",
    "random": "random members of the merge's norm", "base": "the base",
}  # fmt: skip
"""Where training begins, by the name of it."""


def train_on(
    bench: Workbench, begun: WeightedMerge, shape: Shape | Callable[[Fold], Shape], how: Continue, words: str
) -> Adapted:  # fmt: skip
    """Return a merge with what is trained on top of it, cross-fitted: the mean of what the folds trained.

    Where folds begin at different merges, that of the folds whose left-out rows lose least is kept, with the mean of
    what these trained: what began at two merges does not average well (`eval/adaptations_tried.md`). The losses are
    still those of every row, so none of them is better for having been chosen by them.

    Args:
        bench: trains them.
        begun: the merge; where folds begin at others and training helps none of them, it stands.
        shape: what is trained; one that looks at outputs is made for each fold, of the rows that this trains on.
        how: where folds begin, rate, terms, penalty and number of folds.
        words: what it is trained on top of, for the report.

    Raises:
        SpecError: as `start_of`, of a merge that a fold begins at.
    """

    def shape_of(fold: Fold) -> Shape:
        return shape(fold) if callable(shape) else shape

    if not how.folds:
        fold = Fold(bench.shots, bench.watch)
        request = replace(how.request(bench, begun, shape_of(fold), fold), what=words)
        trained = bench.train(request)
        reason = f"trained {words}: {trained.record.steps} steps on {len(bench.shots)} rows"
        return Adapted(_on(begun, trained), (), trained.record.numbers, reason, finetune_settings(request))
    folds = folds_of(bench.tasks, how.folds)
    begins = how.starts(bench) or [begun] * len(folds)
    requests = [
        replace(how.request(bench, start, shape_of(fold), fold), what=fold.named(words))
        for fold, start in zip(folds, begins, strict=True)
    ]
    fit = CrossFit(folds, tuple(map(bench.train, requests)))
    if how.start == "base" and how.scaled:
        return _from_zero(bench, fit, words, finetune_settings(requests[0]))
    losses = watched_out_of_fold(bench, fit, begins)
    settings = finetune_settings(requests[0]) | {"folds": len(folds)}
    moved = any(trained.record.steps for trained in fit.trained)
    # where training helped no fold, nothing fits one merge better than another, and all rows choose better than some
    kept, begun = _least_loss(bench, fit, begins, losses.tolist()) if moved else (fit, begun)
    updates = f"the mean of {len(kept.trained)} updates, each" if len(kept.trained) > 1 else "one update,"
    reason = f"trained {words}: {updates} trained without one part of the rows"
    if how.stop == "shots":
        reason += ", for as many steps as from the base"
        settings |= {"steps": ", ".join(str(request.settings.steps) for request in requests)}
    if len(kept.trained) < len(fit.trained):
        reason += f", on the merge of {len({start.digest for start in begins})} whose left-out rows lost least"
    if not any(trained.record.steps for trained in kept.trained):
        reason = f"training {words} lowered the loss of no part of the rows that was left out: the start itself"
        return Adapted(begun, tuple(losses.tolist()), fit.numbers, reason, settings)
    merge = with_trained(begun, mean_of(bench, kept), 1.0)
    return Adapted(merge, tuple(losses.tolist()), fit.numbers, reason, settings)


def _least_loss(
    bench: Workbench, fit: CrossFit, starts: Sequence[WeightedMerge], losses: Sequence[float]
) -> tuple[CrossFit, WeightedMerge]:
    """The folds of the start whose left-out rows lose least on average, and that start."""
    of_row = dict(zip([row.digest for row in bench.learning], losses, strict=True))
    groups: dict[str, list[int]] = {}
    for place, start in enumerate(starts):
        groups.setdefault(start.digest, []).append(place)

    def lost(places: Sequence[int]) -> float:
        rows = [row for place in places for row in fit.folds[place].out]
        return bench.mean([of_row[row.digest] for row in rows], rows)

    best = min(groups.values(), key=lost)
    kept = CrossFit(tuple(fit.folds[place] for place in best), tuple(fit.trained[place] for place in best))
    return kept, starts[best[0]]


def _from_zero(bench: Workbench, fit: CrossFit, words: str, settings: dict[str, object]) -> Adapted:
    """The mean of what the folds trained on the base, at the scale that suits the rows each left out."""
    scale, losses = best_scale(bench, fit)
    merge = with_trained(NOTHING, mean_of(bench, fit), scale)
    return Adapted(
        merge, tuple(losses.tolist()), fit.numbers,
        f"trained {words}: the mean of {len(fit.trained)} updates, each trained without one part of the rows, times "
        f"{scale:g}",
        settings | {"folds": len(fit.folds), "scale": scale},
    )  # fmt: skip


def _on(begun: WeightedMerge, trained: Trained) -> WeightedMerge:
    return with_trained(begun, trained.candidate, 1.0 if trained.record.steps else 0.0)


def is_sum(composition: str) -> bool:
    """Return whether a composition is a plain sum: an adapter trained beside such a merge can be a member of it.

    >>> is_sum("exact"), is_sum("ties:density=0.5")
    (True, False)

    Args:
        composition: its spec.
    """
    return composition.partition(":")[0].strip() in _SUMS


def no_start(merge: WeightedMerge) -> str:
    """Return why nothing can be trained on top of a merge, with the remedy; empty where it can.

    >>> no_start(NOTHING)
    ''

    Args:
        merge: the merge.
    """
    if merge.without_zeros().members and not is_sum(merge.composition):
        return (
            f"composition {merge.composition} is no plain sum, so an adapter trained on top cannot be a member of it; "
            "give `composition=exact`, or `adaptation=none`"
        )
    if merge.layers:
        return (
            "the merge has a factor by layer, which an adapter trained on top would get too; leave `layers` out, or "
            "give `adaptation=none`"
        )
    return ""


def chooses_anew(adaptation: Adaptation, rows: int, composition: str) -> bool:
    """Return whether an adaptation has merges chosen again by some of the rows, to be judged by the others.

    >>> chooses_anew(Continue(), 5, "exact"), chooses_anew(Continue(anew=True), 5, "exact")
    (False, True)

    Args:
        adaptation: what is asked.
        rows: how many are learned from; of few `auto` does.
        composition: of the merge; one that is no plain sum is compared as it is, where the adaptation can.
    """
    if isinstance(adaptation, _ByRows):
        adaptation = adaptation.for_rows(rows)
    alone = bool(getattr(adaptation, "any_merge", False)) and adaptation.needs() == "merge" and not is_sum(composition)
    return alone or bool(getattr(adaptation, "anew", False))


@runtime_checkable
class _ByRows(Protocol):
    """An adaptation that is another one of few rows than of many."""

    def for_rows(self, rows: int) -> Adaptation:
        """Return what it is with so many rows."""
        ...


def starts_of(bench: Workbench, count: int) -> tuple[WeightedMerge, ...]:
    """Return the merge that each fold begins at, chosen without the rows that judge it: see `folds.chosen_apart`.

    Args:
        bench: chooses them.
        count: number of folds.

    Raises:
        SpecError: as `start_of`.
    """
    starts = tuple(merge.without_zeros() for merge in chosen_apart(bench, folds_of(bench.tasks, count)))
    for obstacle in filter(None, map(no_start, starts)):
        raise SpecError(obstacle)
    return starts


def start_of(bench: Workbench, name: str) -> WeightedMerge:
    """Return where training begins.

    Args:
        bench: holds merge and pool.
        name: one of `STARTS`.

    Raises:
        SpecError: the chosen merge is no sum of weight deltas, so nothing trained beside it can be added to it; or its
            weights have a factor by layer, which a member trained beside it would get too.
    """
    if name == "base":
        return NOTHING
    if name == "mean":
        return bench.pool_mean
    merge = bench.merge.without_zeros()
    obstacle = no_start(merge)
    if obstacle:
        raise SpecError(obstacle)
    if name == "anchor" and merge.members:
        return WeightedMerge(((merge.candidates[0], 1.0),))
    if name == "random" and merge.members:
        return _random(bench, merge)
    return merge


def halves_of(bench: Workbench, merge: WeightedMerge, rank: int) -> dict[str, tuple[Float32Array, Float32Array]]:
    """Return U S^½ (out, ≤ r) and S^½ Vᵀ (≤ r, in) of a merge's leading directions, by the name of each target.

    Args:
        bench: gives the members' weights.
        merge: a plain sum.
        rank: r, how many directions.
    """
    deltas = [bench.weights_of(candidate) for candidate in merge.candidates]
    summed = Exact().compose(deltas, [weight for _, weight in merge.members]) if deltas else {}
    found = {}
    for name in bench.targets:
        if name not in summed:
            continue
        parts = canonical(summed[name], rank)
        root = np.sqrt(parts.singular[:rank])
        halves = parts.u[:, :rank] * root, (parts.v[:, :rank] * root).T
        left, right = (np.ascontiguousarray(half, dtype=np.float32) for half in halves)
        found[name] = left, right
    return found


def _random(bench: Workbench, merge: WeightedMerge) -> WeightedMerge:
    rng = np.random.default_rng(bench.seed)
    order = rng.permutation(len(bench.candidates))[: len(merge.members)]
    members = [bench.candidates[int(place)] for place in order]
    deltas = {candidate.fingerprint: bench.weights_of(candidate) for candidate in (*members, *merge.candidates)}

    def norm(weighted: list[tuple[WeightDelta, float]]) -> float:
        products = ((w * v, inner_all(one, other)) for one, w in weighted for other, v in weighted)
        return float(np.sqrt(max(sum(weight * product for weight, product in products), 0.0)))

    equal = [(deltas[member.fingerprint], 1 / len(members)) for member in members]
    wanted = norm([(deltas[candidate.fingerprint], weight) for candidate, weight in merge.members])
    scale = wanted / (norm(equal) or 1.0)
    return WeightedMerge(tuple((member, scale / len(members)) for member in members))
