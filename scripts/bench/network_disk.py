"""Two writers of one store on a disk of another machine: what is in it afterwards, with and without a write-ahead log.

python scripts/bench/network_disk.py --work DIR [--rows 100] [--minutes 2]

Needs root, /dev/fuse, `pip install fusepy` and libfuse 2 (FUSE_LIBRARY_PATH where it is not installed). A folder is
mounted twice by FUSE, each mount as a machine that has it over a network sees it: reads and writes go to one server,
locks of SQLite too, and nothing is in memory in common. `cached` keeps pages, `direct` asks for each, which is what
NFS does once a lock is taken; with `direct`, files cannot be mapped into memory. `none` has no locks (ENOLCK, which
NFS gives where nobody serves them). A line of JSON for each case: rows that were said to be kept, rows that are there,
what SQLite finds wrong, errors.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import importlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from merge_advisor.checked_sqlite import CheckedFile, FileKind
from merge_advisor.disks import disk_of_others, has_locks
from merge_advisor.errors import RunError

_OFD_SETLK, _OFD_GETLK = 37, 36
"""Locks that belong to an open file, not to a process: the server holds those of all its clients."""


class _Lock(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_short), ("whence", ctypes.c_short), ("start", ctypes.c_long), ("length", ctypes.c_long),
        ("pid", ctypes.c_int),
    )  # fmt: skip


def serve(root: str, place: str, pages: str, locks: str) -> None:
    """Serve a folder at a place until it is unmounted."""
    fuse: Any = importlib.import_module("fuse")

    def all_of(values: object, prefix: str) -> dict[str, Any]:
        return {name: getattr(values, name) for name in dir(values) if name.startswith(prefix)}

    class Disk(fuse.Operations):  # type: ignore[misc]  # what fusepy calls by name
        def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
            return all_of(os.lstat(root + path), "st_")

        def statfs(self, path: str) -> dict[str, Any]:
            return all_of(os.statvfs(root + path), "f_")

        def readdir(self, path: str, fh: Any) -> list[str]:
            return [".", "..", *(inside.name for inside in Path(root + path).iterdir())]

        def mkdir(self, path: str, mode: int) -> None:
            Path(root + path).mkdir(mode)

        def rmdir(self, path: str) -> None:
            Path(root + path).rmdir()

        def unlink(self, path: str) -> None:
            Path(root + path).unlink()

        def rename(self, old: str, new: str) -> None:
            Path(root + old).rename(root + new)

        def truncate(self, path: str, length: int, fh: Any = None) -> None:
            os.truncate(root + path, length)

        def create(self, path: str, mode: int, file: Any) -> int:
            return self.open(path, file, os.O_CREAT, mode)

        def open(self, path: str, file: Any, more: int = 0, mode: int = 0o666) -> int:
            how = os.O_RDONLY if file.flags & os.O_ACCMODE == os.O_RDONLY else os.O_RDWR
            file.fh, file.direct_io = os.open(root + path, how | more, mode), int(pages == "direct")
            return 0

        def read(self, path: str, size: int, at: int, file: Any) -> bytes:
            return os.pread(file.fh, size, at)

        def write(self, path: str, data: bytes, at: int, file: Any) -> int:
            return os.pwrite(file.fh, data, at)

        def fsync(self, path: str, data_alone: int, file: Any) -> None:
            os.fsync(file.fh)

        def flush(self, path: str, file: Any) -> int:
            return 0

        def release(self, path: str, file: Any) -> None:
            os.close(file.fh)

        def lock(self, path: str, file: Any, command: int, asked: Any) -> int:
            if locks == "none":
                raise fuse.FuseOSError(errno.ENOLCK)
            lock = ctypes.cast(asked, ctypes.POINTER(_Lock)).contents
            whole = lock.length >= 1 << 62
            one = _Lock(lock.kind, 0, lock.start, 0 if whole else lock.length, 0)
            found = fcntl.fcntl(file.fh, _OFD_GETLK if command == fcntl.F_GETLK else _OFD_SETLK, bytes(one))
            if command == fcntl.F_GETLK:
                lock.kind = _Lock.from_buffer_copy(found).kind
            return 0

    fuse.FUSE(
        Disk(), place, raw_fi=True, foreground=True, attr_timeout=0, entry_timeout=0, auto_cache=True, fsname="other",
    )  # fmt: skip


def _make(file: CheckedFile) -> None:
    file.run("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT, checksum BLOB)")


KIND = FileKind("store", "name another `store`", "what is in it is measured anew", {"t": ("k", "v")}, (_make,))


def keep_rows(place: Path, name: str, rows: int, ahead: bool) -> None:
    """Keep rows in the store of one machine, with a log or as the program does it; say how many, and an error."""
    if ahead:  # as before there was `merge_advisor.disks`
        importlib.import_module("merge_advisor.checked_sqlite").__dict__["disk_of_others"] = lambda _: ""
    kept, wrong = 0, ""
    try:
        with CheckedFile(place / "store.sqlite", KIND) as file:
            for number in range(rows):
                file.keep("t", f"{name}-{number}", "x" * 300)
                kept += 1
                file.rows("SELECT COUNT(*) FROM t")
    except RunError as error:
        wrong = str(error).replace(str(place), "")
    print(json.dumps([kept, wrong]))


def one_case(work: Path, pages: str, locks: str, ahead: bool, options: argparse.Namespace) -> dict[str, Any]:
    """Mount the folder twice, let one process of each keep rows, and look at what is there."""
    root, places = work / "root", [work / "one", work / "two"]
    for folder in (root, *places):
        folder.mkdir(parents=True)
    me = [sys.executable, __file__, "--work", str(work), "--rows", str(options.rows)]
    servers = [subprocess.Popen([*me, "--serve", str(root), str(place), pages, locks]) for place in places]
    try:
        end = time.monotonic() + 30
        while not all(place.is_mount() for place in places) and time.monotonic() < end:
            time.sleep(0.2)
        kind = disk_of_others(places[0])
        (root / "probe").touch()
        locked = has_locks(places[0] / "probe")
        writers = [
            subprocess.Popen([*me, "--keep", str(place), *(["--ahead"] if ahead else [])], stdout=subprocess.PIPE)
            for place in places
        ]
        said = []
        for writer in writers:
            try:
                said.append(json.loads(writer.communicate(timeout=60 * options.minutes)[0]))
            except subprocess.TimeoutExpired:
                writer.kill()
                said.append([0, "did not end"])
    finally:
        for place in places:
            subprocess.run(["umount", "-l", str(place)], check=False)
        for server in servers:
            server.wait(30)
    there, damage = 0, ""
    with suppress(sqlite3.Error):
        connection = sqlite3.connect(root / "store.sqlite")
        damage = str(connection.execute("PRAGMA integrity_check").fetchone()[0])
        there = connection.execute("SELECT COUNT(*) FROM t NOT INDEXED").fetchone()[0]
        connection.close()
    subprocess.run(["rm", "-r", str(work)], check=True)
    return {
        "pages": pages, "locks": locks, "log": ahead, "kind": kind, "has locks": locked,
        "said to be kept": sum(kept for kept, _ in said), "there": there, "integrity": damage,
        "errors": sorted({wrong for _, wrong in said if wrong}),
    }  # fmt: skip


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder to make, fill and remove")
    parser.add_argument("--rows", type=int, default=100, help="of each of the two")
    parser.add_argument("--minutes", type=float, default=2.0, help="that a writer has")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ahead", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
    elif options.keep:
        keep_rows(options.keep, options.keep.name, options.rows, options.ahead)
    else:
        for pages, locks in (("cached", "server"), ("direct", "server"), ("direct", "none")):
            for ahead in (True, False):
                print(json.dumps(one_case(options.work, pages, locks, ahead, options)), flush=True)


if __name__ == "__main__":
    main()
