"""What is to be done, and what comes back: values and protocols that no engine and no caller owns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

DoItem = Callable[[Any], Any]
"""Does one work item: its value in, a value out; both can be sent between processes."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One independent piece of work.

    >>> WorkItem("dates-1", "adapters/dates-1").name
    'dates-1'
    """

    name: str
    """Names it in messages; another item has another name."""
    value: Any = None
    """What the worker is told, unless `Work.prepare` says otherwise; it can be sent to another process."""


@dataclass(frozen=True, slots=True)
class WorkShare:
    """Items that one worker does one after the other, since they share what it computes on the way.

    >>> WorkShare("dates", (WorkItem("dates 0"), WorkItem("dates 1"))).label
    'dates'
    """

    label: str
    """What they share; a worker that has done a share of a label is given others of it first."""
    items: tuple[WorkItem, ...]


class Opening(Protocol):
    """What a worker opens once and does all its items with; values only, since it is sent to another process.

    >>> from contextlib import nullcontext
    >>> class Squares:
    ...     def open(self, threads):
    ...         return nullcontext(lambda value: value * value)
    >>> with Squares().open(threads=1) as do:
    ...     do(3)
    9
    """

    def open(self, threads: int) -> AbstractContextManager[DoItem]:
        """Return a context whose value does items.

        Args:
            threads: CPU threads that the worker may take.

        Raises:
            MergeAdvisorError: it cannot be opened there; the message is shown to the user.
        """
        ...


class Work(Protocol):
    """All that is to be done: hands out shares, takes what comes back. Called in one thread, that of `run_work`.

    >>> from merge_advisor.engine.supervisor import do_here
    >>> do_here(ListedWork([WorkItem("three", 3)], lambda item, reply: print(item.name, reply)), lambda value: value**2)
    three 9
    """

    def waiting(self) -> int:
        """Return how many shares could be handed out now."""
        ...

    def over(self) -> bool:
        """Return whether no share will be handed out any more."""
        ...

    def take(self, labels: Collection[str]) -> WorkShare | None:
        """Return a share, which is then no longer handed out; None where there is none now.

        Args:
            labels: of the shares that the worker did before.
        """
        ...

    def prepare(self, item: WorkItem) -> Any:
        """Return what the worker is told; called right before, when the replies of all items before are known."""
        ...

    def done(self, item: WorkItem, reply: Any) -> None:
        """Keep what an item came to; every item comes here, or to `failed`, once.

        Args:
            item: the item.
            reply: what it came to.
        """
        ...

    def failed(self, item: WorkItem, reason: str) -> None:
        """Take note that an item cannot be done: several workers ended over it.

        Args:
            item: the item.
            reason: how they ended, in words.

        Raises:
            MergeAdvisorError: nothing can go on without it.
        """
        ...


class ListedWork:
    """Work that is known from the beginning, each item a share of its own.

    >>> replies = []
    >>> work = ListedWork([WorkItem("one", 1), WorkItem("two", 2)], lambda item, reply: replies.append(reply))
    >>> share = work.take(())
    >>> work.done(share.items[0], 10)
    >>> work.waiting(), replies, work.failures
    (1, [10], [])

    Args:
        items: what is to be done.
        on_reply: called with each item and what it came to.
    """

    def __init__(self, items: Sequence[WorkItem], on_reply: Callable[[WorkItem, Any], None]) -> None:
        self._left = deque(WorkShare("", (item,)) for item in items)
        self._on_reply = on_reply
        self.failures: list[tuple[WorkItem, str]] = []

    def waiting(self) -> int:
        """See `Work.waiting`."""
        return len(self._left)

    def over(self) -> bool:
        """See `Work.over`."""
        return not self._left

    def take(self, labels: Collection[str]) -> WorkShare | None:
        """See `Work.take`."""
        return self._left.popleft() if self._left else None

    def prepare(self, item: WorkItem) -> Any:
        """See `Work.prepare`."""
        return item.value

    def done(self, item: WorkItem, reply: Any) -> None:
        """See `Work.done`."""
        self._on_reply(item, reply)

    def failed(self, item: WorkItem, reason: str) -> None:
        """See `Work.failed`; `failures` has it."""
        self.failures.append((item, reason))


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of opening a worker, or of giving it an item.

    >>> Reply("died", "signal 9").kind
    'died'
    """

    kind: Literal["done", "raised", "refused", "died"]
    """`raised`: an error of the item, the worker goes on; `refused`: it could not open; `died`: it is no more."""
    value: Any = None
    """What the item came to, the error, why it refused in one line, or how it ended in words."""


class Worker(Protocol):
    """One worker as its engine gives it. `open` and `do` wait and are called in a thread of the worker's own.

    >>> from merge_advisor.engine.processes import ProcessWorker
    >>> all(hasattr(ProcessWorker, name) for name in ("open", "do", "signs", "kill", "leave"))
    True
    """

    def open(self) -> Reply:
        """Return "done" once the worker has opened what it needs."""
        ...

    def do(self, value: Any) -> Reply:
        """Return what an item came to."""
        ...

    def signs(self) -> int:
        """Return how many signs of life there have been; never waits."""
        ...

    def kill(self) -> None:
        """End it at once, even if it does not answer."""
        ...

    def leave(self) -> None:
        """Let it end by itself: there is nothing more to do."""
        ...


class Fleet(Protocol):
    """An engine: starts workers.

    >>> from merge_advisor.engine.processes import ProcessFleet
    >>> all(hasattr(ProcessFleet, name) for name in ("start", "close"))
    True
    """

    def start(self) -> Worker:
        """Return a worker that is being started.

        Raises:
            ExternalError: the engine cannot start one.
        """
        ...

    def close(self) -> None:
        """Let go of what the workers shared."""
        ...
