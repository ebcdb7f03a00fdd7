"""`plan --dry-run`: what would be done, and what it costs in forward passes; nothing is written or loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from merge_advisor import registry
from merge_advisor.advisor.measuring.adapting import adaptation_passes
from merge_advisor.advisor.measuring.dry_runs import dry_run_line, model_copies
from merge_advisor.advisor.measuring.session import PoolFilter, Session, default_cache, open_session
from merge_advisor.advisor.planning.choosing import LORA_LOSSES
from merge_advisor.advisor.planning.choosing_cost import choosing_passes
from merge_advisor.advisor.planning.plan import check_choosing, check_options, fitting
from merge_advisor.advisor.planning.row_check import check_task_rows
from merge_advisor.advisor.planning.sources import find_sources, read_plan_inputs, read_sources
from merge_advisor.backbone.devices import check_devices, memory_free, remedy
from merge_advisor.backbone.memory import memory_needed, vocabulary_of
from merge_advisor.evaluators.guard import read_guard
from merge_advisor.weights.opened import changed_names

if TYPE_CHECKING:
    from merge_advisor.evaluators.lm_eval_tasks import TaskName
    from merge_advisor.options import PlanOptions
    from merge_advisor.session_options import SessionOptions
    from merge_advisor.types import Candidate, Task


def describe_plan(
    tasks: Sequence[Path],
    *,
    lm_eval: Sequence[TaskName] = (),
    pool: str | Path,
    base: str,
    options: PlanOptions,
    guard: Path | None = None,
    **where: Unpack[SessionOptions],
) -> dict[str, Any]:
    """Read task files and pool headers and say what `plan` would do.

    >>> from merge_advisor.options import PlanOptions
    >>> planned = describe_plan([Path("examples.jsonl")], pool="adapters", base="base", options=PlanOptions())
    >>> planned["models"], planned["passes"]["embed the pool"]
    (6, 35)

    Args:
        tasks: task files.
        lm_eval: tasks of lm-eval.
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        options: of the plan.
        guard: file of unrelated text that the merge is scored on.
        where: `offline`, `follow_links`, `cache`, `store`, `machine`, `progress`, see `SessionOptions`.

    Returns:
        models, refused, rows by task, what each file was understood as, passes by step, how many `times` those of a
        plan without an adaptation they are, and the same as `lines` of text.

    Raises:
        MergeAdvisorError: whatever `plan` itself would refuse.
    """
    check_options(options)
    texts = read_guard(guard) if guard else ()
    offline = where.get("offline", False)
    given = read_sources(find_sources(tasks, lm_eval, offline=offline), options, offline=offline)
    parts = [item.task for item in given]
    check_choosing(parts, options)
    inputs = read_plan_inputs(parts, options, offline=offline)
    wanted = PoolFilter(options.include, options.exclude, options.licence)
    cache = where.get("cache") or default_cache()
    before = model_copies(cache)
    with open_session(base, pool, template=options.template, wanted=wanted, dry=True, **where) as session:
        fit = fitting(session.pool, options.composition)
        check_task_rows(session.model, parts, inputs.rows if inputs else (), options)
        name, template = session.local.base.id, session.model.template.name
        machine = machine_line(session, fit.candidates)
        of_base = session.local.dequantised
    passes = plan_passes(parts, len(fit.candidates), options, len(inputs.rows) if inputs else 0)
    times = times_unadapted(parts, len(fit.candidates), options, len(inputs.rows) if inputs else 0)
    choosing = sum(len(task.choosing) for task in parts)
    lines = [
        f"base {name}, template {template}, pool of {len(fit.candidates)} candidates, {len(fit.refused)} set aside",
        *(line for item in given for line in item.understood),
        *(
            f"task {task.name}: {len(task.shots)} shots, {len(task.tuning)} tuning, {len(task.heldout)} held-out rows"
            for task in parts
        ),
        f"strategy {options.strategy}: {registry.build('strategy', options.strategy).cost} ({choosing} choosing rows)",
        *([f"inputs {inputs.path.name}: {len(inputs.rows)} unlabelled rows"] if inputs else []),
        *([f"guard {guard.name}: {len(texts)} texts"] if guard else []),
        *(f"{step}: {count} forward passes of one row" for step, count in passes.items()),
        *([TIMES.format(times=times)] if times != 1 else []),
        machine,
        *([f"note: {of_base}"] if of_base else []),
        *(f"note: {note}" for item in given for note in item.notes),
        *(f"note: {note}" for note in (inputs.notes if inputs else ())),
        *(f"set aside {item.id}: {item.reason}" for item in fit.refused),
        dry_run_line(cache, before),
    ]
    rows = {
        task.name: {"shots": len(task.shots), "tuning": len(task.tuning), "heldout": len(task.heldout)}
        for task in parts
    }
    understood = {item.task.name: list(item.understood) for item in given}
    refused = {item.id: item.reason for item in fit.refused}
    return {
        "models": len(fit.candidates), "refused": refused, "rows": rows, "understood": understood, "passes": passes,
        "times": times, "lines": lines,
    }  # fmt: skip


def machine_line(session: Session, candidates: Sequence[Candidate]) -> str:
    """Return what will be computed on, and whether about as much memory is free as that takes.

    Args:
        session: open; nothing of it is loaded.
        candidates: that can be chosen.

    Raises:
        BaseModelError: the device is not there.
    """
    model, local = session.model, session.local
    machine = model.machine
    short = f"; it may not fit: {remedy(machine.device, machine.dtype)}, or fewer candidates"
    said = f"; {model.said}" if model.said else ""
    if model.device_map is not None:
        enough = "" if model.device_map.fits else short
        return f"on {machine.device} in {machine.dtype}: {', '.join(model.device_map.lines)}{enough}{said}"
    check_devices(machine.device)
    changed = sum(math.prod(local.shapes[name]) for name in changed_names(candidates, local))
    needed = memory_needed(local.shapes, machine.dtype, changed=changed, vocabulary=vocabulary_of(local.config))
    free = memory_free(machine.device)
    told = "" if free is None else f", {free / 1e9:.1f} GB are free"
    short = short if free is not None and free < needed else ""
    return f"on {machine.device} in {machine.dtype}: about {needed / 1e9:.1f} GB of memory{told}{short}{said}"


def plan_passes(tasks: Sequence[Task], candidates: int, options: PlanOptions, inputs: int = 0) -> dict[str, int]:
    """Return the forward passes over one row of each step of a plan that can be counted beforehand.

    Args:
        tasks: with their rows split.
        candidates: models of the pool that can be chosen.
        options: of the plan.
        inputs: how many unlabelled rows it was given.
    """
    probes = registry.build("embedding", options.embedding).forwards
    shots, watch = sum(len(task.shots) for task in tasks), sum(len(task.tuning) for task in tasks)
    # base, icl, anchor and partners, shots_lora, uniform and merge are scored
    scored = min(options.k, candidates) + 5
    choosing = partial(choosing_passes, options.strategy, candidates, options.k)
    adapting = adaptation_passes(
        tasks, options.adaptation, options.finetune, min(options.k, CHOSEN), inputs, choosing, options.composition
    )
    scored += adapting > 0  # the merge that it began with
    return {
        "embed the pool": probes * (candidates + 1),
        "choose, at most": choosing([len(task.choosing) for task in tasks])
        + LORA_LOSSES * sum(len(task.tuning) for task in tasks),
        **({"adapt, at most": adapting} if adapting else {}),
        "finetune on the shots, at most": options.finetune.forwards_for(shots, watch) + probes,
        "score": scored * sum(len(task.heldout) for task in tasks),
    }


def times_unadapted(tasks: Sequence[Task], candidates: int, options: PlanOptions, inputs: int = 0) -> float:
    """Return how many times what choosing and training take at most with no adaptation it takes with the one asked.

    The same rows either way; embedding the pool, which is stored, and scoring are left out.

    Args:
        tasks: with their rows split.
        candidates: models of the pool that can be chosen.
        options: of the plan.
        inputs: how many unlabelled rows it was given.
    """
    bare = replace(options, adaptation="none")
    ours, others = (
        sum(count for step, count in plan_passes(tasks, candidates, how, given).items() if step not in _BESIDE)
        for how, given in ((options, inputs), (bare, 0))
    )
    return ours / others


_BESIDE = ("embed the pool", "score")
"""Steps that an adaptation does not change."""
TIMES = "choosing and training: {times:.1f} times what `--adaptation none` takes of the same rows"
CHOSEN = 20
"""Members at most that the estimate counts for a merge that is not chosen yet."""
