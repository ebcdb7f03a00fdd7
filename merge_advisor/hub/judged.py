"""What a gate, or a decision on a watched pool, leaves in the hub folder that was named for it: outcome and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_advisor.errors import InputError
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.values import HubJudged
from merge_advisor.hub.writing import now
from merge_advisor.scores import RunCost

if TYPE_CHECKING:
    from merge_advisor.advisor.gating.watch_state import PoolDecision
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
    _keep(hub, HubJudged("gate", *sides, tasks, str(report.outcome), now(), cost))


def keep_decision(hub: OpenHub, decision: PoolDecision, pool: str) -> None:
    """Keep what was decided on a model of a watched pool.

    Args:
        hub: open.
        decision: on a model that was judged.
        pool: as it was named.

    Raises:
        RunError: as of `keep_gate`.
    """
    improves = [task.task for task in decision.tasks if task.improves]
    outcome = f"improves {', '.join(improves)}" if improves else "improves nothing"
    cost = RunCost(
        decision.forwards, decision.seconds, decision.peak_bytes, decision.all_candidates_seconds,
        decision.candidates, every_candidate_forwards=decision.all_candidates_forwards,
    )  # fmt: skip
    tasks = tuple(f"task {task.task}" for task in decision.tasks)
    _keep(hub, HubJudged("watch", decision.model, pool, tasks, outcome, now(), cost))


def _keep(hub: OpenHub, judged: HubJudged) -> None:
    with hub.writing(), hub.catalogue.file.transaction():
        hub.results.keep_judged(judged)
