"""What the page says of one model: its card and scores, its true neighbours, and what merging it with them costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from merge_advisor.errors import InputError
from merge_advisor.explore.map_points import UNKNOWN
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.planning import kept_manifest
from merge_advisor.hub.searching import nearest_in
from merge_advisor.hub.shortlist import can_be_opened
from merge_advisor.json_form import to_plain
from merge_advisor.plain_text import short_name
from merge_advisor.pool.licences import is_open_licence
from merge_advisor.select.interference import interference

if TYPE_CHECKING:
    from merge_advisor.explore.map_points import MapPoints
    from merge_advisor.hub import Hub
    from merge_advisor.hub.values import HubEntry
    from merge_advisor.session_options import SessionOptions

MOST_COMPARED = 16
"""Models whose weights are read for one look at costs."""


def model_details(hub: Hub, number: int) -> dict[str, Any]:
    """Return what the hub knows of a model, as plain values.

    Args:
        hub: open.
        number: of the entry.

    Raises:
        InputError: the hub has no such model.
    """
    entry = hub.entry(number)
    base = next((item.base for item in hub.bases() if item.base.digest == entry.base), None)
    versions = hub.versions(entry.id) if entry.ids else ()
    plain: dict[str, Any] = to_plain(entry)
    return plain | {
        "id": entry.id,
        "base_id": base.id if base else entry.base,
        "open_licence": is_open_licence(entry.licence),
        "versions": [to_plain(version) for version in versions if version.entry != number or len(versions) > 1],
        "here": can_be_opened(entry),
    }


def neighbours_of(hub: Hub, points: MapPoints, number: int, k: int, *, only_open: bool = False) -> dict[str, Any]:
    """Return the models nearest to one by the cosine of the deltas themselves, whatever the map shows.

    Args:
        hub: open.
        points: of the space.
        number: of the entry.
        k: how many at most.
        only_open: only models whose licence is a common open one.

    Raises:
        InputError: the hub has no such model, or no delta of it in this space.
    """
    entry = hub.entry(number)
    delta = hub.deltas.delta(points.number, number)
    if delta is None:
        raise InputError(f"hub {hub.folder}: has no delta of {short_name(entry.id)} in this space")
    chosen = EntryFilter("e.base = ?", (entry.base,))
    if only_open:
        free = tuple(word for word in points.words["licence"] if word != UNKNOWN and is_open_licence(word))
        marks = ", ".join("?" * len(free))
        chosen = chosen.and_also(EntryFilter(f"e.licence IN ({marks})", free))
    found = nearest_in(hub, (points.number, points.space), delta, k + 1, chosen if only_open else "")
    hits = [hit for hit in found.hits if hit.entry.number != number][:k]
    return {
        "hits": [neighbour_row(hit.entry, hit.score) for hit in hits],
        "models": found.models, "exact": found.exact, "zero": not bool(delta.any()),
    }  # fmt: skip


def neighbour_row(entry: HubEntry, cosine: float) -> dict[str, Any]:
    """Return a model as a line of a list of neighbours.

    Args:
        entry: the model.
        cosine: with what it is a neighbour of.
    """
    return {
        "number": entry.number, "id": entry.id, "cosine": round(cosine, 6), "licence": entry.licence,
        "rank": entry.rank,
    }  # fmt: skip


def named_models(hub: Hub, numbers: Sequence[int], most: int) -> list[HubEntry]:
    """Return models of one base that can be opened, in the order given.

    Args:
        hub: open.
        numbers: of the entries.
        most: how many at most.

    Raises:
        InputError: none, too many, one that is unknown, of another base than the others, or not there any more.
    """
    if not 0 < len(numbers) <= most:
        raise InputError(f"{len(numbers)} models: name 1 to {most}")
    found = hub.catalogue.by_number(list(dict.fromkeys(numbers)))
    unknown = [number for number in numbers if number not in found]
    if unknown:
        raise InputError(f"hub {hub.folder}: has no model #{unknown[0]}; load the page again")
    entries = [found[number] for number in dict.fromkeys(numbers)]
    if len({entry.base for entry in entries}) > 1:
        raise InputError("these models are of several bases; choose models of one")
    gone = [entry.id for entry in entries if not can_be_opened(entry)]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise InputError(f"{short_name(gone[0])}{more}: its folder is not there any more; choose others")
    return entries


def merging_costs(
    entries: Sequence[HubEntry], base: str, **where: Unpack[SessionOptions]
) -> dict[int, dict[str, float] | str]:
    """Return for each model but the first what merging it with the first costs: sign conflict and overlap, or why not.

    Reads their weights; nothing is loaded into a model.

    Args:
        entries: of one base, each with a folder.
        base: place of the base.
        where: see `SessionOptions`.

    Raises:
        MergeAdvisorError: base or models cannot be opened.
    """
    from merge_advisor.advisor.measuring.session import PoolFilter, open_session

    manifest = kept_manifest(entries, entries[0].template, where.get("cache"))
    costs: dict[int, dict[str, float] | str] = {}
    with open_session(base, manifest, wanted=PoolFilter(copies=True), **where) as session:
        by_id = {candidate.id: candidate for candidate in session.pool.candidates}
        reasons = {item.id: item.reason for item in session.pool.refused}
        first = by_id.get(entries[0].id)
        if first is None:
            raise InputError(f"{short_name(entries[0].id)}: {reasons.get(entries[0].id, 'cannot be opened')}")
        own = session.weights.of(first)
        for entry in entries[1:]:
            other = by_id.get(entry.id)
            if other is None:
                costs[entry.number] = reasons.get(entry.id, "cannot be opened")
                continue
            clash = interference([own, session.weights.of(other)])[1]
            if clash is None:
                costs[entry.number] = "one of the two is no plain LoRA: their weights have no factors to compare"
            else:
                costs[entry.number] = {"sign_conflict": clash.sign_conflict, "overlap": clash.overlap}
    return costs
