"""What merges do on the base: losses of rows, first-order gains, scores. Everything measured is remembered.

Costs are nominal: forward passes over one row, a backward pass counted as two, whatever the store already held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from merge_advisor.advisor.measuring.memo import Memo
from merge_advisor.advisor.measuring.pool_weights import PoolWeights
from merge_advisor.advisor.measuring.prompted_model import PromptedModel
from merge_advisor.backbone.precision import quick_products
from merge_advisor.errors import TaskError
from merge_advisor.json_form import digest_of, from_json, to_json
from merge_advisor.merges import WeightedMerge
from merge_advisor.scores import ModelScore
from merge_advisor.types import Candidate, ChooseBy, LossKind, Row
from merge_advisor.weights.updates import WeightDelta, along

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.crew import Crew, Measurement
    from merge_advisor.arrays import Float32Array
    from merge_advisor.templates import Template

_T = TypeVar("_T")

BASE = WeightedMerge()
"""The merge of nothing: the base itself."""
# names in the store; the second kind of loss came later, and values under the first name stay valid
_LOSS_KEYS: dict[LossKind, list[object]] = {"loss": ["losses"], "choices": ["choice losses", 1]}
_GAIN_KEYS: dict[LossKind, list[object]] = {"loss": ["gain"], "choices": ["choice gain", 1]}
OVERFLOWED = 1e9
"""Stands for a loss that is no number (weights far too large): finite, so that the order stays, and the worst."""


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A row of a score table: a merge (of one candidate, of none) under its label.

    >>> ScoredModel("base", BASE).merge.members
    ()
    """

    label: str
    """"base", "icl", "anchor", "member <id>", "shots_lora", "uniform", "plan" or "merge"."""
    merge: WeightedMerge
    template: Template | None = None
    """Prompt template it is asked under, where that is another than the pool's: with examples in it."""

    @property
    def key(self) -> list[object]:
        """What makes two models of one base different, for the key of what was measured."""
        # the pool's template is in the key of everything measured
        return [*self.merge.key, *([] if self.template is None else [["template", self.template.digest]])]


@dataclass(frozen=True, slots=True, eq=False)
class MergeMeter:
    """Puts merges on the base and measures them; what was measured before is found in the memo.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> with open_session("base", "adapters") as session:
    ...     merge = WeightedMerge(((session.pool.candidates[0], 0.5),))
    ...     losses = session.meter.losses(merge, [Row("say 1 twice", "1 1")])
    >>> len(losses), losses[0] > 0
    (1, True)
    """

    model: PromptedModel
    weights: PoolWeights
    memo: Memo
    crew: Crew | None = None
    """Who measures what is independent, beside this process; None: this process alone."""

    def on_base(self, merge: WeightedMerge, measure: Callable[[], _T], *, repeated: bool = False) -> _T:
        """Return what `measure` gives with the merge on the base; the base is as before afterwards.

        Args:
            merge: the merge.
            measure: measures what is on the base.
            repeated: as `PoolWeights.merged`.

        Raises:
            SpecError: the composition cannot take these members.
        """
        return self.placed(self.weights.merged(merge, repeated=repeated), measure)

    def placed(self, delta: WeightDelta, measure: Callable[[], _T]) -> _T:
        """Return what `measure` gives with a weight delta on the base; the base is as before afterwards.

        Args:
            delta: parameter name -> update.
            measure: measures what is on the base.
        """
        from merge_advisor.backbone.memory import within_memory
        from merge_advisor.backbone.place import placed

        backbone = self.model.backbone
        with placed(backbone, delta):
            return within_memory(backbone, measure)

    def losses(self, merge: WeightedMerge, rows: Sequence[Row], kind: LossKind = "loss") -> list[float]:
        """Return the loss of each row under a merge: nats per token, the end token included, or nats over the choices.

        Args:
            merge: the merge; members of weight 0 are left out.
            rows: n rows.
            kind: "loss", or "choices" where every row has them.

        Raises:
            SpecError: the composition cannot take these members.
            TaskError: an answer is longer than the context.
        """
        active = merge.without_zeros()  # a member of weight 0 need not be read, nor fit the composition

        def measure() -> list[float]:
            from merge_advisor.backbone.model import release_memory

            with quick_products(self.model.backbone):
                losses = finite_or_worst(self._losses(rows, kind))
            release_memory()  # merges are measured on other rows each time, whose batches leave gaps of other sizes
            return losses

        key = [*_LOSS_KEYS[kind], [row.digest for row in rows], *active.key]
        values = self.memo.remember(key, lambda: self.on_base(active, measure, repeated=True))
        return [float(value) for value in values]

    def _losses(self, rows: Sequence[Row], kind: LossKind) -> list[float]:
        """Losses of what is on the base now."""
        from merge_advisor.backbone.choice_loss import choice_losses
        from merge_advisor.backbone.losses import row_losses

        if kind == "choices":
            return choice_losses(self.model.backbone, self.model.encode_choices(rows))
        return row_losses(self.model.backbone, self.model.encode(rows))

    def gains(
        self,
        candidates: Sequence[Candidate],
        rows: Sequence[Row],
        merge: WeightedMerge = BASE,
        kind: LossKind = "loss",
    ) -> Float32Array:
        """Return the first-order drop of the mean loss when a candidate is added at weight 1: -⟨∂L/∂W, ΔW⟩.

        One backward pass over the rows gives ∂L/∂W at the merge; each candidate then costs a few small products.

        Args:
            candidates: n candidates.
            rows: what the mean loss is over.
            merge: where the gradient is taken.
            kind: as in `losses`.

        Returns:
            (n,) float32, positive is better.
        """
        digests = [*_GAIN_KEYS[kind], [row.digest for row in rows]]
        context = list(self.memo.context)
        names = [digest_of([context, *digests, c.fingerprint, merge.key]) for c in candidates]
        values = [self.memo.store.measured(name) for name in names]
        missing = [index for index, value in enumerate(values) if value is None]
        self.memo.hits += len(values) - len(missing)
        if missing:
            self.memo.misses += len(missing)
            # names first, and the numbers of one candidate after the other: a pool may be larger than memory
            changed = {name for index in missing for name in self.weights.unread(candidates[index])}
            gradient = self.gradient(rows, sorted(changed), merge, kind)
            for index in missing:
                delta = self.weights.passing(candidates[index])
                # minus: the loss falls along -gradient, and a gain is positive where it falls
                values[index] = -sum(along(delta[name], gradient[name]) for name in delta)
                self.memo.store.keep_measured(names[index], values[index])
        return np.asarray(values, dtype=np.float32)

    def gradient(
        self, rows: Sequence[Row], names: Sequence[str], merge: WeightedMerge = BASE, kind: LossKind = "loss"
    ) -> Mapping[str, Float32Array]:
        """Return ∂ mean loss / ∂ parameter at a merge, by parameter name in the parameter's layout, float32.

        Args:
            rows: what the mean loss is over.
            names: the parameters.
            merge: where it is taken.
            kind: as in `losses`.
        """
        from merge_advisor.backbone.choice_loss import choice_loss_and_gradient
        from merge_advisor.backbone.gradients import loss_and_gradient
        from merge_advisor.backbone.recomputed import recomputed_blocks

        def measure() -> Mapping[str, Float32Array]:
            backbone = self.model.backbone
            with quick_products(backbone), recomputed_blocks(backbone):
                if kind == "choices":
                    return choice_loss_and_gradient(backbone, self.model.encode_choices(rows), names)[1]
                return loss_and_gradient(backbone, self.model.encode(rows), names)[1]

        return self.on_base(merge, measure, repeated=True)

    def input_moments(
        self, rows: Sequence[Row], names: Sequence[str], merge: WeightedMerge = BASE
    ) -> Mapping[str, Float32Array]:
        """Return E[x xᵀ] of what each weight's module is given over the rows' prompts, (in, in) float32 by its name.

        Args:
            rows: the rows.
            names: the weights, each of a linear module.
            merge: what is on the base meanwhile.
        """
        from merge_advisor.backbone.module_inputs import input_moments

        return self.on_base(merge, lambda: input_moments(self.model.backbone, self.model.encode(rows), names))

    def have_measured(self, wanted: Sequence[tuple[Sequence[object], Measurement]], what: str) -> None:
        """Have the crew, where there is one, measure what is not remembered; it is remembered afterwards.

        Args:
            wanted: each with the key it is remembered under, as `Memo.remember` takes it.
            what: named in the progress.

        Raises:
            ExternalError: the engine cannot be used, or workers ended over one of them.
            MergeAdvisorError: what measuring raised.
        """
        if self.crew is None:
            return
        named = {self.memo.digest(key): work for key, work in wanted}
        missing = {name: work for name, work in named.items() if self.memo.store.measured(name) is None}
        if missing:
            self.crew.measure(list(missing.values()), what, self.model.progress)
            self.memo.beside |= missing.keys()
            # whoever asks next finds them: they count as made all the same
            self.memo.misses, self.memo.hits = self.memo.misses + len(missing), self.memo.hits - len(missing)

    def timed(self, key: Sequence[object], measure: Callable[[], _T]) -> _T:
        """Return the remembered value of `key`, or measure it; what that takes is kept beside it, without loading.

        Args:
            key: as `Memo.remember` takes it.
            measure: gives a JSON value.
        """
        seconds: float | None = None

        def watched() -> _T:
            nonlocal seconds
            _ = self.model.backbone  # loading it is no part of what one more model costs
            started = time.perf_counter()
            value = measure()
            seconds = round(time.perf_counter() - started, 4)
            return value

        value = self.memo.remember(key, watched)
        self.memo.keep_seconds(key, seconds)
        return value

    def scores(
        self,
        models: Sequence[ScoredModel],
        key: Sequence[object],
        score: Callable[[ScoredModel], ModelScore],
        what: str,
    ) -> list[ModelScore]:
        """Return the scores of models; one that is remembered under `key` and its own key is not run again.

        Args:
            models: what to score.
            key: all that a score depends on beside the model.
            score: scores a model that is on the base.
            what: named in the progress.
        """
        table = []
        for number, model in enumerate(models):
            self.model.progress(what, number, len(models))

            def measure(model: ScoredModel = model) -> str:
                return self.on_base(model.merge, lambda: to_json(score(model)))

            # as text: a score has floats that JSON gives back to the last bit, and its own strict form
            text = self.timed([*key, *model.key], measure)
            # the same model may be in the store under another label
            table.append(replace(from_json(ModelScore, text, "store"), label=model.label))
        self.model.progress(what, len(models), len(models))
        return table


def loss_kind_of(rows: Sequence[Row], by: ChooseBy = "auto") -> LossKind:
    """Return the loss that choosing on these rows minimises.

    Args:
        rows: the choosing rows.
        by: what the user asks for.

    Raises:
        TaskError: the choices are asked for, and a row has none.
    """
    measured: LossKind = "choices" if rows and all(row.choices for row in rows) else "loss"
    if by == "choices" and measured != by:
        lacking = next((row.called for row in rows if not row.choices), "a task without rows")
        raise TaskError(f"{lacking} has no choices to choose by; give every row choices, or choose by the loss")
    return measured if by == "auto" else by


def finite_or_worst(losses: Sequence[float]) -> list[float]:
    """Return the losses, those that are no number replaced by `OVERFLOWED`: a store holds JSON.

    Args:
        losses: nats.
    """
    return [float(loss) if np.isfinite(loss) else OVERFLOWED for loss in losses]
