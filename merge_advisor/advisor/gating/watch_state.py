"""What is known of a watched pool, in one SQLite file: its models, the best of each task, and every line of the log.

The file is the record; log.jsonl beside it is written anew from it, so that a kill at any moment leaves a whole log and
no decision twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from merge_advisor.checked_sqlite import CheckedFile, FileKind
from merge_advisor.errors import RunError
from merge_advisor.json_form import STRICT, from_json, to_json, to_plain
from merge_advisor.tuning.lock import HolderLock
from merge_advisor.whole_files import write_text

LOG = "log.jsonl"
_STATE = "watch.sqlite"
DecisionKind = Literal["begun", "new", "version", "duplicate", "set-aside", "lost"]


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """What a new model does for one task that is known.

    >>> TaskDecision("sums", "alone", True, "accuracy", 40, 0.5, 0.8, 0.3, 0.1, 0.45, "improves").improves
    True
    """

    __pydantic_config__ = STRICT

    task: str
    tried: str
    """"alone", or how it was merged with the best model known: "mean" or "sum"."""
    improves: bool
    metric: str
    rows: int
    before: float
    """Mean of the metric under the best model known."""
    after: float
    difference: float
    lower: float
    upper: float
    reason: str


DECISIONS_MEASURED = ("new", "version")
"""Kinds of decisions for which models were run."""


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """One line of the log: a model that came to the pool, and what it is worth.

    >>> PoolDecision("law-2", "ab12", "duplicate", "law-2: same weights as law").tasks
    ()
    """

    __pydantic_config__ = STRICT

    model: str
    fingerprint: str
    kind: DecisionKind
    """"begun": the pool as it was found; "lost": the best model of a task is no longer there."""
    text: str
    """The decision in one line."""
    tasks: tuple[TaskDecision, ...] = ()
    card: str = ""
    """File of its model card, in the folder of the log."""
    seconds: float = 0.0
    """What judging it took."""
    measured: int = 0
    """Measurements that were run for it: a model on the rows of a task."""
    all_candidates_seconds: float | None = None
    """What scoring every candidate of the pool on the same rows would have taken, by the seconds measured for those
    that were; None where none is known."""
    forwards: int = 0
    """Forward passes over one row that were run for it, choosing how it is used included; nominally, a row each."""
    peak_bytes: int | None = None
    """Peak memory of the process; None where the system does not tell."""
    candidates: int = 0
    """Candidates of the pool."""
    all_candidates_forwards: int | None = None
    """Forward passes of scoring all of them on the same rows."""


@dataclass(frozen=True, slots=True)
class KnownBest:
    """The best model known of a task: members by fingerprint with weights; none: what watching began with.

    >>> KnownBest("sums", ("law",), (("ab12", 1.0),)).members[0][1]
    1.0
    """

    __pydantic_config__ = STRICT

    task: str
    ids: tuple[str, ...]
    members: tuple[tuple[str, float], ...]


class WatchState:
    """The record of a watched pool; a context manager, whose end closes it.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder, WatchState(Path(folder), "base and template") as state:
    ...     begun = state.begun
    ...     state.decide(PoolDecision("law", "ab12", "new", "law: improves nothing"))
    ...     begun, state.known("law"), state.id_of("ab12")
    (False, 'ab12', 'law')

    Args:
        folder: where it is kept, with the log.
        context: digest of base, prompts, dtype and baseline: what was judged under another is not compared.

    Raises:
        RunError: it cannot be opened, is damaged, was begun under another context, or another process has it open.
    """

    def __init__(self, folder: Path, context: str) -> None:
        self.folder = folder
        self._file = CheckedFile(folder / _STATE, _KIND)
        try:
            # two that judge one model would decide twice
            self._lock = HolderLock(folder / f"{_STATE}.lock", "is being judged for by")
        except RunError:
            self._file.close()
            raise
        try:
            self._file.run("INSERT OR IGNORE INTO context VALUES (0, ?)", (context,))
            if self._file.rows("SELECT digest FROM context")[0][0] != context:
                raise RunError(
                    f"{folder}: was begun with another base, baseline, template or dtype; name another `out`"
                )
            for table in _COLUMNS:
                if self._file.damaged(table):
                    raise RunError(f"{folder / _STATE}: is damaged; delete it (the pool is looked at anew)")
            self.write_log()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; another process may look."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> WatchState:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def begun(self) -> bool:
        """Whether the pool was looked at before."""
        return bool(self._file.rows("SELECT 1 FROM lines LIMIT 1"))

    def known(self, name: str) -> str | None:
        """Return the fingerprint that a model had when it was last judged, or the reason it was set aside for.

        Args:
            name: its id.
        """
        rows = self._file.rows("SELECT mark FROM models WHERE id = ?", (name,))
        return str(rows[0][0]) if rows else None

    def id_of(self, fingerprint: str) -> str | None:
        """Return the first id that weights were known under.

        Args:
            fingerprint: of the model.
        """
        rows = self._file.rows("SELECT id FROM models WHERE mark = ? ORDER BY id", (fingerprint,))
        return str(rows[0][0]) if rows else None

    def best(self, task: str) -> KnownBest | None:
        """Return the best model known of a task.

        Args:
            task: digest of its rows and metric.
        """
        rows = self._file.rows("SELECT best FROM best WHERE task = ?", (task,))
        return from_json(KnownBest, rows[0][0], str(self.folder / _STATE)) if rows else None

    def decide(
        self,
        decision: PoolDecision,
        best: dict[str, KnownBest] | None = None,
        marks: dict[str, str] | None = None,
    ) -> None:
        """Keep a decision and what follows from it, all or nothing, and write the log.

        Args:
            decision: the line.
            best: the tasks (by digest) whose best model it changes.
            marks: models by id with the fingerprint or reason they are known by from now on; None: the decision's own.
        """
        marks = {decision.model: decision.fingerprint} if marks is None else marks
        with self._file.transaction():
            for name, mark in marks.items():
                self._file.keep("models", name, mark)
            for task, found in (best or {}).items():
                self._file.keep("best", task, to_json(found))
            number = self._file.rows("SELECT COUNT(*) FROM lines")[0][0] + 1
            line = {"number": number, "at": datetime.now(UTC).isoformat(timespec="seconds"), **to_plain(decision)}
            self._file.keep("lines", number, json.dumps(line, sort_keys=True, ensure_ascii=False))
        self.write_log()

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines of the log, the first one first."""
        return [json.loads(row[0]) for row in self._file.rows("SELECT line FROM lines ORDER BY number")]

    def write_log(self) -> None:
        """Write log.jsonl anew from the record."""
        rows = self._file.rows("SELECT line FROM lines ORDER BY number")
        write_text(self.folder / LOG, "".join(f"{row[0]}\n" for row in rows))


_COLUMNS = {"models": ("id", "mark"), "best": ("task", "best"), "lines": ("number", "line")}


def _make_tables(file: CheckedFile) -> None:
    for table in (
        "context (one INTEGER PRIMARY KEY, digest TEXT NOT NULL)",
        "models (id TEXT PRIMARY KEY, mark TEXT NOT NULL, checksum BLOB)",
        "best (task TEXT PRIMARY KEY, best TEXT NOT NULL, checksum BLOB)",
        "lines (number INTEGER PRIMARY KEY, line TEXT NOT NULL, checksum BLOB)",
    ):
        file.run(f"CREATE TABLE IF NOT EXISTS {table}")


_KIND = FileKind("record of a watched pool", "name another `out`", "the pool is looked at anew", _COLUMNS,
                 (_make_tables,))  # fmt: skip
