"""`hub add`: a pool into a hub. What is new is embedded; a killed add goes on where it was."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor import registry
from merge_advisor.advisor.measuring.deltas import TOGETHER, embedding_space, take_deltas
from merge_advisor.advisor.measuring.session import PoolFilter, Session, open_session
from merge_advisor.errors import InputError
from merge_advisor.hub.values import HUB_EMBEDDINGS, HubAdded, HubEntry
from merge_advisor.hub.writing import now
from merge_advisor.pool.licences import read_card
from merge_advisor.pool.sources import is_run_folder
from merge_advisor.session_options import SessionOptions
from merge_advisor.types import Candidate, RefusedModel

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.hub.opened import OpenHub


@dataclasses.dataclass(eq=False)
class _Done:
    """What was done so far."""

    new: list[str] = dataclasses.field(default_factory=list)
    versions: list[str] = dataclasses.field(default_factory=list)
    aliases: list[str] = dataclasses.field(default_factory=list)
    updated: list[str] = dataclasses.field(default_factory=list)
    refused: list[RefusedModel] = dataclasses.field(default_factory=list)
    unchanged: int = 0
    embedded: int = 0


class AddOptions(SessionOptions, total=False):
    """What may be said of a pool that is added to a hub; what is left out has its default.

    >>> AddOptions(template="plain")
    {'template': 'plain'}
    """

    embeddings: Sequence[str]
    """Specs; each model gets a delta in the space of each. Default: `HUB_EMBEDDINGS`."""
    template: str | None
    """Prompt template of the pool; None: its own."""
    wanted: PoolFilter | None
    """Which models of the pool are added; None: all that fit the base."""


def add_pool(
    hub_of: Callable[[], AbstractContextManager[OpenHub]],
    pool: str | Path,
    *,
    base: str,
    embeddings: Sequence[str] = HUB_EMBEDDINGS,
    template: str | None = None,
    wanted: PoolFilter | None = None,
    **where: Unpack[SessionOptions],
) -> HubAdded:
    """Return what came of adding a pool to a hub, see `Hub.add`.

    Args:
        hub_of: gives the hub, open; called once base and pool are, so that what cannot be used makes no empty hub.
        pool: folder of candidates, manifest, or hub ids.
        base: hub id, folder or GGUF file.
        embeddings: specs.
        template: prompt template of the pool; None: its own.
        wanted: which models of the pool are added.
        where: see `SessionOptions`.

    Raises:
        MergeAdvisorError: see `Hub.add`.
    """
    wanted = dataclasses.replace(wanted or PoolFilter(), copies=True, runs=False)
    done = _Done()
    with open_session(base, pool, template=template, wanted=wanted, **where) as session:
        spaces = [embedding_space(session.model, spec)[1] for spec in embeddings]
        done.refused += session.pool.refused
        with hub_of() as hub:
            # the lock is held for each write alone: embedding takes long, and others have to write meanwhile
            with hub.writing(), hub.catalogue.file.transaction():
                hub.catalogue.keep_base(session.local.base, _place_of(base))
                numbers = [hub.catalogue.keep_space(space) for space in spaces]
            _add_models(hub, session, list(zip(embeddings, numbers, strict=True)), done)
            for number, space in zip(numbers, spaces, strict=True):
                with hub.writing():
                    hub.index.bring_up(number, space)
    refused = tuple(sorted(done.refused, key=lambda item: item.id))
    return HubAdded(
        tuple(done.new), tuple(done.versions), tuple(done.aliases), tuple(done.updated), done.unchanged, done.embedded,
        refused,
    )  # fmt: skip


def check_addable(pool: str | Path, embeddings: Sequence[str]) -> None:
    """Refuse without opening any model what can be refused so.

    >>> check_addable("adapters", ())
    Traceback (most recent call last):
    merge_advisor.errors.InputError: no embedding named: give `embedding`, at least once

    Args:
        pool: as of `add_pool`.
        embeddings: as of `add_pool`.

    Raises:
        InputError: no embedding is named, or the pool is a run folder.
        SpecError: an unknown embedding, or parameters that it does not have.
    """
    if not embeddings:
        raise InputError("no embedding named: give `embedding`, at least once")
    for spec in embeddings:
        registry.build("embedding", spec)
    refuse_run(Path(pool))


def refuse_run(folder: Path) -> None:
    """Refuse a run folder where models are added: nobody who lists a run means its merge.

    >>> refuse_run(Path("run"))
    Traceback (most recent call last):
    merge_advisor.errors.InputError: run: is a run folder, no model; `merge-advisor hub add-run run` lists it with ...

    Args:
        folder: of the pool.

    Raises:
        InputError: it is one.
    """
    if is_run_folder(folder):
        raise InputError(
            f"{folder}: is a run folder, no model; `merge-advisor hub add-run {folder}` lists it with its scores, and "
            f"its merge is added as the folder that `merge-advisor merge {folder} --out MODEL` writes"
        )


def _add_models(hub: OpenHub, session: Session, spaces: Sequence[tuple[str, int]], done: _Done) -> None:
    """Embed and keep all of a session's models, until none is left that another process removed meanwhile."""
    left: Sequence[Candidate] = session.pool.candidates
    # alone in groups, since a GPU embeds several at once, and the hub has what is done; workers are given all at once,
    # for they load the base each time. The store keeps each delta as soon as it is there
    size = TOGETHER if session.meter.crew is None else max(1, len(left))
    for start in range(0, len(left), size):
        group: Sequence[Candidate] = left[start : start + size]
        while group:
            group = _add_group(hub, session, group, spaces, done, start)


def _add_group(
    hub: OpenHub,
    session: Session,
    group: Sequence[Candidate],
    spaces: Sequence[tuple[str, int]],
    done: _Done,
    start: int,
) -> list[Candidate]:
    """Embed what the hub lacks and keep the group; return those that another process removed meanwhile."""
    base, catalogue = session.local.base.digest, hub.catalogue
    known = {c.fingerprint: catalogue.by_fingerprint(base, c.fingerprint) for c in group}
    deltas: dict[int, dict[str, Float32Array]] = {}
    reasons: dict[str, str] = {}
    total = len(session.pool.candidates) * len(spaces)
    for turn, (spec, space) in enumerate(spaces):
        lacking: dict[str, Candidate] = {}
        for candidate in group:
            entry = known[candidate.fingerprint]
            if entry is None or not hub.deltas.has_delta(space, entry.number):
                lacking.setdefault(candidate.fingerprint, candidate)
        already = start * len(spaces) + turn * len(group) + len(group) - len(lacking)
        taken = take_deltas(session.meter, spec, list(lacking.values()), already, total)
        fingerprints = [candidate.fingerprint for candidate in taken.candidates]
        deltas[space] = dict(zip(fingerprints, taken.deltas.array, strict=True))
        by_id = {candidate.id: candidate.fingerprint for candidate in lacking.values()}
        reasons |= {by_id[item.id]: f"embedding {spec}: {item.reason}" for item in taken.refused}
    again: list[Candidate] = []
    for start in range(0, len(group), TOGETHER):  # the lock goes round in between: others wait for a few models alone
        with hub.writing():
            for candidate in group[start : start + TOGETHER]:
                if not _keep_embedded(hub, session, candidate, deltas, reasons, done):
                    again.append(candidate)
    return again


def _keep_embedded(
    hub: OpenHub,
    session: Session,
    candidate: Candidate,
    deltas: Mapping[int, Mapping[str, Float32Array]],
    reasons: Mapping[str, str],
    done: _Done,
) -> bool:
    """Keep a model with its deltas, or why it has none; false where another process has removed what it had."""
    own = candidate.fingerprint
    found = [(space, by_print[own]) for space, by_print in deltas.items() if own in by_print]
    entry = hub.catalogue.by_fingerprint(session.local.base.digest, own)
    if own in reasons:
        done.refused.append(RefusedModel(candidate.id, reasons[own]))
        if not found and entry is None:
            return True
    elif any(
        own not in by_print and (entry is None or not hub.deltas.has_delta(space, entry.number))
        for space, by_print in deltas.items()
    ):
        return False
    # all of one model or nothing: a kill in between leaves the models before it
    with hub.catalogue.file.transaction():
        number = _add_candidate(hub, session, candidate, done)
        for space, delta in found:
            if not hub.deltas.has_delta(space, number):
                hub.deltas.keep_delta(space, number, delta)
                done.embedded += 1
    return True


def _add_candidate(hub: OpenHub, session: Session, candidate: Candidate, done: _Done) -> int:
    """Keep a model's row and name; return its number."""
    catalogue, base = hub.catalogue, session.local.base.digest
    entry = catalogue.by_fingerprint(base, candidate.fingerprint)
    current = next((v for v in catalogue.versions(candidate.id, base) if v.current), None)
    time = now()
    said = _described(candidate, session, time)
    if entry is None:
        number = catalogue.keep_entry(said)
    else:
        number = entry.number
        mine = not entry.ids or entry.ids[0] == candidate.id or not Path(entry.place).exists()
        # an alias says nothing of the entry, unless the folder that it was read from is gone
        kept = dataclasses.replace(said if mine else entry, number=number, added=entry.added, ids=entry.ids)
        if kept != entry:
            catalogue.keep_entry(kept)
            done.updated.append(candidate.id)
    if current is None or current.entry != number:
        catalogue.keep_name(base, candidate.id, number, time)
        if current is not None:
            done.versions.append(candidate.id)
            hub.texts.keep_text(current.entry)
        else:
            (done.new if entry is None else done.aliases).append(candidate.id)
    elif candidate.id not in done.updated:
        done.unchanged += 1
        return number
    hub.texts.keep_text(number)
    return number


def _described(candidate: Candidate, session: Session, time: str) -> HubEntry:
    card = read_card(Path(candidate.path))
    return HubEntry(
        number=0,
        ids=(),
        base=session.local.base.digest,
        fingerprint=candidate.fingerprint,
        kind=candidate.kind,
        rank=candidate.rank,
        modules=candidate.modules,
        licence=candidate.licence,
        size=_size_of(Path(candidate.path)),
        source=_text(candidate.source),
        revision=candidate.revision,
        place=_text(str(Path(candidate.path).absolute())),
        card=candidate.description,
        languages=card.languages,
        data_sets=card.data_sets,
        tags=card.tags,
        template=session.model.template.name,
        notes=candidate.notes,
        added=time,
    )


def _size_of(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    sizes = (path.stat().st_size for path in folder.glob("*.safetensors"))
    return sum(sizes)


def _text(path: str) -> str:
    """A path as text that a database holds; what is no UTF-8 in it is escaped, and then opens nothing."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _place_of(ref: str) -> str:
    """How a base is named so that it is found from any folder."""
    path = Path(ref).expanduser()
    return _text(str(path.absolute())) if path.exists() else ref
