"""What was measured, kept between runs in one SQLite file; processes may share it, and be killed at any moment.

The key of every value holds everything that the value depends on, so that nothing is ever stale: deltas under
(space, fingerprint), losses under (base, template, rows, weights), scores under (model, task, evaluator). Deleting the
file costs time and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.checked_sqlite import CheckedFile, FileKind, add_checksums, checksum, warn_of_damage
from merge_advisor.natural_numbers import natural_number
from merge_advisor.spaces import Space

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array

_COLUMNS = {"deltas": ("space", "fingerprint", "delta"), "measured": ("key", "value"), "hashes": ("key", "value")}
"""Of each table whose rows have a checksum, the columns under it; the last one is the value, the others are the key."""
_CALLED = {"deltas": "deltas of models", "measured": "measurements", "hashes": "hashes of files"}


class Store:
    """Deltas, measurements and file hashes in one SQLite file.

    >>> with Store(Path("store.sqlite")) as store:
    ...     store.keep_measured("a digest of all it depends on", [0.25, 0.5])
    ...     store.measured("a digest of all it depends on"), store.measured("another digest")
    ([0.25, 0.5], None)

    Args:
        path: the file; it and its folder are made where they are missing.
        make: as of `CheckedFile`.
        frozen: as of `CheckedFile`; rows that are damaged stay.

    Raises:
        RunError: the file cannot be opened, is damaged or no store, or of a newer version, or its folder cannot be
            written; of every method, that the file cannot be read or written.
    """

    def __init__(self, path: Path, *, make: bool = True, frozen: bool = False) -> None:
        self.path = path
        self._file = CheckedFile(path, _KIND, make=make, frozen=frozen)
        self.hashes: MutableMapping[str, str] = _Table(self._file, "hashes")

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def delta(self, space: Space, fingerprint: str) -> Float32Array | None:
        """Return the (d,) float32 delta kept for a model in a space, or None.

        Args:
            space: the space, by whose digest it is kept.
            fingerprint: of the candidate.
        """
        data = _value(self._file, "deltas", space.digest, fingerprint)
        if data is None:
            return None
        array = np.frombuffer(data, dtype="<f4").astype(np.float32)
        # what is no delta of this space was kept so by mistake: as if it were not there, it is measured again
        return array if array.shape == (space.dim,) and bool(np.isfinite(array).all()) else None

    def keep_delta(self, space: Space, fingerprint: str, delta: Float32Array) -> None:
        """Keep a delta.

        Args:
            space: the space it is of.
            fingerprint: of the candidate.
            delta: (d,) float32.

        Raises:
            ValueError: not of the space's length.
        """
        if delta.shape != (space.dim,):
            raise ValueError(f"delta of shape {delta.shape} does not belong to a space of {space.dim} dimensions")
        fields = json.dumps(_fields(space), sort_keys=True)
        self._file.run("INSERT OR REPLACE INTO spaces VALUES (?, ?)", (space.digest, fields))
        self._file.keep("deltas", space.digest, fingerprint, delta.astype("<f4").tobytes())

    def measured(self, key: str) -> Any:
        """Return the JSON value kept under a key (a digest of all it depends on), or None."""
        text = _value(self._file, "measured", key)
        return None if text is None else json.loads(text)

    def keep_measured(self, key: str, value: Any) -> None:
        """Keep a JSON value.

        Args:
            key: a digest of all that the value depends on.
            value: what `json` writes.

        Raises:
            ValueError: NaN or infinity in it.
        """
        self._file.keep("measured", key, json.dumps(value, allow_nan=False))

    def keep_news(self, news: StoreNews) -> None:
        """Keep what a worker measured.

        Args:
            news: as its `WorkerStore.take_news` gave it.

        Raises:
            RunError: the file cannot be written.
        """
        with self._file.transaction():
            for space, fingerprint, delta in news.deltas:
                self.keep_delta(space, fingerprint, delta)
            for key, value in news.measured:
                self.keep_measured(key, value)
            self.hashes.update(news.hashes)

    def copy_to(self, path: Path, *, hashes_only: bool = False) -> None:
        """Write a copy for workers: one file, which nobody changes afterwards.

        Args:
            path: a file that is not there yet.
            hashes_only: leave deltas and measurements out.

        Raises:
            RunError: it cannot be written.
        """
        with Store(path) as copy:
            copy._file.run("ATTACH ? AS old", (str(self.path),))
            tables = {"hashes": _COLUMNS["hashes"]} if hashes_only else _COLUMNS
            for table, columns in tables.items():
                names = f"{', '.join(columns)}, checksum"
                copy._file.run(f"INSERT INTO {table} ({names}) SELECT {names} FROM old.{table}")
            copy._file.run("DETACH old")
            copy._file.rows("PRAGMA journal_mode=DELETE")  # the log is a file of its own

    def check(self) -> dict[str, tuple[int, int]]:
        """Return by kind of value how many are kept and how many of these are damaged; nothing is changed.

        >>> with Store(Path("store.sqlite")) as store:
        ...     store.check()
        {'deltas of models': (0, 0), 'measurements': (1, 0), 'hashes of files': (0, 0), 'names of spaces': (0, 0)}
        """
        spaces = self._spaces()
        return {
            _CALLED[table]: (
                self._file.rows(f"SELECT COUNT(*) FROM {table}")[0][0], len(self._file.damaged(table)),
            )
            for table in _COLUMNS
        } | {"names of spaces": (len(spaces), sum(space is None for space in spaces.values()))}  # fmt: skip

    def damaged_values(self) -> DamagedValues:
        """Return what the damaged values were of, as far as their keys and they themselves tell."""
        spaces = self._spaces()
        named = (spaces.get(row[0]) for row in self._file.damaged("deltas"))
        # a list of numbers, one for each row
        rows = sum(str(row[1]).count(",") + 1 for row in self._file.damaged("measured"))
        # keys of whole files are path, size and times
        sizes = (str(row[0]).split("|")[1:2] for row in self._file.damaged("hashes"))
        size = sum(natural_number(part) or 0 for (part,) in filter(None, sizes))
        return DamagedValues(tuple(space.embedding if space else "" for space in named), rows, size)

    def _spaces(self) -> dict[str, Space | None]:
        """The spaces by their digest, which tells of damage: of what is not it, None."""
        found: dict[str, Space | None] = {}
        for digest, text in self._file.rows("SELECT digest, space FROM spaces"):
            try:
                space = Space(**json.loads(text))
                found[str(digest)] = space if space.digest == digest else None
            except (ValueError, TypeError, RecursionError):
                found[str(digest)] = None
        return found


@dataclass(frozen=True, slots=True)
class DamagedValues:
    """What has to be made anew of a store.

    >>> DamagedValues(("delta_activations",), rows=40, bytes=0).rows
    40
    """

    embeddings: tuple[str, ...]
    """Of each damaged delta; "" where that cannot be told."""
    rows: int
    """Of damaged measurements, about."""
    bytes: int
    """Of files whose hashes are damaged."""


@dataclass(slots=True)
class StoreNews:
    """What was kept in a worker's store since it was last asked, to be kept in the one that all share.

    >>> StoreNews(measured=[("a digest", 0.5)]).deltas
    []
    """

    deltas: list[tuple[Space, str, Float32Array]] = field(default_factory=list)
    measured: list[tuple[str, Any]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


class WorkerStore(Store):
    """The store of a worker: finds what was kept before in a copy, keeps what is new in memory and hands it over.

    The store that all share has one writer, which is not the worker: on a disk that machines share SQLite is safe for
    one alone.

    >>> with WorkerStore(None) as store:
    ...     store.keep_measured("a digest", 0.25)
    ...     store.measured("a digest"), store.take_news().measured, store.take_news().measured
    (0.25, [('a digest', 0.25)], [])

    Args:
        before: the copy (`Store.copy_to`); None: there is none.

    Raises:
        RunError: the copy cannot be read, or is damaged.
    """

    def __init__(self, before: Path | None) -> None:
        # in memory: there is no file of this name
        super().__init__(Path(".none") / "store.sqlite", make=False)
        self._before = None if before is None else Store(before, make=False, frozen=True)
        self._news = StoreNews()
        self.hashes = _NewHashes(self._file, self._before, lambda: self._news)

    def close(self) -> None:
        """Close it; what was not taken is lost."""
        super().close()
        if self._before is not None:
            self._before.close()

    def delta(self, space: Space, fingerprint: str) -> Float32Array | None:
        """See `Store.delta`."""
        found = super().delta(space, fingerprint)
        return self._before.delta(space, fingerprint) if found is None and self._before else found

    def keep_delta(self, space: Space, fingerprint: str, delta: Float32Array) -> None:
        """See `Store.keep_delta`."""
        super().keep_delta(space, fingerprint, delta)
        self._news.deltas.append((space, fingerprint, delta))

    def measured(self, key: str) -> Any:
        """See `Store.measured`."""
        found = super().measured(key)
        return self._before.measured(key) if found is None and self._before else found

    def keep_measured(self, key: str, value: Any) -> None:
        """See `Store.keep_measured`."""
        super().keep_measured(key, value)
        self._news.measured.append((key, value))

    def take_news(self) -> StoreNews:
        """Return what was kept since the last call."""
        news, self._news = self._news, StoreNews()
        return news


def _value(file: CheckedFile, table: str, *key: str) -> Any:
    """The value of a row, or None where there is none; one that is damaged is deleted and said to be."""
    *names, value = _COLUMNS[table]
    where = " AND ".join(f"{name} = ?" for name in names)
    rows = file.rows(f"SELECT {value}, checksum FROM {table} WHERE {where}", key)
    if not rows:
        return None
    found, kept = rows[0]
    if checksum(table, *key, found) == kept:
        return found
    if file.frozen:  # the copy that workers read; who keeps the store says so
        return None
    file.run(f"DELETE FROM {table} WHERE {where}", key)
    warn_of_damage(f"store {file.path}: {_CALLED[table]} kept there were damaged; they are made anew")
    return None


def _fields(space: Space) -> dict[str, Any]:
    return {name: getattr(space, name) for name in Space.__slots__}


class _Table(MutableMapping[str, str]):
    """A table of text by text as a mapping."""

    def __init__(self, file: CheckedFile, table: str) -> None:
        self._file, self._table = file, table

    def __getitem__(self, key: str) -> str:
        value = _value(self._file, self._table, key)
        if value is None:
            raise KeyError(key)
        return str(value)

    def __setitem__(self, key: str, value: str) -> None:
        self._file.keep(self._table, key, value)

    def __delitem__(self, key: str) -> None:
        if self._file.run(f"DELETE FROM {self._table} WHERE key = ?", (key,)) == 0:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (str(row[0]) for row in self._file.rows(f"SELECT key FROM {self._table}"))

    def __len__(self) -> int:
        return int(self._file.rows(f"SELECT COUNT(*) FROM {self._table}")[0][0])


class _NewHashes(_Table):
    """Hashes of a worker: those of the copy, and new ones, which are handed over."""

    def __init__(self, file: CheckedFile, before: Store | None, news: Callable[[], StoreNews]) -> None:
        super().__init__(file, "hashes")
        self._before, self._news = before, news

    def __getitem__(self, key: str) -> str:
        try:
            return super().__getitem__(key)
        except KeyError:
            if self._before is None:
                raise
            return self._before.hashes[key]

    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, value)
        self._news().hashes[key] = value


def _make_tables(file: CheckedFile) -> None:
    """What files of before there were versions have."""
    for table in (
        "spaces (digest TEXT PRIMARY KEY, space TEXT NOT NULL) WITHOUT ROWID",
        "deltas (space TEXT, fingerprint TEXT, delta BLOB NOT NULL, PRIMARY KEY (space, fingerprint))",
        "measured (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "hashes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ):
        file.run(f"CREATE TABLE IF NOT EXISTS {table}")


_KIND = FileKind(
    "store", "name another `store`", "what is in it is measured anew", _COLUMNS, (_make_tables, add_checksums)
)  # fmt: skip
