"""Running work: items given out one by one, replies written here, workers that end or fall silent replaced."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from merge_advisor.engine.work import DoItem, Fleet, Reply, Work, Worker, WorkShare
from merge_advisor.errors import ExternalError

_POLL = 0.5
"""Seconds between two looks at the workers where no reply comes."""
_BEGINNING = 120.0
"""Seconds that a worker has for its first sign of life at least: its process has to be started, elsewhere perhaps."""
_DEATHS = 2
"""Deaths on one item after which it counts as failed: the first worker may have died of something else (another
program took the memory), a second death on the same item is no accident, and a third would only cost time."""


@dataclass(eq=False)
class _Slot:
    """A worker, its thread, and what it is doing."""

    worker: Worker
    before: int
    """Workers that died in its place before they had opened."""
    state: Literal["opening", "idle", "busy"] = "opening"
    share: WorkShare = field(default_factory=lambda: WorkShare("", ()))
    """What of its share is not done; the first item is the one it is doing."""
    labels: set[str] = field(default_factory=set)
    orders: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    signs: int = -1
    heard: float = field(default_factory=time.monotonic)
    """When the last sign of life was seen, by this process's clock: those of other machines need not agree."""


_LEAVE = object()
"""The order to end."""


def run_work(
    work: Work,
    fleet: Fleet,
    workers: int,
    *,
    silence: float,
    on_look: Callable[[], None] = lambda: None,
) -> None:
    """Do work in workers; return when all items are done or have failed.

    A worker that ends, or gives no sign of life for a while, is replaced, and what it had not done is given to another.
    An item on which two workers ended has failed.

    Args:
        work: what is to be done; called in this thread alone.
        fleet: starts the workers.
        workers: how many at a time, at most.
        silence: seconds without a sign of life after which a worker is ended.
        on_look: called about twice a second.

    Raises:
        ExternalError: no worker is left that could go on; what came back before is kept.
        MergeAdvisorError: what an item raised, or `work`.
    """
    _Supervisor(work, fleet, workers, silence, on_look).run()


def do_here(work: Work, do: DoItem, on_look: Callable[[], None] = lambda: None) -> None:
    """Do work in this process; return when all of it is done.

    Args:
        work: what is to be done.
        do: does an item.
        on_look: called after each item, and while others do what is left.

    Raises:
        MergeAdvisorError: what an item raised, or `work`.
    """
    labels: set[str] = set()
    while not work.over():
        share = work.take(labels)
        if share is None:
            time.sleep(_POLL)
            on_look()
            continue
        labels.add(share.label)
        for item in share.items:
            work.done(item, do(work.prepare(item)))
            on_look()


class _Supervisor:
    def __init__(self, work: Work, fleet: Fleet, workers: int, silence: float, on_look: Callable[[], None]) -> None:
        self._work, self._fleet, self._workers = work, fleet, workers
        self._silence, self._on_look = silence, on_look
        self._events: queue.SimpleQueue[tuple[_Slot, Reply]] = queue.SimpleQueue()
        self._slots: list[_Slot] = []
        self._returned: deque[WorkShare] = deque()
        self._deaths: Counter[str] = Counter()
        self._lost: list[Reply] = []
        self._again: list[int] = []
        """Of the workers that died before they had opened and are tried again, how many died in their places."""

    def run(self) -> None:
        """See `run_work`."""
        try:
            while True:
                self._hire()
                self._hand_out()
                nobody = not self._slots and len(self._lost) >= self._workers
                if nobody or not (self._busy() or self._returned or not self._work.over()):
                    break
                self._listen()
                self._end_silent()
                self._on_look()
        finally:
            # on an interrupt above all: workers ignore it and would go on alone
            for slot in self._slots:
                if slot.state == "idle":
                    slot.orders.put(_LEAVE)
                else:
                    slot.worker.kill()
            self._fleet.close()
        if self._returned or not self._work.over():
            raise self._nobody_left()

    def _busy(self) -> bool:
        # one that is still opening is not waited for: in a cluster that lost a machine there may be no place for it
        return any(slot.state == "busy" for slot in self._slots)

    def _hire(self) -> None:
        """Start as many workers as there is work for."""
        busy = sum(slot.state == "busy" for slot in self._slots)
        wanted = busy + len(self._returned) + self._work.waiting()
        room = self._workers - len(self._lost)
        while len(self._slots) < min(wanted, room):
            slot = _Slot(self._fleet.start(), self._again.pop() if self._again else 0)
            self._slots.append(slot)
            threading.Thread(target=_serve, args=(slot, self._events), daemon=True).start()

    def _hand_out(self) -> None:
        for slot in self._slots:
            if slot.state != "idle":
                continue
            share = self._returned.popleft() if self._returned else self._work.take(slot.labels)
            if share is None:
                continue
            slot.share, slot.state = share, "busy"
            slot.labels.add(share.label)
            self._give(slot)

    def _give(self, slot: _Slot) -> None:
        slot.heard = time.monotonic()
        slot.orders.put(self._work.prepare(slot.share.items[0]))

    def _listen(self) -> None:
        """Wait a while for replies and take all that are there."""
        try:
            slot, reply = self._events.get(timeout=_POLL)
            while True:
                if slot in self._slots:  # one that was given up may still answer; its item is another's now
                    self._take(slot, reply)
                slot, reply = self._events.get_nowait()
        except queue.Empty:
            return

    def _take(self, slot: _Slot, reply: Reply) -> None:
        if reply.kind in ("died", "refused"):
            self._bury(slot, reply)
        elif slot.state == "opening":
            slot.state = "idle"
        elif reply.kind == "raised":
            raise reply.value
        else:
            item, *rest = slot.share.items
            slot.share = WorkShare(slot.share.label, tuple(rest))
            self._work.done(item, reply.value)
            if rest:
                self._give(slot)
            else:
                slot.state = "idle"

    def _bury(self, slot: _Slot, reply: Reply) -> None:
        """Take a worker that is no more off the list, and give back what it had not done."""
        self._slots.remove(slot)
        # one that refused, is silent or could not send its reply lives on, and holds memory and its place in a cluster;
        # it is not waited for: what does not answer may not end either
        slot.worker.kill()
        if slot.state == "opening":
            # no item is to blame; a place in which two died in this way, or one that refuses, is given up
            if reply.kind == "refused" or slot.before + 1 >= _DEATHS:
                self._lost.append(reply)
            else:
                self._again.append(slot.before + 1)
            return
        items = slot.share.items
        if items:
            self._deaths[items[0].name] += 1
            if self._deaths[items[0].name] >= _DEATHS:
                self._work.failed(items[0], f"the worker died on it twice, {reply.value}")
                items = items[1:]
        if items:
            self._returned.append(WorkShare(slot.share.label, items))

    def _end_silent(self) -> None:
        """End workers that give no sign of life; one without work need not give any."""
        now = time.monotonic()
        for slot in list(self._slots):
            signs = slot.worker.signs()
            if signs != slot.signs or slot.state == "idle":
                slot.signs, slot.heard = signs, now
                continue
            limit = max(self._silence, _BEGINNING) if slot.state == "opening" else self._silence
            if now - slot.heard > limit:
                self._bury(slot, Reply("died", f"no sign of life for {limit:g} seconds"))

    def _nobody_left(self) -> ExternalError:
        last = self._lost[-1]
        if last.kind == "refused":
            return ExternalError(f"{len(self._lost)} of {self._workers} workers could not begin: {last.value}")
        return ExternalError(
            f"{len(self._lost)} of {self._workers} workers ended early ({last.value}); what they measured is kept, "
            "the same command goes on; with little memory take fewer `workers`"
        )


def _serve(slot: _Slot, events: queue.SimpleQueue[tuple[_Slot, Reply]]) -> None:
    """The thread of a worker: all that may wait for it stands here."""
    try:
        reply = slot.worker.open()
        while True:
            events.put((slot, reply))
            if reply.kind in ("died", "refused"):
                return
            value = slot.orders.get()
            if value is _LEAVE:
                slot.worker.leave()
                return
            reply = slot.worker.do(value)
    except Exception as error:  # what cannot be sent, above all: without a reply the others would wait for it
        events.put((slot, Reply("died", f"{type(error).__name__}: {error}")))
