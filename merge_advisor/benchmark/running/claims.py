"""Claims: which process measures which draw of a task, where several share one ledger.

A claim is a row of the ledger with its owner and a count of heartbeats; it is void when its owner is gone (`owners`).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from merge_advisor.benchmark.running.ledger import LEDGER_KIND
from merge_advisor.checked_sqlite import CheckedFile
from merge_advisor.errors import RunError
from merge_advisor.owners import OwnerWatch, this_owner

CLAIM_BEAT = 10.0
"""Seconds between two heartbeats."""
CLAIM_STALE = 60.0
"""Seconds without a heartbeat after which an owner on another machine is taken for dead: six beats, so that a disk out
of reach for a moment loses nothing."""


class DrawKey(NamedTuple):
    """What is claimed as a whole: a task with a draw of its shots, whose results share a finetune.

    >>> DrawKey("dates", 0).task
    'dates'
    """

    task: str
    shot_draw: int


class Claims:
    """The claims of this process in a ledger; a context manager that gives them all up.

    >>> from tempfile import TemporaryDirectory
    >>> from merge_advisor.benchmark.running.ledger import LEDGER_FILE
    >>> with TemporaryDirectory() as folder, Claims(Path(folder) / LEDGER_FILE) as claims:
    ...     claims.take(DrawKey("dates", 0)), claims.take(DrawKey("dates", 0))
    (True, True)

    Args:
        path: the ledger's file.

    Raises:
        RunError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = CheckedFile(path, LEDGER_KIND)
        self._owner, self._watch = this_owner(), OwnerWatch(CLAIM_STALE)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, args=(path,), name="bench-heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        try:
            with suppress(RunError):  # void soon, in any case
                self._file.run("DELETE FROM claims WHERE owner = ?", (self._owner,))
                self._clear()
        finally:
            self._file.close()

    def take(self, draw: DrawKey) -> bool:
        """Return whether the draw is this process's now: nobody's, its own, or of an owner that is gone.

        Raises:
            RunError: the ledger cannot be written.
        """
        with self._file.transaction():
            if not self.free(draw):
                return False
            self._file.run("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, 0)", (*draw, self._owner))
        return True

    def free(self, draw: DrawKey) -> bool:
        """Return whether the draw could be taken.

        Raises:
            RunError: the ledger cannot be read.
        """
        rows = self._file.rows("SELECT owner, beat FROM claims WHERE task = ? AND shot_draw = ?", draw)
        if not rows or rows[0][0] == self._owner:
            return True
        return self._watch.is_gone(draw, str(rows[0][0]), int(rows[0][1]))

    def give_up(self, draw: DrawKey) -> None:
        """Let another process have the draw.

        Raises:
            RunError: the ledger cannot be written.
        """
        self._file.run("DELETE FROM claims WHERE task = ? AND shot_draw = ? AND owner = ?", (*draw, self._owner))

    def _clear(self) -> None:
        """Delete claims of owners that are gone: of draws that are done nobody asks for them."""
        for task, shots, owner, beat in self._file.rows("SELECT task, shot_draw, owner, beat FROM claims"):
            draw = DrawKey(str(task), int(shots))
            if self._watch.is_gone(draw, str(owner), int(beat)):
                self._file.run("DELETE FROM claims WHERE task = ? AND shot_draw = ? AND owner = ?", (*draw, owner))

    def _go_on(self, path: Path) -> None:
        """Beat, on a connection of this thread's own."""
        while not self._over.wait(CLAIM_BEAT):
            # a disk out of reach for a moment; a lasting failure is reported when a result is to be kept
            with suppress(RunError), CheckedFile(path, LEDGER_KIND) as file:
                file.run("UPDATE claims SET beat = beat + 1 WHERE owner = ?", (self._owner,))
