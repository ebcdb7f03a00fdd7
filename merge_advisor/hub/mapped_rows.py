"""Files of rows as arrays that are not read before they are looked at, and whose pages a process lets go again."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

AROUND = 2**16
"""Bytes that the system gives a process with each page that it touches, where they are in memory."""
MOST_TOUCHED = 2**29
"""Bytes of a file that a process touches before it lets go of them."""


class MappedRows:
    """A file, mapped as an array of rows.

    What a process has touched of a mapped file counts as its memory, though the system could take it back at once: a
    few thousand rows of 8 KiB from everywhere, each with 64 KiB around it, are soon all of a file of 8 GB. So who looks
    at rows says so, and what was touched is let go beyond `MOST_TOUCHED` bytes. It stays in the system's memory.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = (Path(folder) / "rows").write_bytes(bytes(range(6)))
    ...     MappedRows(Path(folder) / "rows", "u1", (2, 3)).array.tolist()
    [[0, 1, 2], [3, 4, 5]]

    Args:
        path: the file.
        dtype: of the array.
        shape: of the array; the file may go on behind it.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is shorter.
    """

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._touched = 0
        count = int(np.prod(shape))
        self._size = count * np.dtype(dtype).itemsize
        self._map: mmap.mmap | None = None
        if not count:
            self.array: NDArray[Any] = np.zeros(shape, dtype)
            return
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), self._size, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(self._map, dtype).reshape(shape)

    def expect(self, places: NDArray[np.int64]) -> None:
        """Have the system read some rows from the disk, all at once rather than each when it is looked at.

        Args:
            places: of the rows.
        """
        if self._map is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        stride = self._size // len(self.array)
        for place in places.tolist():
            start = place * stride // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, (place + 1) * stride - start)

    def touched(self, rows: int, *, apart: bool) -> None:
        """Say that rows were looked at; what this process has touched is let go where it is much.

        Args:
            rows: how many.
            apart: whether they lie anywhere, rather than beside each other.
        """
        if self._map is None:
            return
        stride = self._size // len(self.array)
        self._touched = min(self._size, self._touched + rows * (stride + AROUND if apart else stride))
        if self._touched > MOST_TOUCHED and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
