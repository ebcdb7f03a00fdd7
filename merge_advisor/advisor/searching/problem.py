"""What `tune` minimises: losses of merges of a run's members, measured in memory.

A trial costs its forward passes and little more: the members stay in memory as factors, rows are encoded once, the
merge is written into the base's buffers and taken off again. What was measured is stored, like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.deltas import base_features, cosine, embedding_space
from merge_advisor.advisor.measuring.meter import finite_or_worst, loss_kind_of
from merge_advisor.backbone.precision import quick_products
from merge_advisor.errors import SpecError
from merge_advisor.evaluators.fast import row_values
from merge_advisor.evaluators.guard import TOLERANCE
from merge_advisor.evaluators.metrics import METRICS, metric_for
from merge_advisor.json_form import from_json, to_json
from merge_advisor.merges import WeightedMerge
from merge_advisor.scores import ModelScore
from merge_advisor.types import Candidate, Row
from merge_advisor.weights.naming import count_blocks, layer_factor
from merge_advisor.weights.updates import WeightDelta

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.arrays import Float32Array, Float64Array
    from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow
    from merge_advisor.tuning import Point

_T = TypeVar("_T")

TUNE_OBJECTIVES = ("loss", "choices", "accuracy", "delta", "lm-eval:METRIC")
HARNESS_METRICS = {"acc": "accuracy", **{name: name for name in METRICS}}
"""lm-eval's name of a metric -> ours."""


@dataclass(eq=False)
class MergeProblem:
    """What all problems of a run share (`tuning.Problem`): members, rows, and merges of the members on the base.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> from merge_advisor.tuning import Point
    >>> with open_session("base", "adapters") as session:
    ...     rows = [Row("say 1 twice", "1 1"), Row("say 2 twice", "2 2")]
    ...     problem = make_problem(session.meter, session.pool.candidates[:2], rows, (0, 0), "loss")
    ...     losses = problem.losses(Point((0.5, 0.5), "exact"), [0, 1])
    >>> problem.members, len(losses)
    (('a0', 'a1'), 2)
    """

    meter: MergeMeter
    candidates: Sequence[Candidate]
    """The k members, the anchor first."""
    rows: Sequence[Row]
    tasks: tuple[int, ...]
    """(n,), the task each row belongs to."""
    guard_texts: Sequence[str] = ()
    allowed: float = TOLERANCE
    """Nats per token that the loss on the guard's texts may be above the base's."""
    forwards: int = 1
    smooth: bool = False
    """Whether it has gradients."""
    unit: str = "nats"
    """Unit of its losses."""
    _last: tuple[Point, WeightDelta] | None = field(default=None, init=False, repr=False)
    """The merge made last: racing asks for a merge's rows in several turns, and some compositions are slow."""

    @property
    def members(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(candidate.id for candidate in self.candidates)

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """See `Problem.losses`."""
        raise NotImplementedError

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], Float64Array]:
        """Refuse to return a gradient: of the problems here only losses of rows have one.

        Args:
            point: of the search.
            rows: positions of rows.

        Returns:
            Nothing.

        Raises:
            SpecError: always.
        """
        raise SpecError("this objective has no gradient; choose `objective='loss'` or another `sampler`")

    def guard(self, point: Point) -> float:
        """See `Problem.guard`: by how much the loss on the guard's texts is above what is allowed, nats per token."""
        if not self.guard_texts:
            return 0.0
        base = replace(point, weights=(0.0,) * len(point.weights), layers=())
        return self._guard_loss(point) - self._guard_loss(base) - self.allowed

    def _guard_loss(self, point: Point) -> float:
        def measure() -> list[float]:
            from merge_advisor.backbone.losses import text_losses

            return finite_or_worst(text_losses(self.meter.model.backbone, self.guard_texts))

        return float(np.mean(self._remembered(point, ["guard", list(self.guard_texts)], measure)))

    def _remembered(self, point: Point, key: Sequence[object], measure: Callable[[], _T]) -> _T:
        """The stored value of a key for a merge, or what `measure` gives with the merge on the base."""
        merge = WeightedMerge(
            tuple(zip(self.candidates, point.weights, strict=True)), point.composition, tuple(point.layers)
        )

        def on_base() -> _T:
            if self._last is None or self._last[0] != point:
                # a copy, since compositions merge a parameter when it is asked for, and a race asks several times
                self._last = point, dict(self.meter.weights.merged(merge, repeated=True))
            return self.meter.placed(self._last[1], measure)

        return self.meter.memo.remember([*key, *merge.key], on_base)

    def _digests(self, rows: Sequence[int]) -> list[str]:
        return [self.rows[row].digest for row in rows]


@dataclass(eq=False)
class RowLossProblem(MergeProblem):
    """Mean loss of each row's answer, nats per token.

    >>> RowLossProblem.__dataclass_fields__["unit"].default
    'nats'
    """

    key: ClassVar[tuple[str, ...]] = ()
    """What sets its stored values apart from those of other losses."""
    smooth: bool = True

    @cached_property
    def _encoded(self) -> list[EncodedRow]:
        return self.meter.model.encode(self.rows)

    def _losses(self, rows: Sequence[int]) -> list[float]:
        from merge_advisor.backbone.losses import row_losses

        return row_losses(self.meter.model.backbone, [self._encoded[row] for row in rows])

    def _with_gradient(self, rows: Sequence[int], names: Sequence[str]) -> tuple[list[float], dict[str, Float32Array]]:
        from merge_advisor.backbone.gradients import loss_and_gradient

        return loss_and_gradient(self.meter.model.backbone, [self._encoded[row] for row in rows], names)

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """See `Problem.losses`."""

        def measure() -> list[float]:
            with quick_products(self.meter.model.backbone):
                return finite_or_worst(self._losses(rows))

        return self._remembered(point, [*self.key, "losses", self._digests(rows)], measure)

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], Float64Array]:
        """Return the loss on each of the rows, and ∂ mean loss / ∂ weights, (k,) float64.

        ∂L/∂W from one backward pass, then the composition's own derivative.

        Args:
            point: weights, composition and layers of the merge.
            rows: positions of rows.

        Raises:
            SpecError: the composition has no gradient.
        """
        composition = registry.build("composition", point.composition)
        if not hasattr(composition, "slopes"):
            raise SpecError(f"composition {point.composition} has no gradient in the weights; take another `sampler`")
        weights = [self.meter.weights.of(candidate) for candidate in self.candidates]
        names = sorted({name for delta in weights for name in delta})
        blocks = count_blocks(self.meter.model.local.shapes)

        def measure() -> list[list[float]]:
            with quick_products(self.meter.model.backbone):
                losses, slopes = self._with_gradient(rows, names)
            total = np.zeros(len(weights))
            for name in names:
                updates = [delta.get(name) for delta in weights]
                # chain rule: a weight enters a parameter as weight · factor of its layer group
                factor = layer_factor(name, point.layers, blocks)
                scaled = [weight * factor for weight in point.weights]
                total += factor * np.asarray(composition.slopes(updates, scaled, slopes[name]))
            return [finite_or_worst(losses), finite_or_worst(total.tolist())]

        losses, slopes = self._remembered(point, [*self.key, "slopes", self._digests(rows)], measure)
        return losses, np.asarray(slopes, dtype=np.float64)


@dataclass(eq=False)
class ChoiceLossProblem(RowLossProblem):
    """Cross-entropy over each row's choices, nats; the choices of a row count as one forward.

    >>> ChoiceLossProblem.__dataclass_fields__["unit"].default
    'nats a row'
    """

    key: ClassVar[tuple[str, ...]] = ("choices", "1")
    unit: str = "nats a row"

    @cached_property
    def _choices(self) -> list[EncodedChoices]:
        return self.meter.model.encode_choices(self.rows)

    def _losses(self, rows: Sequence[int]) -> list[float]:
        from merge_advisor.backbone.choice_loss import choice_losses

        return choice_losses(self.meter.model.backbone, [self._choices[row] for row in rows])

    def _with_gradient(self, rows: Sequence[int], names: Sequence[str]) -> tuple[list[float], dict[str, Float32Array]]:
        from merge_advisor.backbone.choice_loss import choice_loss_and_gradient

        return choice_loss_and_gradient(self.meter.model.backbone, [self._choices[row] for row in rows], names)


@dataclass(eq=False)
class ErrorProblem(MergeProblem):
    """0 for a right answer and 1 for a wrong one, by our own scorer (see `evaluators.fast`).

    >>> ErrorProblem.__dataclass_fields__["unit"].default
    'errors a row'
    """

    metric: str = "accuracy"
    unit: str = "errors a row"

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """See `Problem.losses`: 1 - the metric."""
        asked = [self.rows[row] for row in rows]

        def measure() -> list[float]:
            return row_values(self.meter.model.backbone, asked, self.meter.model.template, self.metric)

        values = self._remembered(point, ["fast", 1, self.metric, self._digests(rows)], measure)
        return [1.0 - value for value in values]


@dataclass(eq=False)
class HarnessProblem(MergeProblem):
    """A metric of lm-eval on each row, turned so that less is better.

    >>> HarnessProblem.__dataclass_fields__["unit"].default
    'errors a row'
    """

    metric: str = "accuracy"
    unit: str = "errors a row"

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """See `Problem.losses`: 1 - the metric; the loss as it is."""
        evaluator = registry.build("evaluator", "lm_eval")
        asked = [self.rows[row] for row in rows]

        def measure() -> str:
            backbone = self.meter.model.backbone
            return to_json(
                evaluator.score(
                    backbone.model, backbone.tokenizer, asked, self.meter.model.template, label="", metric=self.metric
                )
            )

        key = ["score", evaluator.version, evaluator.settings, self.metric, self._digests(rows)]
        values = from_json(ModelScore, self._remembered(point, key, measure), "store").rows[self.metric]
        return list(values) if self.metric == "loss" else [1.0 - value for value in values]


@dataclass(frozen=True, slots=True, eq=False)
class TaskDelta:
    """The task's delta, and the embedding it was taken in.

    >>> TaskDelta(np.ones(2, np.float32)).embedding
    'delta_activations'
    """

    array: Float32Array
    """(d,)."""
    embedding: str = "delta_activations"
    """Spec of the embedding."""


@dataclass(eq=False)
class DeltaProblem(MergeProblem):
    """1 - cosine of the merge's own delta with the task's: a few probe forwards, and not one row of the task.

    >>> DeltaProblem.__dataclass_fields__["unit"].default
    'of cosine'
    """

    task: TaskDelta = field(default_factory=lambda: TaskDelta(np.empty(0, np.float32)))
    unit: str = "of cosine"

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """See `Problem.losses`; there is one distance, given for each of the rows (one, a stand-in)."""
        if not any(point.weights):
            return [1.0] * len(rows)  # the base has no delta, and so no direction
        embedding, space = embedding_space(self.meter.model, self.task.embedding)
        base = base_features(self.meter, embedding, space)

        def measure() -> list[float]:
            features: list[float] = embedding.features(self.meter.model.backbone).tolist()
            return features

        features = np.asarray(self._remembered(point, ["features", space.digest], measure), np.float32)
        distance = 1.0 - float(cosine((features - base)[None], self.task.array)[0])
        return [distance] * len(rows)


def make_problem(
    meter: MergeMeter,
    candidates: Sequence[Candidate],
    rows: Sequence[Row],
    tasks: Sequence[int],
    objective: str,
    *,
    guard: Sequence[str] = (),
    task: TaskDelta | None = None,
) -> MergeProblem:
    """Return the problem an objective names.

    Args:
        meter: puts merges on the base.
        candidates: the members, the anchor first.
        rows: to measure on.
        tasks: the task each row belongs to.
        objective: one of `TUNE_OBJECTIVES`.
        guard: unrelated texts.
        task: the task delta, for the objective `delta`.

    Raises:
        SpecError: no such objective, or one that these rows or this run do not allow.
        TaskError: the objective is choices, and a row has none.
    """
    places, texts = tuple(tasks), tuple(guard)
    name, _, metric = objective.partition(":")
    if objective == "loss":
        return RowLossProblem(meter, candidates, rows, places, texts)
    if objective == "choices":
        loss_kind_of(rows, "choices")  # refuses rows without
        return ChoiceLossProblem(meter, candidates, rows, places, texts)
    if objective == "delta":
        if task is None or not task.array.any():
            raise SpecError("objective 'delta': the run has no task delta; choose `objective='loss'`")
        forwards: int = registry.build("embedding", task.embedding).forwards
        return DeltaProblem(meter, candidates, rows[:1], (0,), texts, forwards=forwards, task=task)
    if name == "lm-eval" and metric in HARNESS_METRICS:
        unit = "nats" if metric == "loss" else "errors a row"
        metric = HARNESS_METRICS[metric]
        if metric == "accuracy" and not all(row.choices for row in rows):
            raise SpecError(
                f"objective '{objective}': some tuning rows have no choices; choose lm-eval:exact_match or loss"
            )
        return HarnessProblem(meter, candidates, rows, places, texts, metric=metric, unit=unit)
    if objective == "accuracy":
        kind = metric_for(rows)
        kind = "exact_match" if kind == "loss" else kind
        choices = max(len(row.choices or ("",)) for row in rows)
        return ErrorProblem(meter, candidates, rows, places, texts, metric=kind, forwards=choices)
    known = ", ".join((*TUNE_OBJECTIVES[:-1], *(f"lm-eval:{key}" for key in HARNESS_METRICS)))
    raise SpecError(f"objective '{objective}' is unknown; choose one of: {known}")


def on_rows(problem: MergeProblem, rows: Sequence[Row], tasks: Sequence[int]) -> MergeProblem:
    """Return the same problem on other rows.

    Args:
        problem: whose members, losses and guard stay.
        rows: the other rows.
        tasks: the task each of them belongs to.
    """
    return replace(problem, rows=rows, tasks=tuple(tasks))
