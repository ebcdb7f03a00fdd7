"""The shortlist of a plan: which models of a hub are worth opening for a task.

The task's delta names most of it; names and cards that fit the examples, and models that were measured to be good at a
task of the same name, name the rest. One in `TEXT_EVERY` places goes to the text, one in `SCORES_EVERY` to the scores:
what a rule misses because its own evidence is weak, another may still name.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.searching import nearest_entries
from merge_advisor.hub.values import HubEntry
from merge_advisor.spaces import Space

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.hub.opened import OpenHub

TEXT_EVERY, SCORES_EVERY = 8, 8
"""Of the places of a shortlist, one in so many is for the text, and one in so many for the scores."""
TEXTS_FIT = 20_000
"""Where a hub has more models, a shortlist looks for the rarest words of the examples, which so many have in all: what
more have tells few apart, and scoring a million takes seconds."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The models that a plan opens, and what named them.

    >>> Shortlist((), by={"delta": 0}, gone=()).by
    {'delta': 0}
    """

    entries: tuple[HubEntry, ...]
    by: dict[str, int]
    """How many of them each kind of evidence named first."""
    gone: tuple[str, ...]
    """Ids of models that would be in it, were their folders still there."""


@dataclass(frozen=True, slots=True, eq=False)
class TaskEvidence:
    """What a shortlist goes by.

    >>> TaskEvidence(None, "legal contracts", ("contracts",)).tasks
    ('contracts',)
    """

    vector: tuple[int, Space, Float32Array] | None
    """Number of the space, the space and the task delta; None: all models are taken, none is compared."""
    text: str
    """The choosing rows as text."""
    tasks: tuple[str, ...]
    """Names of the tasks."""


def shortlist(
    hub: OpenHub, evidence: TaskEvidence, chosen: EntryFilter, size: int, needed: Sequence[HubEntry] = ()
) -> Shortlist:
    """Return the models of a hub that a plan for a task opens.

    Args:
        hub: open.
        evidence: of the task.
        chosen: which models are looked at.
        size: how many at most.
        needed: models that are in it in any case.

    Raises:
        RunError: the catalogue cannot be read, or a delta in it is damaged.
    """
    if evidence.vector is None:
        entries = hub.catalogue.entries(chosen)
        present = tuple(entry for entry in entries if can_be_opened(entry))
        return Shortlist(present, {}, tuple(entry.id for entry in entries if not can_be_opened(entry)))
    number, space, vector = evidence.vector
    by_delta = _nearest_there(hub, (number, space), vector, size, chosen)
    texts = hub.texts.find_text(evidence.text, chosen, size, most_fit=TEXTS_FIT)
    scored = _scored(hub, evidence.tasks, chosen)
    known = hub.catalogue.by_number([*(entry for entry, _ in texts), *scored])
    sources = {
        "delta": by_delta,
        "text": [known[n] for n, _ in texts if n in known],
        "scores": [known[n] for n in scored if n in known],
    }
    taken = {entry.number: entry for entry in needed if can_be_opened(entry)}
    by = dict.fromkeys(sources, 0)
    gone: dict[int, str] = {}
    left = {name: iter(entries) for name, entries in sources.items()}
    turn = 0
    while len(taken) < size and left:
        turn += 1
        name = _whose(turn, left)
        entry = next((one for one in left[name] if one.number not in taken and one.number not in gone), None)
        if entry is None:
            del left[name]
        elif not can_be_opened(entry):
            gone[entry.number] = entry.id
        else:
            taken[entry.number] = entry
            by[name] += 1
    return Shortlist(tuple(taken.values()), by, tuple(gone.values()))


def _nearest_there(
    hub: OpenHub, place: tuple[int, Space], vector: Float32Array, size: int, chosen: EntryFilter
) -> list[HubEntry]:
    """The nearest models, so many that `size` of them can be opened, where there are as many."""
    most = 2 * size
    while True:
        found = nearest_entries(hub, place, vector, most, chosen)
        if len(found) < most or sum(map(can_be_opened, found)) >= size:
            return found
        most *= 4


def _whose(turn: int, left: Collection[str]) -> str:
    """Which evidence names the next one."""
    if "scores" in left and turn % SCORES_EVERY == 0:
        return "scores"
    if "text" in left and turn % TEXT_EVERY == TEXT_EVERY // 2:
        return "text"
    return next(iter(left))


def _scored(hub: OpenHub, tasks: Sequence[str], chosen: EntryFilter) -> list[int]:
    """Entries by their best score on a task of the same name, the best first; losses the other way round."""
    best: dict[int, float] = {}
    for task in tasks:
        for number, score in hub.results.scored(task):
            value = (
                -score.value if score.metric == "loss" else score.value + 1e6
            )  # a right answer says more than a loss
            best[number] = max(best.get(number, value), value)
    if not best:
        return []
    allowed = hub.catalogue.allowed(list(best), chosen)
    return sorted((n for n in best if n in allowed), key=lambda n: (-best[n], n))


def can_be_opened(entry: HubEntry) -> bool:
    """Return whether a model can be opened: its folder is there, or it is one of the hub, which can be fetched.

    Args:
        entry: the model.
    """
    return entry.revision is not None or Path(entry.place).is_dir()
