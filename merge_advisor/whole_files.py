"""Files and folders that appear whole or not at all: written beside their place, synced to disk, then renamed.

A reader never sees half of one, however the writer ends. What is written inside a folder of `whole_folder` or
`replaced_folder` needs no such care: it appears with the folder, so plain writes do there.

What a killed writer leaves beside the place has its process in the name; the next one that writes there removes it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from merge_advisor.errors import RunError
from merge_advisor.owners import is_running


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, by whatever writes to a path; one that is there is replaced.

    >>> with whole_file(Path("numbers.txt")) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> Path("numbers.txt").read_text()
    '1 2 3'

    Args:
        path: the file; missing parent folders are made.

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
        try:
            yield partial
            _sync(partial)
            partial.chmod(0o644)  # mkstemp's files are for their owner alone
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all; one that is there is replaced.

    Args:
        path: the file; missing parent folders are made.
        text: its text; lone surrogates, which JSON may hold, are kept.

    Raises:
        RunError: no permission, or no room.
    """
    with whole_file(path) as partial:
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
        if not folder.exists():
            partial.rename(folder)
            return
        if not _exchanged(partial, folder):
            # no folder can be renamed over one that holds anything; killed in between, `restore` brings it back
            old = partial.with_suffix(_OLD)
            folder.rename(old)
            partial.rename(folder)
            partial = old
        shutil.rmtree(partial)

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
        try:
            yield partial
            partial.chmod(0o755)  # mkdtemp's folders are for their owner alone
            for path in [*partial.rglob("*"), partial]:
                _sync(path)
            put(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync(folder.parent)


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


_OLD = ".old"
_FOREIGN = 7 * 86400.0
"""Seconds after which what another machine left on a shared disk is taken for dead."""
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


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _prefix(path: Path) -> str:
    return f".{path.name}.{_host()}-{os.getpid()}."


def _leftovers(path: Path) -> Iterator[tuple[Path, bool]]:
    """What writers of a path have beside it, and whether the writer is dead."""
    begins = re.compile(rf"\.{re.escape(path.name)}\.(?P<host>[0-9a-f]{{8}})-(?P<pid>[0-9]+)\.")
    for other in sorted(path.parent.glob(".*")) if path.parent.is_dir() else ():
        match = begins.match(other.name)
        if match is None:
            continue
        try:
            age = time.time() - other.lstat().st_mtime
        except FileNotFoundError:
            continue
        yield other, not is_running(int(match["pid"])) if match["host"] == _host() else age > _FOREIGN


def _clear(path: Path) -> None:
    for other, dead in _leftovers(path):
        if dead and (other.suffix != _OLD or path.exists()):
            if other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file or folder, and the remedy, where the system only names a reason."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{path}: cannot be written ({reason}); check permissions and free space") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
