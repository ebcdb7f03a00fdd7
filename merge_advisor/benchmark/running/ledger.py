"""Results kept as soon as they are measured: one SQLite file, safe to kill and to share between processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from merge_advisor.benchmark.values import LateAddition, Result, View
from merge_advisor.checked_sqlite import CheckedFile, FileKind, add_checksums, warn_of_damage
from merge_advisor.errors import RunError
from merge_advisor.json_form import from_json, to_plain

LEDGER_FILE = "results.sqlite"
"""Name of the file in a benchmark's folder."""
_COLUMNS = {
    "made_for": ("name", "value"),
    "results": (
        "task", "shot_draw", "selection_draw", "tuner_seed", "view", "k", "arm", "status", "value",
    ),
    "singles": ("task", "candidate", "accuracy", "loss"),
    "added": ("name", "results"),
}  # fmt: skip
"""Of each table the columns that the checksum of a row is of."""


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

    Results that were damaged on disk are dropped when it is opened, with a `DamageWarning`.

    Raises:
        RunError: the folder cannot be written, or its file is damaged, no ledger, or of a newer version; of every
            method, that it cannot be read or written.

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
        self._file = CheckedFile(self.path, LEDGER_KIND)
        try:
            self._drop_damaged()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

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
        # the lock is taken before the reading: two runs that begin at once must not both find an empty ledger
        with self._file.transaction():
            kept = dict(self._file.rows("SELECT name, value FROM made_for"))
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
            for name, value in new:
                self._file.keep("made_for", name, value)
                if kept and done:
                    self._file.keep("added", name, done)

    def added(self) -> tuple[LateAddition, ...]:
        """Return the parts of the setup that came when results were there, in the order they came, then by name."""
        rows = self._file.rows("SELECT name, results FROM added ORDER BY results, name")
        return tuple(LateAddition(*row) for row in rows)

    def done(self) -> frozenset[ResultKey]:
        """Return the keys of the results that are done; a failed one is not."""
        columns = ", ".join(ResultKey._fields)
        return frozenset(
            ResultKey(*row) for row in self._file.rows(f"SELECT {columns} FROM results WHERE status = 'done'")
        )

    def failures(self) -> dict[ResultKey, str]:
        """Return the failed results, each as it is kept."""
        columns = ", ".join(ResultKey._fields)
        rows = self._file.rows(f"SELECT {columns}, value FROM results WHERE status = 'failed'")
        return {ResultKey(*row[:-1]): row[-1] for row in rows}

    def count(self) -> int:
        """Return how many results are done."""
        return int(self._file.rows("SELECT COUNT(*) FROM results WHERE status = 'done'")[0][0])

    def keep(self, result: Result) -> None:
        """Keep a result; one that is done stays as it is, one that failed is replaced.

        Args:
            result: done or failed.

        Raises:
            RunError: no room, or no permission.
        """
        plain = to_plain(result)
        numbers = {name: value for name, value in plain.items() if value == value}  # NaN, a default, is no JSON
        text = json.dumps(numbers, allow_nan=False, sort_keys=True)
        instead = "status = excluded.status, value = excluded.value, checksum = excluded.checksum"
        self._file.keep(
            "results", *key_of(result), result.status, text,
            or_else=f"ON CONFLICT DO UPDATE SET {instead} WHERE status = 'failed'",
        )  # fmt: skip

    def results(self) -> tuple[Result, ...]:
        """Return all results, ordered by task, draws, view, k and arm."""
        rows = self._file.rows(f"SELECT value FROM results ORDER BY {', '.join(ResultKey._fields)}")
        return tuple(from_json(Result, row[0], str(self.path)) for row in rows)

    def find(self, key: ResultKey) -> Result | None:
        """Return one result, done or failed, or None.

        Args:
            key: which one.
        """
        where = " AND ".join(f"{name} = ?" for name in ResultKey._fields)
        rows = self._file.rows(f"SELECT value FROM results WHERE {where}", key)
        return from_json(Result, rows[0][0], str(self.path)) if rows else None

    def keep_singles(self, task: str, scores: Iterable[tuple[str, float, float]]) -> None:
        """Keep accuracy and loss of each candidate alone on a task's held-out rows.

        Args:
            task: its name.
            scores: (id, accuracy, loss) of each candidate.
        """
        with self._file.transaction():
            for candidate, accuracy, loss in scores:
                self._file.keep("singles", task, candidate, float(accuracy), float(loss))

    def singles(self) -> tuple[tuple[str, str, float, float], ...]:
        """Return task, candidate, accuracy and loss of each candidate scored alone, by task and candidate."""
        return tuple(self._file.rows("SELECT task, candidate, accuracy, loss FROM singles ORDER BY task, candidate"))

    def _drop_damaged(self) -> None:
        """Delete rows whose checksum is another one, and say so."""
        for table in _COLUMNS:
            dropped = self._file.drop_damaged(table)
            if dropped and table == "made_for":
                # what the results were made for cannot be told any more, and nothing else may be mixed with them
                raise RunError(f"{self.path}: what it was made for is damaged; {LEDGER_KIND.instead}, or delete it")
            if dropped:
                remedy = "what came late to the setup is not told" if table == "added" else "they are measured anew"
                warn_of_damage(f"ledger {self.path}: rows of {table} that were damaged: {dropped}; {remedy}")


def check_ledger(out: Path) -> tuple[dict[str, tuple[int, int]], int]:
    """Return by table how many rows are kept and damaged, and the forward passes of damaged results, about.

    Nothing is dropped. A damaged result's own count is not to be trusted: it counts as the mean of the others.

    Args:
        out: the folder of a benchmark's results.

    Raises:
        RunError: the file cannot be read, or is no ledger.
    """
    with CheckedFile(out / LEDGER_FILE, LEDGER_KIND) as file:
        damaged = {table: file.damaged(table) for table in _COLUMNS}
        found = {
            table: (int(file.rows(f"SELECT COUNT(*) FROM {table}")[0][0]), len(damaged[table])) for table in _COLUMNS
        }
        values = [row[-1] for row in file.rows(f"SELECT {', '.join(_COLUMNS['results'])} FROM results")]
        wrong = {row[-1] for row in damaged["results"]}
    known = [json.loads(value).get("forwards", 0) for value in values if value not in wrong]
    return found, round(sum(known) / len(known) * len(wrong)) if known else 0


def _make_tables(file: CheckedFile) -> None:
    """What files of before there were versions have."""
    file.run("CREATE TABLE IF NOT EXISTS made_for (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    file.run(
        "CREATE TABLE IF NOT EXISTS results (task TEXT, shot_draw INT, selection_draw INT, tuner_seed INT, view TEXT, "
        "k INT, arm TEXT, status TEXT NOT NULL, value TEXT NOT NULL, "
        "PRIMARY KEY (task, shot_draw, selection_draw, tuner_seed, view, k, arm)) WITHOUT ROWID"
    )
    file.run(
        "CREATE TABLE IF NOT EXISTS singles (task TEXT, candidate TEXT, accuracy REAL NOT NULL, loss REAL NOT NULL, "
        "PRIMARY KEY (task, candidate)) WITHOUT ROWID"
    )
    file.run("CREATE TABLE IF NOT EXISTS added (name TEXT PRIMARY KEY, results INT NOT NULL) WITHOUT ROWID")


def _add_claims(file: CheckedFile) -> None:
    file.run(
        "CREATE TABLE claims (task TEXT, shot_draw INT, owner TEXT NOT NULL, beat INT NOT NULL, "
        "PRIMARY KEY (task, shot_draw)) WITHOUT ROWID"
    )


LEDGER_KIND = FileKind(
    "ledger", "give another `out`", "its results are measured anew", _COLUMNS,
    (_make_tables, add_checksums, _add_claims), shared=True,
)  # fmt: skip
"""What the file is; machines may share it."""
