"""SQLite files that notice damage: a version, steps from older ones to it, a checksum in every row, one-line errors.

SQLite finds damage to the structure of a file, not to what stands in a row: a flipped bit of a number is another
number. So each row carries a checksum of its table's name and its other columns, which is compared when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.disks import disk_of_others
from merge_advisor.errors import DamageWarning, RunError
from merge_advisor.write_points import write_point

_SECONDS = 10.0
"""For which a change of the journal mode is tried."""

Step = Callable[["CheckedFile"], None]
"""Takes a file from one version to the next, inside a transaction."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is to who reads of it in a message, and how files of older versions become new ones.

    >>> FileKind("store", "name another `store`", "what is in it is measured anew", {}, ()).version
    0
    """

    name: str
    instead: str
    """What to do where the file is not ours to change: name another one."""
    lost: str
    """What deleting it costs."""
    columns: Mapping[str, Sequence[str]]
    """Of each table whose rows have a checksum, the columns that it is of, in this order."""
    steps: tuple[Step, ...]
    """From version 0, an empty file, on."""
    shared: bool = False
    """Whether machines may share one on a common disk: without a write-ahead log, which needs memory in common, so that
    who reads waits for who writes. On a disk of another machine every kind does without."""

    repair: str = ""
    """What drops its damaged rows, where something does."""

    @property
    def version(self) -> int:
        """The newest version: how many steps there are."""
        return len(self.steps)


class CheckedFile:
    """One SQLite file of a kind, opened and brought to its newest version; a context manager that closes it.

    Statements are transactions of their own (a kill loses none that was done), or of a block of `transaction`.

    >>> from tempfile import TemporaryDirectory
    >>> def make(file: CheckedFile) -> None:
    ...     file.run("CREATE TABLE names (name TEXT)")
    >>> kind = FileKind("list", "name another", "nothing", {}, (make,))
    >>> with TemporaryDirectory() as folder, CheckedFile(Path(folder) / "names.sqlite", kind) as file:
    ...     added = file.run("INSERT INTO names VALUES (?)", ("one",))
    ...     file.rows("SELECT name FROM names")
    [('one',)]

    Args:
        path: the file; it and its folder are made where they are missing.
        kind: what it is.
        make: whether they are; without, a file that is missing is one in memory, lost when it is closed.
        frozen: whether it lies where nothing can be written: it is read as it is, and no other process changes it.

    Raises:
        RunError: it cannot be opened or changed, is damaged, something else, or of a newer version.
    """

    def __init__(self, path: Path, kind: FileKind, *, make: bool = True, frozen: bool = False) -> None:
        self.path, self.kind, self.frozen = path, kind, frozen
        with self._said("opened"):
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            place = str(path) if make or path.exists() else ":memory:"
            if frozen:
                # a reader, too, would make files beside one that has a write-ahead log, and lock the file, which the
                # disk of another machine may not be able to
                place = f"{path.absolute().as_uri()}?immutable=1"
            self._connection = sqlite3.connect(place, timeout=60, isolation_level=None, uri=frozen)
        try:
            with self._said("opened"):
                # text that was damaged is no UTF-8; it is to be read, and found by its checksum
                self._connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
                if not frozen:
                    _settle_journal(self._connection, "DELETE" if kind.shared or disk_of_others(path) else "WAL")
                    write_point("database opened", path.name)
            self._bring_up()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; it cannot be used afterwards."""
        self._connection.close()

    def __enter__(self) -> CheckedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, statement: str, values: Sequence[object] = ()) -> int:
        """Return how many rows a statement changed; it is carried out.

        Args:
            statement: SQL.
            values: of its parameters.

        Raises:
            RunError: it could not be done.
        """
        with self._said("written"):
            write_point("rows to be written", statement)
            changed = self._connection.execute(statement, values).rowcount
            write_point("rows written", statement)
            return changed

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query.

        Args:
            query: SQL.
            values: of its parameters.

        Raises:
            RunError: the file cannot be read.
        """
        with self._said("read"):
            return self._connection.execute(query, values).fetchall()

    @property
    def stamp(self) -> tuple[int, int]:
        """Changes whenever anything in the file did, by this process or another."""
        return int(self.rows("PRAGMA data_version")[0][0]), self._connection.total_changes

    def keep(self, table: str, *row: object, or_else: str = "") -> None:
        """Keep a row with its checksum.

        Args:
            table: its name, a key of `FileKind.columns`.
            row: what stands in these columns.
            or_else: what is done where its key is there already ("ON CONFLICT …"); empty: it takes that one's place.

        Raises:
            RunError: it could not be done.
        """
        columns = (*self.kind.columns[table], "checksum")
        marks = ", ".join("?" for _ in columns)
        replace = "" if or_else else "OR REPLACE"
        self.run(
            f"INSERT {replace} INTO {table} ({', '.join(columns)}) VALUES ({marks}) {or_else}",
            (*row, checksum(table, *row)),
        )

    def sound_rows(self, table: str, rest: str = "", values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return rows of a table, each of which has to be what was written, as the values of its columns.

        Args:
            table: its name, a key of `FileKind.columns`.
            rest: of the query: which rows, in which order.
            values: of its parameters.

        Raises:
            RunError: the file cannot be read, or one of the rows was damaged.
        """
        found = self.rows(f"SELECT {', '.join(self.kind.columns[table])}, checksum FROM {table} {rest}", values)
        if any(checksum(table, *row[:-1]) != row[-1] for row in found):
            raise RunError(
                f"{self.kind.name} {self.path}: a row of its {table} was damaged; "
                f"{self.kind.repair or self.kind.instead}"
            )
        return [row[:-1] for row in found]

    def damaged(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table that are not what was written, as the values of its columns.

        Args:
            table: its name, a key of `FileKind.columns`.

        Raises:
            RunError: the file cannot be read.
        """
        rows = self.rows(f"SELECT {', '.join(self.kind.columns[table])}, checksum FROM {table}")
        return [row[:-1] for row in rows if checksum(table, *row[:-1]) != row[-1]]

    def drop_damaged(self, table: str) -> int:
        """Return how many rows of a table were not what was written; they are deleted.

        Args:
            table: its name, a key of `FileKind.columns`.

        Raises:
            RunError: the file cannot be read or written.
        """
        # as bytes, since damaged text need not be text any more
        where = " AND ".join(f"CAST({name} AS BLOB) IS CAST(? AS BLOB)" for name in self.kind.columns[table])
        found = self.damaged(table)
        for row in found:
            values = [one.encode("utf-8", "surrogateescape") if isinstance(one, str) else one for one in row]
            self.run(f"DELETE FROM {table} WHERE {where}", values)
        return len(found)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all that is done in the block, or nothing of it; others wait to write.

        Yields:
            Nothing.

        Raises:
            RunError: it cannot begin or end.
        """
        self.run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # a full disk has rolled back already
            if self._connection.in_transaction:
                self._connection.rollback()
            raise
        self.run("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all that is read in the block be of one moment, whatever others write meanwhile.

        Yields:
            Nothing.

        Raises:
            RunError: the file cannot be read.
        """
        if self._connection.in_transaction:
            yield
            return
        with self._said("read"):
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def _bring_up(self) -> None:
        if self.frozen:
            self._check_frozen()
        elif self._version() < self.kind.version:
            with self.transaction():
                # another process may have done it meanwhile
                for step in self.kind.steps[self._version() :]:
                    step(self)
                self.run(f"PRAGMA user_version = {self.kind.version}")
        if (found := self._version()) > self.kind.version:
            raise RunError(
                f"{self.kind.name} {self.path}: was written by a newer merge-advisor (version {found} of the file, "
                f"{self.kind.version} is known here); install that, or {self.kind.instead}"
            )

    def _check_frozen(self) -> None:
        log = self.path.with_name(f"{self.path.name}-wal")
        if self._version() < self.kind.version or (log.exists() and log.stat().st_size):
            raise RunError(
                f"{self.kind.name} {self.path}: has to be brought up to date, and nothing can be written there; open "
                f"it once where that is allowed, or {self.kind.instead}"
            )

    def _version(self) -> int:
        return int(self.rows("PRAGMA user_version")[0][0])

    @contextmanager
    def _said(self, done: str) -> Iterator[None]:
        """Make every error of SQLite and the system one line with a remedy."""
        try:
            yield
        except (OSError, sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            # UnicodeError: what SQLite says of a damaged file may have parts of it in it
            name, instead = f"{self.kind.name} {self.path}", self.kind.instead
            if isinstance(error, UnicodeError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
                remedy = f"delete it ({self.kind.lost})"
                raise RunError(
                    f"{name}: is damaged, or no {self.kind.name} ({error}); {instead}, or {remedy}"
                ) from error
            reason = error.strerror if isinstance(error, OSError) else error
            full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
            if full or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)):
                raise RunError(f"{name}: no room to write ({reason}); free some, or {instead}") from error
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL):
                # a disk without locks looks to SQLite as if somebody else had them all
                raise RunError(
                    f"{name}: cannot be {done} ({reason}), by another process or because its disk has no locks "
                    f"(`merge-advisor doctor` tells); wait for that, or {instead}"
                ) from error
            # SQLite says no more than "disk I/O error" of a file that may not become larger
            check = "permissions and free space" if done == "written" else "permissions"
            raise RunError(f"{name}: cannot be {done} ({reason}); check {check}, or {instead}") from error


_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR})
"""What SQLite calls a file that is not what it should be; ERROR where a table or column is missing."""


def _settle_journal(connection: sqlite3.Connection, journal: str) -> None:
    """Set the journal; wait for another process that does the same.

    SQLite's own timeout does not cover every change of the journal mode, so "locked" is tried again for up to ten
    seconds; where it does, there is one try.
    """
    end = time.monotonic() + _SECONDS
    while True:
        try:
            # WAL, a write-ahead log: who reads does not wait for who writes
            connection.execute(f"PRAGMA journal_mode={journal}")
            # with that log, NORMAL may lose the newest values in a power cut, but never damages the file
            connection.execute(f"PRAGMA synchronous={'NORMAL' if journal == 'WAL' else 'FULL'}")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file of SQLite for looking alone: it is neither made nor changed, whatever is in its name.

    >>> with read_only(Path("absent?mode=rwc")) as connection:
    ...     pass
    Traceback (most recent call last):
    sqlite3.OperationalError: unable to open database file

    Args:
        path: the file.

    Yields:
        The connection.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    # `as_uri` quotes what stands for itself in a name, and for something else in a URI: "?", "#", "%"
    # without a log nobody has it open, and who reads it as one that stays as it is leaves no log beside it
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def add_checksums(file: CheckedFile) -> None:
    """Give the tables of a file a column `checksum`, and each row its own; what stands there is taken to be right.

    Args:
        file: of a version without it.

    Raises:
        RunError: it could not be done.
    """
    for table, columns in file.kind.columns.items():
        file.run(f"ALTER TABLE {table} ADD COLUMN checksum BLOB")
        where = " AND ".join(f"{name} IS ?" for name in columns)
        for row in file.rows(f"SELECT {', '.join(columns)} FROM {table}"):
            # text that is no UTF-8 was damaged before and cannot be looked for: it is left without a checksum
            with suppress(UnicodeEncodeError):
                file.run(f"UPDATE {table} SET checksum = ? WHERE {where}", (checksum(table, *row), *row))


def checksum(*values: object) -> bytes:
    """Return eight bytes of blake2b over the values, each with its type and length.

    >>> checksum("table", "key", 1.5) == checksum("table", "key", 1.5), checksum("a", "bc") == checksum("ab", "c")
    (True, False)

    Args:
        values: a table's name, and what stands in a row of it: text, bytes, numbers or None.
    """
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        digest.update(f"{type(value).__name__} {len(data)} ".encode())
        digest.update(data)
    return digest.digest()


def warn_of_damage(message: str) -> None:
    """Say that something kept was damaged and is made again: a `DamageWarning`.

    Args:
        message: what, where, and what is done about it.
    """
    warnings.warn(message, DamageWarning, stacklevel=3)
