"""The work of the jobs: a layout, a task among the models, a plan with chosen models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import InputError, RunError
from merge_advisor.explore.layouts import layout_file, made_layout
from merge_advisor.explore.map_points import read_points, texts_of
from merge_advisor.explore.model_details import named_models
from merge_advisor.hub import Hub
from merge_advisor.hub.planning import PlanAsked, kept_manifest, shortlist_file
from merge_advisor.hub.searching import nearest_in
from merge_advisor.hub.task_vectors import task_vector
from merge_advisor.hub_options import HubPlanOptions
from merge_advisor.options import PlanOptions
from merge_advisor.progress import quiet_progress

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.session_options import SessionOptions
    from merge_advisor.spaces import Space
from merge_advisor.types import Candidate, Task

MEASURED = 24
"""Models whose loss on the examples is measured; by delta and by gradient many more are ranked."""
MOST_PLANNED = 500


def layout_job(asked: dict[str, Any], where: SessionOptions) -> dict[str, Any]:
    """Return an empty result once the layout of a space is kept.

    Args:
        asked: `hub`, `space`.
        where: cache and progress.

    Raises:
        RunError: the hub cannot be read, or the cache cannot be written.
    """
    from merge_advisor.advisor.measuring.session import default_cache

    with Hub.open(asked["hub"]) as hub:
        points = read_points(hub, int(asked["space"]))
        path = layout_file(where.get("cache") or default_cache(), points)
        every = range(len(points.entries))
        made_layout(path, points, lambda: texts_of(hub, points, every), where.get("progress", quiet_progress))
    return {}


def task_job(asked: dict[str, Any], where: SessionOptions) -> dict[str, Any]:
    """Return the delta of a task, and the models of a hub ranked for it by delta, by gradient and by measured loss.

    Args:
        asked: `hub`, `space`, `file`, perhaps `fields` and `shortlist`.
        where: see `SessionOptions`.

    Raises:
        MergeAdvisorError: as `plan`.
    """
    from merge_advisor.advisor.measuring.session import open_session
    from merge_advisor.advisor.planning.plan import check_choosing
    from merge_advisor.advisor.planning.sources import find_sources, read_sources

    progress = where.get("progress", quiet_progress)
    size = int(asked.get("shortlist", 48))
    progress("reading the examples", 0, 1)
    file = Path(asked["file"])
    with Hub.open(asked["hub"]) as hub:
        number = int(asked["space"])
        space = hub.catalogue.spaces()[number]
        options = PlanOptions(embedding=space.embedding, fields=asked.get("fields"))
        read = read_sources(find_sources([file], offline=where.get("offline", False)), options)
        tasks = [item.task for item in read]
        check_choosing(tasks, options)
        base = hub.base_of(space.base).place
        plan_asked = PlanAsked(HubPlanOptions(shortlist=size))
        progress("finding the models worth a look", 0, 1)
        named = shortlist_file(hub, [file], base=base, options=options, asked=plan_asked, **where)
        with open_session(base, named.manifest, **where) as session:
            own, vector = task_vector(hub, session, tasks, options)
            found = nearest_in(hub, (number, _same(own, space, hub)), vector, size)
            cosines = {hit.entry.number: hit.score for hit in found.hits}
            ranks, base_loss = _ranked(session, tasks, options, cosines, hub)
    task = tasks[0]
    return {
        "vector": [float(value) for value in vector], "ranks": ranks, "base_loss": base_loss, "task": task.name,
        "rows": {"shots": len(task.shots), "tuning": len(task.tuning), "heldout": len(task.heldout)},
        "notes": [*named.notes, *(note for item in read for note in item.notes)], "measured": MEASURED,
    }  # fmt: skip


def _same(own: Space, space: Space, hub: Hub) -> Space:
    """The space of the hub, where the task's delta lies in it."""
    from merge_advisor.hub.index import refuse_space

    if own.digest != space.digest:
        raise refuse_space(hub.folder, [space])
    return space


def _ranked(
    session: Session, tasks: Sequence[Task], options: PlanOptions, cosines: dict[int, float], hub: Hub
) -> tuple[list[dict[str, Any]], float]:
    from merge_advisor.advisor.planning.choosing_losses import ChoosingLosses
    from merge_advisor.merges import WeightedMerge

    progress = session.model.progress
    losses = ChoosingLosses(session.meter, [task.choosing for task in tasks], options.choose_by)
    candidates = session.pool.candidates
    progress("ranking by gradient", 0, 1)
    gains = losses.gains(candidates, WeightedMerge())
    progress("measuring losses", 0, 1)
    nothing = losses.of(WeightedMerge())
    rows = []
    for candidate, gain in zip(candidates, gains.tolist(), strict=True):
        entry = hub.catalogue.by_fingerprint(session.local.base.digest, candidate.fingerprint)
        if entry is not None:
            row = {"number": entry.number, "id": entry.id, "cosine": cosines.get(entry.number), "gradient": gain}
            rows.append((candidate, row))
    for place, (candidate, row) in enumerate(_worth_measuring(rows)):
        progress("measuring losses", place, min(MEASURED, len(rows)))
        loss = losses.of(WeightedMerge(((candidate, 1.0),)))
        row["gain"] = nothing - loss if math.isfinite(loss) else None
    return [row for _, row in rows], nothing


def _worth_measuring(rows: Sequence[tuple[Candidate, dict[str, Any]]]) -> list[tuple[Candidate, dict[str, Any]]]:
    """The best by delta and by gradient in turn."""
    by_delta = sorted(rows, key=lambda pair: -(pair[1]["cosine"] if pair[1]["cosine"] is not None else -2.0))
    by_gradient = sorted(rows, key=lambda pair: -pair[1]["gradient"])
    taken: dict[int, tuple[Candidate, dict[str, Any]]] = {}
    for one, other in zip(by_delta, by_gradient, strict=True):
        for pair in (one, other):
            if len(taken) < MEASURED:
                taken.setdefault(pair[1]["number"], pair)
    return list(taken.values())


def plan_job(asked: dict[str, Any], where: SessionOptions) -> dict[str, Any]:
    """Return the folder of a run that was planned with chosen models of a hub; the hub lists it.

    Args:
        asked: `hub`, `file`, `out`, `numbers`, perhaps `options` and `fields`.
        where: see `SessionOptions`.

    Raises:
        MergeAdvisorError: as `plan`.
    """
    from merge_advisor import advisor

    with Hub.open(asked["hub"]) as hub:
        entries = named_models(hub, [int(number) for number in asked["numbers"]], MOST_PLANNED)
        base = hub.base_of(entries[0].base).place
        templates = sorted({entry.template for entry in entries})
        if len(templates) > 1:
            raise InputError(
                f"these models were trained under several templates ({', '.join(templates)}); choose models of one"
            )
        manifest = kept_manifest(entries, templates[0], where.get("cache"))
        options = replace(PlanOptions(fields=asked.get("fields")), **_options(asked.get("options", {}), len(entries)))
        run = advisor.plan(
            [Path(asked["file"])], pool=manifest, base=base, out=Path(asked["out"]), options=options,
            notes=lambda pool: (f"its {len(pool.candidates)} candidates were chosen by hand, on the map of a hub",),
            **where,
        )  # fmt: skip
        note = ""
        try:
            hub.add_run(run)
        except RunError as error:  # the run is there, whether or not the hub can remember it
            note = f"not listed in the hub: {error}"
    return {"folder": str(Path(run.folder).absolute()), "note": note, "verdict": str(run.plan.verdict or "")}


def _options(given: dict[str, Any], models: int) -> dict[str, Any]:
    """What the page may set, and nothing else."""
    found: dict[str, Any] = {name: str(given[name]) for name in ("strategy", "adaptation") if given.get(name)}
    if given.get("k"):
        found["k"] = max(1, min(int(given["k"]), models))
    return found
