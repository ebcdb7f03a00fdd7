"""Signs of life of a worker: it is there, and the thread that works is getting somewhere."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_PROCESSES = Path("/proc")


class LifeSigns:
    """Counts the looks at which a worker was seen to live: its working thread used the processor since the last one.

    A stopped process, or a machine that is gone, is not looked at, so that the count stands still. A thread that waits
    for something that never comes uses no processor; what its child processes use counts as its own. Where the system
    cannot tell (outside Linux), every look is a sign.

    >>> signs = LifeSigns()
    >>> signs.look() <= signs.look()
    True
    """

    def __init__(self) -> None:
        self._count = 0
        self.watch()

    def watch(self) -> None:
        """Take the calling thread for the one that works."""
        self._thread, self._number, self._used = threading.get_ident(), threading.get_native_id(), -1.0

    def look(self) -> int:
        """Return the count, one more than before where there was a sign."""
        used = self._processor_time()
        if used is None or used != self._used:
            self._count += 1
        self._used = -1.0 if used is None else used
        return self._count

    def _processor_time(self) -> float | None:
        if sys.platform != "linux":
            return None
        # to ask for the clock of a thread that has ended may crash the process
        if not (_PROCESSES / "self" / "task" / str(self._number)).exists():
            return None
        try:
            own = time.clock_gettime(time.pthread_getcpuclockid(self._thread))
        except OSError:
            return None
        return own + _children_time("self")


def _children_time(process: str) -> float:
    """Ticks of the processor that the processes below one have used; 0 where the kernel does not tell."""
    ticks = 0.0
    with suppress(OSError):  # one that ended meanwhile
        for thread in (_PROCESSES / process / "task").iterdir():
            for child in (thread / "children").read_text().split():
                with suppress(OSError):
                    fields = (_PROCESSES / child / "stat").read_text().rpartition(")")[2].split()
                    ticks += float(fields[11]) + float(fields[12])
                ticks += _children_time(child)
    return ticks
