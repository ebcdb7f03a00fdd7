"""The engine `local`: spawned processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from merge_advisor.engine.life import LifeSigns
from merge_advisor.engine.work import Opening, Reply
from merge_advisor.errors import MergeAdvisorError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_BEAT = 1.0
"""Seconds between two looks for a sign of life."""
_LEAVING = 10.0
"""Seconds that a worker without work has to end by itself."""


class ProcessFleet:
    """Spawned processes.

    >>> fleet = ProcessFleet(opening=None, threads=1)
    >>> fleet.close()

    Args:
        opening: what each opens; it is pickled.
        threads: CPU threads of each.
    """

    def __init__(self, opening: Opening, threads: int) -> None:
        self._opening, self._threads = opening, threads
        self._started: list[ProcessWorker] = []

    def start(self) -> ProcessWorker:
        """See `Fleet.start`."""
        worker = ProcessWorker(self._opening, self._threads)
        self._started.append(worker)
        return worker

    def close(self) -> None:
        """See `Fleet.close`: waits for those that leave, and ends those that do not."""
        until = time.monotonic() + _LEAVING
        for worker in self._started:
            worker.join(max(0.0, until - time.monotonic()))


class ProcessWorker:
    """One spawned process.

    >>> [name for name in ("open", "do", "signs", "kill", "leave") if not hasattr(ProcessWorker, name)]
    []

    Args:
        opening: what it opens.
        threads: CPU threads.
    """

    def __init__(self, opening: Opening, threads: int) -> None:
        # spawn, not fork: a fork has the locks of torch's threads without the threads, and an SQLite connection must
        # not be carried into another process
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        # no lock: the worker alone writes, and one killed while it held a lock would block the parent for good
        self._signs = spawn.Value("q", 0, lock=False)
        self._process = spawn.Process(target=_work, args=(opening, threads, theirs, self._signs))
        self._process.start()
        theirs.close()  # so that its end is seen as the end of the pipe

    def open(self) -> Reply:
        """See `Worker.open`."""
        return self._answer()

    def do(self, value: Any) -> Reply:
        """See `Worker.do`."""
        try:
            self._pipe.send(value)
        except OSError:
            return self._died()
        return self._answer()

    def signs(self) -> int:
        """See `Worker.signs`."""
        return int(self._signs.value)

    def kill(self) -> None:
        """See `Worker.kill`; a stopped process is ended as well."""
        self._process.kill()

    def leave(self) -> None:
        """See `Worker.leave`."""
        try:
            self._pipe.send(_LAST)
        except OSError:
            return

    def join(self, seconds: float) -> None:
        """Wait for the process to end, and end it after so many seconds.

        Args:
            seconds: to wait at most.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()

    def _answer(self) -> Reply:
        try:
            reply: Reply = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):  # a killed process may leave half a message
            return self._died()
        return reply

    def _died(self) -> Reply:
        self._process.join()
        code = self._process.exitcode or 0
        return Reply("died", f"signal {-code}" if code < 0 else f"exit code {code}")


_LAST = "the last order: no work item is this text"


def _work(opening: Opening, threads: int, pipe: Connection, count: Any) -> None:
    """The process: open, then do what comes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    signs = LifeSigns()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_beat, args=(signs, count), daemon=True).start()
    try:
        with opening.open(threads) as do:
            pipe.send(Reply("done"))
            while (value := pipe.recv()) != _LAST:
                pipe.send(do_item(do, value))
    except MergeAdvisorError as error:
        pipe.send(Reply("refused", str(error)))
    except (EOFError, BrokenPipeError):  # the parent has ended
        sys.exit(1)


def do_item(do: Any, value: Any) -> Reply:
    """Return what an item came to, or the error it raised on purpose; other errors end the worker.

    >>> do_item(lambda value: value + 1, 2)
    Reply(kind='done', value=3)

    Args:
        do: does items.
        value: of the item.
    """
    try:
        return Reply("done", do(value))
    except MergeAdvisorError as error:
        return Reply("raised", error.with_traceback(None))


def _beat(signs: LifeSigns, count: Any) -> None:
    while True:
        time.sleep(_BEAT)
        count.value = signs.look()


def _end_with_parent() -> None:
    """End this process when its parent ends: a worker whose parent was killed would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # `sys.exit` would end this thread alone
