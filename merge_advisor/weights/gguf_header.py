"""The header of a GGUF file, walked before the package gguf reads it: that makes objects of every number in it.

Neither the package nor the format has a limit: a header says how many values it has, not how many bytes.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from merge_advisor.limits import HEADER_BYTES, HEADER_VALUES, TENSORS, Limit
from merge_advisor.regular_files import open_regular
from merge_advisor.weights.files import FileError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by the format's code of its type."""
_TEXT, _ARRAY = 8, 9
_MAGIC, _OLDEST = b"GGUF", 2


def check_gguf_header(file: Path) -> None:
    """Refuse a GGUF file whose header is cut short or holds more than is read.

    Args:
        file: the file.

    Raises:
        FileError: it cannot be read, is no GGUF file, or has more than `HEADER_BYTES`, `HEADER_VALUES` or `TENSORS`.
    """
    try:
        with open_regular(file) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data, file.name).header()
    except OSError as error:
        raise FileError(f"{file.name}: cannot be read ({error.strerror}); check the folder") from error
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{file.name}: cannot be read as GGUF ({error}); fetch it again") from error


class _Walk:
    """Goes over a header and counts, making nothing."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name = data, name
        self._at = self._values = 0
        self._most_bytes, self._most_values = HEADER_BYTES.most, HEADER_VALUES.most
        self._order = "<"

    def header(self) -> None:
        if self._data[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version = self._number(4)
        if not version & 0xFFFF:  # of a machine with the other order of bytes
            self._order, self._at = ">", 4
            version = self._number(4)
        if version < _OLDEST:
            raise ValueError(f"version {version} is not read")
        tensors, pairs = self._number(8), self._number(8)
        if tensors > TENSORS.most:
            raise self._beyond(TENSORS, " tensors", tensors)
        for _ in range(pairs):
            self._skip_text()
            self._skip_value(self._number(4))
        for _ in range(tensors):
            self._skip_text()
            self._skip(8 * self._number(4) + 12)

    def _skip_value(self, kind: int) -> None:
        if kind != _ARRAY:
            self._skip_values(kind, 1)
            return
        kind = self._number(4)
        if kind == _ARRAY:
            raise ValueError("an array of arrays, which no model has")
        self._skip_values(kind, self._number(8))

    def _skip_values(self, kind: int, number: int) -> None:
        self._values += number
        if self._values > self._most_values:
            raise self._beyond(HEADER_VALUES, " numbers and texts")
        if kind in _SIZES:
            self._skip(number * _SIZES[kind])
        elif kind == _TEXT:
            for _ in range(number):
                self._skip_text()
        else:
            raise ValueError(f"a value of the unknown type {kind}")

    def _skip_text(self) -> None:
        self._skip(self._number(8))

    def _number(self, size: int) -> int:
        start = self._at
        self._skip(size)
        (number,) = struct.unpack_from(self._order + ("I" if size == 4 else "Q"), self._data, start)
        return int(number)

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("it is cut short")
        if self._at > self._most_bytes:
            raise self._beyond(HEADER_BYTES, "")

    def _beyond(self, limit: Limit, what: str, found: int | None = None) -> FileError:
        return FileError(
            f"{self._name}: its header has {limit.over}{what}; fetch it again; if it is right, {limit.remedy(found)}"
        )
