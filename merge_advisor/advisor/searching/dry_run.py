"""`tune --dry-run`: what would be done, and what it costs in forward passes; nothing is written or loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.measuring.adapting import adaptation_passes
from merge_advisor.advisor.measuring.dry_runs import dry_run_line, model_copies
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.session import default_cache
from merge_advisor.advisor.runs.reopening import find_candidates, find_members, reopen
from merge_advisor.advisor.searching.problem import TaskDelta, make_problem
from merge_advisor.advisor.searching.tune_run import JUDGED, adaptation_of, budget_of, settled_options
from merge_advisor.advisor.searching.tuning_rows import tuning_rows
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.options import FinetuneSettings
from merge_advisor.tuning.goals import goal_named
from merge_advisor.tuning.samplers.gradient import deal_rows
from merge_advisor.tuning.winner import START_LABELS
from merge_advisor.types import BACKWARD

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.advisor.searching.problem import MergeProblem
    from merge_advisor.advisor.searching.tuning_rows import TuningRows
    from merge_advisor.options import TuneOptions
    from merge_advisor.session_options import Where
    from merge_advisor.tuning.settings import Budget


def describe_tune(
    run: str | Path, *, options: TuneOptions, scored: bool = True, guard: Path | None = None, **where: Unpack[Where]
) -> dict[str, Any]:
    """Read a run folder and the headers of its models, and say what `tune` would do.

    >>> from merge_advisor.options import TuneOptions
    >>> told = describe_tune("run", options=TuneOptions(trials=10))
    >>> list(told["passes"]), told["adaptation"]
    (['search, at most', 'score, at most'], 'none')

    Args:
        run: the run folder.
        options: of the search.
        scored: whether held-out rows are scored afterwards, where there are any.
        guard: file of unrelated text.
        where: where members and base are, and how to compute, see `Where`.

    Returns:
        rows, adaptation, passes by step (the search's are missing where minutes alone limit it), and the same as
        `lines` of text.

    Raises:
        MergeAdvisorError: whatever `tune` itself would refuse before it measures.
    """
    budget = budget_of(options)
    registry.build("sampler", options.sampler)
    cache = where.get("cache") or default_cache()
    before = model_copies(cache)
    opened, session = reopen(Path(run), dry=True, **where)
    with session:
        spec = adaptation_of(opened, options)
        members = find_members(session.pool, session.local, opened.folder, opened.chosen)
        if spec != "none":
            find_candidates(session.pool, opened)  # refuses a pool that lacks one
        rows = tuning_rows(opened, options.seed)
        options = settled_options(options, loss_kind_of(rows.search, opened.plan.settings.choose_by))
        texts = read_guard(guard) if guard else ()
        # a stand-in for the task's delta: nothing is measured, and the embedding says what one costs
        delta = TaskDelta(np.ones(1, np.float32), opened.plan.settings.embedding)
        candidates = [members[member.id] for member in opened.chosen.members]
        problem = make_problem(
            session.meter, candidates, rows.search, rows.tasks, options.objective, guard=texts, task=delta
        )
    goal_named(options.goal, problem.tasks)
    passes = {}
    if (search := _search_passes(problem, rows, options, budget, len(texts))) is not None:
        passes["search, at most"] = search
    if spec != "none":
        passes["adapt, at most"] = _adapting_passes(opened, spec)
    if scored and all(task.heldout for task in opened.tasks):
        passes["score, at most"] = _scored_models(opened, spec) * sum(len(task.heldout) for task in opened.tasks)
    counts = f"{len(candidates)} members, {len(rows.search)} rows to search on, {len(rows.kept)} kept aside"
    limits = {"trials": budget.trials, "forward passes": budget.forwards, "seconds": budget.seconds}
    most = ", ".join(f"{limit:g} {name}" for name, limit in limits.items() if limit is not None)
    lines = [
        f"run {opened.folder}: {counts}",
        f"sampler {options.sampler}: at most {most}",
        *([] if spec == "none" else [f"adaptation {spec}, begun anew from the merge that is found"]),
        *(f"{step}: {count} forward passes of one row" for step, count in passes.items()),
        dry_run_line(cache, before),
    ]
    return {"rows": len(rows.search), "adaptation": spec, "passes": passes, "lines": lines}


def _search_passes(
    problem: MergeProblem, rows: TuningRows, options: TuneOptions, budget: Budget, texts: int
) -> int | None:
    """What the search takes at most, with what confirms and judges its end; None where time alone limits it."""
    n = len(rows.search)
    judged = (JUDGED + len(START_LABELS)) * n if options.objective == "delta" else 0
    # the point on the way to the best trial, and on rows kept aside reference and winner
    ending = n * (1 if options.objective == "delta" else problem.forwards) + 2 * len(rows.kept) + judged
    slopes = 0
    if problem.smooth and options.sampler.partition(":")[0].strip() in ("auto", "gradient"):
        slopes = (BACKWARD - 1) * max(len(part.rows) for part in deal_rows(problem.tasks, options.seed))
    each = (len(problem.tasks) + slopes) * problem.forwards + texts
    counts = [budget.forwards, None if budget.trials is None else budget.trials * each + texts]
    known = [count for count in counts if count is not None]
    return min(known) + ending if known else None


def _adapting_passes(run: Run, spec: str) -> int:
    """What the adaptation takes at most; of a plan that trained nothing the loss of its merge on the rows as well."""
    if spec == "none":
        return 0
    settings = FinetuneSettings(**run.plan.settings.finetune)  # type: ignore[arg-type]  # they were made of one
    merged = 0 if run.own_adaptation.start else sum(len(task.shots) + len(task.tuning) for task in run.tasks)
    return adaptation_passes(run.tasks, spec, settings, len(run.chosen.members)) + merged


def _scored_models(run: Run, spec: str) -> int:
    """Rows of the score table at most: base, icl, the members, shots_lora, uniform, merge; plan; start."""
    started = spec != "none" or run.own_adaptation.start is not None
    return 5 + len(run.chosen.members) + 1 + started
