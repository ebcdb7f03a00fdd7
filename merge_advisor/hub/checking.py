"""`hub check`: is everything what was written, and do catalogue and vectors agree?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_advisor.errors import RunError
from merge_advisor.hub.shortlist import can_be_opened
from merge_advisor.hub.values import HubCheck

if TYPE_CHECKING:
    from merge_advisor.hub.opened import OpenHub

_CALLED = {"bases": "bases", "entries": "models", "names": "ids", "scores": "scores", "spaces": "spaces",
           "deltas": "deltas", "runs": "runs", "costs": "costs of runs", "judged": "gates"}  # fmt: skip
"""What is in each table, for messages."""


def check_hub(hub: OpenHub, *, repair: bool = False) -> HubCheck:
    """Return what is wrong with a hub, see `Hub.check`.

    Args:
        hub: open.
        repair: make anew what can be, and drop damaged rows.

    Raises:
        RunError: the catalogue cannot be read; with `repair`: another process writes, or nothing can be written.
    """
    if not repair:
        return _looked(hub, ())
    with hub.writing():
        before = _looked(hub, ())
        done = _repair(hub, before)
        after = _looked(hub, tuple(done))
        if after.index:
            raise RunError(
                f"hub {hub.folder}: cannot be repaired ({after.index[0]}); copy it to another disk, then try again, or "
                "add its pools to another `hub`"
            )
        # what was wrong is told, beside what was done about it
        damaged = tuple(dict.fromkeys((*before.damaged, *after.damaged)))
        return HubCheck(after.entries, after.deltas, damaged, before.index, tuple(done), after.gone, after.damaged)


def _looked(hub: OpenHub, repaired: tuple[str, ...]) -> HubCheck:
    file = hub.catalogue.file
    damaged = []
    for table in _CALLED:
        wrong = len(file.damaged(table))
        if wrong:
            damaged.append(f"{_CALLED[table]}: {wrong} rows of the catalogue are not what was written")
    orphans = file.rows(
        "SELECT COUNT(*) FROM names n WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.number = n.entry)"
    )
    if orphans[0][0]:
        damaged.append(f"ids: {orphans[0][0]} stand for models that are not there")
    bases = file.rows("SELECT COUNT(*) FROM entries WHERE base NOT IN (SELECT digest FROM bases)")
    if bases[0][0]:
        damaged.append(f"bases: {bases[0][0]} models are of one that is not there; add a pool of it again")
    index = [*_structure(hub), *_texts(hub)]
    if not any(line.startswith(("deltas", "spaces")) for line in damaged):
        for number, space in hub.catalogue.spaces().items():
            index += hub.index.check(number, space)
    # rows that are damaged cannot be looked at one by one
    whole = not any(line.startswith("models") for line in damaged)
    gone = tuple(entry.id for entry in hub.catalogue.entries() if not can_be_opened(entry)) if whole else ()
    deltas = file.rows("SELECT COUNT(*) FROM deltas")[0][0]
    return HubCheck(hub.catalogue.count(), int(deltas), tuple(damaged), tuple(index), repaired, gone)


def _structure(hub: OpenHub) -> list[str]:
    """Whether SQLite finds the file's own structure whole: an index that differs from its table finds other rows."""
    said = [str(row[0]) for row in hub.catalogue.file.rows("PRAGMA integrity_check(1)")]
    return [] if said == ["ok"] else [f"catalogue: {' '.join(said[0].split())}"]


def _texts(hub: OpenHub) -> list[str]:
    file = hub.catalogue.file
    missing = file.rows("SELECT COUNT(*) FROM entries WHERE number NOT IN (SELECT rowid FROM texts)")[0][0]
    more = file.rows("SELECT COUNT(*) FROM texts WHERE rowid NOT IN (SELECT number FROM entries)")[0][0]
    return [f"texts: the index lacks {missing} models and has {more} that are not there"] if missing or more else []


def _repair(hub: OpenHub, found: HubCheck) -> list[str]:
    file, done = hub.catalogue.file, list[str]()
    with file.transaction():
        if any(line.startswith("catalogue") for line in found.index):
            file.run("REINDEX")  # first, as rows are looked for by indexes
            done.append("catalogue: its indexes made anew")
        for table in _CALLED:
            if dropped := file.drop_damaged(table):
                done.append(f"{_CALLED[table]}: {dropped} damaged rows dropped; what they held has to be added again")
        lost = "entry NOT IN (SELECT number FROM entries)"
        orphans = file.run(f"DELETE FROM names WHERE {lost}")
        orphans += file.run(f"DELETE FROM deltas WHERE {lost} OR space NOT IN (SELECT number FROM spaces)")
        orphans += file.run(f"DELETE FROM scores WHERE {lost}")
        if orphans:
            done.append(f"ids, deltas and scores of models that are not there: {orphans} rows dropped")
        if any(line.startswith("texts") for line in found.index) or done:
            file.run("DELETE FROM texts")
            for (number,) in file.rows("SELECT number FROM entries"):
                hub.texts.keep_text(number)
            done.append("texts: indexed anew")
    changed = bool(done)
    for number, space in hub.catalogue.spaces().items():
        hub.index.tidy(number)
        if changed or hub.index.check(number, space):
            count = hub.index.rebuild(number, space)
            done.append(f"vectors of {space.embedding} in {space.dtype}: {count} made anew from the catalogue")
    return done
