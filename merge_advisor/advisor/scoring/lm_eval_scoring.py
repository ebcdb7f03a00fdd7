"""Scores on tasks of lm-eval: its documents, its prompts and metrics, our verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask, ask, evaluate, primary_metric, version
from merge_advisor.scores import GuardScore, ModelScore, Score
from merge_advisor.types import VERSION
from merge_advisor.verdict import judge

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter, ScoredModel
    from merge_advisor.evaluators.lm_eval_tasks import LmEvalRequests


def ask_models(meter: MergeMeter, models: Sequence[ScoredModel], asked: LmEvalRequests) -> list[ModelScore]:
    """Ask models what lm-eval asks; a model asked the same before is not run again.

    Args:
        meter: puts the models on the base.
        models: what to ask.
        asked: the requests.

    Raises:
        ExternalError: lm-eval failed.
    """
    key = ["lm-eval task", version(), asked.digest]
    return meter.scores(
        models, key, lambda label: evaluate(asked, meter.model.backbone, label), f"scoring {asked.found.name}"
    )


def score_asked(
    meter: MergeMeter,
    models: Sequence[ScoredModel],
    task: LmEvalTask,
    *,
    metric: str = "auto",
    limit: int | None = None,
    guard: GuardScore | None = None,
    seen: Sequence[str] = (),
) -> Score:
    """Score the models of a run on a task of lm-eval, and judge.

    Args:
        meter: puts the models on the base.
        models: as `score_run.models_of` gives them.
        task: the task.
        metric: "auto", or what of lm-eval's metrics the verdict rests on.
        limit: documents at most.
        guard: loss on unrelated text, where it was measured.
        seen: inputs the plan learned from; documents with them are left out.

    Raises:
        TaskError: no such metric per row, or no document is left.
        ExternalError: lm-eval failed.
    """
    asked = ask(task, limit=limit, seen=seen)
    table = ask_models(meter, models, asked)
    metric = primary_metric(asked, table[0], metric)
    verdict, reason, comparisons = judge(table, metric, asked.row_digests, guard=guard)
    return Score(
        version=VERSION,
        task=task.name,
        task_digest=asked.digest,
        metric=metric,
        row_digests=asked.row_digests,
        models=tuple(table),
        comparisons=comparisons,
        verdict=verdict,
        reason=reason,
        evaluator=version(),
        guard=guard,
        template=task.template,
        logs=asked.logs,
    )
