"""The catalogue of a hub folder: one SQLite file that all else in the folder can be made anew from.

    bases     what the models were finetuned from
    entries   one row for equal weights on one base
    names     ids and their versions: which entry each stood for, and which one is current
    scores    what entries reached on tasks
    spaces    the spaces that there are deltas in
    deltas    float32, as the store has them, by space and entry; `row` orders them for the vectors beside the file
    removed   rows of `deltas` that are no more: what the vectors may still hold
    runs      runs that were planned from the hub
    costs     what these took, and what their alternatives would have
    judged    gates, and models judged for watched pools, with what that took
    texts     full text (FTS5) over names, cards and tags, made from the others

Rows carry checksums (`checked_sqlite`). One process writes at a time, under the lock of `Hub`; readers see the state
before or after a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from merge_advisor.checked_sqlite import CheckedFile, checksum
from merge_advisor.errors import RunError
from merge_advisor.hub.filters import EntryFilter
from merge_advisor.hub.schema import CATALOGUE_COLUMNS, CATALOGUE_KIND, ENTRY_COLUMNS
from merge_advisor.hub.values import HubBase, HubEntry, HubVersion
from merge_advisor.spaces import Space
from merge_advisor.types import Base

CATALOGUE = "catalogue.sqlite"
_LISTS = ("modules", "languages", "data_sets", "tags", "notes")
_SELECT = ", ".join(f"e.{name}" for name in (*ENTRY_COLUMNS, "checksum"))
_CURRENT = "EXISTS (SELECT 1 FROM names n WHERE n.entry = e.number AND n.current = 1)"
OF_BASE = "e.base = ?"
"""The condition of a filter on nothing but the base."""
_AT_ONCE = 500
"""Values in one list of a query: SQLite takes 999 in old versions."""


class Catalogue:
    """The SQLite file of a hub folder, and the questions it answers; only `Hub` opens one.

    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     catalogue.count()
    0

    Args:
        folder: the hub folder.
        make: whether it is made where it is missing.
        frozen: whether the file cannot change, since it lies where nothing can be written.

    Raises:
        RunError: the file cannot be opened, is damaged, something else, or of a newer version; of every method, that it
            cannot be read or written.
    """

    def __init__(self, folder: Path, *, make: bool = True, frozen: bool = False) -> None:
        self.path = folder / CATALOGUE
        self._file = CheckedFile(self.path, CATALOGUE_KIND, make=make, frozen=frozen)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def file(self) -> CheckedFile:
        """The file itself: for transactions, and for those who count."""
        return self._file

    # bases and spaces

    def keep_base(self, base: Base, place: str) -> None:
        """Keep a base.

        Args:
            base: the base.
            place: as it was named.
        """
        row = (base.digest, base.id, base.revision, base.architecture, place)
        if self._file.rows(
            f"SELECT {', '.join(CATALOGUE_COLUMNS['bases'])} FROM bases WHERE digest = ?", [base.digest]
        ) != [row]:
            self._file.keep("bases", *row)

    def bases(self, *, counted: bool = True) -> tuple[HubBase, ...]:
        """Return the bases with the number of models each has, the one with most first.

        Args:
            counted: whether the models are counted, which takes long where there are many; else all have 0.
        """
        found = []
        for digest, name, revision, architecture, place in self._file.sound_rows("bases"):
            models = self.count(EntryFilter(OF_BASE, (digest,))) if counted else 0
            found.append(HubBase(Base(name, revision, digest, architecture), place, models))
        return tuple(sorted(found, key=lambda item: (-item.models, item.base.id, item.base.digest)))

    def space_number(self, space: Space) -> int | None:
        """Return the number of a space, or None.

        Args:
            space: the space.
        """
        rows = self._file.rows("SELECT number FROM spaces WHERE digest = ?", [space.digest])
        return int(rows[0][0]) if rows else None

    def keep_space(self, space: Space) -> int:
        """Return the number of a space, a new one where it has none.

        Args:
            space: the space.
        """
        number = self.space_number(space)
        if number is None:
            number = int(self._file.rows("SELECT COALESCE(MAX(number), 0) + 1 FROM spaces")[0][0])
            self._file.keep("spaces", number, space.digest, json.dumps(_plain(space), sort_keys=True))
        return number

    def spaces(self) -> dict[int, Space]:
        """Return the spaces by number."""
        rows = self._file.sound_rows("spaces", "ORDER BY number")
        return {int(number): Space(**json.loads(text)) for number, _, text in rows}

    # entries and names

    def count(self, chosen: EntryFilter | None = None) -> int:
        """Return how many entries have a current id.

        Args:
            chosen: which of them; None: all.
        """
        if chosen is None or chosen.where in ("", OF_BASE):
            # along an index of the names: a million models in 0.1 s, where looking each up takes three times that
            base = "" if chosen is None or not chosen.where else " AND base = ?"
            query = f"SELECT COUNT(DISTINCT entry) FROM names INDEXED BY names_by_entry WHERE current = 1{base}"
            return int(self._file.rows(query, chosen.values if chosen else ())[0][0])
        where, values = entries_where(chosen)
        return int(self._file.rows(f"SELECT COUNT(*) FROM entries e WHERE {where}", values)[0][0])

    def entries(
        self,
        chosen: EntryFilter | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        all_versions: bool = False,
    ) -> tuple[HubEntry, ...]:
        """Return entries in the order they were added.

        Args:
            chosen: which of them; None: all.
            limit: how many at most.
            offset: how many are passed over first.
            all_versions: also those that all their ids have left.
        """
        where, values = entries_where(chosen, all_versions=all_versions)
        most = -1 if limit is None else limit
        rows = self._file.rows(
            f"SELECT {_SELECT} FROM entries e WHERE {where} ORDER BY e.number LIMIT ? OFFSET ?", [*values, most, offset]
        )
        return self._with_ids(rows)

    def numbers(self, chosen: EntryFilter | None = None) -> list[int]:
        """Return the numbers of entries with a current id, sorted.

        Args:
            chosen: which of them; None: all.
        """
        where, values = entries_where(chosen)
        return [
            int(row[0]) for row in self._file.rows(f"SELECT e.number FROM entries e WHERE {where} ORDER BY 1", values)
        ]

    def by_number(self, numbers: Sequence[int]) -> dict[int, HubEntry]:
        """Return entries by number; those that are no more are left out.

        Args:
            numbers: of entries, with current ids or without.
        """
        found: dict[int, HubEntry] = {}
        for part in in_parts(numbers):
            marks = ", ".join("?" * len(part))
            rows = self._file.rows(f"SELECT {_SELECT} FROM entries e WHERE e.number IN ({marks})", part)
            found |= {entry.number: entry for entry in self._with_ids(rows)}
        return found

    def allowed(self, numbers: Sequence[int], chosen: EntryFilter | None = None) -> set[int]:
        """Return those of some entries that have a current id and pass a filter.

        Args:
            numbers: of entries.
            chosen: which are allowed; None: all.
        """
        where, values = entries_where(chosen)
        found: set[int] = set()
        for part in in_parts(numbers):
            marks = ", ".join("?" * len(part))
            rows = self._file.rows(
                f"SELECT e.number FROM entries e WHERE e.number IN ({marks}) AND {where}", [*part, *values]
            )
            found |= {int(row[0]) for row in rows}
        return found

    def modules(self, base: str) -> tuple[str, ...]:
        """Return the kinds of modules that adapters of a base change, sorted.

        Args:
            base: digest of the base.

        Raises:
            RunError: the catalogue cannot be read, or what it says of them was damaged.
        """
        lists = self._distinct("modules", "base = ? AND kind = 'adapter'", [base])
        try:
            return tuple(sorted({str(name) for text in lists for name in json.loads(text)}))
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"{CATALOGUE_KIND.name} {self.path}: modules of a model were damaged; {CATALOGUE_KIND.repair}"
            ) from error

    def templates(self, base: str | None) -> tuple[str, ...]:
        """Return the templates that models were trained under, sorted.

        Args:
            base: digest of their base; None: of any.
        """
        digests = [item.base.digest for item in self.bases(counted=False)] if base is None else [base]
        return tuple(sorted({text for digest in digests for text in self._distinct("template", "base = ?", [digest])}))

    def _distinct(self, column: str, where: str, values: list[str]) -> list[str]:
        """Distinct values of a column, a step of an index each: a million rows are not read for three values."""
        rows = self._file.rows(
            f"WITH RECURSIVE step (value) AS (SELECT MIN({column}) FROM entries WHERE {where} UNION ALL "
            f"SELECT (SELECT MIN({column}) FROM entries WHERE {where} AND {column} > step.value) FROM step "
            "WHERE step.value IS NOT NULL) SELECT value FROM step WHERE value IS NOT NULL",
            [*values, *values],
        )
        return [str(row[0]) for row in rows]

    def by_fingerprint(self, base: str, fingerprint: str) -> HubEntry | None:
        """Return the entry of some weights on a base, or None.

        Args:
            base: digest of the base.
            fingerprint: of the weights.
        """
        rows = self._file.rows(
            f"SELECT {_SELECT} FROM entries e WHERE e.base = ? AND e.fingerprint = ?", [base, fingerprint]
        )
        found = self._with_ids(rows)
        return found[0] if found else None

    def versions(self, name: str, base: str | None = None) -> tuple[HubVersion, ...]:
        """Return the versions of an id, the oldest first.

        Args:
            name: the id.
            base: digest of the base; None: of all.
        """
        rows = self._file.rows(
            "SELECT id, version, entry, added, current FROM names WHERE id = ? AND (? IS NULL OR base = ?) "
            "ORDER BY base, version",
            [name, base, base],
        )
        return tuple(HubVersion(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows)

    def named(self, name: str) -> tuple[HubEntry, ...]:
        """Return the entries that an id stands for now, one a base.

        Args:
            name: the id.
        """
        rows = self._file.rows("SELECT entry FROM names WHERE id = ? AND current = 1 ORDER BY base", [name])
        found = self.by_number([row[0] for row in rows])
        return tuple(found[row[0]] for row in rows if row[0] in found)

    def ids_like(self, name: str, most: int = 5) -> list[str]:
        """Return a few current ids for a message: those that begin alike, else the first.

        Args:
            name: an id that is not there.
            most: how many.
        """
        begin = name[:3].replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
        like = self._file.rows(
            "SELECT DISTINCT id FROM names WHERE current = 1 AND id GLOB ? LIMIT ?", [begin + "*", most]
        )
        rows = like or self._file.rows("SELECT DISTINCT id FROM names WHERE current = 1 LIMIT ?", [most])
        return [str(row[0]) for row in rows]

    def keep_entry(self, entry: HubEntry) -> int:
        """Return the number of an entry that is kept: a new one where it is 0, else in the place of what had it.

        Args:
            entry: the entry; its ids are kept by `keep_name`, its scores by `HubResults`.
        """
        number = entry.number
        if not number:
            # also above what was removed: `remove` must not make a number stand for another model
            last = self._file.rows("SELECT COALESCE(MAX(number), 0), (SELECT last FROM counters) FROM entries")[0]
            number = max(int(last[0]), int(last[1] or 0)) + 1
            self._file.run("UPDATE counters SET last = ?", [number])
        kept = replace(entry, number=number)
        values = [getattr(kept, name) for name in ENTRY_COLUMNS]
        self._file.keep(
            "entries", *(json.dumps(v) if n in _LISTS else v for n, v in zip(ENTRY_COLUMNS, values, strict=True))
        )
        return number

    def keep_name(self, base: str, name: str, entry: int, added: str) -> int:
        """Return the version of an id that stands for an entry from now on.

        Args:
            base: digest of the base.
            name: the id.
            entry: number of the entry.
            added: when.
        """
        rows = self._file.rows(
            "SELECT base, id, version, entry, added, current FROM names WHERE base = ? AND id = ? ORDER BY version",
            [base, name],
        )
        for row in rows:
            if row[5]:
                self._file.keep("names", *row[:5], 0)
        version = int(rows[-1][2]) + 1 if rows else 1
        self._file.keep("names", base, name, version, entry, added, 1)
        return version

    def drop_name(self, base: str, name: str) -> list[int]:
        """Return the numbers of entries that go with an id: those that no other id ever stood for.

        Args:
            base: digest of the base.
            name: the id; all its versions go.
        """
        stood = [row[0] for row in self._file.rows("SELECT entry FROM names WHERE base = ? AND id = ?", [base, name])]
        self._file.run("DELETE FROM names WHERE base = ? AND id = ?", [base, name])
        gone = [n for n in dict.fromkeys(stood) if not self._file.rows("SELECT 1 FROM names WHERE entry = ?", [n])]
        for number in gone:
            self._file.run("INSERT OR REPLACE INTO removed SELECT row, space FROM deltas WHERE entry = ?", [number])
            for table, column in (("deltas", "entry"), ("scores", "entry"), ("entries", "number"), ("texts", "rowid")):
                self._file.run(f"DELETE FROM {table} WHERE {column} = ?", [number])
        return gone

    def _whole(self, row: Sequence[Any]) -> HubEntry:
        """An entry of its row, which has to be what was written."""
        *own, kept = row
        if checksum("entries", *own) != kept:
            raise RunError(
                f"hub catalogue {self.path}: the row of model #{own[0]} was damaged; "
                "`merge-advisor hub check --repair` drops it, then add its pool again"
            )
        values = dict(zip(ENTRY_COLUMNS, own, strict=True))
        return HubEntry(ids=(), **values | {name: tuple(json.loads(values[name])) for name in _LISTS})

    def _with_ids(self, rows: Sequence[tuple[Any, ...]]) -> tuple[HubEntry, ...]:
        entries = [self._whole(row) for row in rows]
        ids: dict[int, list[str]] = {entry.number: [] for entry in entries}
        for part in in_parts(list(ids)):
            marks = ", ".join("?" * len(part))
            for number, name in self._file.rows(
                f"SELECT entry, id FROM names WHERE current = 1 AND entry IN ({marks}) ORDER BY added, id", part
            ):
                ids[number].append(name)
        return tuple(replace(entry, ids=tuple(ids[entry.number])) for entry in entries)


def entries_where(chosen: EntryFilter | None, *, all_versions: bool = False) -> tuple[str, tuple[str | int, ...]]:
    """Return the condition on `entries e`, and its values, that a filter stands for.

    Args:
        chosen: the filter; None: all.
        all_versions: also entries without a current id.
    """
    found = (chosen or EntryFilter()).and_also(EntryFilter("1" if all_versions else _CURRENT))
    return found.where, found.values


def in_parts(values: Sequence[int]) -> Iterable[list[int]]:
    """Yield numbers in lists as long as one query takes.

    Args:
        values: the numbers.
    """
    return (list(values[start : start + _AT_ONCE]) for start in range(0, len(values), _AT_ONCE))


def _plain(space: Space) -> dict[str, Any]:
    return {item.name: getattr(space, item.name) for item in fields(space)}
