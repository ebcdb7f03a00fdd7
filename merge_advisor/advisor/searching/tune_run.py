"""`tune`: search the weights of a run's members, and write the recipe that holds up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import loss_kind_of, shots_candidate, take_deltas
from merge_advisor.advisor.measuring.session import Session
from merge_advisor.advisor.merging import find_members, merged_delta, reopen, with_rank, write_formats
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.advisor.runs.tuned_folder import tuned_folder
from merge_advisor.advisor.searching.problem import MergeProblem, make_problem, on_rows
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.options import DEFAULT_TRIALS, TuneOptions, Where
from merge_advisor.progress import Progress
from merge_advisor.report.values import Side, TrialReport, TuningReport
from merge_advisor.statistics import paired_interval
from merge_advisor.tuning import Point, SearchSpace, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import PENALISED, WorstGoal, goal_named
from merge_advisor.tuning.settings import Budget, SearchSettings, start_points
from merge_advisor.tuning.study import StudyPlace
from merge_advisor.tuning.winner import START_LABELS, Winner, choose_winner, confirmation_rows
from merge_advisor.types import SHOTS_LORA, Candidate, Recipe, RecipeMember, Row, digest_of
from merge_advisor.weights.adapter import read_adapter

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.tuning import Sampler
    from merge_advisor.tuning.settings import SearchProgress

STUDY = "study.sqlite"
JUDGED = 3
"""Merges a search without rows (objective `delta`) passes on to be judged on rows, beside the starts."""


def budget_of(options: TuneOptions) -> Budget:
    """Return the limits of a search; `DEFAULT_TRIALS` trials where there are none.

    Raises:
        InputError: one that is not above 0.
    """
    seconds = None if options.minutes is None else 60 * options.minutes
    none = options.trials is None and options.forwards is None and seconds is None
    return Budget(DEFAULT_TRIALS if none else options.trials, options.forwards, seconds)


@dataclass(frozen=True, slots=True)
class TuningRows:
    """The choosing rows of a run: those the search sees, and those kept from it to confirm what it found."""

    search: tuple[Row, ...]
    tasks: tuple[int, ...]
    """The task of each row of `search`."""
    kept: tuple[Row, ...]
    kept_tasks: tuple[int, ...]


def tune_run(
    folder: Path,
    options: TuneOptions | None = None,
    *,
    guard: Path | None = None,
    **where: Unpack[Where],
) -> Run:
    """Search merges of a run's members on its choosing rows and write the winner as the run's recipe.

    The study stays in the run folder: called again it goes on, and a search that was killed ends as if it had not been.
    The plan's own recipe and formats are kept under `plan/`; scores of the recipe before are taken away.

    Args:
        folder: the run folder.
        options: sampler, objective, budget and the rest.
        guard: file of unrelated text that a tuned merge must not get worse on.
        where: where members and base are, and where to compute.

    Raises:
        RunError: no run folder, another base, a member or a study that cannot be used, or another process tunes it.
        InputError: a budget of nothing, rows that cannot be tuned on.
        SpecError: a sampler, objective, goal or space that cannot be.
    """
    options = options or TuneOptions()
    budget = budget_of(options)
    sampler: Sampler = registry.build("sampler", options.sampler)
    run, session = reopen(folder, **where)
    with session:
        planned = run.planned or run.recipe
        members = find_members(session, replace(run, recipe=planned))
        candidates = [members[member.id] for member in planned.members]
        rows = tuning_rows(run, options.seed)
        chosen_by = loss_kind_of(rows.search, run.plan.settings.choose_by)
        options = _settled(options, chosen_by)
        texts = read_guard(guard) if guard else ()
        problem = make_problem(
            session, candidates, rows.search, rows.tasks, options.objective, guard=texts,
            task=_task_delta(session, run) if options.objective == "delta" else None,
        )  # fmt: skip
        goal = goal_named(options.goal, problem.tasks)
        space = search_space(planned, options, smooth=problem.smooth)
        found = search(
            problem, space, sampler,
            SearchSettings(
                goal, budget, options.seed, starts=start_points(space, len(candidates)), guard=len(texts) or None
            ),
            study=_study_place(folder, session, planned, options, rows, texts), progress=_telling(session.progress),
        )  # fmt: skip
        judge, trials = problem, list(found.trials)
        if options.objective == "delta":
            judge = make_problem(session, candidates, rows.search, rows.tasks, chosen_by, guard=texts)
            trials = _judged(trials, judge)
        winner = winner_of(
            trials, judge, rows.kept, rows.kept_tasks, seed=options.seed, worst=isinstance(goal, WorstGoal)
        )  # fmt: skip
        recipe = tuned_recipe(session, planned, winner.point, members)
        report = _report(run, planned, options, found.trials, found.stopped, winner, judge, rows)
        merged, error = merged_delta(session, recipe, members)
        with tuned_folder(folder, run, recipe, error, report) as staged:
            write_formats(session, recipe, members, merged, staged, error=error)
    return read_run(folder)


def _settled(options: TuneOptions, chosen_by: str) -> TuneOptions:
    """The options with what "auto" and LoraHub's objectives stand for; these are the loss, with a penalty as goal."""
    if options.objective in PENALISED:
        if options.goal not in ("mean", options.objective):
            raise SpecError(f"objective '{options.objective}' is a goal of its own; leave --goal {options.goal} out")
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
    """What a search ends in: judged on the rows of `judge`, confirmed on rows kept aside where there are any.

    Args:
        trials: of the search, with their losses on the rows of `judge`.
        judge: measures merges on these rows.
        kept: rows kept aside.
        kept_tasks: the task each of them belongs to.
        seed: of the rule for the winner.
        worst: whether the goal is the worst task's loss.
    """
    confirming = on_rows(judge, kept, kept_tasks) if kept else None
    return choose_winner(
        trials, judge.tasks, lambda point: judge.losses(point, range(len(judge.rows))), seed=seed,
        confirm=(lambda point: confirming.losses(point, range(len(kept)))) if confirming else None,
        worst=worst, unit=judge.unit,
    )  # fmt: skip


def tuning_rows(run: Run, seed: int) -> TuningRows:
    """The choosing rows of all tasks (the tuning rows alone where `shots_lora`, finetuned on the shots, is a member).

    Some are kept aside where there are many.

    Raises:
        TaskError: one row in all, on which nothing can be told apart.
    """
    members = [member.id for member in (run.planned or run.recipe).members]
    pairs = [(row, number) for number, task in enumerate(run.tasks) for row in task.choosing_among(members)]
    if len(pairs) < 2:
        raise TaskError(f"{run.folder}: one row to tune on tells nothing; plan with more examples, or --tuning N")
    kept = confirmation_rows([task for _, task in pairs], seed)
    used = [place for place in range(len(pairs)) if place not in kept]
    return TuningRows(
        search=tuple(pairs[place][0] for place in used),
        tasks=tuple(pairs[place][1] for place in used),
        kept=tuple(pairs[place][0] for place in kept),
        kept_tasks=tuple(pairs[place][1] for place in kept),
    )


def search_space(planned: Recipe, options: TuneOptions, *, smooth: bool) -> SearchSpace:
    """What is varied, around the planned merge."""
    start = Point(tuple(member.weight for member in planned.members), planned.composition, planned.layers)
    compositions = tuple(dict.fromkeys((planned.composition, *options.compositions))) if options.compositions else ()
    return SearchSpace(
        start=start, bounds=options.bounds, scale=options.scale, compositions=compositions, members=options.drop,
        density=options.density, layers=options.layers, smooth=smooth,
    )  # fmt: skip


def tuned_recipe(session: Session, planned: Recipe, point: Point, members: Mapping[str, Candidate]) -> Recipe:
    """The plan's recipe with a point's weights; members of weight 0 leave it, unless that leaves nobody."""
    pairs = list(zip(planned.members, point.weights, strict=True))
    kept = [pair for pair in pairs if pair[1]] or pairs
    recipe = replace(
        planned,
        composition=point.composition,
        layers=point.layers if any(factor != 1 for factor in point.layers) else (),
        members=tuple(
            RecipeMember(m.id, m.fingerprint, m.kind, m.source, m.revision, float(weight)) for m, weight in kept
        ),
    )  # fmt: skip
    return with_rank(session, recipe, members, planned.rank)


def _task_delta(session: Session, run: Run) -> Float32Array:
    """(d,) the delta of the run's `shots_lora`."""
    folder = run.folder / SHOTS_LORA
    lora = shots_candidate(folder, read_adapter(folder, session.local.shapes), 0)
    deltas, _, refused = take_deltas(session, run.plan.settings.embedding, [lora])
    if refused:
        raise SpecError(f"objective 'delta': {refused[0].reason}; choose --objective loss")
    delta: Float32Array = deltas.array[0]
    return delta


def _study_place(
    folder: Path, session: Session, planned: Recipe, options: TuneOptions, rows: TuningRows, texts: Sequence[str]
) -> StudyPlace:
    """Where the study is, and what it must have been made for."""
    made_for = {
        "task rows": digest_of([[row.digest for row in part] for part in (rows.search, rows.kept)]),
        "plan": planned.digest,
        "objective": options.objective,
        "base, template or dtype": digest_of(session.key),
        "guard file": digest_of(list(texts)),
    }
    name = f"merge-advisor {planned.digest[:12]}" if options.storage else "tune"
    return StudyPlace(options.storage or folder / STUDY, made_for, name=name, force=options.force)


def _telling(progress: Progress) -> SearchProgress:
    """The search's progress, told as the command line tells it."""

    def tell(done: int, total: int | None, best: float | None, left: float | None) -> None:
        told = "tuning" if best is None else f"tuning, best {best:.4f}"
        told += f", {left:.0f} s left" if left is not None and total is None else ""
        progress(told, done, total or 0)

    return tell


def _judged(trials: Sequence[Trial], judge: MergeProblem) -> list[Trial]:
    """The starts and the best few trials of a search without rows, with their losses on the rows."""
    able = [trial for trial in trials if trial.whole and math.isfinite(trial.values[0])]
    best = sorted((t for t in able if t.label not in START_LABELS), key=lambda t: (t.values[0], t.number))[:JUDGED]
    chosen = [trial for trial in trials if trial.label in START_LABELS or trial in best]
    return [replace(t, losses=tuple(judge.losses(t.point, range(len(judge.rows))))) for t in chosen]


def _report(
    run: Run,
    planned: Recipe,
    options: TuneOptions,
    trials: Sequence[Trial],
    stopped: str,
    winner: Winner,
    judge: MergeProblem,
    rows: TuningRows,
) -> TuningReport:
    told = [
        TrialReport(t.number, t.label, _plain(t.values), t.point.weights, t.point.composition, t.whole, t.forwards)
        for t in trials
    ]
    number = next((trial.number for trial in trials if trial.point == winner.point), len(trials))
    if number == len(trials):  # a point on the way, measured in the end
        cost = len(rows.search) * judge.forwards
        label = f"{winner.share:.0%} of the way from {winner.reference}"
        mean = math.fsum(winner.losses) / len(winner.losses)
        point = winner.point
        told.append(TrialReport(number, label, (mean,), point.weights, point.composition, True, cost))
    notes = [winner.reason, f"the search ended: {stopped}"]
    if winner.gain is not None:
        notes.append(
            f"cross-validated gain of the search over the best start: {winner.gain.mean:+.3f} {judge.unit} "
            f"({winner.gain.lower:+.3f} to {winner.gain.upper:+.3f})"
        )
    counted = "nats per token" if judge.unit == "nats" else judge.unit
    return TuningReport(
        sampler=options.sampler,
        goal=f"{options.goal} over {len(rows.search)} tuning rows of {options.objective} ({counted})",
        members=tuple(member.id for member in planned.members),
        planned=tuple(member.weight for member in planned.members),
        trials=tuple(told),
        winner=number,
        reference=winner.reference,
        sides=tuple(_sides(run, winner, judge, rows)),
        tasks=tuple(task.name for task in run.tasks) if len(run.tasks) > 1 else (),
        notes=tuple(notes),
    )


def _sides(run: Run, winner: Winner, judge: MergeProblem, rows: TuningRows) -> list[Side]:
    """Reference and winner on the tuning rows of each task, and on those kept aside."""
    found = []
    for number, task in enumerate(run.tasks):
        places = [place for place, of in enumerate(rows.tasks) if of == number]
        if not places:
            continue
        before, after = ([losses[place] for place in places] for losses in (winner.reference_losses, winner.losses))
        gains = [one - other for one, other in zip(before, after, strict=True)]
        told = paired_interval(gains) if len(gains) > 1 and any(gains) else None
        found.append(
            Side(
                task.name,
                "tuning",
                {"nats": "loss", "nats a row": "choice loss"}.get(judge.unit, judge.unit),
                len(places),
                math.fsum(before) / len(before),
                math.fsum(after) / len(after),
                None if told is None else told.lower,
                None if told is None else told.upper,
            )
        )
    return found


def _plain(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values)
