"""Scores on tasks of lm-eval: its documents, its prompts and metrics, our verdict.

There is no row `icl` here: the prompts are the task's own, and so is the number of examples in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.advisor.measuring.model_scores import anchor_of
from merge_advisor.evaluators.lm_eval_process import lm_eval_version
from merge_advisor.evaluators.lm_eval_requests import build_requests, evaluate_requests, primary_metric
from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask
from merge_advisor.json_form import VERSION
from merge_advisor.scores import GuardScore, ModelScore, Score
from merge_advisor.verdict import judge

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter, ScoredModel
    from merge_advisor.evaluators.lm_eval_requests import LmEvalRequests


def ask_models(meter: MergeMeter, models: Sequence[ScoredModel], requests: LmEvalRequests) -> list[ModelScore]:
    """Return the scores of models asked what lm-eval asks; a model asked the same before is not run again.

    Args:
        meter: puts the models on the base.
        models: what to ask.
        requests: of one task.

    Raises:
        ExternalError: lm-eval failed.
    """
    key = ["lm-eval task", lm_eval_version(), requests.digest]
    what = f"scoring {requests.loaded.name}"
    return meter.scores(models, key, lambda model: evaluate_requests(requests, meter.model.backbone, model.label), what)


def score_asked(
    meter: MergeMeter,
    models: Sequence[ScoredModel],
    task: LmEvalTask,
    *,
    metric: str = "auto",
    limit: int | None = None,
    guard: GuardScore | None = None,
    seen: Sequence[str] = (),
    adaptation: str = "none",
) -> Score:
    """Return the score of a run's models on a task of lm-eval, judged.

    Args:
        meter: puts the models on the base.
        models: as `score_run.models_of` gives them.
        task: the task.
        metric: "auto", or what of lm-eval's metrics the verdict rests on.
        limit: documents at most.
        guard: loss on unrelated text, where it was measured.
        adaptation: how the merge of members and rows was made, see `adapted_run.way_of`.
        seen: inputs the plan learned from; documents with them are left out.

    Raises:
        TaskError: no such metric per row, or no document is left.
        ExternalError: lm-eval failed.
    """
    requests = build_requests(task, limit=limit, seen=seen)
    table = ask_models(meter, models, requests)
    metric = primary_metric(requests, table[0], metric)
    verdict, reason, comparisons = judge(
        table, metric, requests.row_digests, guard=guard, adaptation=adaptation, anchor=anchor_of(models)
    )
    return Score(
        version=VERSION,
        task=task.name,
        task_digest=requests.digest,
        metric=metric,
        row_digests=requests.row_digests,
        models=tuple(table),
        comparisons=comparisons,
        verdict=verdict,
        reason=reason,
        evaluator=lm_eval_version(),
        guard=guard,
        template=task.template,
        logs=requests.logs,
    )
