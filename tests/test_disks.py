"""A disk that other machines may have as well: what it is told by, and what is written there without a log."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from merge_advisor import disks
from merge_advisor.checked_sqlite import CheckedFile, FileKind
from merge_advisor.cli.doctor import _cache
from merge_advisor.errors import RunError
from merge_advisor.store import Store
from merge_advisor.tuning.storages import open_storage


def mounted_as(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk of a folder be of a kind."""
    device = folder.stat().st_dev
    table = folder / "mountinfo"
    table.write_text(
        f"21 1 255:255 / / rw - ext4 /dev/root rw\n"
        f"36 35 {os.major(device)}:{os.minor(device)} / {folder} rw,noatime shared:7 - {kind} server:/export rw\n"
    )
    monkeypatch.setattr(disks, "_MOUNTS", table)


def journal(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("nfs4", "nfs4"), ("cifs", "cifs"), ("fuse.sshfs", "fuse.sshfs"), ("9p", "9p"), ("ext4", ""), ("tmpfs", ""),
        ("overlay", ""), ("fuse.fuse-overlayfs", ""), ("fuseblk", ""),
    ],
)  # fmt: skip
def test_what_kinds_are_of_others(kind: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted_as(kind, tmp_path, monkeypatch)
    assert disks.disk_of_others(tmp_path / "absent" / "store.sqlite") == found


def test_what_no_table_tells_is_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "_MOUNTS", tmp_path / "absent")
    assert disks.disk_of_others(tmp_path) == ""
    (tmp_path / "strange").write_bytes(b"\xff\n\n - \nno table\n1 2 3:4 - \n")
    monkeypatch.setattr(disks, "_MOUNTS", tmp_path / "strange")
    assert disks.disk_of_others(tmp_path) == ""


def test_a_store_there_has_no_log_and_one_that_has_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "store.sqlite"):
        pass
    open_storage(tmp_path / "study.sqlite", tmp_path / "study.sqlite", 1.0)
    assert journal(tmp_path / "store.sqlite") == journal(tmp_path / "study.sqlite") == "wal"
    mounted_as("nfs4", tmp_path, monkeypatch)
    with Store(tmp_path / "store.sqlite"):
        assert not list(tmp_path.glob("store.sqlite-*"))
    open_storage(tmp_path / "other.sqlite", tmp_path / "other.sqlite", 1.0)
    assert journal(tmp_path / "store.sqlite") == journal(tmp_path / "other.sqlite") == "delete"


def test_what_stays_locked_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without locks looks to SQLite like a file that somebody else has locked for good."""
    path = tmp_path / "list.sqlite"
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *place, **more: connect(*place, **{**more, "timeout": 0.1}))
    monkeypatch.setattr("merge_advisor.checked_sqlite._SECONDS", 0.3)
    with pytest.raises(RunError) as refused:
        CheckedFile(path, FileKind("list", "name another list", "nothing", {}, ()))
    holder.close()
    assert str(refused.value) == (
        f"list {path}: cannot be opened (database is locked), by another process or because its disk has no locks "
        "(`merge-advisor doctor` tells); wait for that, or name another list"
    )


def test_doctor_says_what_the_disk_of_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(cache))
    assert _cache(tmp_path)["ok"] and "another machine" not in _cache(tmp_path)["says"]
    mounted_as("nfs", tmp_path, monkeypatch)
    told = _cache(tmp_path)
    assert told["ok"] and told["says"].endswith("on a disk of another machine (nfs): slower, without a write-ahead log")

    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    told = _cache(tmp_path)
    assert not told["ok"] and "has no locks; set MERGE_ADVISOR_CACHE" in told["says"]
    assert not list(cache.iterdir())
