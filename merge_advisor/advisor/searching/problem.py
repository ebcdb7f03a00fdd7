"""What `tune` makes small: losses of merges of a run's members, measured in memory.

A trial costs its forward passes and little more: the members stay in memory as factors, rows are encoded once, the
merge is written into the base's buffers and taken off again. What was measured is stored, like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import composed, embedding_space, finite_or_worst, loss_kind_of
from merge_advisor.advisor.measuring.session import Session, weights_key
from merge_advisor.advisor.planning.choosing import cosine
from merge_advisor.errors import SpecError
from merge_advisor.evaluators.fast import row_values
from merge_advisor.evaluators.guard import TOLERANCE
from merge_advisor.evaluators.rules import METRICS, metric_for
from merge_advisor.scores import ModelScore
from merge_advisor.types import Candidate, Row, from_json, to_json
from merge_advisor.weights.naming import count_blocks, layer_factor
from merge_advisor.weights.updates import WeightDelta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array
    from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow
    from merge_advisor.tuning import Point

TUNE_OBJECTIVES = ("loss", "choices", "accuracy", "delta", "lm-eval:METRIC")
HARNESS_METRICS = {"acc": "accuracy", **{name: name for name in METRICS}}
"""lm-eval's name of a metric -> ours."""


@dataclass(eq=False)
class MergeProblem:
    """What all problems of a run share (`tuning.Problem`): members, rows, and merges of the members on the base."""

    session: Session
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
    """What its losses are counted in."""
    _last: tuple[Point, WeightDelta] | None = field(default=None, init=False, repr=False)
    """The merge made last: racing asks for a merge's rows in several turns, and some compositions are dear."""

    @property
    def members(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(candidate.id for candidate in self.candidates)

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """Loss of the merge on each of the rows; less is better."""
        raise NotImplementedError

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], NDArray[np.float64]]:
        """Refuse: only the loss has a gradient.

        Raises:
            SpecError: always.
        """
        raise SpecError("this objective has no gradient; choose --objective loss or another --sampler")

    def guard(self, point: Point) -> float:
        """By how much the loss on the guard's texts is above what is allowed, nats per token; 0 without a guard."""
        if not self.guard_texts:
            return 0.0
        return self._guard_loss(point) - self._guard_loss(self._base(point)) - self.allowed

    def _base(self, point: Point) -> Point:
        return replace(point, weights=(0.0,) * len(point.weights), layers=())

    def _guard_loss(self, point: Point) -> float:
        def measure() -> list[float]:
            from merge_advisor.backbone.losses import text_losses

            return finite_or_worst(text_losses(self.session.backbone, self.guard_texts))

        return float(np.mean(self._with(point, ["guard", list(self.guard_texts)], measure)))

    def _with(self, point: Point, key: Sequence[object], measure: Callable[[], Any]) -> Any:
        """The stored value of a key for a merge, or what `measure` says with the merge on the base."""
        from merge_advisor.backbone.place import placed

        def on_the_base() -> Any:
            with placed(self.session.backbone, self._merge(point)):
                return measure()

        weights = {c.fingerprint: w for c, w in zip(self.candidates, point.weights, strict=True)}
        return self.session.remember([*key, *weights_key(weights, point.composition, layers=point.layers)], on_the_base)

    def _merge(self, point: Point) -> WeightDelta:
        if self._last is None or self._last[0] != point:
            merge = composed(self.session, self.candidates, point.weights, point.composition, point.layers, again=True)
            self._last = point, dict(merge)
        return self._last[1]

    def _digests(self, rows: Sequence[int]) -> list[str]:
        return [self.rows[row].digest for row in rows]


@dataclass(eq=False)
class RowLossProblem(MergeProblem):
    """Mean loss of each row's answer, nats per token."""

    key: ClassVar[tuple[str, ...]] = ()
    """What sets its stored values apart from those of other losses."""
    smooth: bool = True

    @cached_property
    def _encoded(self) -> list[EncodedRow]:
        return self.session.encode(self.rows)

    def _losses(self, rows: Sequence[int]) -> list[float]:
        from merge_advisor.backbone.losses import row_losses

        return row_losses(self.session.backbone, [self._encoded[row] for row in rows])

    def _with_gradient(self, rows: Sequence[int], names: Sequence[str]) -> tuple[list[float], dict[str, Float32Array]]:
        from merge_advisor.backbone.gradients import loss_and_gradient

        return loss_and_gradient(self.session.backbone, [self._encoded[row] for row in rows], names)

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """Loss of the merge on each of the rows."""
        return cast(
            "list[float]",
            self._with(point, [*self.key, "losses", self._digests(rows)], lambda: finite_or_worst(self._losses(rows))),
        )

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], NDArray[np.float64]]:
        """Loss on each of the rows, and ∂ mean loss / ∂ weights, (k,) float64.

        ∂L/∂W from one backward pass, then the composition's own derivative.

        Raises:
            SpecError: the composition has no gradient.
        """
        composition = registry.build("composition", point.composition)
        if not hasattr(composition, "slopes"):
            raise SpecError(f"composition {point.composition} has no gradient in the weights; take another --sampler")
        weights = [self.session.weights(candidate) for candidate in self.candidates]
        names = sorted({name for delta in weights for name in delta})
        blocks = count_blocks(self.session.local.shapes)

        def measure() -> list[list[float]]:
            losses, slopes = self._with_gradient(rows, names)
            total = np.zeros(len(weights))
            for name in names:
                updates = [delta.get(name) for delta in weights]
                factor = layer_factor(name, point.layers, blocks)
                scaled = [weight * factor for weight in point.weights]
                total += factor * np.asarray(composition.slopes(updates, scaled, slopes[name]))
            return [finite_or_worst(losses), finite_or_worst(total.tolist())]

        losses, slopes = cast(
            "list[list[float]]", self._with(point, [*self.key, "slopes", self._digests(rows)], measure)
        )
        return losses, np.asarray(slopes, dtype=np.float64)


@dataclass(eq=False)
class ChoiceLossProblem(RowLossProblem):
    """Cross-entropy over each row's choices, nats; the choices of a row count as one forward."""

    key: ClassVar[tuple[str, ...]] = ("choices", "1")
    unit: str = "nats a row"

    @cached_property
    def _choices(self) -> list[EncodedChoices]:
        return self.session.encode_choices(self.rows)

    def _losses(self, rows: Sequence[int]) -> list[float]:
        from merge_advisor.backbone.choice_loss import choice_losses

        return choice_losses(self.session.backbone, [self._choices[row] for row in rows])

    def _with_gradient(self, rows: Sequence[int], names: Sequence[str]) -> tuple[list[float], dict[str, Float32Array]]:
        from merge_advisor.backbone.choice_loss import choice_loss_and_gradient

        return choice_loss_and_gradient(self.session.backbone, [self._choices[row] for row in rows], names)


@dataclass(eq=False)
class ErrorProblem(MergeProblem):
    """0 for a right answer and 1 for a wrong one, by our own scorer (see `evaluators.fast`)."""

    metric: str = "accuracy"
    unit: str = "errors a row"

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """1 - the metric on each of the rows."""
        asked = [self.rows[row] for row in rows]

        def measure() -> list[float]:
            return row_values(self.session.backbone, asked, self.session.template, self.metric)

        found = self._with(point, ["fast", 1, self.metric, self._digests(rows)], measure)
        return [1.0 - value for value in cast("list[float]", found)]


@dataclass(eq=False)
class HarnessProblem(MergeProblem):
    """A metric of lm-eval on each row, turned so that less is better."""

    metric: str = "accuracy"
    unit: str = "errors a row"

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """1 - the metric on each of the rows; the loss as it is."""
        evaluator = registry.build("evaluator", "lm_eval")
        asked = [self.rows[row] for row in rows]

        def measure() -> str:
            backbone = self.session.backbone
            return to_json(
                evaluator.score(
                    backbone.model, backbone.tokenizer, asked, self.session.template, label="", metric=self.metric
                )
            )

        key = ["score", evaluator.version, evaluator.settings, self.metric, self._digests(rows)]
        found = from_json(ModelScore, cast("str", self._with(point, key, measure)), "store").rows[self.metric]
        return list(found) if self.metric == "loss" else [1.0 - value for value in found]


@dataclass(eq=False)
class DeltaProblem(MergeProblem):
    """1 - cosine of the merge's own delta with the task's: five probe forwards, and not one row of the task."""

    task: Float32Array = field(default_factory=lambda: np.empty(0, np.float32))
    """(d,) the task delta."""
    embedding: str = "delta_activations"
    forwards: int = 5
    unit: str = "of cosine"

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """The one distance, for each of the rows asked for (there is one, a stand-in)."""
        if not any(point.weights):
            return [1.0] * len(rows)  # the base has no delta, and so no direction
        embedding, space = embedding_space(self.session, self.embedding)
        base = self.session.store.delta(space, "base")
        if base is None:
            base = embedding.features(self.session.backbone)
            self.session.store.keep_delta(space, "base", base)

        def measure() -> list[float]:
            return cast("list[float]", embedding.features(self.session.backbone).tolist())

        found = np.asarray(self._with(point, ["features", space.digest], measure), np.float32)
        distance = 1.0 - float(cosine((found - base)[None], self.task)[0])
        return [distance] * len(rows)


def make_problem(
    session: Session,
    candidates: Sequence[Candidate],
    rows: Sequence[Row],
    tasks: Sequence[int],
    objective: str,
    *,
    guard: Sequence[str] = (),
    task: Float32Array | None = None,
) -> MergeProblem:
    """Return the problem an objective names.

    Args:
        session: base and store.
        candidates: the members.
        rows: to measure on.
        tasks: the task each row belongs to.
        objective: one of `TUNE_OBJECTIVES`.
        guard: unrelated texts.
        task: (d,) the task delta, for the objective `delta`.

    Raises:
        SpecError: no such objective, or one that these rows or this session do not allow.
        TaskError: the objective is choices, and a row has none.
    """
    shared: dict[str, Any] = {"guard_texts": tuple(guard)}
    name, _, metric = objective.partition(":")
    if objective == "loss":
        return RowLossProblem(session, candidates, rows, tuple(tasks), **shared)
    if objective == "choices":
        loss_kind_of(rows, "choices")  # refuses rows without
        return ChoiceLossProblem(session, candidates, rows, tuple(tasks), **shared)
    if objective == "delta":
        if task is None or not task.any():
            raise SpecError("objective 'delta': the run has no task delta; choose --objective loss")
        return DeltaProblem(session, candidates, rows[:1], (0,), task=task, **shared)
    if name == "lm-eval" and metric in HARNESS_METRICS:
        unit = "nats" if metric == "loss" else "errors a row"
        _check_rows(rows, HARNESS_METRICS[metric], objective)
        return HarnessProblem(
            session, candidates, rows, tuple(tasks), metric=HARNESS_METRICS[metric], unit=unit, **shared
        )
    if objective == "accuracy":
        kind = metric_for(rows)
        kind = "exact_match" if kind == "loss" else kind
        choices = max(len(row.choices or ("",)) for row in rows)
        return ErrorProblem(session, candidates, rows, tuple(tasks), metric=kind, forwards=choices, **shared)
    known = ", ".join((*TUNE_OBJECTIVES[:-1], *(f"lm-eval:{key}" for key in HARNESS_METRICS)))
    raise SpecError(f"objective '{objective}' is unknown; choose one of: {known}")


def _check_rows(rows: Sequence[Row], metric: str, objective: str) -> None:
    if metric == "accuracy" and not all(row.choices for row in rows):
        raise SpecError(
            f"objective '{objective}': some tuning rows have no choices; choose lm-eval:exact_match or loss"
        )


def on_rows(problem: MergeProblem, rows: Sequence[Row], tasks: Sequence[int]) -> MergeProblem:
    """The same problem on other rows."""
    return replace(problem, rows=rows, tasks=tuple(tasks))
