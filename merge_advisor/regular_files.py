"""Files of a pool or base are opened where they are regular files alone.

A FIFO, a socket or a device under the name of a file that is looked for would be waited for, perhaps for ever, and a
device gives more than there is memory. Of what a user names as a task or guard, a shell's own pipes are read too:
`<(...)` is one.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from io import BufferedReader
from pathlib import Path

_BLOCK = 2**24
"""Bytes read at a time of what has no size."""
_PIPES = ("/dev/", "/proc/")
"""Where a shell puts the pipes of `<(...)` and of standard input."""


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


def read_bounded(path: Path, most: int) -> bytes | None:
    """Return the bytes of a file, or of a pipe that a shell made for it; None where there are more than are wanted.

    >>> read_bounded(Path("examples.jsonl"), 10) is None
    True

    Args:
        path: the file, a link to it, or what stands for `<(...)` and standard input under /dev.
        most: how many bytes there may be.

    Raises:
        OSError: as of `open_regular`; a FIFO that is no shell's is not waited for.
    """
    piped = str(path).startswith(_PIPES) and path.is_fifo()
    parts, count = [], 0
    with path.open("rb") if piped else open_regular(path) as stream:
        # by what comes, not by a size: pipes and files under /proc have none
        while block := stream.read(_BLOCK):
            parts.append(block)
            count += len(block)
            if count > most:
                return None
    return b"".join(parts)


def is_irregular(path: Path) -> bool:
    """Return whether something is there that is neither a file nor a folder, links followed: a FIFO, socket or device.

    >>> is_irregular(Path("examples.jsonl")), is_irregular(Path("absent")), is_irregular(Path("/dev/null"))
    (False, False, True)

    Args:
        path: it.
    """
    return path.exists() and not path.is_file() and not path.is_dir()
