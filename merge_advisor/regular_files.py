"""Files of a pool or base are opened where they are regular files alone.

A FIFO, a socket or a device under the name of a file that is looked for would be waited for, perhaps for ever. What a
user names as a task is opened as it is: a shell's `<(...)` is a FIFO.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from io import BufferedReader
from pathlib import Path


def home_expanded(path: str | Path) -> Path:
    """Return a path with the user's folder in place of a `~` in front, where there is such a user.

    >>> home_expanded("~no-such-user/base")
    PosixPath('~no-such-user/base')

    Args:
        path: as it was given.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user, or none has a folder: it is looked for under its name, and is not there
        return Path(path)


def open_regular(path: Path) -> BufferedReader:
    """Return a file open for reading bytes.

    >>> with open_regular(Path("examples.jsonl")) as stream:
    ...     stream.read(1)
    b'{'

    Args:
        path: the file, or a link to it.

    Raises:
        OSError: it cannot be opened, or is a folder, FIFO, socket or device.
    """
    # without O_NONBLOCK, opening a FIFO would wait for who writes to it, before it can be looked at
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path) -> bytes:
    """Return the bytes of a file.

    >>> read_regular(Path("examples.jsonl"))[:1]
    b'{'

    Args:
        path: the file, or a link to it.

    Raises:
        OSError: as of `open_regular`.
    """
    with open_regular(path) as stream:
        return stream.read()


def read_regular_text(path: Path, encoding: str = "utf-8") -> str:
    """Return the text of a file, its lines ended by newlines, as `Path.read_text` gives it.

    >>> read_regular_text(Path("examples.jsonl"))[:1]
    '{'

    Args:
        path: the file, or a link to it.
        encoding: of the text.

    Raises:
        OSError: as of `open_regular`.
        UnicodeDecodeError: it is in another encoding.
    """
    with io.TextIOWrapper(open_regular(path), encoding=encoding) as stream:
        return stream.read()
