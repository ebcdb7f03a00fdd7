"""Who was chosen for each task, how often, and whether what was promised came: why an arm wins on a task or loses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from merge_advisor.benchmark.analysis.means import mean
from merge_advisor.benchmark.analysis.prediction import measured_gain
from merge_advisor.benchmark.values import Result, View
from merge_advisor.benchmark.views import is_allowed
from merge_advisor.types import SHOTS_LORA

NO_KIN: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MemberCount:
    """A member in the merges of one arm for one task."""

    id: str
    family: str
    """Of the task it was trained on; empty where that is not known, and of `shots_lora`."""
    units: int
    """Units in which it is a member."""
    weight: float
    """Mean over these."""


@dataclass(frozen=True, slots=True)
class TaskChoices:
    """What one arm chose for one task in one view at one k, over all units that are done."""

    arm: str
    view: View
    k: int
    task: str
    family: str
    units: int
    sets: int
    """Distinct sets of members."""
    alone: int
    """Units whose merge is the base itself: no member, or every weight 0."""
    kin: int | None
    """Units with a member of the task's family; None where the view has no such candidate."""
    predicted: float | None
    """Mean promise, nats; None where nothing was promised."""
    measured: float | None
    """Mean of what came of the promises, nats."""
    members: tuple[MemberCount, ...]
    """The most often chosen first."""


def choices_by_task(
    results: Sequence[Result], kin: Mapping[str, str], own: Mapping[str, str] = NO_KIN
) -> tuple[TaskChoices, ...]:
    """Return what every arm with members chose, in the order of first results.

    Args:
        results: failed ones are left out.
        kin: candidate id to the family of the task it was trained on; empty: not known.
        own: task name to the candidate trained on it, where the ids differ.
    """
    gain = measured_gain(results)
    groups: dict[tuple[str, View, int, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.status == "done" and result.members:
            groups[result.arm, result.view, result.k, result.unit.task].append(result)
    found = []
    for (arm, view, k, task), group in groups.items():
        family = group[0].unit.family
        kindred = {
            name
            for name, other in kin.items()
            if other == family and name != SHOTS_LORA and is_allowed(name, other, task, family, view, own)
        }
        weights: dict[str, list[float]] = defaultdict(list)
        sets = []
        for result in group:
            applied = {name: weight for name, weight in result.members if weight}
            sets.append(frozenset(applied))
            for name, weight in applied.items():
                weights[name].append(weight)
        members = [
            MemberCount(name, "" if name == SHOTS_LORA else kin.get(name, ""), len(ws), mean(ws))
            for name, ws in weights.items()
        ]
        promises = [(r.predicted, came) for r in group if r.predicted is not None and (came := gain(r)) is not None]
        found.append(
            TaskChoices(
                arm=arm,
                view=view,
                k=k,
                task=task,
                family=family,
                units=len(group),
                sets=len(set(sets)),
                alone=sum(not names for names in sets),
                kin=sum(not names.isdisjoint(kindred) for names in sets) if kindred else None,
                predicted=mean([promise for promise, _ in promises]) if promises else None,
                measured=mean([came for _, came in promises]) if promises else None,
                members=tuple(sorted(members, key=lambda member: (-member.units, member.id))),
            )
        )
    return tuple(found)
