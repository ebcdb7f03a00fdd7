"""Results kept as soon as they are measured: one SQLite file, safe to kill and to share between workers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from merge_advisor.benchmark.values import LateAddition, Result, View
from merge_advisor.errors import RunError
from merge_advisor.json_form import from_json, to_plain

LEDGER_FILE = "results.sqlite"
"""Name of the file in a benchmark's folder."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS made_for (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
  task TEXT, shot_draw INT, selection_draw INT, tuner_seed INT, view TEXT, k INT, arm TEXT, status TEXT NOT NULL,
  value TEXT NOT NULL, PRIMARY KEY (task, shot_draw, selection_draw, tuner_seed, view, k, arm)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS singles (
  task TEXT, candidate TEXT, accuracy REAL NOT NULL, loss REAL NOT NULL, PRIMARY KEY (task, candidate)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS added (name TEXT PRIMARY KEY, results INT NOT NULL) WITHOUT ROWID;
"""


class ResultKey(NamedTuple):
    """Which result one is: the unit without its family, view, k and arm; the primary key of the table.

    >>> key = ResultKey("dates", 0, 1, 0, "own-out", 4, "random")
    >>> key._replace(arm="default").arm
    'default'
    """

    task: str
    shot_draw: int
    selection_draw: int
    tuner_seed: int
    view: View
    k: int
    arm: str


def key_of(result: Result) -> ResultKey:
    """Return the key of a result.

    Args:
        result: done or failed.
    """
    unit = result.unit
    return ResultKey(
        unit.task, unit.shot_draw, unit.selection_draw, unit.tuner_seed, result.view, result.k, result.arm
    )  # fmt: skip


class Ledger:
    """The results of one benchmark, in the folder `out`; a context manager that closes the file.

    Raises:
        RunError: the folder cannot be written, or its file is not a ledger.

    >>> from tempfile import TemporaryDirectory
    >>> from merge_advisor.benchmark.values import Unit
    >>> result = Result(Unit("dates", "time"), "nearest", "own-out", 4, accuracy=0.5, loss=1.0)
    >>> with TemporaryDirectory() as folder, Ledger(Path(folder)) as ledger:
    ...     ledger.claim({"seed": "0"})
    ...     ledger.keep(result)
    ...     ledger.count(), ledger.find(key_of(result)).loss
    (1, 1.0)
    """

    def __init__(self, out: Path) -> None:
        self.path = out / LEDGER_FILE
        try:
            out.mkdir(parents=True, exist_ok=True)
            # no isolation level: every statement is kept at once, so that a kill loses the result under way at most;
            # the timeout is for workers that wait while another one writes
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            # with a write-ahead log the parent counts results while workers write, and a kill leaves the file whole
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"{self.path}: cannot be opened ({error}); give another `out`") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, fixed: Mapping[str, str], parts: Mapping[str, str] | None = None) -> None:
        """Note what the results are made for, or check that it is the same as before.

        Args:
            fixed: what every result depends on, by name.
            parts: what may become more but not change, as no result depends on there being others: arms, controls,
                sizes, views and secondary questions. What comes when results are there is remembered (`added`).

        Raises:
            RunError: the results there were made for something else; the message says in what it differs.
        """
        parts = parts or {}
        given = {**fixed, **parts}
        with self._connection:
            # the lock is taken before the reading: two runs that begin at once must not both find an empty ledger
            self._connection.execute("BEGIN IMMEDIATE")
            kept = dict(self._connection.execute("SELECT name, value FROM made_for"))
            new = [(name, value) for name, value in given.items() if name not in kept]
            differ = {name for name, value in kept.items() if given.get(name) != value}
            if kept:
                differ |= {name for name, _ in new if name in fixed}
            if differ:
                others = ", ".join(sorted(differ))
                # what `dtype=auto` is depends on the machine
                same = f"`dtype={kept['dtype']}` to go on with it, or " if differ == {"dtype"} else ""
                raise RunError(f"{self.path}: was made with another {others}; give {same}another `out`")
            done = self.count()
            self._connection.executemany("INSERT INTO made_for VALUES (?, ?)", new)
            if kept and done:
                self._connection.executemany("INSERT INTO added VALUES (?, ?)", [(name, done) for name, _ in new])

    def added(self) -> tuple[LateAddition, ...]:
        """Return the parts of the setup that came when results were there, in the order they came, then by name."""
        return tuple(
            LateAddition(*row) for row in self._connection.execute("SELECT * FROM added ORDER BY results, name")
        )

    def done(self) -> frozenset[ResultKey]:
        """Return the keys of the results that are done; a failed one is not."""
        columns = ", ".join(ResultKey._fields)
        return frozenset(
            ResultKey(*row) for row in self._connection.execute(f"SELECT {columns} FROM results WHERE status = 'done'")
        )

    def count(self) -> int:
        """Return how many results are done."""
        return int(self._connection.execute("SELECT COUNT(*) FROM results WHERE status = 'done'").fetchone()[0])

    def keep(self, result: Result) -> None:
        """Keep a result; one that is done stays as it is, one that failed is replaced.

        Args:
            result: done or failed.

        Raises:
            RunError: no room, or no permission.
        """
        plain = to_plain(result)
        numbers = {name: value for name, value in plain.items() if value == value}  # NaN, a default, is no JSON
        row = (*key_of(result), result.status, json.dumps(numbers, allow_nan=False, sort_keys=True))
        try:
            self._connection.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "status = excluded.status, value = excluded.value WHERE status = 'failed'",
                row,
            )
        except sqlite3.Error as error:
            raise RunError(f"{self.path}: cannot be written ({error}); check permissions and free space") from error

    def results(self) -> tuple[Result, ...]:
        """Return all results, ordered by task, draws, view, k and arm."""
        rows = self._connection.execute(f"SELECT value FROM results ORDER BY {', '.join(ResultKey._fields)}")
        return tuple(from_json(Result, row[0], str(self.path)) for row in rows)

    def find(self, key: ResultKey) -> Result | None:
        """Return one result, done or failed, or None.

        Args:
            key: which one.
        """
        where = " AND ".join(f"{name} = ?" for name in ResultKey._fields)
        row = self._connection.execute(f"SELECT value FROM results WHERE {where}", key).fetchone()
        return None if row is None else from_json(Result, row[0], str(self.path))

    def keep_singles(self, task: str, scores: Iterable[tuple[str, float, float]]) -> None:
        """Keep accuracy and loss of each candidate alone on a task's held-out rows.

        Args:
            task: its name.
            scores: (id, accuracy, loss) of each candidate.
        """
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT OR REPLACE INTO singles VALUES (?, ?, ?, ?)", [(task, *score) for score in scores]
            )

    def singles(self) -> tuple[tuple[str, str, float, float], ...]:
        """Return task, candidate, accuracy and loss of each candidate scored alone, by task and candidate."""
        return tuple(self._connection.execute("SELECT * FROM singles ORDER BY task, candidate"))
