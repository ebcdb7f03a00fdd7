"""What was measured, kept between runs in one SQLite file; processes may share it, and be killed at any moment.

The key of every value holds everything that the value depends on, so that nothing is ever stale: deltas under
(space, fingerprint), losses under (base, template, rows, weights), scores under (model, task, evaluator). Deleting the
file costs time and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.errors import RunError
from merge_advisor.types import Space

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spaces (digest TEXT PRIMARY KEY, space TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deltas (space TEXT, fingerprint TEXT, delta BLOB NOT NULL, PRIMARY KEY (space, fingerprint));
CREATE TABLE IF NOT EXISTS measured (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hashes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_TRIES = 100


class Store:
    """Deltas, measurements and file hashes in one SQLite file.

    >>> with Store(Path("store.sqlite")) as store:
    ...     store.keep_measured("a digest of all it depends on", [0.25, 0.5])
    ...     store.measured("a digest of all it depends on"), store.measured("another digest")
    ([0.25, 0.5], None)

    Args:
        path: the file; it and its folder are made where they are missing.

    Raises:
        RunError: the file cannot be opened, is no SQLite file, or its folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # no isolation level: each value is a transaction of its own, so that a kill loses none that was kept
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            _prepare(self._connection)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"store {path}: cannot be opened ({error}); name another `store` or delete it") from error
        self.hashes: MutableMapping[str, str] = _Table(self._connection, "hashes")

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._connection.close()

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
        row = self._connection.execute(
            "SELECT delta FROM deltas WHERE space = ? AND fingerprint = ?", (space.digest, fingerprint)
        ).fetchone()
        if row is None:
            return None
        array = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        # a delta of another length or with NaN was damaged on disk: as if it were not there, it is measured again
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
        self._connection.execute(
            "INSERT OR REPLACE INTO spaces VALUES (?, ?)", (space.digest, json.dumps(_fields(space), sort_keys=True))
        )
        self._connection.execute(
            "INSERT OR REPLACE INTO deltas VALUES (?, ?, ?)",
            (space.digest, fingerprint, delta.astype("<f4").tobytes()),
        )

    def measured(self, key: str) -> Any:
        """Return the JSON value kept under a key (a digest of all it depends on), or None."""
        row = self._connection.execute("SELECT value FROM measured WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep_measured(self, key: str, value: Any) -> None:
        """Keep a JSON value.

        Args:
            key: a digest of all that the value depends on.
            value: what `json` writes.

        Raises:
            ValueError: NaN or infinity in it.
        """
        self._connection.execute(
            "INSERT OR REPLACE INTO measured VALUES (?, ?)", (key, json.dumps(value, allow_nan=False))
        )


def _prepare(connection: sqlite3.Connection) -> None:
    """Set the journal and make the tables; wait for another process that does the same.

    SQLite's own timeout does not cover a change of the journal mode, so "locked" is tried again for up to ten seconds.
    """
    for attempt in range(_TRIES):
        try:
            # a write-ahead log: who reads does not wait for who writes
            connection.execute("PRAGMA journal_mode=WAL")
            # with that log, NORMAL may lose the newest values in a power cut, but never damages the file
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or attempt == _TRIES - 1:
                raise
            time.sleep(0.1)
        else:
            return


def _fields(space: Space) -> dict[str, Any]:
    return {name: getattr(space, name) for name in Space.__slots__}


class _Table(MutableMapping[str, str]):
    """A table of text by text as a mapping."""

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection, self._table = connection, table

    def __getitem__(self, key: str) -> str:
        row = self._connection.execute(f"SELECT value FROM {self._table} WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return str(row[0])

    def __setitem__(self, key: str, value: str) -> None:
        self._connection.execute(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?)", (key, value))

    def __delitem__(self, key: str) -> None:
        if self._connection.execute(f"DELETE FROM {self._table} WHERE key = ?", (key,)).rowcount == 0:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (str(row[0]) for row in self._connection.execute(f"SELECT key FROM {self._table}"))

    def __len__(self) -> int:
        return int(self._connection.execute(f"SELECT COUNT(*) FROM {self._table}").fetchone()[0])
