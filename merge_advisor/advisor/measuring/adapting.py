"""Making one model of the rows and the merge that was chosen: an adaptation on what measures and trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from merge_advisor import registry
from merge_advisor.adapt.continuing import chooses_anew
from merge_advisor.adapt.folds import folds_of, rows_apart
from merge_advisor.adapt.task_weights import row_weights
from merge_advisor.adapt.unlabelled import settings_on_inputs, without_outputs
from merge_advisor.adapt.values import NOTHING
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.advisor.measuring.in_context import planned_prompt, prompted_losses
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.trainer import Trainer
from merge_advisor.errors import TaskError
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Candidate, LossKind, Row, Task
from merge_advisor.weights.naming import is_conv1d

if TYPE_CHECKING:
    from merge_advisor.adapt.values import Adapted
    from merge_advisor.adapt.workbench import Adaptation
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.arrays import Float32Array
    from merge_advisor.types import ChooseBy


@dataclass(frozen=True, slots=True, eq=False)
class AdaptationRequest:
    """How to adapt.

    >>> AdaptationRequest("continue", (), targets=("q.weight",)).seed
    0
    """

    adaptation: str
    """Spec of the adaptation."""
    tasks: tuple[Task, ...]
    targets: tuple[str, ...]
    """Parameters that a LoRA changes."""
    merge: WeightedMerge = NOTHING
    """What the strategy chose."""
    candidates: tuple[Candidate, ...] = ()
    """The pool."""
    choose_by: ChooseBy = "auto"
    """What rows are judged by."""
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    seed: int = 0
    inputs: tuple[Row, ...] = ()
    """Unlabelled rows."""
    choose: Callable[[Sequence[Task]], tuple[WeightedMerge, int]] | None = None
    """Chooses a merge as `merge` was chosen, by tasks with fewer rows, and says what it cost in forward passes; None
    where it was not chosen so."""


class AdaptedMerge(NamedTuple):
    """What an adaptation came to.

    >>> AdaptedMerge._fields
    ('model', 'forwards', 'predicted')
    """

    model: Adapted
    forwards: int
    """Cost in forward passes over one row."""
    predicted: float | None
    """Fall of the loss from the base's, on rows held out of the training they are judged by; None where none was."""


def adapt_merge(meter: MergeMeter, cache: Path, request: AdaptationRequest) -> AdaptedMerge:
    """Return the model that an adaptation makes, what it cost, and what it promises.

    Args:
        meter: puts models on the base.
        cache: folder of what is trained.
        request: how to adapt, from what.

    Raises:
        SpecError: no such adaptation, or one that cannot go on from this merge.
        InputError: a loss became infinite; a smaller rate is needed.
        RunError: the cache cannot be written.
    """
    kinds = kinds_of(request.tasks, request.choose_by) | _kinds_unlabelled(request)
    trainer, losses = Trainer(meter, cache, kinds), _row_losses(meter, kinds)
    tasks = tuple((*task.shots, *task.tuning) for task in request.tasks)

    def gradient(merge: WeightedMerge, rows: Sequence[Row]) -> Mapping[str, Float32Array]:
        def of_part(part: list[Row], kind: LossKind) -> Mapping[str, Float32Array]:
            return meter.gradient(part, request.targets, merge, kind)

        return _mean_gradient(rows, row_weights(tasks, rows), kinds, of_part)

    def moments(merge: WeightedMerge, rows: Sequence[Row]) -> Mapping[str, Float32Array]:
        return meter.input_moments(rows, request.targets, merge)

    def prompted(shown: Sequence[Row], asked: Sequence[Row], merge: WeightedMerge) -> list[float]:
        return _by_kind(asked, kinds, lambda part, kind: prompted_losses(meter, shown, part, kind, merge))

    bench = Workbench(
        tasks=tasks,
        tuning=frozenset(row.digest for task in request.tasks for row in task.tuning),
        inputs=request.inputs,
        merge=request.merge,
        candidates=request.candidates,
        targets=request.targets,
        turned=is_conv1d(meter.model.local.shapes),
        settings=request.settings,
        seed=request.seed,
        run_training=trainer.train,
        run_losses=losses,
        run_gradient=gradient,
        run_moments=moments,
        run_choice=_choice(request),
        run_prompted=prompted,
        run_fitting=lambda: _fitting(meter, request.tasks),
        weights_of=meter.weights.of,
        unread=meter.weights.unread,
        keep=trainer.keep,
    )
    adaptation: Adaptation = registry.build("adaptation", request.adaptation)
    adapted = adaptation.adapt(bench)
    # whatever was tried on top of the chosen merge, that merge as it is is no adaptation
    stays = adaptation.needs() == "merge" and not adapted.prompted and adapted.merge.digest == request.merge.digest
    adapted = replace(adapted, name="none" if stays else adapted.name or adaptation.name)
    predicted = None
    if adapted.losses:
        predicted = bench.mean(losses(NOTHING, bench.learning)) - bench.mean(adapted.losses)
    return AdaptedMerge(adapted, bench.forwards, predicted)


def _fitting(meter: MergeMeter, tasks: Sequence[Task]) -> int:
    """How many of its rows fit into the prompt that a plan of one task scores; 0 where none does."""
    try:
        return planned_prompt(meter, tasks[0]).used
    except TaskError:
        return 0


def _choice(request: AdaptationRequest) -> Callable[[Sequence[Row]], tuple[WeightedMerge, int]] | None:
    """What chooses by some of the rows; tasks that have none among them are left out."""
    choose = request.choose
    if choose is None:
        return None

    def by_rows(rows: Sequence[Row]) -> tuple[WeightedMerge, int]:
        kept = {row.digest for row in rows}
        parts = [
            replace(
                task,
                shots=tuple(row for row in task.shots if row.digest in kept),
                tuning=tuple(row for row in task.tuning if row.digest in kept),
            )
            for task in request.tasks
        ]
        return choose([task for task in parts if task.choosing])

    return by_rows


def learned_losses(meter: MergeMeter, tasks: Sequence[Task], by: ChooseBy, merge: WeightedMerge) -> list[float]:
    """Return the loss of each row learned from under a merge, in the order of `Adapted.losses`.

    Args:
        meter: measures them.
        tasks: with their rows.
        by: what rows are judged by.
        merge: the model.

    Raises:
        TaskError: the choices are asked for, and a row has none.
    """
    rows = [row for task in tasks for row in (*task.shots, *task.tuning)]
    return _row_losses(meter, kinds_of(tasks, by))(merge, rows)


def adaptation_passes(
    tasks: Sequence[Task], spec: str, settings: FinetuneSettings, members: int, inputs: int = 0,
    choosing: Callable[[Sequence[int]], int] | None = None, composition: str = "exact",
) -> int:  # fmt: skip
    """Return the forward passes over one row that an adaptation takes at most; 0 where nothing is trained.

    Args:
        tasks: with their rows split.
        spec: of the adaptation.
        settings: how a finetune is made.
        members: of the merge.
        inputs: how many unlabelled rows it was given; it then trains on those, in one finetune.
        choosing: the passes that choosing a merge takes, by the number of rows of each task; None where none can be
            chosen anew.
        composition: of the merge; one that is no plain sum is judged by merges chosen anew.
    """
    adaptation = registry.build("adaptation", spec)
    rows = [(*task.shots, *task.tuning) for task in tasks]
    total = sum(map(len, rows))
    apart = choosing is not None and chooses_anew(adaptation, total, composition)
    if hasattr(adaptation, "for_rows"):
        adaptation = adaptation.for_rows(total)
    parts = folds_of(rows, adaptation.folds) if getattr(adaptation, "folds", 0) else ()
    # what training begins with is judged as well, where that is more than the base
    begun = adaptation.needs() != "nothing"
    finetunes = [settings.forwards_for(len(part.rows), len(part.out)) + begun * len(part.out) for part in parts]
    if not parts:
        watch = sum(len(task.tuning) for task in tasks)
        finetunes = [settings.forwards_for(total - watch, watch) + begun * watch]
    if inputs:
        # the start is judged as well
        finetunes = [settings_on_inputs(settings, inputs, total).forwards_for(inputs, total) + total]
    trainings, measured = adaptation.passes(members)
    anew = 0
    if choosing is not None and apart:
        anew = sum(choosing(_counts(kept, rows)) for kept in dict.fromkeys(rows_apart(parts)))
    return int(trainings * sum(finetunes) + measured * total + anew)


def _counts(kept: Sequence[Row], tasks: Sequence[Sequence[Row]]) -> list[int]:
    """How many of the rows kept are of each task, tasks without any left out."""
    digests = {row.digest for row in kept}
    return [count for rows in tasks if (count := sum(row.digest in digests for row in rows))]


def _row_losses(
    meter: MergeMeter, kinds: Mapping[str, LossKind]
) -> Callable[[WeightedMerge, Sequence[Row]], list[float]]:
    """What gives the loss of each row learned from under a merge, by the kind that stands for its digest."""

    def losses(merge: WeightedMerge, rows: Sequence[Row]) -> list[float]:
        return _by_kind(rows, kinds, lambda part, kind: meter.losses(merge, part, kind))

    return losses


def _by_kind(
    rows: Sequence[Row], kinds: Mapping[str, LossKind], measure: Callable[[list[Row], LossKind], list[float]]
) -> list[float]:
    """What is measured of each row, those of one kind together, in the order of the rows."""
    both: tuple[LossKind, ...] = ("loss", "choices")
    found: dict[str, float] = {}
    for kind in both:
        part = [row for row in rows if kinds.get(row.digest, "loss") == kind]
        if part:
            found |= dict(zip([row.digest for row in part], measure(part, kind), strict=True))
    return [found[row.digest] for row in rows]


def _mean_gradient(
    rows: Sequence[Row],
    weights: Sequence[float],
    kinds: Mapping[str, LossKind],
    gradient: Callable[[list[Row], LossKind], Mapping[str, Float32Array]],
) -> Mapping[str, Float32Array]:
    """The gradient of the weighted mean loss of rows: one backward pass for all that are alike in weight and kind."""
    alike: dict[tuple[float, LossKind], list[Row]] = {}
    for row, weight in zip(rows, weights or [1 / len(rows)] * len(rows), strict=True):
        alike.setdefault((weight, kinds.get(row.digest, "loss")), []).append(row)
    if len(alike) == 1:  # a plain mean, to the bit
        ((_, kind),) = alike
        return gradient(list(rows), kind)
    summed: dict[str, Float32Array] = {}
    for (weight, kind), part in alike.items():
        share = np.float32(weight * len(part))
        for name, values in gradient(part, kind).items():
            summed[name] = share * values + summed.get(name, np.float32(0))
    return summed


def _kinds_unlabelled(request: AdaptationRequest) -> dict[str, LossKind]:
    """The same for unlabelled rows: by their choices where they have some, unless the loss is asked for."""
    own = without_outputs(row for task in request.tasks for row in (*task.shots, *task.tuning))
    by_choices = request.choose_by != "loss"
    return {row.digest: "choices" if row.choices and by_choices else "loss" for row in (*own, *request.inputs)}


def kinds_of(tasks: Sequence[Task], by: ChooseBy) -> dict[str, LossKind]:
    """Return what each row learned from is judged by, by its digest: as choosing among the pool judges its task.

    Args:
        tasks: the tasks.
        by: what the user asks for.

    Raises:
        TaskError: the choices are asked for, and a row has none.
    """
    kinds: dict[str, LossKind] = {}
    for task in tasks:
        kind = loss_kind_of(task.choosing, by)
        rows = (*task.shots, *task.tuning)
        # the rows that choose may all have choices where one of the others has none
        kinds |= {row.digest: kind if row.choices or kind == "loss" else "loss" for row in rows}
    return kinds
