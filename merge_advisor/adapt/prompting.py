"""What everybody tries first: the rows as examples in a prompt; of the base, or of a model made of rows or pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from merge_advisor.adapt.folds import (
    FOLDS,
    CrossFit,
    Fold,
    cross_fit,
    folds_of,
    in_order,
    judged_merges,
    mean_of,
    with_trained,
)
from merge_advisor.adapt.shots import SCALES, ShotsAlone
from merge_advisor.adapt.values import NOTHING, Adapted, Need
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.arrays import Float64Array
from merge_advisor.errors import TaskError
from merge_advisor.merges import WeightedMerge
from merge_advisor.select.evidence import FEW_ROWS
from merge_advisor.types import SHOTS_LORA

PROMPTED_MODELS = ("base", "shots", "merge", "mean")


@dataclass(frozen=True)
class Prompting:
    """Put the rows into the prompt as examples, as many as fit: of the base, a LoRA of the rows, the merge or the mean.

    What is not the base is used at one scale of 0, ¼, ½, ¾ and 1, the one at which left-out rows lose least with the
    others in the prompt; at 0 it is the base. On nine tried tasks of five rows a LoRA with examples lost less than
    either alone, and half of a merge less than all of it (`eval/adaptations_tried.md`); the mean of the pool, for which
    nothing is chosen, is on twenty tasks what the base is (`eval/adaptations.md`).

    >>> [Prompting(on=model).needs() for model in PROMPTED_MODELS]
    ['nothing', 'nothing', 'merge', 'pool']
    """

    folds: int = FOLDS
    """Parts of the rows; each is judged with the others in the prompt, by a LoRA trained on those."""
    on: str = "base"
    """What is prompted: "base"; "shots", the mean of the folds' LoRAs as of `shots`; "merge", which was chosen; "mean",
    that of the whole pool."""
    choices: float = 1.0
    """As of `shots`, where LoRAs are trained."""
    anew: bool = False
    """Judge by merges that were chosen without the rows that judge them; of fewer than ten rows always."""

    any_merge: ClassVar[bool] = True
    """Nothing is trained on top of a merge, so it may be of any composition."""
    name: ClassVar[str] = "prompt"
    trains: ClassVar[str] = "nothing, or a LoRA (`on=shots`)"
    cost: ClassVar[str] = (
        "a pass over the rows, and one over the examples, for each fold; with `on=shots` a finetune for each, and "
        "with all but the base five times the passes; every answer a longer prompt"
    )

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds={self.folds}: rows are judged with others in the prompt, so at least 2")
        if self.on not in PROMPTED_MODELS:
            raise ValueError(f"on={self.on}: give {', '.join(PROMPTED_MODELS)}")
        self._shots()  # which says what it takes

    def for_rows(self, rows: int) -> Prompting:
        """Return what it is with so many rows: few choose the merges that they judge apart.

        >>> Prompting(on="merge").for_rows(5).anew, Prompting(on="merge").for_rows(20).anew
        (True, False)

        Args:
            rows: learned from.
        """
        return replace(self, anew=self.on == "merge" and (rows < FEW_ROWS or self.anew))

    def needs(self) -> Need:
        """Return that it needs no pool and no merge, unless these are what is prompted."""
        needed: dict[str, Need] = {"merge": "merge", "mean": "pool"}
        return needed.get(self.on, "nothing")

    def passes(self, members: int) -> tuple[int, int]:
        """See `Adaptation.passes`."""
        return int(self.on == "shots"), self.folds * (1 if self.on == "base" else len(SCALES))

    def check_tasks(self, count: int) -> None:
        """Refuse several tasks: one prompt cannot show the examples of each.

        Args:
            count: how many tasks there are.

        Raises:
            TaskError: more than one.
        """
        if count > 1:
            raise TaskError(
                f"prompt: one prompt cannot show the examples of {count} tasks; plan for one, or give another "
                "`adaptation`"
            )

    def adapt(self, bench: Workbench) -> Adapted:
        """See `Adaptation.adapt`.

        Raises:
            TaskError: several tasks.
        """
        self.check_tasks(len(bench.tasks))
        how = self.for_rows(len(bench.learning))
        if how != self:
            return how.adapt(bench)
        if self.on == "shots":
            return self._on_shots(bench)
        folds = folds_of(bench.tasks, self.folds)
        if self.on == "merge":
            judged = judged_merges(bench, folds, apart=self.anew)
            return _at_best_scale(bench, folds, bench.merge, judged, "the merge as it was chosen,")
        if self.on == "mean":
            mean = bench.pool_mean
            return _at_best_scale(bench, folds, mean, [mean] * len(folds), "the mean of the pool,")
        losses = _judged(bench, folds, [NOTHING] * len(folds))
        return Adapted(NOTHING, tuple(losses.tolist()), reason=f"{_model(bench)}; nothing is trained", prompted=True)

    def _shots(self) -> ShotsAlone:
        return ShotsAlone(self.folds, self.choices)

    def _on_shots(self, bench: Workbench) -> Adapted:
        shots = self._shots()
        fit: CrossFit = cross_fit(bench, lambda fold: shots.request(bench, fold), self.folds)
        scale, losses = _best_scale(
            bench, fit.folds, lambda scale: [with_trained(NOTHING, one.candidate, scale) for one in fit.trained]
        )
        merge = with_trained(NOTHING, mean_of(bench, fit, SHOTS_LORA), scale)
        what = f"the mean of {len(fit.trained)} LoRAs of the rows, each trained without one part of them,"
        return Adapted(
            merge, tuple(losses.tolist()), fit.numbers, _model(bench, _at(what, scale)),
            shots.settings(bench, shots.request(bench, fit.folds[0])) | {"folds": len(fit.folds), "scale": scale},
            prompted=True, without_pool=merge,
        )  # fmt: skip


def _at_best_scale(
    bench: Workbench, folds: Sequence[Fold], merge: WeightedMerge, judged: Sequence[WeightedMerge], what: str
) -> Adapted:
    """A merge with examples, at the scale of least loss of those that the folds judge in its place."""
    scale, losses = _best_scale(bench, folds, lambda scale: [_times(one, scale) for one in judged])
    reason = f"{_model(bench, _at(what, scale))}; nothing is trained"
    settings = {"scale": scale, "folds": len(folds)}
    return Adapted(_times(merge, scale), tuple(losses.tolist()), 0, reason, settings, prompted=True)


def _judged(bench: Workbench, folds: Sequence[Fold], models: Sequence[WeightedMerge]) -> Float64Array:
    """Loss of each row under the model of the fold that leaves it out, with that fold's rows in the prompt."""
    pairs = zip(folds, models, strict=True)
    return in_order(bench, folds, [bench.prompted(fold.rows, fold.out, model) for fold, model in pairs])


def _best_scale(
    bench: Workbench, folds: Sequence[Fold], models: Callable[[float], Sequence[WeightedMerge]]
) -> tuple[float, Float64Array]:
    """The scale of least loss (the smaller of equals: the base needs no file), and the rows' losses at it."""
    found = {scale: _judged(bench, folds, models(scale)) for scale in SCALES}
    best = min(found, key=lambda scale: (bench.mean(found[scale]), scale))
    return best, found[best]


def _times(merge: WeightedMerge, scale: float) -> WeightedMerge:
    """All weights of a merge times a scale; 0 is the base."""
    return merge.with_weights([weight * scale for _, weight in merge.members]) if scale else NOTHING


def _at(what: str, scale: float) -> str:
    """A model at a scale, in words."""
    return f"{what} times {scale:g}" if scale else "the base (no scale of what could be behind it is better)"


def _model(bench: Workbench, what: str = "the base") -> str:
    """What the model is, with how many of how many examples its prompt has room for."""
    given, fitting = len(bench.learning), None if bench.run_fitting is None else bench.run_fitting()
    if fitting is None:
        return f"{what} with as many of {given} examples in its prompt as fit whole"
    if not fitting:
        return f"{what} with examples in its prompt, though none of {given} fits beside the longest held-out row"
    whole = "" if fitting == given else ", as many as fit whole"
    return f"{what} with {fitting} of {given} examples in its prompt{whole}"
