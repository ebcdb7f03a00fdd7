"""One writer at a time in a hub folder, and what writing there needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from merge_advisor.errors import RunError
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


def check_can_be_made(folder: Path) -> None:
    """Refuse a folder that could not be made, before hours are spent on what is to go into it; nothing is made.

    >>> check_can_be_made(Path("new/hub"))

    Args:
        folder: to be made, or to be filled.

    Raises:
        RunError: it, or what it would be made in, is no folder or cannot be written.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RunError(f"hub {folder}: cannot be made, since {there} is no folder; name another `hub`")
    if not writable(there):
        raise RunError(f"hub {folder}: cannot be made, since {there} cannot be written; name another `hub`")


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
