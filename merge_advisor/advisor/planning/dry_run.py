"""`plan --dry-run`: what would be done, and what it costs in forward passes; nothing is written or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge_advisor import registry
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.planning.plan import check_choosing, check_composition, fitting
from merge_advisor.advisor.planning.sources import read_sources, sources_of
from merge_advisor.evaluators.lm_eval_tasks import TaskName
from merge_advisor.options import PlanOptions


def describe_plan(
    tasks: Sequence[Path],
    *,
    lm_eval: Sequence[TaskName] = (),
    pool: str | Path,
    base: str,
    options: PlanOptions,
    **settings: Any,
) -> dict[str, Any]:
    """Read task files and pool headers and say what `plan` would do.

    Returns:
        models, refused, rows by task, passes by step, and the same as `lines` of text.

    Raises:
        MergeAdvisorError: whatever `plan` itself would refuse.
    """
    strategy = registry.build("strategy", options.strategy)
    check_composition(options)
    sources = sources_of(tasks, lm_eval, offline=bool(settings.get("offline")))
    parts, notes = read_sources(sources, options)
    check_choosing(parts, options)
    with open_session(
        base, pool, template=options.template, include=options.include, exclude=options.exclude,
        licence=options.licence, **settings,
    ) as session:  # fmt: skip
        found, name, template = fitting(session.pool, options.composition), session.local.base.id, session.template.name
    shots = sum(len(task.shots) for task in parts)
    choosing = sum(len(task.choosing) for task in parts)
    heldout = sum(len(task.heldout) for task in parts)
    watch = sum(len(task.tuning) for task in parts)
    k = min(options.k, len(found.candidates))
    passes = {
        "embed the pool": 5 * (len(found.candidates) + 1),
        "finetune on the shots, at most": options.finetune.forwards_for(shots, watch) + 5,
        "score": heldout * (k + 4),
    }
    lines = [
        f"base {name}, template {template}, pool of {len(found.candidates)} candidates, {len(found.refused)} set aside",
        *(
            f"task {task.name}: {len(task.shots)} shots, {len(task.tuning)} tuning, {len(task.heldout)} held-out rows"
            for task in parts
        ),
        f"strategy {options.strategy}: {strategy.cost} ({choosing} choosing rows)",
        *(f"{step}: {count} forward passes of one row" for step, count in passes.items()),
        *(f"note: {note}" for said in notes for note in said),
        *(f"set aside {item.id}: {item.reason}" for item in found.refused),
        "dry run: nothing was written",
    ]
    rows = {
        task.name: {"shots": len(task.shots), "tuning": len(task.tuning), "heldout": len(task.heldout)}
        for task in parts
    }
    refused = {item.id: item.reason for item in found.refused}
    return {"models": len(found.candidates), "refused": refused, "rows": rows, "passes": passes, "lines": lines}
