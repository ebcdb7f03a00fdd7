"""Files and folders that appear whole or not at all: written beside their place, synced to disk, then renamed.

A reader never sees half of one, however the writer ends. What is written inside a folder of `whole_folder` or
`replaced_folder` needs no such care: it appears with the folder, so plain writes do there.

What a killed writer leaves beside the place has its process in the name; the next one that writes there removes it. So
it is with folders for what is not kept (`scratch_folder`) and with what is removed (`discard`).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from merge_advisor.errors import RunError
from merge_advisor.natural_numbers import natural_number
from merge_advisor.owners import other_runs, this_installation
from merge_advisor.write_points import write_point


@contextmanager
def whole_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all, by whatever writes to a path; one that is there is replaced.

    >>> with whole_file(Path("numbers.txt")) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> Path("numbers.txt").read_text()
    '1 2 3'

    Args:
        path: the file; missing parent folders are made.
        private: only this user can read it.

    Yields:
        An empty file beside it, of the same suffix, to write to. It becomes `path` when the block ends well and
        vanishes otherwise.

    Raises:
        RunError: no permission, or no room.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        # the same suffix: numpy.savez appends its own to a name without it
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=path.suffix)
        os.close(handle)
        partial = Path(name)
        with _ours(partial):
            write_point("file begun", path.name)
            yield partial
            write_point("file filled", path.name)
            _sync(partial)
            partial.chmod(0o600 if private else 0o644)  # mkstemp's files are for their owner alone
            write_point("file synced", path.name)
            partial.replace(path)
            write_point("file in place", path.name)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file (UTF-8) whole or not at all; one that is there is replaced.

    Args:
        path: the file; missing parent folders are made.
        text: its text; lone surrogates, which JSON may hold, are kept.
        private: only this user can read it.

    Raises:
        RunError: no permission, or no room.
    """
    with whole_file(path, private=private) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogatepass")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Make a folder whole or not at all.

    >>> with whole_folder(Path("made")) as partial:
    ...     _ = (partial / "a.txt").write_text("a")
    >>> with whole_folder(Path("made")) as partial:
    ...     pass
    Traceback (most recent call last):
    merge_advisor.errors.RunError: made: is there already; name another, or remove it first

    Args:
        folder: the folder, not there yet; missing parents are made.

    Yields:
        An empty folder beside it to fill. It becomes `folder` when the block ends well and vanishes otherwise.

    Raises:
        RunError: `folder` is there already (nothing is written then), no permission, or no room.
    """
    taken = RunError(f"{folder}: is there already; name another, or remove it first")
    if folder.exists() or folder.is_symlink():
        raise taken

    def put(partial: Path) -> None:
        try:
            partial.rename(folder)
        except OSError as error:  # made meanwhile by another process
            if folder.exists():
                raise taken from error
            raise
        write_point("folder in place", folder.name)

    with _filled(folder, put) as partial:
        yield partial


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Make a folder whole or not at all, in place of the one that is there, if any.

    >>> for text in ("old", "new"):
    ...     with replaced_folder(Path("kept")) as partial:
    ...         _ = (partial / "a.txt").write_text(text)
    >>> Path("kept/a.txt").read_text()
    'new'

    Args:
        folder: the folder; missing parents are made.

    Yields:
        As `whole_folder`; until the block ends well, the old folder stays as it is.

    Raises:
        RunError: no permission, or no room.
    """

    def put(partial: Path) -> None:
        old: Path | None = partial
        if not folder.exists():
            partial.rename(folder)
            old = None
        elif not _exchanged(partial, folder):
            # no folder can be renamed over one that holds anything; killed in between, `restore` brings it back
            old = partial.with_suffix(_OLD)
            folder.rename(old)
            try:
                write_point("folder set aside", folder.name)
                partial.rename(folder)
            except OSError:
                old.rename(folder)
                raise
        try:
            write_point("folder in place", folder.name)
        finally:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)

    with _filled(folder, put) as partial:
        yield partial


@contextmanager
def _filled(folder: Path, put: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a new folder beside `folder`; sync it and `put` it in place when the block ends well."""
    with _naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        restore(folder)
        _clear(folder)
        # the dot hides it from whoever lists the parent, such as a pool: a kill may leave it behind
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder), suffix=".partial"))
        with _ours(partial):
            write_point("folder begun", folder.name)
            yield partial
            write_point("folder filled", folder.name)
            partial.chmod(0o755)  # mkdtemp's folders are for their owner alone
            for path in [*partial.rglob("*"), partial]:
                _sync(path)
            write_point("folder synced", folder.name)
            put(partial)
        _sync(folder.parent)


@contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """Make a folder for what is not kept.

    >>> with scratch_folder() as folder:
    ...     made = folder.is_dir()
    >>> made, folder.exists()
    (True, False)

    Args:
        beside: a place that it shall be beside, on whose disk there is room; None: among the system's temporary files.

    Yields:
        The folder, empty. It is removed when the block ends; where a kill ends it, by the next one beside that place.

    Raises:
        RunError: no permission, or no room.
    """
    place = beside or Path(tempfile.gettempdir()) / "merge-advisor"
    with _naming(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear(place)
        folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=_prefix(place), suffix=".scratch"))
    with _ours(folder):
        with _naming(place):
            write_point("scratch begun", place.name)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove a file or folder at once: a kill leaves nothing half removed; nothing where there is none.

    >>> discard(Path("nothing"))

    Args:
        path: it.

    Raises:
        RunError: no permission.
    """
    with _naming(path, "removed"):
        _clear(path)
        if path.is_file() or path.is_symlink():
            path.unlink()
            write_point("discarded", path.name)
        elif path.exists():
            gone = path.with_name(f"{_prefix(path)}{os.urandom(4).hex()}.gone")
            with _ours(gone):
                path.rename(gone)
                write_point("discarded", path.name)
                _remove(gone)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left of anything in a folder that is all ours, as a run folder is.

    >>> remove_leftovers(Path("run"))

    Args:
        folder: it; folders in it are not looked into.
    """
    for name in {match["name"] for other in folder.glob(".*") if (match := _LEFT.match(other.name))}:
        _clear(folder / name)


def restore(folder: Path) -> None:
    """Put a folder back that a killed writer had moved away and not yet replaced; nothing where there is none.

    >>> restore(Path("adapters"))

    Args:
        folder: its place.
    """
    if folder.exists():
        return
    olds = [path for path, dead in _leftovers(folder) if dead and path.suffix == _OLD]
    if olds:
        max(olds, key=lambda path: path.stat().st_mtime).rename(folder)
        write_point("folder put back", folder.name)


_OLD = ".old"
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)\.")
"""Names of what writers have beside a place."""
_AGE = 7 * 86400.0
"""Seconds after which what was left is taken for dead, whatever its process: that may be of another machine on a shared
disk, or its number another process's by now."""
_OPEN: set[Path] = set()
"""What writers of this process have beside places."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux: paths are relative to the working folder; two names swap what they name."""


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two folders at once, so that neither name is ever without one; False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library of before 2018
        return False
    names = [os.fsencode(path) for path in (one, other)]
    return bool(swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def this_writer() -> str:
    """Return this process's name in what it writes."""
    return f"{this_installation()}-{os.getpid()}"


def other_lives(writer: str) -> bool:
    """Return whether a writer is another process of this machine, and runs.

    >>> other_lives(this_writer()), other_lives("")
    (False, False)

    Args:
        writer: what `this_writer` returned there.
    """
    host, _, pid = writer.partition("-")
    number = natural_number(pid)
    return host == this_installation() and number is not None and other_runs(number)


def _prefix(path: Path) -> str:
    return f".{path.name}.{this_writer()}."


def _leftovers(path: Path) -> Iterator[tuple[Path, bool]]:
    """What writers of a path have beside it, and whether the writer is dead."""
    for other in sorted(path.parent.glob(".*")) if path.parent.is_dir() else ():
        match = _LEFT.match(other.name)
        if match is None or match["name"] != path.name:
            continue
        try:
            age = time.time() - other.lstat().st_mtime
        except FileNotFoundError:
            continue
        lives = match["host"] != this_installation() or other_runs(int(match["pid"]))
        yield other, other not in _OPEN and (not lives or age > _AGE)


def _clear(path: Path) -> None:
    for other, dead in _leftovers(path):
        if dead and (other.suffix != _OLD or path.exists()):
            with suppress(OSError):  # of another user; it is in nobody's way
                _remove(other)
            write_point("leftover removed", path.name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _ours(path: Path) -> Iterator[None]:
    """Know a path as one that is being written, and remove it where the block fails."""
    _OPEN.add(path)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            _remove(path)
        raise
    finally:
        _OPEN.discard(path)


@contextmanager
def _naming(path: Path, done: str = "written") -> Iterator[None]:
    """Name the file or folder, and the remedy, where the system only names a reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path}: cannot be {done} ({reason}); check permissions and free space") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
