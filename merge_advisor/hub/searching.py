"""`hub search`: by a model, by a task, or by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.errors import InputError
from merge_advisor.hub.catalogue import OF_BASE
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.index import Nearest, refuse_space
from merge_advisor.hub.texts import looked_for
from merge_advisor.hub.values import HubEntry, HubHit, HubSearch
from merge_advisor.hub_options import HubSearchOptions
from merge_advisor.plain_text import short_name
from merge_advisor.spaces import Space

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.hub.opened import OpenHub
    from merge_advisor.session_options import SessionOptions


@dataclass(frozen=True, slots=True)
class Asked:
    """What a search is for.

    >>> Asked("law", None, None).k
    10
    """

    like: str | None
    task: str | Path | None
    text: str | None
    k: int = 10
    base: str | None = None


def search_hub(
    hub: OpenHub, asked: Asked, options: HubSearchOptions | None = None, **where: Unpack[SessionOptions]
) -> HubSearch:
    """Return what a search of a hub finds, see `Hub.search`.

    Args:
        hub: open.
        asked: what for.
        options: filter, embedding, fields of the examples.
        where: see `SessionOptions`.

    Raises:
        InputError: none or several of a model, a task and a text are given, a text without a word, or k below 1.
        MergeAdvisorError: see `Hub.search`.
    """
    options = options or HubSearchOptions()
    if sum(part is not None for part in (asked.like, asked.task, asked.text)) != 1:
        raise InputError("a search is for one thing: give one of `like=ID`, `task=FILE` and `text=WORDS`")
    if asked.k < 1:
        raise InputError(f"`k={asked.k}`: give 1 or more")
    if asked.like is not None:
        return _like(hub, asked.like, asked, options)
    if asked.task is not None:
        return _task(hub, Path(asked.task), asked, options, **where)
    text = asked.text or ""
    if not looked_for(text):
        why = "in words of one letter, and in 'the', 'of' and their like, nothing is looked for" if text.strip() else (
            "has no words"
        )  # fmt: skip
        raise InputError(f"`text={short_name(text)}`: {why}; give words that a name, a card or tags may have")
    return _text(hub, text, asked, options)


def _like(hub: OpenHub, name: str, asked: Asked, options: HubSearchOptions) -> HubSearch:
    entry = hub.entry(name, base=asked.base)
    counts = {
        number: hub.deltas.delta_counts(number)[0]
        for number, space in hub.catalogue.spaces().items()
        if space.base == entry.base
        and space.embedding == options.embedding
        and hub.deltas.has_delta(number, entry.number)
    }
    spaces = hub.catalogue.spaces()
    if not counts:
        raise refuse_space(hub.folder, [space for space in spaces.values() if space.base == entry.base])
    number = max(counts, key=lambda item: (counts[item], -item))
    delta = hub.deltas.delta(number, entry.number)
    if delta is None:
        raise refuse_space(hub.folder, [])
    # one more, as the nearest of all is the model itself
    found = nearest_in(hub, (number, spaces[number]), delta, asked.k + 1, options.filter)
    hits = tuple(hit for hit in found.hits if hit.entry.number != entry.number)[: asked.k]
    notes = list(found.notes)
    if len(counts) > 1:
        dtypes = ", ".join(sorted(spaces[item].dtype for item in counts))
        notes.append(f"it has deltas in several dtypes ({dtypes}); compared in {spaces[number].dtype}, which most have")
    if not delta.any():
        notes.append("its delta is zero: it does not change the base, and is as like one model as another")
    return replace(found, hits=hits, asked=f"models like {entry.id}", notes=tuple(notes))


def _task(
    hub: OpenHub, task: Path, asked: Asked, options: HubSearchOptions, **where: Unpack[SessionOptions]
) -> HubSearch:
    from merge_advisor.advisor.measuring.session import open_session
    from merge_advisor.advisor.planning.sources import find_sources, read_sources
    from merge_advisor.hub.task_vectors import check_base, hub_template, task_vector
    from merge_advisor.options import PlanOptions

    planned = PlanOptions(embedding=options.embedding, fields=options.fields)
    offline = where.get("offline", False)
    tasks = [item.task for item in read_sources(find_sources([task], offline=offline), planned, offline=offline)]
    base = asked.base or hub.base_of(None).place
    with open_session(base, None, template=hub_template(hub, base, options.template), **where) as session:
        digest = check_base(hub, session)
        space, vector = task_vector(hub, session, tasks, planned)
    number = hub.catalogue.space_number(space)
    if number is None:
        raise refuse_space(hub.folder, [own for own in hub.catalogue.spaces().values() if own.base == digest])
    found = nearest_in(hub, (number, space), vector, asked.k, options.filter)
    return replace(found, asked=f"models like task {tasks[0].name}, by the delta of a LoRA of its shots")


def _text(hub: OpenHub, text: str, asked: Asked, options: HubSearchOptions) -> HubSearch:
    base = None if asked.base is None else hub.base_of(asked.base).base.digest
    chosen = hub.filtered(options.filter, base)
    found = hub.texts.find_text(text, chosen, asked.k)
    entries = hub.catalogue.by_number([number for number, _ in found])
    # one that was removed meanwhile is no hit
    # six digits, not six places: where most cards have a word, it fits by a millionth
    hits = tuple(HubHit(entries[number], float(f"{score:.6g}")) for number, score in found if number in entries)
    notes = () if hits else (_why_none(hub, text, options.filter),)
    return HubSearch(
        hits, f"names, cards and tags with words of '{short_name(text)}'", None, hub.catalogue.count(chosen),
        notes=notes,
    )  # fmt: skip


def _why_none(hub: OpenHub, text: str, wanted: str) -> str:
    """What is said where no model has any of the words."""
    if wanted.strip() and hub.texts.find_text(text, k=1):
        return "models that the filter leaves out have some of these words; loosen `filter`"
    return (
        "no name, card or tag has any of these words; they are compared as they are ('contract' is not 'contracts'), "
        "so try others, or search by what models do: `like=ID`, or `task=FILE` of examples"
    )


def nearest_in(
    hub: OpenHub, place: tuple[int, Space], vector: Float32Array, k: int, wanted: str | EntryFilter = ""
) -> HubSearch:
    """Return the models of a hub whose deltas in a space are nearest to a vector.

    Args:
        hub: open.
        place: number of the space, and the space.
        vector: (d,) float32.
        k: how many at most.
        wanted: which models are looked at; empty: all.

    Raises:
        InputError: a filter that is none.
        RunError: the catalogue cannot be read, or a delta in it is damaged.
    """
    found, entries, chosen = _nearest(hub, place, vector, k, wanted)
    hits = tuple(
        HubHit(entries[number], float(value))
        for number, value in zip(found.entries, found.cosines, strict=True)
        if number in entries
    )
    models = hub.models_in(place[0]) if chosen is None else chosen
    return HubSearch(hits, "models like a vector", place[1], models, found.exact)


def nearest_entries(
    hub: OpenHub, place: tuple[int, Space], vector: Float32Array, k: int, wanted: EntryFilter
) -> list[HubEntry]:
    """Return the models that `nearest_in` finds, the nearest first; how many there are is not counted.

    Args:
        hub: open.
        place: as of `nearest_in`.
        vector: as of `nearest_in`.
        k: how many at most.
        wanted: which models are looked at.

    Raises:
        RunError: as of `nearest_in`.
    """
    found, entries, _ = _nearest(hub, place, vector, k, wanted)
    return [entries[number] for number in found.entries if number in entries]


def _nearest(
    hub: OpenHub, place: tuple[int, Space], vector: Float32Array, k: int, wanted: str | EntryFilter
) -> tuple[Nearest, dict[int, HubEntry], int | None]:
    """The nearest, their entries, and how many a filter leaves; None where it leaves all."""
    chosen = hub.filtered(wanted) if isinstance(wanted, str) else wanted
    # a space is of one base: to ask for that is to ask for all
    some = bool(chosen.where) and chosen != EntryFilter(OF_BASE, (place[1].base,))
    rows: Sequence[tuple[int, int]] | None = hub.deltas.row_entries(place[0], chosen) if some else None
    found = hub.index.nearest(place, vector, k, hub.catalogue.allowed, rows)
    return found, hub.catalogue.by_number(found.entries), None if rows is None else len(rows)
