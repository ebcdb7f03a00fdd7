"""What a run cost, and what its alternatives would have: lines for the terminal, from measured figures alone.

They stand in no report file: what differs between two machines is kept in the block `environment` of plan.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Plan

_FINETUNE = "finetune on the shots"
"""The step of a plan that trains the LoRA of the shots."""


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
    candidates = sum(candidate.status != "refused" for candidate in plan.candidates)
    passes, seconds = sum(plan.forwards.values()), sum(environment.seconds.values())
    first = f"cost: {passes} forward passes and {seconds:.1f} s for the plan"
    if scoring:
        run, kept = sum(cost.run for cost in scoring), sum(cost.models - cost.run for cost in scoring)
        first += f"; scoring {run} models {sum(cost.seconds_run for cost in scoring):.1f} s"
        first += f" ({kept} more were in the store)" if kept else ""
        peaks = [cost.peak_bytes for cost in scoring if cost.peak_bytes is not None]
        first += f"; {max(peaks) / 2**30:.1f} GiB at most" if peaks else ""
    lines = [first]
    for cost in scoring:
        whole = cost.for_all(candidates)
        if whole is not None and cost.seconds_model is not None:
            lines.append(
                f"instead: scoring all {candidates} candidates on the {cost.rows} rows of {cost.task}: {whole:.1f} s "
                f"({cost.seconds_model:.2f} s a model, the median of {cost.models} measured)"
            )
    trained = plan.forwards.get(_FINETUNE)
    if trained is not None:
        spent = environment.seconds.get(_FINETUNE, 0.0)
        lines.append(
            f"instead: training the LoRA of the shots alone: {trained} forward passes, {spent:.1f} s in this plan"
        )
    return lines
