"""Which candidates a task may use in a view, and which family each candidate is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.benchmark.values import View


def kin_of(candidates: Sequence[str], own: Mapping[str, str], families: Mapping[str, str]) -> dict[str, str]:
    """Return the family of each candidate, by id: that of the task it was trained on; one without is its own.

    Args:
        candidates: ids.
        own: task name to the candidate trained on it, where the ids differ.
        families: task or candidate name to family.
    """
    trained = {candidate: name for name, candidate in own.items()}

    def family(candidate: str) -> str:
        name = trained.get(candidate, candidate)
        return families.get(name, families.get(candidate, name))

    return {candidate: family(candidate) for candidate in candidates}


def may_use(candidate: str, kin: str, task: str, family: str, view: View, own: Mapping[str, str]) -> bool:
    """Whether a task of a family may use a candidate of the family `kin` in a view; `own` as in `kin_of`."""
    return view == "own-in" or (candidate != own.get(task, task) and (view == "own-out" or kin != family))
