"""What a run cost, and what its alternatives would have: lines for the terminal, from measured figures alone.

Forward passes stand in the report as well. Seconds and memory, which differ each time, stand in cost.txt beside it and
in the block `environment` of plan.json, so that reports of one run are the same to the byte wherever it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_advisor.report.score_table import seconds_text
from merge_advisor.scores import RunCost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from merge_advisor.advisor.runs.plan_report import Plan
    from merge_advisor.scores import Score

_FINETUNE = "finetune on the shots"
"""The step of a plan that trains the LoRA of the shots."""
_NOT_RUN = ("majority",)
"""Rows of a score table that no model had to be run for."""


def run_cost(plan: Plan) -> RunCost:
    """Return what a run took and what its alternatives would have.

    Args:
        plan: of the run.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> run_cost(read_run(Path("run")).plan).every_candidate_seconds
    """
    seconds, scoring = plan.environment.seconds, plan.environment.scoring
    candidates = candidates_of(plan)
    every = [cost.for_all(candidates) for cost in scoring]
    known = [value for value in every if value is not None]
    trained = plan.forwards.get(_FINETUNE)
    return RunCost(
        sum(plan.forwards.values()),
        round(sum(seconds.values()) + sum(cost.seconds_run for cost in scoring), 3),
        max(filter(None, [plan.environment.peak_bytes, *(cost.peak_bytes for cost in scoring)]), default=None),
        # of some tasks alone it would be less than what it is compared with
        round(sum(known), 3) if known and len(known) == len(every) else None,
        candidates,
        trained,
        None if trained is None else seconds.get(_FINETUNE, 0.0),
        candidates * sum(cost.rows for cost in scoring) if scoring else None,
    )


def candidates_of(plan: Plan) -> int:
    """Return how many candidates a plan chose among; of a plan from a hub folder all of it that fitted.

    Args:
        plan: of the run.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> candidates_of(read_run(Path("run")).plan)
    6
    """
    if plan.fitting is not None:
        return plan.fitting
    return sum(candidate.status != "refused" for candidate in plan.candidates)


def scored_forwards(plan: Plan, scores: Sequence[Score]) -> tuple[tuple[str, int], ...]:
    """Return what scoring took and what would have been done instead, each with its forward passes: a row each.

    Nominally, whatever was stored and whatever a row chooses among or generates; so two runs say the same.

    Args:
        plan: of the run.
        scores: of its tasks; none where nothing was scored.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> run = read_run(Path("run"))
    >>> scored_forwards(run.plan, run.scores)
    (('instead: training the LoRA of the shots alone', ...),)
    """
    found = []
    candidates = candidates_of(plan)
    for score in scores:
        rows = len(score.row_digests)
        models = sum(model.label not in _NOT_RUN for model in score.models)
        found.append((f"scoring {models} models on the {rows} rows of {score.task}", models * rows))
        found.append((f"instead: scoring all {candidates} candidates on them", candidates * rows))
    trained = plan.forwards.get(_FINETUNE)
    if trained is not None:
        found.append(("instead: training the LoRA of the shots alone", trained))
    return tuple(found)


def cost_file_of(plan: Plan) -> str:
    """Return cost.txt, see `run_cost_lines`.

    Args:
        plan: of the run.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> print(cost_file_of(read_run(Path("run")).plan).splitlines()[-1])
    on ..., finished ...
    """
    where = f"on {plan.environment.machine}, finished {plan.environment.created}"
    steps = [f"{step}: {seconds:.1f} s" for step, seconds in plan.environment.seconds.items()]
    return "\n".join([*run_cost_lines(plan), *steps, where]) + "\n"


def run_cost_lines(plan: Plan, price: float | None = None) -> list[str]:
    """Return what a run cost, what scoring every candidate would have, and what a LoRA of the shots alone takes.

    Args:
        plan: of the run.
        price: of an hour of this machine; None: they stay seconds.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> run_cost_lines(read_run(Path("run")).plan)[0]
    'cost: ... forward passes and ... s for the plan...'
    """
    environment, scoring = plan.environment, plan.environment.scoring
    candidates, told = candidates_of(plan), run_cost(plan)
    planned = sum(environment.seconds.values())
    first = f"cost: {told.forwards} forward passes and {seconds_text(planned, price)} for the plan"
    if scoring:
        run, kept = sum(cost.run for cost in scoring), sum(cost.models - cost.run for cost in scoring)
        first += f"; scoring {run} models {seconds_text(sum(cost.seconds_run for cost in scoring), price)}"
        first += f" ({kept} more were in the store)" if kept else ""
    if told.peak_bytes is not None:
        first += f"; {told.peak_bytes / 2**30:.1f} GiB at most"
    lines = [first]
    for cost in scoring:
        whole = cost.for_all(candidates)
        if whole is not None and cost.seconds_model is not None:
            lines.append(
                f"instead: scoring all {candidates} candidates on the {cost.rows} rows of {cost.task}: "
                f"{candidates * cost.rows} forward passes, {seconds_text(whole, price)} "
                f"({cost.seconds_model:.2f} s a model, the median of {cost.models} measured)"
            )
    if told.shots_forwards is not None:
        lines.append(
            f"instead: training the LoRA of the shots alone: {told.shots_forwards} forward passes, "
            f"{seconds_text(told.shots_seconds or 0.0, price)} in this plan"
        )
    return lines
