"""Which members were chosen for each task, how often, with what predicted gain: why an arm wins or loses on a task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

from merge_advisor.benchmark.analysis.means import mean
from merge_advisor.benchmark.analysis.prediction import measured_gain
from merge_advisor.benchmark.values import Result, View
from merge_advisor.benchmark.views import is_allowed
from merge_advisor.types import SHOTS_LORA

NO_FAMILIES: Mapping[str, str] = MappingProxyType({})
"""The families of the candidates where they are not known; read-only, as it is a default shared by all calls."""


@dataclass(frozen=True, slots=True)
class MemberCount:
    """How often one candidate is a member of an arm's merges for one task.

    >>> MemberCount("dates-2", "time", units=3, weight=0.5).units
    3
    """

    id: str
    family: str
    """Family of the task it was trained on; empty where that is not known, and for `shots_lora`."""
    units: int
    """Units in which it is a member."""
    weight: float
    """Mean weight over these units."""


@dataclass(frozen=True, slots=True)
class TaskChoices:
    """What one arm chose for one task in one view at one k, over all units that are done.

    >>> from merge_advisor.benchmark.values import Unit
    >>> results = [Result(Unit("dates", "time"), "nearest", "own-out", 2, members=(("dates-2", 1.0), ("sums-0", 0.0)))]
    >>> (choices,) = choices_by_task(results, {"dates-2": "time", "sums-0": "numbers"})
    >>> choices.kin, choices.members
    (1, (MemberCount(id='dates-2', family='time', units=1, weight=1.0),))
    """

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
    """Mean predicted gain, nats; None where nothing was predicted."""
    measured: float | None
    """Mean measured gain of the same results, nats."""
    members: tuple[MemberCount, ...]
    """The most often chosen first."""


def choices_by_task(
    results: Sequence[Result], families: Mapping[str, str], own: Mapping[str, str] = NO_FAMILIES
) -> tuple[TaskChoices, ...]:
    """Return what every arm with members chose, in the order of first results.

    Args:
        results: failed ones are left out.
        families: candidate id to the family of the task it was trained on; empty: not known.
        own: task name to the candidate trained on it, where the ids differ.
    """
    gain = measured_gain(results)
    groups: dict[tuple[str, View, int, str], list[Result]] = defaultdict(list)
    for result in results:
        if result.status == "done" and result.members:
            groups[result.arm, result.view, result.k, result.unit.task].append(result)
    choices = []
    for (_, view, _, task), group in groups.items():
        family = group[0].unit.family
        allowed = {
            name
            for name, other in families.items()
            if other == family and name != SHOTS_LORA and is_allowed(name, other, task, family, view, own)
        }
        choices.append(_task_choices(group, families, allowed, gain))
    return tuple(choices)


def _task_choices(
    group: Sequence[Result],
    families: Mapping[str, str],
    of_family: Set[str],
    gain: Callable[[Result], float | None],
) -> TaskChoices:
    """Return what one arm chose for one task; `of_family` are the allowed candidates of the task's family."""
    first = group[0]
    weights: dict[str, list[float]] = defaultdict(list)
    sets = []
    for result in group:
        # a weight of 0 is a member in name only
        applied = {name: weight for name, weight in result.members if weight}
        sets.append(frozenset(applied))
        for name, weight in applied.items():
            weights[name].append(weight)
    members = [
        MemberCount(name, "" if name == SHOTS_LORA else families.get(name, ""), len(ws), mean(ws))
        for name, ws in weights.items()
    ]
    promises = [(r.predicted, came) for r in group if r.predicted is not None and (came := gain(r)) is not None]
    return TaskChoices(
        arm=first.arm,
        view=first.view,
        k=first.k,
        task=first.unit.task,
        family=first.unit.family,
        units=len(group),
        sets=len(set(sets)),
        alone=sum(not names for names in sets),
        # None, not 0, where the view has no candidate of the family: "0 of 5" would look like a choice
        kin=sum(not names.isdisjoint(of_family) for names in sets) if of_family else None,
        predicted=mean([promise for promise, _ in promises]) if promises else None,
        measured=mean([came for _, came in promises]) if promises else None,
        members=tuple(sorted(members, key=lambda member: (-member.units, member.id))),
    )
