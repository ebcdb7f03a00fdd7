"""A file that notices damage: versions, checksums, and one line for whatever SQLite says."""

import sqlite3
from pathlib import Path

import pytest

from merge_advisor.checked_sqlite import CheckedFile, FileKind, add_checksums, checksum
from merge_advisor.errors import RunError


def make(file: CheckedFile) -> None:
    file.run("CREATE TABLE IF NOT EXISTS t (name TEXT, number REAL)")


COLUMNS = {"t": ("name", "number")}
OLD = FileKind("list", "name another list", "nothing", COLUMNS, (make,))
NEW = FileKind("list", "name another list", "nothing", COLUMNS, (make, add_checksums))


def test_a_file_of_an_older_version_becomes_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "list.sqlite"
    with CheckedFile(path, OLD) as file:
        file.run("INSERT INTO t VALUES (?, ?)", ("one", 1.5))
    with CheckedFile(path, NEW) as file:
        assert file.rows("SELECT * FROM t") == [("one", 1.5, checksum("t", "one", 1.5))]
        assert file.damaged("t") == []
        assert file.rows("PRAGMA user_version") == [(2,)]
    with pytest.raises(RunError) as refused:
        CheckedFile(path, OLD)
    assert str(refused.value) == (
        f"list {path}: was written by a newer merge-advisor (version 2 of the file, 1 is known here); install that, or "
        "name another list"
    )
    assert not list(tmp_path.glob("*-wal"))  # refused, and closed


def test_a_step_that_fails_leaves_the_older_version(tmp_path: Path) -> None:
    path = tmp_path / "list.sqlite"
    with CheckedFile(path, OLD) as file:
        file.run("INSERT INTO t VALUES (?, ?)", ("one", 1.5))

    def half(file: CheckedFile) -> None:
        add_checksums(file)
        file.run("INSERT INTO absent VALUES (1)")

    with pytest.raises(RunError, match="no such table: absent"):
        CheckedFile(path, FileKind("list", "name another list", "nothing", COLUMNS, (make, half)))
    with CheckedFile(path, OLD) as file:
        assert file.rows("SELECT * FROM t") == [("one", 1.5)]


def test_damaged_rows_are_found_and_dropped(tmp_path: Path) -> None:
    with CheckedFile(tmp_path / "list.sqlite", NEW) as file:
        for name in ("one", "two", "three"):
            file.keep("t", name, 0.5)
        file.run("UPDATE t SET number = 0.25 WHERE name = 'two'")
        file.run("UPDATE t SET name = CAST(x'ff6f' AS TEXT) WHERE name = 'three'")  # is no UTF-8
        assert [row[1] for row in file.damaged("t")] == [0.25, 0.5]
        assert file.drop_damaged("t") == 2
        assert file.rows("SELECT name FROM t") == [("one",)] and file.drop_damaged("t") == 0


def test_a_transaction_is_whole_or_nothing(tmp_path: Path) -> None:
    with CheckedFile(tmp_path / "list.sqlite", OLD) as file:
        with pytest.raises(ZeroDivisionError), file.transaction():
            file.run("INSERT INTO t VALUES ('one', 1)")
            _ = 1 / 0
        assert file.rows("SELECT * FROM t") == []


def test_other_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is text, long enough to be read as a header of something else" * 20)
    with pytest.raises(RunError, match=r"is damaged, or no list \(.*\); name another list, or delete it \(nothing\)"):
        CheckedFile(tmp_path / "text", OLD)
    with pytest.raises(RunError, match=r"text/below: cannot be opened .*; check permissions, or name another list"):
        CheckedFile(tmp_path / "text" / "below", OLD)


def test_no_room_is_one_line(tmp_path: Path) -> None:
    with CheckedFile(tmp_path / "list.sqlite", OLD) as file:
        pages = file.rows("PRAGMA page_count")[0][0]
        file.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(RunError, match=r"no room to write \(.*full\); free some, or name another list"):
            file.run("INSERT INTO t VALUES (?, 1)", ("x" * 100_000,))
        file.run("INSERT INTO t VALUES ('one', 1)")
        assert file.rows("SELECT name FROM t") == [("one",)]


def test_two_processes_may_bring_a_file_up(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "list.sqlite") as other:
        other.execute("CREATE TABLE t (name TEXT, number REAL)")
    with CheckedFile(tmp_path / "list.sqlite", NEW), CheckedFile(tmp_path / "list.sqlite", NEW) as second:
        assert second.rows("PRAGMA user_version") == [(2,)]


def test_a_file_where_nothing_can_be_written_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "list #1.sqlite"
    with CheckedFile(path, OLD) as file:
        file.run("INSERT INTO t VALUES ('one', 1)")
    with CheckedFile(path, OLD, frozen=True) as file:
        assert file.rows("SELECT name FROM t") == [("one",)]
        with pytest.raises(RunError, match=r"cannot be written \(attempt to write a readonly database\)"):
            file.run("INSERT INTO t VALUES ('two', 2)")
    said = r"has to be brought up to date, and nothing can be written there; open it once where that is allowed"
    with pytest.raises(RunError, match=said):
        CheckedFile(path, NEW, frozen=True)
    path.with_name(f"{path.name}-wal").write_bytes(b"what a killed writer left")
    with pytest.raises(RunError, match=said):
        CheckedFile(path, OLD, frozen=True)


def test_checksums_tell_types_and_borders() -> None:
    values: list[tuple[object, ...]] = [
        ("a", "bc"), ("ab", "c"), ("abc",), (b"abc",), ("1",), (1,), (1.0,), (None,), ("None",), (),
    ]  # fmt: skip
    assert len({checksum(*row) for row in values}) == len(values)
