"""`score`: a run's models on rows none of them has seen.

They are the base, alone and with examples in its prompt, the members, the LoRA of the shots, the uniform merge and the
merge.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor import registry
from merge_advisor.advisor.measuring.common_disk import absolute_merge
from merge_advisor.advisor.measuring.in_context import in_context, with_rows
from merge_advisor.advisor.measuring.memo import scoring_cost
from merge_advisor.advisor.measuring.meter import BASE, MergeMeter, ScoredModel
from merge_advisor.advisor.measuring.model_scores import (
    FINAL,
    GuardWork,
    anchor_of,
    guard_key,
    guard_losses,
    score_models,
)
from merge_advisor.advisor.measuring.session import Session
from merge_advisor.advisor.runs.adapted_run import way_of
from merge_advisor.advisor.runs.plan_report import UNADAPTED
from merge_advisor.advisor.runs.prompt_folder import rows_shown, write_prompt
from merge_advisor.advisor.runs.reopening import find_members, find_shots_lora, reopen
from merge_advisor.advisor.runs.run_folder import PLAN_START, START, Run, check_run, read_run, write_scores
from merge_advisor.errors import InputError, TaskError
from merge_advisor.evaluators.guard import guard_score, read_guard
from merge_advisor.evaluators.metrics import METRICS, majority_score, metric_for
from merge_advisor.json_form import VERSION
from merge_advisor.merges import WeightedMerge, merge_of
from merge_advisor.scores import GuardScore, RowLog, Score, ScoringCost, Verdict
from merge_advisor.tasks import majority, read_rows, shared_choices
from merge_advisor.tuning.lock import run_lock
from merge_advisor.types import ICL, SHOTS_LORA, Recipe, Task
from merge_advisor.verdict import judge

if TYPE_CHECKING:
    from merge_advisor.evaluators.lm_eval_tasks import TaskName
    from merge_advisor.session_options import Where


_OWN_PROMPTS = "since lm-eval asks with prompts of its own"


@dataclass(frozen=True, slots=True)
class Judging:
    """How held-out rows are judged.

    >>> Judging().metric
    'auto'
    """

    metric: str = "auto"
    """"auto", "accuracy", "exact_match" or "loss"; on tasks of lm-eval any metric of theirs."""
    guard: Path | None = None
    """File of unrelated text; a merge that loses on it is ruled out."""
    limit: int | None = None
    """Documents of each task of lm-eval at most, the first ones as with lm-eval's own `--limit`."""


def models_of(session: Session, run: Run) -> list[ScoredModel]:
    """Return the models of a score table: base, each member alone, shots_lora, uniform, merge.

    Of an adapted run also the merge as it was chosen, "start"; of a tuned one the plan's own model, "plan", and where
    the plan's adaptation was left out the merge its strategy had chosen, "plan start". Shown alone are the members that
    the plan's strategy chose.

    Args:
        session: holds the pool.
        run: the run.

    Raises:
        RunError: a member is not in the pool.
    """

    def merged(recipe: Recipe) -> WeightedMerge:
        return merge_of(recipe, find_members(session.pool, session.local, run.folder, recipe))

    planned, chosen, own = run.planned or run.recipe, run.chosen, run.own_adaptation
    made = run.plan.adaptation or UNADAPTED
    # weights may be the same, and one of the two with examples in its prompt
    tuned = planned.digest != run.recipe.digest or own.prompted != made.prompted
    shown = find_members(session.pool, session.local, run.folder, chosen)
    alone = {}
    for number, member in enumerate(chosen.members):
        label = "anchor" if number == 0 else f"member {member.id}"
        alone[SHOTS_LORA if member.id == SHOTS_LORA else label] = WeightedMerge(((shown[member.id], 1.0),))
    # shots_lora is a row of every table, whether or not it is a member
    alone.setdefault(SHOTS_LORA, WeightedMerge(((find_shots_lora(run, session.local), made.shots_scale),)))
    first = merge_of(chosen, shown)
    left_out = tuned and own.start is not None and made.start is None
    final = merged(run.recipe)
    begun = merged(made.start) if made.start else final
    return [
        ScoredModel("base", BASE),
        *(ScoredModel(label, single) for label, single in alone.items()),
        ScoredModel("uniform", first.with_weights([1 / len(chosen.members)] * len(chosen.members))),
        # where nothing was trained on top, and no prompt made for it, it is the merge itself
        *([ScoredModel(START, begun)] if begun.digest != final.digest or (made.prompted and made.start) else []),
        *([ScoredModel(PLAN_START, first)] if left_out and chosen.digest != run.recipe.digest else []),
        *([ScoredModel("plan", merged(planned))] if tuned else []),
        ScoredModel("merge", final),
    ]


def score_guard(meter: MergeMeter, models: Sequence[ScoredModel], path: Path) -> GuardScore:
    """Return the loss of base and merge on unrelated text.

    Args:
        meter: puts the models on the base.
        models: with the labels "base" and "merge" among them.
        path: the guard file.

    Raises:
        TaskError: the guard file cannot be used.
    """
    texts = read_guard(path)
    # all others are there to be compared on the task
    wanted = [model for model in models if model.label in ("base", "merge")]
    if meter.crew is not None:
        told = [replace(model, merge=absolute_merge(model.merge)) for model in wanted]
        meter.have_measured([(guard_key(m, texts), GuardWork(m, texts)) for m in told], "the guard")
    losses = {model.label: guard_losses(meter, model, texts) for model in wanted}
    score: GuardScore = guard_score(losses["base"], losses["merge"])
    return score


def score_task(
    meter: MergeMeter,
    models: Sequence[ScoredModel],
    task: Task,
    *,
    metric: str,
    guard: GuardScore | None,
    adaptation: str = "none",
    prompted: Collection[str] = (),
) -> Score:
    """Return the score of one task's held-out rows, judged.

    Args:
        meter: puts the models on the base.
        models: as `models_of` gives them, the base first; the base with examples in its prompt is added here.
        task: its held-out rows are scored.
        metric: as in `Judging`.
        guard: loss on unrelated text, where it was measured.
        adaptation: how the merge of members and rows was made, see `adapted_run.way_of`.
        prompted: labels of models that have the rows learned from in their prompts, which no recipe can say.

    Raises:
        TaskError: no held-out rows.
    """
    rows = task.heldout
    if not rows:
        raise TaskError(f"task {task.name}: no held-out rows to score on; give more examples, or `heldout=FILE`")
    metric = metric_for(rows, metric)
    first, examples = 1, None
    try:
        shown = in_context(meter, task, rows, metric, FINAL)
        models, first, note = [*models[:1], shown.model, *models[1:]], 2, f"{shown.note}."
        models = [replace(m, template=shown.model.template) if m.label in prompted else m for m in models]
        examples = tuple(row.digest for row in shown.shown)
    except TaskError as error:
        alone = f"; {' and '.join(prompted)}, which has the same prompt, is without it here" if prompted else ""
        note = f"{ICL} is left out: {error}{alone}."
    table = score_models(meter, models, rows, metric, what=f"scoring {task.name}")
    if metric != "loss":
        answer = majority((*task.shots, *task.tuning))
        # of the rows learned from: that of the held-out rows would be an oracle
        table.insert(first, majority_score(rows, answer, metric, label="majority"))
    digests = tuple(row.digest for row in rows)
    verdict, reason, comparisons = judge(
        table, metric, digests, guard=guard, adaptation=adaptation, anchor=anchor_of(models)
    )
    template = meter.model.template
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
        template=template.name,
        notes=(note,),
        examples=examples,
        logs=tuple(RowLog(template.prompt(row.asked), row.output, row.choices, row.answers) for row in rows),
    )


def overall(scores: Sequence[Score]) -> tuple[Verdict, str]:
    """Return the verdict over all tasks and its reason: that of the task where the merge does worst against a rival.

    Args:
        scores: one or more.
    """
    if len(scores) == 1:
        return scores[0].verdict, scores[0].reason

    def standing(score: Score) -> float:
        return min(comparison.difference for comparison in score.comparisons)

    # one merge for several tasks is as good as where it does worst
    worst = min(scores, key=lambda score: (score.verdict == Verdict.MERGE, standing(score), score.task))
    return worst.verdict, f"{worst.task} is the worst of {len(scores)} tasks; {worst.reason}"


def score_run(
    run: str | Path,
    *,
    heldout: Sequence[Path] = (),
    lm_eval: Sequence[TaskName] = (),
    limit: int | None = None,
    guard: Path | None = None,
    metric: str = "auto",
    fields: str | None = None,
    **where: Unpack[Where],
) -> Run:
    """Return a run scored on its held-out rows, on other rows or on tasks of lm-eval; all is written into its folder.

    >>> import shutil
    >>> scored = score_run(shutil.copytree("run", "scored-run"), heldout=[Path("examples.jsonl")], metric="loss")
    >>> sorted(model.label for model in scored.scores[0].models)[:3]
    ['anchor', 'base', 'icl']

    Args:
        run: the run folder.
        heldout: task files whose rows replace the held-out rows, in the order of the run's tasks.
        lm_eval: tasks of lm-eval to score on, with its own prompts; the run's own rows are then scored only where
            `heldout` is given. Their scores are kept beside the run's own.
        limit: documents of each of these tasks at most, the first ones as with lm-eval's own `--limit`.
        guard: file of unrelated text; a merge that loses on it is ruled out.
        metric: "auto", "accuracy", "exact_match" or "loss"; with tasks of lm-eval only, any metric of theirs.
        fields: which fields of `heldout` are input, output and choices; None: as the plan read its own files.
        where: where members and base are, and how to compute, see `Where`.

    Raises:
        TaskError: no held-out rows, a file or a task of lm-eval that cannot be used.
        ExternalError: lm-eval failed.
        RunError: no run folder, another base, a member that cannot be found, or another process scores or tunes it.
    """
    check_metric(metric, lm_eval if not heldout else ())
    check_limit(limit, lm_eval)
    if guard is not None:
        read_guard(guard)  # before hours of scoring, not behind them
    check_run(Path(run))
    with run_lock(Path(run), "scores it"):
        opened, session = reopen(Path(run), **where)
        with session:
            return score_open_run(
                session, opened, Judging(metric, guard, limit), heldout=heldout, lm_eval=lm_eval,
                offline=where.get("offline", False), fields=fields,
            )  # fmt: skip


def score_open_run(
    session: Session,
    run: Run,
    judging: Judging,
    *,
    heldout: Sequence[Path] = (),
    lm_eval: Sequence[TaskName] = (),
    offline: bool = False,
    fields: str | None = None,
) -> Run:
    """Return a run scored whose base and pool are open; table, verdict and report are written into its folder.

    Args:
        session: base, pool and store.
        run: the run.
        judging: metric, guard and limit.
        heldout: as in `score_run`.
        lm_eval: as in `score_run`.
        offline: whether documents of lm-eval may not be fetched.
        fields: as in `score_run`.

    Raises:
        TaskError: as `score_run`.
        ExternalError: as `score_run`.
        RunError: a member that cannot be found, or the folder cannot be written.
    """
    from merge_advisor.advisor.runs.run_report import reports_of
    from merge_advisor.advisor.scoring.lm_eval_scoring import score_asked
    from merge_advisor.evaluators.lm_eval_tasks import load_all_tasks

    tasks, said = run.tasks, dict[str, tuple[str, ...]]()
    if heldout:
        tasks, said = _with_heldout(run.tasks, heldout, fields or run.plan.settings.fields, offline=offline)
    asked = load_all_tasks(lm_eval, offline=offline) if lm_eval else []
    models = models_of(session, run)
    guarded = score_guard(session.meter, models, judging.guard) if judging.guard else None
    scores, costs = run.scores, list[ScoringCost]()
    adaptation, labels = way_of(run), {model.label for model in models}
    asks_prompt = {"merge": run.prompted, "plan": run.own_adaptation.prompted}
    prompted = [label for label, asks in asks_prompt.items() if asks and label in labels]
    if heldout or not lm_eval:
        own = []
        for task in tasks:
            first = len(session.memo.timed)
            own.append(score_task(
                session.meter, models, task, metric=judging.metric, guard=guarded, adaptation=adaptation,
                prompted=prompted,
            ))  # fmt: skip
            costs.append(scoring_cost(session.memo, first, task.name, len(task.heldout)))
        own = [replace(score, notes=(*score.notes, *said.get(score.task, ()))) for score in own]
        scores = (*own, *(score for score in scores if score.task not in [task.name for task in tasks]))
    # by input: a document of lm-eval has the digest of no row
    seen = [row.input for task in run.tasks for row in (*task.shots, *task.tuning)]
    for other_task in asked:
        score = score_asked(
            session.meter, models, other_task, metric=judging.metric, limit=judging.limit, guard=guarded, seen=seen,
            adaptation=adaptation,
        )  # fmt: skip
        if prompted:
            score = replace(
                score, notes=(*score.notes, f"{' and '.join(prompted)}: without its examples, {_OWN_PROMPTS}.")
            )
        scores = (*(other for other in scores if other.task != other_task.name), score)
    verdict, reason = overall(scores)
    environment = run.plan.environment if not costs else replace(run.plan.environment, scoring=tuple(costs))
    plan = replace(run.plan, verdict=verdict, reason=reason, environment=environment)
    scored = replace(run, plan=plan, scores=scores, tasks=tasks)
    for number, task in enumerate(tasks):
        for own_score in (score for score in scores if score.task == task.name):
            shown = None
            if own_score.examples is not None:
                shown = with_rows(session.model.template, rows_shown(task, own_score.examples))
            write_prompt(run.folder, number, task, shown)
    write_scores(run.folder, plan, scores, reports_of(scored))
    return read_run(run.folder)


def check_metric(metric: str, lm_eval: Sequence[TaskName] = ()) -> None:
    """Refuse early a metric that rows do not have; what a task of lm-eval has is known when it has been scored.

    Args:
        metric: what the verdict rests on.
        lm_eval: the tasks of lm-eval, where only these are scored.

    Raises:
        TaskError: the metric is none of ours, and not only tasks of lm-eval are scored.
    """
    if not lm_eval and metric not in ("auto", *METRICS):
        raise TaskError(f"metric '{metric}' is unknown; choose one of: auto, {', '.join(METRICS)}")


def check_limit(limit: int | None, lm_eval: Sequence[TaskName]) -> None:
    """Refuse a limit of documents that limits nothing.

    Args:
        limit: documents at most, or None.
        lm_eval: the tasks of lm-eval.

    Raises:
        InputError: below 1, or there is no task of lm-eval.
    """
    if limit is not None and (limit < 1 or not lm_eval):
        raise InputError(f"`limit={limit}`: goes with `lm_eval`, and is at least 1")


def _with_heldout(
    tasks: Sequence[Task], paths: Sequence[Path], fields: str | None, *, offline: bool
) -> tuple[tuple[Task, ...], dict[str, tuple[str, ...]]]:
    """The tasks with the rows of other files held out, and what is to be said of these files, by task.

    Rows whose input the plan learned from, for whichever task, are dropped.
    """
    if len(paths) != len(tasks):
        raise TaskError(f"{len(paths)} held-out files for {len(tasks)} tasks; give one for each, in the run's order")
    replaced, said = [], {}
    # rows that were learned from would be scored too well
    seen = {row.plain_input for task in tasks for row in (*task.shots, *task.tuning)}
    for task, path in zip(tasks, paths, strict=True):
        labels = shared_choices((*task.shots, *task.tuning))
        file = read_rows(path, minimum=1, fields=fields, labels=labels, offline=offline)
        rows = tuple(row for row in file.rows if row.plain_input not in seen)
        if not rows:
            raise TaskError(f"{path}: every row of it was used in the plan; give rows it has not seen")
        dropped = len(file.rows) - len(rows)
        notes = [f"{file.name}: rows not scored, as the plan learned from them: {dropped}"] if dropped else []
        said[task.name] = tuple(f"{note}." for note in (file.understood, *file.notes, *notes))
        replaced.append(replace(task, heldout=rows))
    return tuple(replaced), said
