"""Scores of models on rows by an evaluator, each remembered under all it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.common_disk import absolute_merge, check_candidates_seen
from merge_advisor.advisor.measuring.meter import MergeMeter, ScoredModel, finite_or_worst
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.evaluators.fast import Fast
    from merge_advisor.evaluators.lm_eval_harness import LmEval

FINAL = "lm_eval"
"""Evaluator of final scores."""


@dataclass(frozen=True, slots=True)
class ScoringWork:
    """A model that a worker scores (`crew.Measurement`).

    >>> from merge_advisor.advisor.measuring.meter import BASE
    >>> ScoringWork(ScoredModel("base", BASE), (Row("2 + 2", "4"),), "exact_match", FINAL).name
    'base'
    """

    model: ScoredModel
    rows: tuple[Row, ...]
    metric: str
    evaluator: str
    """Spec of the evaluator."""

    @property
    def name(self) -> str:
        """The model's label."""
        return self.model.label

    def measure(self, meter: MergeMeter) -> None:
        """Score it; the score is remembered.

        Args:
            meter: of the worker.
        """
        check_candidates_seen(self.model.merge.candidates)
        score_models(meter, [self.model], self.rows, self.metric, evaluator=self.evaluator)


@dataclass(frozen=True, slots=True)
class GuardWork:
    """A model whose loss on the texts of a guard a worker measures (`crew.Measurement`).

    >>> from merge_advisor.advisor.measuring.meter import BASE
    >>> GuardWork(ScoredModel("base", BASE), ("Some text.",)).name
    'base'
    """

    model: ScoredModel
    texts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The model's label."""
        return self.model.label

    def measure(self, meter: MergeMeter) -> None:
        """Measure it; it is remembered.

        Args:
            meter: of the worker.
        """
        check_candidates_seen(self.model.merge.candidates)
        guard_losses(meter, self.model, self.texts)


def anchor_of(models: Sequence[ScoredModel]) -> str:
    """Return the id of the candidate that is scored as the anchor; "" where there is none.

    >>> from merge_advisor.merges import WeightedMerge
    >>> from merge_advisor.types import Candidate
    >>> alone = WeightedMerge(((Candidate("dates-1", "adapter", "pool/dates-1", "f"), 1.0),))
    >>> anchor_of([ScoredModel("anchor", alone)]), anchor_of([ScoredModel("merge", alone)])
    ('dates-1', '')

    Args:
        models: as `score_run.models_of` gives them.
    """
    return next((model.merge.candidates[0].id for model in models if model.label == "anchor"), "")


def score_models(
    meter: MergeMeter,
    models: Sequence[ScoredModel],
    rows: Sequence[Row],
    metric: str,
    *,
    what: str = "scoring",
    evaluator: str = FINAL,
) -> list[ModelScore]:
    """Return the scores of models on rows; a model that this evaluator scored on these rows before is not run again.

    Args:
        meter: puts the models on the base.
        models: what to score.
        rows: what to score on.
        metric: "accuracy", "exact_match" or "loss".
        what: named in the progress.
        evaluator: spec of the evaluator; the final score of a run is lm-eval's.

    Raises:
        TaskError: rows that the metric does not fit.
        ExternalError: lm-eval failed.
    """
    scorer: Fast | LmEval = registry.build("evaluator", evaluator)
    key = ["score", scorer.name, scorer.version, scorer.settings, metric, [row.digest for row in rows]]

    def score(model: ScoredModel) -> ModelScore:
        backbone, template = meter.model.backbone, model.template or meter.model.template
        return scorer.score(backbone.model, backbone.tokenizer, rows, template, label=model.label, metric=metric)

    if meter.crew is not None:
        told = [replace(model, merge=absolute_merge(model.merge)) for model in models]
        works = [ScoringWork(model, tuple(rows), metric, evaluator) for model in told]
        meter.have_measured([([*key, *work.model.key], work) for work in works], what)
    return meter.scores(models, key, score, what)


def guard_losses(meter: MergeMeter, model: ScoredModel, texts: Sequence[str]) -> list[float]:
    """Return the loss of each text of a guard under a model, nats per token; remembered like a score.

    Args:
        meter: puts the model on the base.
        model: the model; examples in its prompt do not reach a plain text.
        texts: of the guard.
    """
    from merge_advisor.backbone.losses import text_losses

    def measure() -> list[float]:
        return finite_or_worst(meter.on_base(model.merge, lambda: text_losses(meter.model.backbone, texts)))

    return meter.timed(guard_key(model, texts), measure)


def guard_key(model: ScoredModel, texts: Sequence[str]) -> list[object]:
    """Return what the losses of a guard under a model are remembered under.

    >>> from merge_advisor.advisor.measuring.meter import BASE
    >>> guard_key(ScoredModel("base", BASE), ["Some text."])[:2]
    ['guard', ['Some text.']]

    Args:
        model: the model.
        texts: of the guard.
    """
    return ["guard", list(texts), *model.merge.key]
