"""Files of rows: mapped, where one after the other is looked at, and read, where a few from everywhere are."""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_TOUCHED = 2**29
"""Bytes of a file that a process touches before it lets go of them."""
AROUND = 2**19
"""Bytes that a process may be given with a row that it touches: rows around it that are in memory."""


class MappedRows:
    """A file as an array of rows that are not read before they are looked at.

    What a process has touched of a mapped file counts as its memory, though the system could take it back at once. With
    each page come those around it: two thousand rows from everywhere were 655 MB of a file of 1.2 GB. So a few are read
    into memory of their own (`pick`; of many that takes ten times as long), and who goes through the array says so
    (`touched`): beyond `MOST_TOUCHED` bytes the pages are let go. They stay in the system's memory.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = (Path(folder) / "rows").write_bytes(bytes(range(6)))
    ...     mapped = MappedRows(Path(folder) / "rows", "u1", (2, 3))
    ...     mapped.array.tolist(), mapped.pick(np.array([1])).tolist()
    ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5]])

    Args:
        path: the file.
        dtype: of the array.
        shape: of the array; the file may go on behind it.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is shorter.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._path, self._touched = path, 0
        count = int(np.prod(shape))
        self._size = count * np.dtype(dtype).itemsize
        self._map: mmap.mmap | None = None
        if not count:
            self.array: NDArray[Any] = np.zeros(shape, dtype)
            return
        # kept open: by now another file may have that name
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self._file)
        self._map = mmap.mmap(self._file, self._size, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(self._map, dtype).reshape(shape)

    def pick(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Return some rows, read from the file: all are asked of the system first, so that a disk reads them at once.

        Args:
            places: of the rows, rising.

        Raises:
            OSError: they cannot be read.
        """
        if not len(places) or not hasattr(os, "pread"):
            return self.array[places]
        found = np.empty((len(places), *self.array.shape[1:]), self.array.dtype)
        stride = self._size // len(self.array)
        into = found.reshape(-1).view(np.uint8)
        # rows beside each other are one part of the file
        begins = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        counts = np.diff(begins, append=len(places))
        parts = np.stack([places[begins] * stride, begins * stride, counts * stride], axis=1).tolist()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)
            for start, _, size in parts:
                os.posix_fadvise(self._file, start, size, os.POSIX_FADV_WILLNEED)
        for start, at, size in parts:
            data = os.pread(self._file, size, start)
            if len(data) != size:
                raise OSError(errno.EIO, "it has become shorter", str(self._path))
            into[at : at + size] = np.frombuffer(data, np.uint8)
        return found

    def touched(self, rows: int, *, apart: bool = False) -> None:
        """Say that rows were looked at; what was touched is let go where it is much.

        Args:
            rows: how many.
            apart: whether they lie anywhere, rather than beside each other.
        """
        if self._map is None:
            return
        each = self._size // len(self.array) + (AROUND if apart else 0)
        self._touched = min(self._size, self._touched + rows * each)
        if self._touched > MOST_TOUCHED and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
