"""Scores on tasks of lm-eval, and plans for them: their documents, its prompts and metrics, our verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.advisor.measuring.measure import Model, scored
from merge_advisor.errors import TaskError
from merge_advisor.evaluators.lm_eval_tasks import (
    LmEvalTask,
    TaskName,
    ask,
    evaluate,
    load_tasks,
    primary_metric,
    version,
)
from merge_advisor.evaluators.task_rows import lm_eval_rows
from merge_advisor.scores import GuardScore, ModelScore, Score
from merge_advisor.tasks import split
from merge_advisor.types import VERSION, Task
from merge_advisor.verdict import judge

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.evaluators.lm_eval_tasks import LmEvalRequests
    from merge_advisor.options import PlanOptions


def load_all(names: Sequence[TaskName], *, offline: bool) -> list[LmEvalTask]:
    """Load the tasks that names stand for, each once, in their order.

    Raises:
        TaskError, OfflineError, ExternalError: as `load_tasks`.
    """
    found = {task.name: task for named in names for task in load_tasks(named, offline=offline)}
    return list(found.values())


def ask_models(session: Session, models: Sequence[Model], asked: LmEvalRequests) -> list[ModelScore]:
    """Ask models what lm-eval asks; a model asked the same before is not run again.

    Raises:
        ExternalError: lm-eval failed.
    """
    key = ["lm-eval task", version(), asked.digest]
    return scored(
        session, models, key, lambda label: evaluate(asked, session.backbone, label), f"scoring {asked.found.name}"
    )


def score_asked(
    session: Session,
    models: Sequence[Model],
    task: LmEvalTask,
    *,
    metric: str,
    limit: int | None,
    guard: GuardScore | None,
    seen: Sequence[str] = (),
) -> Score:
    """Score the models of a run on a task of lm-eval, and judge.

    Args:
        session: base and store.
        models: as `scoring.models_of` gives them.
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
    table = ask_models(session, models, asked)
    chosen = primary_metric(asked, table[0], metric)
    verdict, reason, comparisons = judge(table, chosen, asked.row_digests, guard=guard)
    return Score(
        version=VERSION,
        task=task.name,
        task_digest=asked.digest,
        metric=chosen,
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


def plan_task(task: LmEvalTask, options: PlanOptions) -> tuple[Task, tuple[str, ...]]:
    """Split a task of lm-eval for a plan: what it scores on is held out, other splits are learned from.

    Raises:
        TaskError: it has no rows of prompt and answer, no split to learn from, or too few rows.
        ExternalError: lm-eval failed.
    """
    if isinstance(options.heldout, Path):
        raise TaskError(f"{task.name}: --heldout FILE goes with --task; give the number of documents to hold out")
    rows = lm_eval_rows(task, heldout=options.heldout)
    found, said = split(
        rows.learning,
        name=rows.name,
        shots=options.shots,
        heldout=rows.heldout,
        tuning=options.tuning,
        seed=options.seed,
    )
    return found, (*rows.notes, *said)
