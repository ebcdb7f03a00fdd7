"""One writer at a time in a hub folder, and what writing there needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from merge_advisor.tuning.lock import HolderLock

_LOCK = "hub.lock"
WAIT = 60.0
"""Seconds that a process waits to write while another one does. A write takes moments, but for vectors of many models
that are made anew."""


def now() -> str:
    """Return the time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def writable(folder: Path) -> bool:
    """Return whether files can be made in a folder.

    Args:
        folder: the folder.
    """
    return os.access(folder, os.W_OK)


@contextmanager
def written_by_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a hub folder for the time of a block, which is to be one write; wait for another's up to `WAIT`.

    Args:
        folder: the hub folder.

    Yields:
        Nothing.

    Raises:
        RunError: another process holds it all that time, which the message names, or nothing can be written there.
    """
    lock = HolderLock(folder / _LOCK, "is being written to by", wait=WAIT)
    try:
        yield
    finally:
        lock.release()
