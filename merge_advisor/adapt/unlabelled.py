"""Training on inputs alone: the entropy of the answers is lowered, and rows with outputs judge what comes of it.

Inputs without outputs are what most people have more of. But the entropy falls as well where a model gives the same
answer to everything (it collapses), so three things hold it: a penalty towards the start, the labelled rows, which stop
it, and the start, which is a candidate throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from merge_advisor.adapt.continuing import Continue, train_on
from merge_advisor.adapt.folds import Fold, with_trained
from merge_advisor.adapt.shots import finetune_settings
from merge_advisor.adapt.values import Adapted, TrainingRequest
from merge_advisor.adapt.workbench import Workbench
from merge_advisor.backbone.shapes import Shape
from merge_advisor.backbone.training_loss import ENTROPY_ALONE, TrainingLoss
from merge_advisor.errors import InputError, TaskError
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Row


@dataclass(frozen=True)
class _ByEntropy(Continue):
    """The same finetunes on the inputs of the rows, or on inputs of their own."""

    @property
    def terms(self) -> TrainingLoss:
        """The entropy alone."""
        return ENTROPY_ALONE

    def request(self, bench: Workbench, begun: WeightedMerge, shape: Shape, fold: Fold) -> TrainingRequest:
        """See `Continue.request`; a fold's rows are trained on without their outputs."""
        return super().request(bench, begun, shape, Fold(without_outputs(fold.rows), fold.out))


def lower_entropy(
    bench: Workbench, begun: WeightedMerge, shape: Callable[[Fold], Shape], how: Continue, words: str
) -> Adapted:  # fmt: skip
    """Return a merge with what lowers the entropy of its answers on top of it.

    On inputs of their own (`bench.inputs`) one finetune, which all labelled rows stop and judge: none of them is
    trained on, so nothing has to be left out. Else on the labelled rows' own inputs, cross-fitted as `train_on` does.

    Args:
        bench: trains it.
        begun: the merge.
        shape: gives what is trained of the rows of a fold; of the shots where there are inputs.
        how: rate, penalty and number of folds; its loss over the choices does not count.
        words: what is trained on top of what, for the report.

    Raises:
        InputError: the number of steps is fixed, so that nothing could stop it.
        TaskError: no labelled row is left to stop it.
    """
    check_stops(bench.settings)
    how = _ByEntropy(how.start, how.folds, how.choices, how.rate, how.pull)
    if bench.inputs:
        return _on_inputs(bench, begun, shape(Fold(bench.shots or bench.learning, ())), how, words)
    if not how.folds and not bench.watch:
        raise TaskError(
            "objective=entropy with folds=0 is stopped by tuning rows, and there are none; give `tuning`, 2 folds or "
            "more, or `inputs`"
        )
    words = f"{words}, by the entropy of the answers to the rows' own inputs"
    adapted = train_on(bench, begun, shape, how, words)
    reason = f"{adapted.reason}; no output was trained on: the labelled rows stopped it and judge it"
    return replace(adapted, reason=reason, settings={**adapted.settings, "objective": "entropy"})


def _on_inputs(bench: Workbench, begun: WeightedMerge, shape: Shape, how: Continue, words: str) -> Adapted:
    inputs, rows = len(bench.inputs), len(bench.learning)
    request = how.request(bench, begun, shape, Fold(bench.inputs, bench.learning))
    shorter = settings_on_inputs(request.settings, inputs, rows)
    request = replace(request, settings=shorter, what=f"{words}, on {inputs} inputs")
    trained = bench.train(request)
    record = trained.record
    merge = with_trained(begun, trained.candidate, 1.0 if record.steps else 0.0)
    by = f"by the entropy of the answers to {inputs} unlabelled inputs"
    reason = (
        f"trained {words}, {by}: {record.steps} steps; no output was trained on: the {rows} labelled rows "
        "stopped it and judge it"
        if record.steps
        else f"training {by} lowered the loss of the {rows} labelled rows at no step: the start itself"
    )
    settings = finetune_settings(request) | {"objective": "entropy", "inputs": inputs}
    return Adapted(merge, record.rows, record.numbers, reason, settings)


def without_outputs(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return rows as unlabelled ones, equal ones once.

    >>> without_outputs([Row("a", "yes"), Row("a", "no")])
    (Row(input='a', output='', choices=None, turns=None, answers=None),)

    Args:
        rows: the rows.
    """
    return tuple(dict.fromkeys(row.without_output() for row in rows))


def settings_on_inputs(settings: FinetuneSettings, inputs: int, labelled: int) -> FinetuneSettings:
    """Return how a finetune on unlabelled inputs is made: as many steps as on the labelled rows, and one pass at least.

    >>> settings_on_inputs(FinetuneSettings(epochs=8), inputs=80, labelled=20).epochs
    2

    Args:
        settings: of a finetune on the labelled rows.
        inputs: how many inputs there are.
        labelled: how many labelled rows.
    """
    return replace(settings, epochs=max(1, min(settings.epochs, round(settings.epochs * labelled / inputs))))


def check_stops(settings: FinetuneSettings) -> None:
    """Refuse a number of steps that is fixed: only labelled rows that stop it keep the entropy from a collapse.

    Args:
        settings: of the finetune.

    Raises:
        InputError: the number of steps is fixed.
    """
    if settings.steps is not None:
        raise InputError(
            f"`finetune.steps={settings.steps}`: with objective=entropy labelled rows say when to stop; leave it out"
        )
