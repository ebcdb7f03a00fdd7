"""The records of a task file, whatever the file is: JSON values in lines or in one, tables as text or as Parquet."""

from __future__ import annotations

import errno
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from merge_advisor.limits import TASK_BYTES
from merge_advisor.regular_files import read_bounded
from merge_advisor.tasks.fields import field_error, too_large
from merge_advisor.tasks.json_records import json_records
from merge_advisor.tasks.tables import TABLES, parquet_records, table_records

_PACKED = {
    b"\x28\xb5\x2f\xfd": "packed with zstd", b"BZh": "packed with bzip2", b"\xfd7zXZ\x00": "packed with xz",
    b"PK\x03\x04": "a zip archive",
}  # fmt: skip
"""What files begin with that are not read, and what they are."""
_BLOCK = 2**24
"""Bytes read at a time of what has no size: what gzip packed."""


def read_records(path: Path, wanted: str) -> Iterator[tuple[str, Any]]:
    """Yield each record of a file with its place, "file:line" or "file: row n".

    Args:
        path: JSONL; one JSON value; `.csv` or `.tsv` with a header; `.parquet`.
        wanted: what a record holds, for the messages.

    Yields:
        A place and a JSON value, numbers as `JsonNumber`; it need not be an object.

    Raises:
        TaskError: the file cannot be opened, is too large or not what its ending says; the message names file and line.
    """
    ending = _ending(path)
    if ending == ".parquet":
        yield from parquet_records(path)
        return
    text = _decode(path)
    if not text.strip():
        raise field_error(path, f"empty; write one JSON object with {wanted} per line")
    yield from table_records(path, text, ending) if ending in TABLES else json_records(path, text, ending, wanted)


def is_table(path: Path) -> bool:
    """Return whether a file is a table as text.

    >>> is_table(Path("rows.CSV")), is_table(Path("rows.jsonl"))
    (True, False)

    Args:
        path: of the file.
    """
    return _ending(path) in TABLES


def _ending(path: Path) -> str:
    """What tells the kind of a file: its ending before that of gzip."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _unpacked(path: Path, raw: bytes) -> bytes:
    """The bytes of a file, of one that gzip has packed what is inside."""
    packed = next((kind for begins, kind in _PACKED.items() if raw.startswith(begins)), None)
    if packed is not None:
        raise field_error(path, f"{packed}; unpack it and give the file inside (of a spreadsheet: save it as CSV)")
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            found = _bounded(path, file)
    except (EOFError, OSError, zlib.error) as error:
        raise field_error(path, f"cannot be unpacked ({error}); pack it again, or give the file inside") from error
    return found


def _bounded(path: Path, stream: gzip.GzipFile) -> bytes:
    """The bytes of a stream, in blocks: gzip's header may say anything."""
    found, most = bytearray(), TASK_BYTES.most
    while block := stream.read(_BLOCK):
        found += block
        if len(found) > most:
            raise too_large(path)
    return bytes(found)


def _decode(path: Path) -> str:
    try:
        found = read_bounded(path, TASK_BYTES.most)
        if found is None:
            size = path.stat().st_size
            raise too_large(path, size) if size > TASK_BYTES.most else too_large(path)
        raw = _unpacked(path, found)
    except FileNotFoundError as error:
        raise field_error(path, "no such file; give the path of a task file (JSONL)") from error
    except OSError as error:
        if error.errno == errno.EINVAL and path.is_dir():
            raise field_error(path, "a folder, not a file; give the path of one task file (JSONL)") from error
        raise field_error(path, f"cannot be read ({error.strerror}); check the path and its permissions") from error
    # JSON text has no zero byte, so that an early one shows a wide encoding without a mark
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:4]:
        raise field_error(path, "encoded as UTF-16 or UTF-32; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise field_error(f"{path}:{line}", f"byte 0x{raw[error.start]:02x} is not UTF-8; save it as UTF-8") from error
