"""A task with one draw of its shots: what the arms of its units share, and how their merges are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.deltas import take_deltas
from merge_advisor.advisor.measuring.in_context import InContext, in_context
from merge_advisor.advisor.measuring.meter import BASE, ScoredModel, loss_kind_of
from merge_advisor.advisor.measuring.model_scores import score_models
from merge_advisor.advisor.measuring.shots_lora import Shots, ShotsLora, finetune_on_shots, target_parameters
from merge_advisor.benchmark.running.context import BenchContext, seed_of
from merge_advisor.benchmark.running.rows import BenchTask, in_view
from merge_advisor.benchmark.setup import finetune_of, scorer_of
from merge_advisor.benchmark.values import Result, Unit, View
from merge_advisor.errors import InputError, TaskError
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.scores import ModelScore
from merge_advisor.spaces import same_space
from merge_advisor.types import Candidate, ChooseBy, Task

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.adapting import AdaptedMerge
    from merge_advisor.arrays import Float32Array


@dataclass(frozen=True, slots=True)
class ResultPlace:
    """What a result is the result of.

    >>> ResultPlace(Unit("sums", "arithmetic"), "default", "own-out", 4).arm
    'default'
    """

    unit: Unit
    arm: str
    """Name of an arm or of a control."""
    view: View
    k: int


@dataclass(eq=False)
class TaskDraw:
    """A task with one draw of its shots; the LoRA of the shots and its delta are made when first needed.

    >>> [name for name in ("task", "shots_lora", "task_delta", "score", "result") if hasattr(TaskDraw, name)]
    ['task', 'shots_lora', 'task_delta', 'score', 'result']
    """

    context: BenchContext
    rows: BenchTask
    number: int
    """Number of the draw, from 0."""
    alone: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Held-out accuracy and loss of each candidate that was scored alone, by id."""

    @cached_property
    def task(self) -> Task:
        """The task's rows as this draw splits them."""
        return self.rows.draw(self.context.setup, self.number)

    @cached_property
    def _attempt(self) -> ShotsLora | Exception:
        """The LoRA of the shots, or why there is none: all arms that need it fail with that, without another try."""
        context, task = self.context, self.task
        model = context.meter.model
        try:
            return finetune_on_shots(
                model, context.meter.memo, context.cache, Shots(task.shots, task.tuning),
                target_parameters(model.local, context.candidates), finetune_of(context.setup),
                seed_of(context.setup.seed, task.name, self.number, "finetune"),
            )  # fmt: skip
        except Exception as error:  # any, as a unit that crashes: arms that need no LoRA must not fail with it
            return error.with_traceback(None)  # its frames hold the tensors

    @property
    def shots_lora(self) -> ShotsLora:
        """The LoRA finetuned on the shots.

        Raises:
            InputError: the finetune failed.
        """
        attempt = self._attempt
        if isinstance(attempt, Exception):
            raise attempt
        return attempt

    @property
    def finetune_forwards(self) -> int:
        """What the finetune cost, in forward passes over one row.

        Raises:
            InputError: the finetune failed.
        """
        return self.shots_lora.record.forwards

    @property
    def delta_forwards(self) -> int:
        """What the delta of the LoRA of the shots cost beside the finetune."""
        forwards: int = registry.build("embedding", self.context.setup.embedding).forwards
        return forwards

    @cached_property
    def task_delta(self) -> Float32Array:
        """(d,) float32.

        Raises:
            InputError: the finetune failed.
            TaskError: the LoRA of the shots cannot be embedded.
        """
        own = take_deltas(self.context.meter, self.context.setup.embedding, [self.shots_lora.candidate])
        if own.refused:
            raise TaskError(f"the LoRA of the shots cannot be embedded: {own.refused[0].reason}; lower finetune.lr")
        same_space(self.context.embedded.deltas.space, own.deltas.space)
        delta: Float32Array = own.deltas.array[0]
        return delta

    def in_view(self, view: View, composition: str = "exact") -> tuple[list[Candidate], Float32Array]:
        """Return the candidates of a view that a composition can take, and their deltas.

        Args:
            view: which candidates are allowed.
            composition: spec of the composition.

        Returns:
            n candidates, and (n, d) float32.

        Raises:
            InputError: there are none.
        """
        context = self.context
        # narrowed after the view: what a composition cannot take is not there for any arm that uses it
        takes = registry.build("composition", composition).takes
        places = [
            place
            for place in in_view(context.candidates, self.rows, view, context.setup.tasks.own, context.families)
            if takes in ("both", f"{context.candidates[place].kind}s")
        ]
        if not places:
            raise InputError(f"task {self.rows.name}: composition {composition} takes {takes}, and the view has none")
        return [context.candidates[place] for place in places], context.embedded.deltas.array[places]

    def score(self, merge: WeightedMerge) -> ModelScore:
        """Return the score of a merge on the held-out rows.

        Raises:
            SpecError: the composition cannot take these members.
        """
        # weights of 0 alone are the base, which need not be merged to be scored
        model = ScoredModel("merge", merge if any(merge.weights) else BASE)
        scorer = scorer_of(self.context.setup)
        return score_models(self.context.meter, [model], self.rows.heldout, self.rows.metric, evaluator=scorer)[0]

    def singles(self, candidates: Sequence[Candidate]) -> dict[str, tuple[float, float]]:
        """Return held-out accuracy and loss of each candidate alone, by id."""
        for candidate in candidates:
            if candidate.id not in self.alone:
                metrics = self.score(WeightedMerge(((candidate, 1.0),))).metrics
                self.alone[candidate.id] = metrics[self.rows.metric], metrics["loss"]
        return {candidate.id: self.alone[candidate.id] for candidate in candidates}

    def result(
        self,
        place: ResultPlace,
        merge: WeightedMerge,
        *,
        forwards: int = 0,
        reason: str = "",
        by: ChooseBy | None = "auto",
        oracle: bool = False,
    ) -> Result:
        """Return what is kept of a merge, which is scored for it.

        Args:
            place: what it is the result of.
            merge: the merge.
            forwards: forward passes over one row that were spent on it.
            reason: why choosing stopped.
            by: what choosing minimised; None if nothing was chosen.
            oracle: whether held-out answers were read.

        Raises:
            SpecError: the composition cannot take these members.
        """
        score = self.score(merge)
        predicted, came = (None, None) if by is None else self._promise(merge, by, score)
        members = tuple((candidate.id, float(weight)) for candidate, weight in merge.members)
        return replace(
            self.scored(place, score, merge.digest), oracle=oracle, reason=reason, members=members,
            predicted=predicted, came=came, forwards=forwards,
        )  # fmt: skip

    def scored(self, place: ResultPlace, score: ModelScore, merge: str) -> Result:
        """Return what is kept of a score; nothing of how its model came about.

        Args:
            place: what it is the result of.
            score: of a model on the held-out rows.
            merge: digest of the model.
        """
        return Result(
            place.unit, place.arm, place.view, place.k, merge=merge, loss=score.metrics["loss"],
            judged=judged_loss(score), **answered(self.rows, score),
        )  # fmt: skip

    def adapted_result(self, place: ResultPlace, adapted: AdaptedMerge, *, forwards: int, by: ChooseBy) -> Result:
        """Return what is kept of the model that an adaptation makes.

        Args:
            place: what it is the result of.
            adapted: the model, and what it promises.
            forwards: forward passes over one row that were spent on it.
            by: what rows are judged by.

        Raises:
            SpecError: the composition cannot take these members.
            TaskError: the model is prompted with rows, and not one of them fits.
        """
        model, reason = adapted.model, adapted.model.reason
        if model.prompted:
            shown, score = self.in_context(model.merge)
            digest, reason = digest_of(shown.model.key), f"{reason}; {shown.note}"
        else:
            score, digest = self.score(model.merge), model.merge.digest
        kind = loss_kind_of(self.task.choosing, by)
        promised = adapted.predicted is not None and kind != "loss"
        return replace(
            self.scored(place, score, digest), reason=reason, forwards=forwards, adapted=model.name,
            members=tuple((candidate.id, float(weight)) for candidate, weight in model.merge.members),
            predicted=adapted.predicted,
            came=self.score(BASE).metrics[kind] - score.metrics[kind] if promised else None,
            options=tuple((option.name, option.loss, option.error) for option in model.options), chance=model.chance,
        )  # fmt: skip

    def in_context(self, merge: WeightedMerge = BASE) -> tuple[InContext, ModelScore]:
        """Return a model with the rows learned from in its prompt, and its score on the held-out rows.

        Args:
            merge: the model; by default the base.

        Raises:
            TaskError: not one of them fits.
        """
        rows, scorer = self.rows, scorer_of(self.context.setup)
        shown = in_context(self.context.meter, self.task, rows.heldout, rows.metric, scorer, merge)
        return shown, score_models(self.context.meter, [shown.model], rows.heldout, rows.metric, evaluator=scorer)[0]

    def _promise(self, merge: WeightedMerge, by: ChooseBy, score: ModelScore) -> tuple[float, float | None]:
        """The drop of the loss that choosing promised (base minus merge), and the drop on the held-out rows.

        The second is None where it is the drop of the held-out loss, which the result has anyway.
        """
        rows = self.task.choosing_among([candidate.id for candidate in merge.candidates])
        kind = loss_kind_of(rows, by)
        base, merged = (self.context.meter.losses(model, rows, kind) for model in (BASE, merge))
        predicted = float(np.mean(base) - np.mean(merged))
        # a fair comparison of promise and outcome needs the same kind of loss on both sides
        if kind not in score.metrics or kind == "loss":
            return predicted, None
        return predicted, self.score(BASE).metrics[kind] - score.metrics[kind]


def judged_loss(score: ModelScore) -> float:
    """Return the mean loss that rows are judged by: over the choices where there are some, else per token.

    Args:
        score: of a model on held-out rows.
    """
    return score.metrics.get("choices", score.metrics["loss"])


def answered(rows: BenchTask, score: ModelScore) -> dict[str, Any]:
    """Return number of rows, accuracy, share of valid outputs and accuracy on those, as `Result` has them.

    Where choices are scored by likelihood every output is one of them, and so valid.

    Args:
        rows: the task.
        score: of a model on its held-out rows.
    """
    hits = score.rows[rows.metric]
    fits = [rows.metric == "accuracy" or rows.valid(output) for output in score.outputs]
    among = [hit for hit, fit in zip(hits, fits, strict=True) if fit]
    return {
        "rows": len(hits),
        "accuracy": float(np.mean(hits)),
        "valid": float(np.mean(fits)),
        "accuracy_valid": float(np.mean(among)) if among else None,
    }
