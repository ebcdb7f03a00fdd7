"""`tune`: search the weights of a run's members, and write the recipe that holds up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.merging import find_members, merged_delta, reopen, stage_formats
from merge_advisor.advisor.objectives import make_problem, unit_of
from merge_advisor.advisor.problem import RowLoss
from merge_advisor.advisor.runfolder import Run, read_run, write_tuned
from merge_advisor.advisor.session import Machine, Progress, quiet_progress
from merge_advisor.compose.truncate import DEFAULT_RANK
from merge_advisor.errors import TaskError
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.tune import Point, SearchSpace
from merge_advisor.tune.coordinator import Budget, search, starts
from merge_advisor.tune.goals import Worst, named
from merge_advisor.tune.study import Keep
from merge_advisor.tune.winner import aside, choose
from merge_advisor.types import Candidate, Recipe, RecipeMember, Row, digest_of

if TYPE_CHECKING:
    from merge_advisor.tune import Sampler

STUDY = "study.sqlite"
DEFAULT_TRIALS = 40
"""LoraHub's number of steps."""
GUARD_ALLOWED = 0.02
"""Nats per token that a tuned merge may lose on the guard's texts."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What `tune` may be told; every field has the default of the command line."""

    trials: int | None = None
    forwards: int | None = None
    minutes: float | None = None
    sampler: str = "auto"
    objective: str = "loss"
    """"loss", "accuracy", "delta", or "lm-eval:METRIC"."""
    goal: str = "mean"
    """"mean", "worst", "pareto", "lorahub" or "lorahub-clean"."""
    bounds: tuple[float, float] = (-1.5, 1.5)
    scale: tuple[float, float] | None = None
    compositions: tuple[str, ...] = ()
    drop: bool = False
    """Whether members may be left out."""
    density: tuple[float, float] | None = None
    layers: int = 0
    seed: int = 0
    storage: str | None = None
    """Optuna storage URL; None: an SQLite file in the run folder."""
    force: bool = False
    """Begin the study anew."""

    @property
    def budget(self) -> Budget:
        """The limits; `DEFAULT_TRIALS` where there are none.

        Raises:
            InputError: one that is not above 0.
        """
        seconds = None if self.minutes is None else 60 * self.minutes
        none = self.trials is None and self.forwards is None and seconds is None
        return Budget(DEFAULT_TRIALS if none else self.trials, self.forwards, seconds)


def tune_run(
    folder: Path,
    options: TuneOptions | None = None,
    *,
    guard: Path | None = None,
    pool: str | Path | None = None,
    base: str | None = None,
    offline: bool = False,
    cache: Path | None = None,
    store: Path | None = None,
    machine: Machine | None = None,
    progress: Progress = quiet_progress,
) -> Run:
    """Search merges of a run's members on its choosing rows and write the winner as the run's recipe.

    The study stays in the run folder: called again, it goes on, and a search that was killed ends as if it had not
    been. The plan's own recipe and formats are kept under `plan/`; scores made before are taken away.

    Args:
        folder: the run folder.
        options: sampler, objective, budget and the rest.
        guard: file of unrelated text that a tuned merge must not get worse on.
        pool: where the members are, if not where the plan found them.
        base: where the base is, if not where the plan found it.
        offline: never fetch.
        cache: folder for stores and fetched models.
        store: the store's file, if not in the cache.
        machine: where to compute.
        progress: called as work goes on.

    Raises:
        RunError: no run folder, another base, a member or a study that cannot be used, or another process tunes it.
        InputError: a budget of nothing, rows that cannot be tuned on.
        SpecError: a sampler, objective, goal or space that cannot be.
    """
    options = options or TuneOptions()
    budget = options.budget
    sampler: Sampler = registry.build("sampler", options.sampler)
    run, session = reopen(
        folder, pool=pool, base=base, offline=offline, cache=cache, store=store, machine=machine, progress=progress
    )
    with session:
        planned = run.planned or run.recipe
        members = find_members(session, replace(run, recipe=planned))
        candidates = [members[member.id] for member in planned.members]
        rows, tasks = choosing_rows(run)
        goal = named(options.goal, tasks)
        kept = aside(tasks, options.seed)
        used = [row for row in range(len(rows)) if row not in kept]
        problem = make_problem(
            session, run, candidates, [rows[i] for i in used], tuple(tasks[i] for i in used), options.objective,
            guard=read_guard(guard) if guard else (),
        )  # fmt: skip
        space = space_of(planned, options)
        study = Keep(
            options.storage or folder / STUDY,
            {"task rows": digest_of([row.digest for row in rows]), "members": digest_of(planned),
             "objective": options.objective, "measured with": digest_of(session.key)},
            name=f"tune {run.plan.recipe_digest[:12]}" if options.storage else "tune",
            force=options.force,
        )  # fmt: skip
        found = search(
            problem, space, sampler, goal=goal, budget=budget, seed=options.seed,
            starts=starts(space, len(candidates)), keep=study,
            guard=2 * len(problem.guard_texts) if isinstance(problem, RowLoss) and guard else None,
            progress=_telling(progress),
        )  # fmt: skip
        everything = tuple(range(len(problem.tasks)))
        confirming = replace_rows(problem, [rows[i] for i in kept], [tasks[i] for i in kept]) if kept else None
        winner = choose(
            found.trials, problem.tasks, lambda point: problem.losses(point, everything), seed=options.seed,
            confirm=None if confirming is None else lambda point: confirming.losses(point, range(len(kept))),
            worst=isinstance(goal, Worst), unit=unit_of(options.objective),
        )  # fmt: skip
        recipe = tuned_recipe(planned, winner.point, members)
        report = _report(run, options, found, winner, problem)
        merged, error = merged_delta(session, recipe, members)
        with stage_formats(session, recipe, members, merged, folder) as staged:
            write_tuned(folder, run, recipe, error, report, staged)
    return read_run(folder)


def choosing_rows(run: Run) -> tuple[list[Row], list[int]]:
    """The choosing rows of all tasks, and the task each belongs to.

    Raises:
        TaskError: one row in all, on which nothing can be told apart.
    """
    rows = [(row, number) for number, task in enumerate(run.tasks) for row in task.choosing]
    if len(rows) < 2:
        raise TaskError(f"{run.folder}: one row to tune on tells nothing; plan with more examples, or --tuning N")
    return [row for row, _ in rows], [number for _, number in rows]


def space_of(planned: Recipe, options: TuneOptions) -> SearchSpace:
    """What is varied, around the planned merge."""
    start = Point(tuple(member.weight for member in planned.members), planned.composition, planned.layers)
    compositions = tuple(dict.fromkeys((planned.composition, *options.compositions))) if options.compositions else ()
    return SearchSpace(
        start=start, bounds=options.bounds, scale=options.scale, compositions=compositions, members=options.drop,
        density=options.density, layers=options.layers,
    )  # fmt: skip


def tuned_recipe(planned: Recipe, point: Point, members: dict[str, Candidate]) -> Recipe:
    """The plan's recipe with a point's weights; members of weight 0 leave it, and the base alone keeps them at 0."""
    kept = [(m, w) for m, w in zip(planned.members, point.weights, strict=True) if w] or [
        (m, 0.0) for m in planned.members
    ]
    ranks = [members[member.id].rank for member, _ in kept]
    whole = max(ranks) if point.composition.startswith("lorahub") else sum(ranks)
    limit = planned.rank or DEFAULT_RANK
    return replace(
        planned,
        composition=point.composition,
        layers=point.layers if any(factor != 1 for factor in point.layers) else (),
        rank=limit if whole > limit else None,
        members=tuple(
            RecipeMember(m.id, m.fingerprint, m.kind, m.source, m.revision, float(w)) for m, w in kept
        ),
    )  # fmt: skip
