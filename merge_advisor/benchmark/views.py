"""Which candidates a task may use in a view, and which family each candidate is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.benchmark.values import View


def candidate_families(
    candidates: Sequence[str], own: Mapping[str, str], families: Mapping[str, str]
) -> dict[str, str]:
    """Return the family of each candidate, by id: that of the task it was trained on, or else its own name.

    Args:
        candidates: ids.
        own: task name to the candidate trained on it, where the ids differ.
        families: task or candidate name to family.

    >>> candidate_families(["lora-7", "stranger"], own={"dates": "lora-7"}, families={"dates": "time"})
    {'lora-7': 'time', 'stranger': 'stranger'}
    """
    trained = {candidate: name for name, candidate in own.items()}

    def family(candidate: str) -> str:
        name = trained.get(candidate, candidate)
        return families.get(name, families.get(candidate, name))

    return {candidate: family(candidate) for candidate in candidates}


def is_allowed(
    candidate: str, candidate_family: str, task: str, family: str, view: View, own: Mapping[str, str]
) -> bool:
    """Return whether a task of a family may use a candidate in a view.

    Args:
        candidate: its id.
        candidate_family: its family, see `candidate_families`.
        task: name of the task.
        family: the task's family.
        view: "own-in": all candidates; "own-out": all but the task's own; "family-out": all but its family's.
        own: task name to the candidate trained on it, where the ids differ.

    >>> [is_allowed("dates-2", "time", "dates", "time", view, {}) for view in ("own-in", "own-out", "family-out")]
    [True, True, False]
    """
    return view == "own-in" or (candidate != own.get(task, task) and (view == "own-out" or candidate_family != family))
