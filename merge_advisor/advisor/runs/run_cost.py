"""What a run cost, and what its alternatives would have: lines for the terminal, from measured figures alone.

They stand in no report file: what differs between two machines is kept in the block `environment` of plan.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_advisor.scores import RunCost

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Plan

_FINETUNE = "finetune on the shots"
"""The step of a plan that trains the LoRA of the shots."""


def run_cost(plan: Plan, candidates: int | None = None) -> RunCost:
    """Return what a run took and what its alternatives would have.

    Args:
        plan: of the run.
        candidates: models that scoring all would have scored; None: those that the plan chose among.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> run_cost(read_run(Path("run")).plan).every_candidate_seconds
    """
    seconds, scoring = plan.environment.seconds, plan.environment.scoring
    candidates = candidates_of(plan) if candidates is None else candidates
    every = [cost.for_all(candidates) for cost in scoring]
    known = [value for value in every if value is not None]
    trained = plan.forwards.get(_FINETUNE)
    return RunCost(
        sum(plan.forwards.values()),
        round(sum(seconds.values()) + sum(cost.seconds_run for cost in scoring), 3),
        max((cost.peak_bytes for cost in scoring if cost.peak_bytes is not None), default=None),
        # of some tasks alone it would be less than what it is compared with
        round(sum(known), 3) if known and len(known) == len(every) else None,
        candidates,
        trained,
        None if trained is None else seconds.get(_FINETUNE, 0.0),
    )


def candidates_of(plan: Plan) -> int:
    """Return how many candidates a plan chose among.

    Args:
        plan: of the run.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> candidates_of(read_run(Path("run")).plan)
    6
    """
    return sum(candidate.status != "refused" for candidate in plan.candidates)


def run_cost_lines(plan: Plan) -> list[str]:
    """Return what a run cost, what scoring every candidate would have, and what a LoRA of the shots alone takes.

    Args:
        plan: of the run.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> run_cost_lines(read_run(Path("run")).plan)[0]
    'cost: ... forward passes and ... s for the plan'
    """
    environment, scoring = plan.environment, plan.environment.scoring
    candidates, told = candidates_of(plan), run_cost(plan)
    planned = sum(environment.seconds.values())
    first = f"cost: {told.forwards} forward passes and {planned:.1f} s for the plan"
    if scoring:
        run, kept = sum(cost.run for cost in scoring), sum(cost.models - cost.run for cost in scoring)
        first += f"; scoring {run} models {sum(cost.seconds_run for cost in scoring):.1f} s"
        first += f" ({kept} more were in the store)" if kept else ""
        peak = told.peak_bytes
        first += "" if peak is None else f"; {peak / 2**30:.1f} GiB at most"
    lines = [first]
    for cost in scoring:
        whole = cost.for_all(candidates)
        if whole is not None and cost.seconds_model is not None:
            lines.append(
                f"instead: scoring all {candidates} candidates on the {cost.rows} rows of {cost.task}: {whole:.1f} s "
                f"({cost.seconds_model:.2f} s a model, the median of {cost.models} measured)"
            )
    if told.shots_forwards is not None:
        lines.append(
            f"instead: training the LoRA of the shots alone: {told.shots_forwards} forward passes, "
            f"{told.shots_seconds or 0.0:.1f} s in this plan"
        )
    return lines
