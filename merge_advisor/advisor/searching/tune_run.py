"""`tune`: search the weights of a run's members, and write the recipe that holds up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.adapt.continuing import is_sum
from merge_advisor.advisor.measuring.deltas import take_deltas
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.runs.adapted_run import why_not_adapted
from merge_advisor.advisor.runs.prompt_folder import prompt_files, write_planned_prompt
from merge_advisor.advisor.runs.reopening import find_candidates, find_members, find_shots_lora
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.advisor.runs.tuned_folder import TunedValues, tuned_folder
from merge_advisor.advisor.searching.problem import MergeProblem, TaskDelta, make_problem, on_rows
from merge_advisor.advisor.searching.tune_report import tuning_report
from merge_advisor.advisor.searching.tuned_model import adapted_model, merge_at, unadapted_model
from merge_advisor.advisor.searching.tuning_rows import TuningRows, tuning_rows
from merge_advisor.errors import RunError, SpecError
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.json_form import digest_of
from merge_advisor.options import DEFAULT_TRIALS, TuneOptions
from merge_advisor.progress import Progress
from merge_advisor.tuning import Point, SearchSpace, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import PENALISED, WorstGoal, goal_named
from merge_advisor.tuning.lock import run_lock
from merge_advisor.tuning.settings import Budget, SearchResult, SearchSettings, start_points
from merge_advisor.tuning.shared_search import search_shared
from merge_advisor.tuning.study import StudyPlace
from merge_advisor.tuning.winner import START_LABELS, Winner, choose_winner
from merge_advisor.types import Recipe, Row

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.memo import Memo
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.tuning import Goal, Sampler
    from merge_advisor.tuning.settings import SearchProgress

STUDY = "study.sqlite"
JUDGED = 3
"""Merges a search without rows (objective `delta`) passes on to be judged on rows, beside the starts."""


def budget_of(options: TuneOptions) -> Budget:
    """Return the limits of a search; `DEFAULT_TRIALS` trials where there are none.

    >>> budget_of(TuneOptions()).trials, budget_of(TuneOptions(minutes=2)).seconds
    (40, 120)

    Args:
        options: of the search.

    Raises:
        InputError: one that is not above 0.
    """
    seconds = None if options.minutes is None else 60 * options.minutes
    none = options.trials is None and options.forwards is None and seconds is None
    return Budget(DEFAULT_TRIALS if none else options.trials, options.forwards, seconds)


def tune_open_run(session: Session, run: Run, options: TuneOptions, *, guard: Path | None = None) -> Run:
    """Return a run tuned: merges of its members searched on its choosing rows, the winner written as its recipe.

    The study stays in the run folder: called again it goes on, and a search that was killed ends as if it had not been.
    The run's adaptation then begins anew from the merge that was found; the plan's model stays unless it is better. The
    plan's own recipe and formats are kept under `plan/`; scores of the recipe before are taken away.

    Args:
        session: the run's base, pool and store.
        run: the run.
        options: sampler, objective, budget and the rest.
        guard: file of unrelated text that a tuned merge must not get worse on.

    Raises:
        RunError: a member, an adaptation or a study that cannot be used, or another process tunes the run.
        InputError: a budget of nothing, rows that cannot be tuned on.
        SpecError: a sampler, objective, goal or space that cannot be.
    """
    spec = adaptation_of(run, options)
    chosen = run.chosen
    members = find_members(session.pool, session.local, run.folder, chosen)
    if spec != "none":
        find_candidates(session.pool, run)  # refuses a pool that lacks one, before an hour of searching
    candidates = [members[member.id] for member in chosen.members]
    rows = tuning_rows(run, options.seed)
    chosen_by = loss_kind_of(rows.search, run.plan.settings.choose_by)
    options = settled_options(options, chosen_by)
    texts = read_guard(guard) if guard else ()
    problem = make_problem(
        session.meter, candidates, rows.search, rows.tasks, options.objective, guard=texts,
        task=_task_delta(session.meter, run) if options.objective == "delta" else None,
    )  # fmt: skip
    goal = goal_named(options.goal, problem.tasks)
    study = _study_place(run.folder, session.memo, chosen, options, rows, texts)
    result = _search(problem, chosen, options, goal, study, session.model.progress)
    judge, trials = problem, list(result.trials)
    if options.objective == "delta":  # a distance of deltas says nothing about rows: the best few are judged by loss
        judge = make_problem(session.meter, candidates, rows.search, rows.tasks, chosen_by, guard=texts)
        trials = _judged(trials, judge)
    worst = isinstance(goal, WorstGoal)
    winner = winner_of(trials, judge, rows.kept, rows.kept_tasks, seed=options.seed, worst=worst)
    merge = merge_at(winner.point, candidates)
    if spec == "none":
        model = unadapted_model(session, run, merge)
    else:
        model = adapted_model(session, run, merge, spec, worst=worst)
    if model.outcome is not None and not model.outcome.tuned:
        winner = plan_stays(trials, winner)
    report = tuning_report(run, options, result, winner, judge, rows, model)
    values = TunedValues(model.recipe, model.carried.rank_error, model.adaptation, report)
    # of processes that share a search in one run folder, one after the other; who tunes alone has the lock all along
    with run_lock(run.folder, "writes a tuned recipe", wait=True) if options.share else nullcontext():
        if model.adaptation.prompted and not prompt_files(run):
            write_planned_prompt(session.meter, run.tasks[0], run.folder)
        with tuned_folder(run, values) as staged:
            model.write(session, staged)
        return read_run(run.folder)


def adaptation_of(run: Run, options: TuneOptions) -> str:
    """Return the spec of the adaptation that begins anew from the tuned merge of a run: the run's own by default.

    Args:
        run: the run.
        options: of the search.

    Raises:
        RunError: there is nothing for a tuned merge to change, or nothing that could judge it.
        SpecError: no such adaptation, or one that cannot go on from what the search may try.
    """
    spec = run.own_adaptation.asked if options.adaptation is None else options.adaptation
    if registry.build("adaptation", spec).name == "none":
        return "none"
    if reason := why_not_adapted(run, spec):
        raise RunError(f"{run.folder}: {reason}")
    for composition in options.compositions:
        if not is_sum(composition):
            raise SpecError(
                f"`compositions={composition}`: is no plain sum, so no adapter trained on top can be a member; leave "
                "it out, or give `adaptation=none`"
            )
    if options.layers:
        raise SpecError(
            f"`layers={options.layers}`: an adapter trained on top would get the factors of the layers too; leave it "
            "out, or give `adaptation=none`"
        )
    return spec


def plan_stays(trials: Sequence[Trial], winner: Winner) -> Winner:
    """Return the outcome of a search whose winner made no better model than the plan's: the plan itself.

    Args:
        trials: of the search, with their losses on the tuning rows.
        winner: what the search ended in.
    """
    plan = next(trial for trial in trials if trial.label == "plan")
    losses = tuple(loss for loss in plan.losses if loss is not None)
    return replace(
        winner, point=plan.point, label="plan", share=0.0, reference="plan", reference_losses=losses, losses=losses
    )


def _search(
    problem: MergeProblem, chosen: Recipe, options: TuneOptions, goal: Goal, study: StudyPlace, progress: Progress
) -> SearchResult:
    """The search itself, with what the options say of it."""
    sampler: Sampler = registry.build("sampler", options.sampler)
    space = search_space(chosen, options, smooth=problem.smooth)
    settings = SearchSettings(
        goal, budget_of(options), options.seed, start_points(space, len(problem.members)),
        guard=len(problem.guard_texts) or None,
    )  # fmt: skip
    searching = search_shared if study.share else search
    return searching(problem, space, sampler, settings, study=study, progress=_reporting(progress))


def settled_options(options: TuneOptions, chosen_by: str) -> TuneOptions:
    """Return the options with what "auto" and LoraHub's objectives stand for; these are the loss, with a penalty.

    Args:
        options: of the search.
        chosen_by: the loss that the plan was chosen by.

    Raises:
        SpecError: a goal beside an objective that is one of its own.
    """
    if options.objective in PENALISED:
        if options.goal not in ("mean", options.objective):
            raise SpecError(f"objective '{options.objective}' is a goal of its own; leave `goal={options.goal}` out")
        return replace(options, objective="loss", goal=options.objective)
    if options.objective == "auto":
        return replace(options, objective="loss" if options.goal in PENALISED else chosen_by)
    return options


def winner_of(
    trials: Sequence[Trial],
    judge: MergeProblem,
    kept: Sequence[Row],
    kept_tasks: Sequence[int],
    *,
    seed: int,
    worst: bool = False,
) -> Winner:
    """Return what a search ends in: judged on the rows of `judge`, confirmed on rows kept aside where there are any.

    Args:
        trials: of the search, with their losses on the rows of `judge`.
        judge: measures merges on these rows.
        kept: rows kept aside.
        kept_tasks: the task each of them belongs to.
        seed: of the rule for the winner.
        worst: whether the goal is the worst task's loss.

    Raises:
        TaskError: no start has a finite loss on all rows.
    """
    confirming = on_rows(judge, kept, kept_tasks) if kept else None
    return choose_winner(
        trials, judge.tasks, lambda point: judge.losses(point, range(len(judge.rows))), seed=seed,
        confirm=(lambda point: confirming.losses(point, range(len(kept)))) if confirming else None,
        worst=worst, unit=judge.unit,
    )  # fmt: skip


def search_space(chosen: Recipe, options: TuneOptions, *, smooth: bool) -> SearchSpace:
    """Return what is varied, around the merge that the plan's strategy chose.

    Args:
        chosen: its recipe.
        options: bounds, compositions, layer groups and the rest.
        smooth: whether the problem has gradients.
    """
    start = Point(tuple(member.weight for member in chosen.members), chosen.composition, chosen.layers)
    compositions = tuple(dict.fromkeys((chosen.composition, *options.compositions))) if options.compositions else ()
    return SearchSpace(
        start=start, bounds=options.bounds, scale=options.scale, compositions=compositions, members=options.drop,
        density=options.density, layers=options.layers, smooth=smooth,
    )  # fmt: skip


def _task_delta(meter: MergeMeter, run: Run) -> TaskDelta:
    """The delta of the run's `shots_lora`."""
    lora = find_shots_lora(run, meter.model.local, of_plan=True)
    embedding = run.plan.settings.embedding
    embedded = take_deltas(meter, embedding, [lora])
    if embedded.refused:
        raise SpecError(f"objective 'delta': {embedded.refused[0].reason}; choose `objective='loss'`")
    return TaskDelta(embedded.deltas.array[0], embedding)


def _study_place(
    folder: Path, memo: Memo, chosen: Recipe, options: TuneOptions, rows: TuningRows, texts: Sequence[str]
) -> StudyPlace:
    """Where the study is, and what it must have been made for."""
    made_for = {
        "task rows": digest_of([[row.digest for row in part] for part in (rows.search, rows.kept)]),
        "plan": chosen.digest,
        "objective": options.objective,
        "base, template or dtype": digest_of(memo.context),
        "guard file": digest_of(list(texts)),
    }
    # a storage of several runs needs a name for each of its studies
    name = f"merge-advisor {chosen.digest[:12]}" if options.storage else "tune"
    return StudyPlace(options.storage or folder / STUDY, made_for, name=name, force=options.force, share=options.share)


def _reporting(progress: Progress) -> SearchProgress:
    """The search's progress, in the words of the command line."""

    def report(done: int, total: int | None, best: float | None, left: float | None) -> None:
        text = "tuning" if best is None else f"tuning, best {best:.4f}"
        text += f", {left:.0f} s left" if left is not None and total is None else ""
        progress(text, done, total or 0)

    return report


def _judged(trials: Sequence[Trial], judge: MergeProblem) -> list[Trial]:
    """The starts and the best few trials of a search without rows, with their losses on the rows."""
    able = [trial for trial in trials if trial.whole and math.isfinite(trial.values[0])]
    best = sorted((t for t in able if t.label not in START_LABELS), key=lambda t: (t.values[0], t.number))[:JUDGED]
    # in the order of the trials: ties go to the earlier one
    chosen = [trial for trial in trials if trial.label in START_LABELS or trial in best]
    return [replace(t, losses=tuple(judge.losses(t.point, range(len(judge.rows))))) for t in chosen]
