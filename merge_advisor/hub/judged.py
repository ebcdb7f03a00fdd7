"""What a gate, or a decision on a watched pool, leaves in the hub folder that was named for it: outcome and cost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.advisor.gating.watch_state import DECISIONS_MEASURED, LOG, PoolDecision
from merge_advisor.errors import InputError, RunError
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.values import HubJudged
from merge_advisor.hub.writing import now
from merge_advisor.json_form import digest_of, from_json
from merge_advisor.regular_files import read_regular_text
from merge_advisor.scores import RunCost

if TYPE_CHECKING:
    from merge_advisor.gate_values import GateReport
    from merge_advisor.hub.opened import OpenHub


def models_of_base(hub: OpenHub, base: str | None) -> int | None:
    """Return how many models a hub holds of a base; None where that cannot be told.

    Args:
        hub: open.
        base: id, digest, or the place it was added from; None: the only one.
    """
    if base is None:
        bases = hub.bases()
        return bases[0].models if len(bases) == 1 else None
    try:
        found = hub.base_of(base)
    except InputError:
        return None
    return hub.catalogue.count(EntryFilter("e.base = ?", (found.base.digest,)))


def keep_gate(hub: OpenHub, report: GateReport) -> None:
    """Keep a gate: what was judged, how it ended, what it took.

    Args:
        hub: open.
        report: of the gate.

    Raises:
        RunError: another process writes for too long, or nothing can be written.
    """
    cost = None
    if report.cost is not None:
        cost = RunCost(
            report.cost.forwards, report.cost.seconds, report.cost.peak_bytes, report.cost.every_candidate_seconds,
            report.cost.candidates or 0, every_candidate_forwards=report.cost.every_candidate_forwards,
        )  # fmt: skip
    tasks = tuple(f"{check.kind} {check.name}" for check in report.checks)
    sides = (report.candidate.word, report.baseline.word)
    judged = HubJudged("gate", *sides, tasks, str(report.outcome), now(), cost)
    with hub.writing(), hub.catalogue.file.transaction():
        # each call is one: the same gate asked again took something again
        hub.results.keep_judged(os.urandom(16).hex(), judged)


def keep_decisions(hub: OpenHub, folder: Path, pool: str) -> None:
    """Keep the decisions on models that were judged for a watched pool: those of its log that are not listed yet.

    So one whose process was killed before it could be listed is listed by the next.

    Args:
        hub: open.
        folder: of the log.
        pool: as it was named.

    Raises:
        RunError: as of `keep_gate`, or a log that cannot be read.
    """
    log = folder / LOG
    if not log.is_file():
        return
    found: dict[str, HubJudged] = {}
    try:
        lines = read_regular_text(log).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{log}: cannot be read ({error}); delete it, the next look writes it anew") from error
    for number, line in enumerate(lines, 1):
        fields = _fields_of(line, f"{log}:{number}")
        at = str(fields.pop("at", ""))
        name = digest_of([str(folder.absolute()), fields.pop("number", number), at])
        decision = from_json(PoolDecision, json.dumps(fields), f"{log}:{number}")
        if decision.kind in DECISIONS_MEASURED:
            found[name] = _judged(decision, pool, at, told="forwards" in fields)
    known = hub.results.judged_ids()
    new = {name: judged for name, judged in found.items() if name not in known}
    if new:
        with hub.writing(), hub.catalogue.file.transaction():
            for name, judged in new.items():
                hub.results.keep_judged(name, judged)


def _fields_of(line: str, where: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{where}: is no line of a log; delete the file, the next look writes it anew") from error


def _judged(decision: PoolDecision, pool: str, at: str, *, told: bool) -> HubJudged:
    """A decision as a hub lists it; without its cost where the log is from before forward passes were kept."""
    improves = [task.task for task in decision.tasks if task.improves]
    outcome = f"improves {', '.join(improves)}" if improves else "improves nothing"
    cost = RunCost(
        decision.forwards, decision.seconds, decision.peak_bytes, decision.all_candidates_seconds,
        decision.candidates, every_candidate_forwards=decision.all_candidates_forwards,
    )  # fmt: skip
    tasks = tuple(f"task {task.task}" for task in decision.tasks)
    return HubJudged("watch", decision.model, pool, tasks, outcome, at, cost if told else None)
