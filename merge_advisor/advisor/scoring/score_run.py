"""`score`: base, members, the LoRA of the shots, the uniform merge and the merge, on rows none of them has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import Model, finite_or_worst, scored, shots_candidate
from merge_advisor.advisor.measuring.session import Session, open_session, weights_key
from merge_advisor.advisor.merging import find_members, merged_delta, reopen
from merge_advisor.advisor.runs.run_folder import Run, read_run, write_scores
from merge_advisor.errors import InputError, TaskError
from merge_advisor.evaluators.guard import guard_score, read_guard
from merge_advisor.evaluators.rules import METRICS, majority_score, metric_for
from merge_advisor.options import Where
from merge_advisor.scores import GuardScore, ModelScore, RowLog, Score, Verdict
from merge_advisor.tasks import majority, read_rows
from merge_advisor.types import SHOTS_LORA, VERSION, Candidate, Row, Task
from merge_advisor.verdict import judge
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.updates import WeightDelta

if TYPE_CHECKING:
    from merge_advisor.evaluators.fast import Fast
    from merge_advisor.evaluators.lm_eval_harness import LmEval
    from merge_advisor.evaluators.lm_eval_tasks import TaskName

FINAL = "lm_eval"
"""Evaluator of final scores."""


def models_of(session: Session, run: Run) -> list[Model]:
    """The models of a score table that are made of weights: base, each member alone, shots_lora, uniform, merge.

    Of a tuned run also the plan's own merge, "plan".
    """
    planned = run.planned or run.recipe
    members = find_members(session, replace(run, recipe=planned))
    folder = run.folder / SHOTS_LORA
    lora = shots_candidate(folder, read_adapter(folder, session.local.shapes), 0)
    alone: dict[str, Candidate] = {}
    for member, chosen in zip(planned.members, run.plan.selection.members, strict=True):
        label = "anchor" if chosen.role == "anchor" else f"member {member.id}"
        alone[SHOTS_LORA if member.id == SHOTS_LORA else label] = members[member.id]
    alone.setdefault(SHOTS_LORA, lora)
    found: list[Model] = [("base", weights_key({}), dict)]
    for label, candidate in alone.items():
        found.append((label, weights_key({candidate.fingerprint: 1.0}), _weights(session, candidate)))
    share = 1 / len(planned.members)
    uniform = replace(planned, members=tuple(replace(m, weight=share) for m in planned.members))
    tuned = [("plan", planned)] if run.planned and planned.digest != run.recipe.digest else []
    for label, recipe in (("uniform", uniform), *tuned, ("merge", run.recipe)):
        pairs = [(m.fingerprint, m.weight) for m in recipe.members]
        key = weights_key(pairs, recipe.composition, recipe.rank, recipe.layers)
        found.append((label, key, lambda recipe=recipe: merged_delta(session, recipe, members)[0]))  # type: ignore[misc]
    return found


def _weights(session: Session, candidate: Candidate) -> Callable[[], WeightDelta]:
    return lambda: session.weights(candidate)


def score_models(
    session: Session,
    models: Sequence[Model],
    rows: Sequence[Row],
    metric: str,
    *,
    what: str = "scoring",
    evaluator: str = FINAL,
) -> list[ModelScore]:
    """Score models on rows; a model that this evaluator scored on these rows before is not run again.

    Args:
        session: base and store.
        models: what to score.
        rows: what to score on.
        metric: "accuracy", "exact_match" or "loss".
        what: for the progress.
        evaluator: spec of the evaluator; the final score of a run is lm-eval's.
    """
    scorer: Fast | LmEval = registry.build("evaluator", evaluator)
    key = ["score", scorer.name, scorer.version, scorer.settings, metric, [row.digest for row in rows]]

    def score(label: str) -> ModelScore:
        backbone = session.backbone
        return scorer.score(backbone.model, backbone.tokenizer, rows, session.template, label=label, metric=metric)

    return scored(session, models, key, score, what)


def guard_of(session: Session, models: Sequence[Model], path: Path) -> GuardScore:
    """Loss of base and merge on unrelated text.

    Raises:
        TaskError: the guard file cannot be used.
    """
    from merge_advisor.backbone.losses import text_losses
    from merge_advisor.backbone.place import placed

    texts = read_guard(path)
    losses = {}
    for label, key, delta in models:
        if label in ("base", "merge"):

            def measure(delta: Callable[[], WeightDelta] = delta) -> list[float]:
                with placed(session.backbone, delta()):
                    return finite_or_worst(text_losses(session.backbone, texts))

            losses[label] = cast("list[float]", session.remember(["guard", list(texts), *key], measure))
    found: GuardScore = guard_score(losses["base"], losses["merge"])
    return found


def score_task(
    session: Session, models: Sequence[Model], task: Task, *, metric: str, guard: GuardScore | None
) -> Score:
    """Score one task's held-out rows and judge.

    Raises:
        TaskError: no held-out rows.
    """
    rows = task.heldout
    if not rows:
        raise TaskError(f"task {task.name}: no held-out rows to score on; give more examples, or --heldout FILE")
    metric = metric_for(rows) if metric == "auto" else metric
    table = score_models(session, models, rows, metric, what=f"scoring {task.name}")
    if metric != "loss":
        answer = majority((*task.shots, *task.tuning))
        table.insert(1, majority_score(rows, answer, metric, label="majority"))
    digests = tuple(row.digest for row in rows)
    verdict, reason, comparisons = judge(table, metric, digests, guard=guard)
    return Score(
        version=VERSION,
        task=task.name,
        task_digest=task.digest,
        metric=metric,
        row_digests=digests,
        models=tuple(table),
        comparisons=comparisons,
        verdict=verdict,
        reason=reason,
        evaluator=registry.build("evaluator", FINAL).version,
        guard=guard,
        template=session.template.name,
        logs=tuple(RowLog(session.template.prompt(row.input), row.output, row.choices) for row in rows),
    )


def overall(scores: Sequence[Score]) -> tuple[Verdict, str]:
    """The verdict over all tasks: that of the task on which the merge does worst against its best rival."""
    if len(scores) == 1:
        return scores[0].verdict, scores[0].reason

    def standing(score: Score) -> float:
        return min(comparison.difference for comparison in score.comparisons)

    worst = min(scores, key=lambda score: (score.verdict == Verdict.MERGE, standing(score), score.task))
    return worst.verdict, f"worst of {len(scores)} tasks, {worst.task}: {worst.reason}"


def score_run(
    folder: Path,
    *,
    heldout: Sequence[Path] = (),
    lm_eval: Sequence[TaskName] = (),
    limit: int | None = None,
    guard: Path | None = None,
    metric: str = "auto",
    **where: Unpack[Where],
) -> Run:
    """Score a run on its held-out rows, on the rows of other files or on tasks of lm-eval; write table and verdict.

    Args:
        folder: the run folder.
        heldout: task files whose rows replace the held-out rows, in the order of the run's tasks.
        lm_eval: tasks of lm-eval to score on, with its own prompts; the run's own rows are then scored only where
            `heldout` is given. Their scores are kept beside the run's own.
        limit: documents of each of these tasks at most, the first ones as with lm-eval's own `--limit`.
        guard: file of unrelated text; a merge that loses on it is ruled out.
        metric: "auto", "accuracy", "exact_match" or "loss"; with tasks of lm-eval only, any metric of theirs.
        where: where members and base are, and where to compute.

    Raises:
        TaskError: no held-out rows, a file or a task of lm-eval that cannot be used.
        ExternalError: lm-eval failed.
        RunError: no run folder, another base, a member that cannot be found.
    """
    from merge_advisor.advisor.runs.run_report import html_of, report_of
    from merge_advisor.advisor.scoring.lm_eval_scoring import load_all, score_asked

    check_metric(metric, lm_eval if not heldout else ())
    _check_limit(limit, lm_eval)
    run, session = reopen(folder, **where)
    with session:
        tasks = _with_heldout(run.tasks, heldout) if heldout else run.tasks
        asked = load_all(lm_eval, offline=where.get("offline", False)) if lm_eval else []
        models = models_of(session, run)
        guarded = guard_of(session, models, guard) if guard else None
        scores = run.scores
        if heldout or not lm_eval:
            own = [score_task(session, models, task, metric=metric, guard=guarded) for task in tasks]
            scores = (*own, *(score for score in scores if score.task not in [task.name for task in tasks]))
        seen = [row.input for task in run.tasks for row in (*task.shots, *task.tuning)]
        for task in asked:
            found = score_asked(session, models, task, metric=metric, limit=limit, guard=guarded, seen=seen)
            scores = (*(score for score in scores if score.task != task.name), found)
    verdict, reason = overall(scores)
    plan = replace(run.plan, verdict=verdict, reason=reason)
    run = replace(run, plan=plan, scores=scores, tasks=tasks)
    write_scores(folder, plan, scores, report_of(run), html_of(run))
    return read_run(folder)


def check_metric(metric: str, lm_eval: Sequence[TaskName] = ()) -> None:
    """Refuse early a metric that rows do not have; what a task of lm-eval has is known when it has been scored.

    Raises:
        TaskError: the metric is none of ours, and not only tasks of lm-eval are scored.
    """
    if not lm_eval and metric not in ("auto", *METRICS):
        raise TaskError(f"metric '{metric}' is unknown; choose one of: auto, {', '.join(METRICS)}")


def _check_limit(limit: int | None, lm_eval: Sequence[TaskName]) -> None:
    if limit is not None and (limit < 1 or not lm_eval):
        raise InputError(f"--limit {limit}: goes with --lm-eval-task, and is at least 1")


def _with_heldout(tasks: Sequence[Task], paths: Sequence[Path]) -> tuple[Task, ...]:
    """The tasks with the rows of other files held out; rows the plan learned from are dropped."""
    if len(paths) != len(tasks):
        raise TaskError(f"{len(paths)} held-out files for {len(tasks)} tasks; give one for each, in the run's order")
    found = []
    for task, path in zip(tasks, paths, strict=True):
        seen = {row.digest for row in (*task.shots, *task.tuning)}
        rows = tuple(row for row in read_rows(path, minimum=1).rows if row.digest not in seen)
        if not rows:
            raise TaskError(f"{path}: every row of it was used in the plan; give rows it has not seen")
        found.append(replace(task, heldout=rows))
    return tuple(found)


def score_model(
    model: Path,
    tasks: Sequence[Path] = (),
    *,
    lm_eval: Sequence[TaskName] = (),
    limit: int | None = None,
    base: str | None = None,
    template: str | None = None,
    metric: str = "auto",
    **settings: Any,
) -> dict[str, list[ModelScore]]:
    """Score one model folder on every row of task files: an adapter beside its base, or a full model alone.

    Args:
        model: folder of an adapter (then `base` is needed) or of a full model.
        tasks: task files; all their rows are scored.
        lm_eval: tasks of lm-eval, scored with its own prompts and metrics.
        limit: documents of each of these tasks at most.
        base: the adapter's base.
        template: prompt template; "alpaca" where None.
        metric: "auto", "accuracy", "exact_match" or "loss".
        settings: as `open_session` takes them.

    Returns:
        By task name, the scores of base (for an adapter), model, and always answering the commonest output (marked as
        an oracle: it has read the answers).

    Raises:
        InputError: an adapter without a base, or a folder that holds no model.
    """
    from merge_advisor.advisor.scoring.lm_eval_scoring import ask_models, load_all
    from merge_advisor.evaluators.lm_eval_tasks import ask

    check_metric(metric, lm_eval if not tasks else ())
    _check_limit(limit, lm_eval)
    is_adapter = (model / "adapter_config.json").is_file()
    if is_adapter and base is None:
        raise InputError(f"{model}: is an adapter; name its base by --base")
    found: dict[str, list[ModelScore]] = {}
    opened = open_session(
        base if is_adapter and base else str(model), model if is_adapter else None, template=template, **settings
    )
    with opened as session:
        models: list[Model] = [("base" if is_adapter else model.name, weights_key({}), dict)]
        for candidate in session.pool.candidates:
            models.append((candidate.id, weights_key({candidate.fingerprint: 1.0}), _weights(session, candidate)))
        for path in tasks:
            file = read_rows(path, minimum=1)
            measured = metric_for(file.rows) if metric == "auto" else metric
            scores = score_models(session, models, file.rows, measured, what=f"scoring {file.name}")
            if measured != "loss":
                label = "majority (oracle)"
                scores.append(majority_score(file.rows, majority(file.rows), measured, label=label))
            found[file.name] = scores
        for task in load_all(lm_eval, offline=bool(settings.get("offline"))):
            found[task.name] = ask_models(session, models, ask(task, limit=limit))
    return found
