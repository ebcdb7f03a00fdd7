"""Files and folders that appear whole or not at all: written beside their place, synced to disk, then renamed.

A reader never sees half of one, however the writer ends. What is written inside a folder of `whole_folder` or
`replaced_folder` needs no such care: it appears with the folder, so plain writes do there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from merge_advisor.errors import RunError


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
        # the same suffix: numpy.savez appends its own to a name without it
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
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
    if folder.exists() or folder.is_symlink():
        raise RunError(f"{folder}: is there already; name another, or remove it first")
    with _filled(folder, lambda partial: partial.rename(folder)) as partial:
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
        old = partial.with_suffix(".old")  # no folder can be renamed over one that holds anything
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)

    with _filled(folder, put) as partial:
        yield partial


@contextmanager
def _filled(folder: Path, put: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a new folder beside `folder`; sync it and `put` it in place when the block ends well."""
    with _naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # the dot hides it from whoever lists the parent, such as a pool: a kill may leave it behind
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
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
