"""Scores of models on rows by an evaluator, each remembered under all it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.meter import MergeMeter, ScoredModel, finite_or_worst
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.evaluators.fast import Fast
    from merge_advisor.evaluators.lm_eval_harness import LmEval

FINAL = "lm_eval"
"""Evaluator of final scores."""


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

    return meter.timed(["guard", list(texts), *model.merge.key], measure)
