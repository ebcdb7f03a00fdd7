"""The workers of a session: they measure, the session's store is written here alone."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from merge_advisor.engine.fleets import fleet_of
from merge_advisor.engine.supervisor import run_work
from merge_advisor.engine.work import ListedWork, Opening, Work, WorkItem
from merge_advisor.errors import ExternalError, RunError
from merge_advisor.machine_options import Machine, Workers
from merge_advisor.owners import other_runs, this_installation
from merge_advisor.progress import Progress
from merge_advisor.store import Store, StoreNews

_COPIES = "workers"
"""Folder of the cache with the copies of the store that workers read."""
_NAME = re.compile(r"(?P<copy>(?P<host>.+)\.(?P<pid>[0-9]+)\.[0-9]+\.sqlite)(?:-.*)?")
_numbers = itertools.count()
_OPEN: set[str] = set()
"""Names of the copies of this process."""


class Measurement(Protocol):
    """Something to be measured by a worker; values only, since it is sent to another process.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Hidden:
    ...     name: str
    ...     def measure(self, meter):
    ...         return meter.model.local.config["hidden_size"]
    >>> Hidden("the width").name
    'the width'
    """

    @property
    def name(self) -> str:
        """Names it in messages."""
        ...

    def measure(self, meter: Any) -> Any:
        """Return what a worker's `MergeMeter` measures; what that remembers is handed over beside it."""
        ...


@dataclass(frozen=True, eq=False)
class Crew:
    """Measures beside this process, and keeps what comes back in the session's store.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> with open_session("base", "adapters", beside=Workers(workers=2)) as session:
    ...     session.meter.crew.engine.workers
    2
    """

    engine: Workers
    machine: Machine
    """As the user asks for it, with the dtype that was settled on here: another machine might settle on another."""
    opening: Callable[[Path], Opening]
    """Of a worker that reads a copy of the store; it is given a `Measurement` and gives its value and the news of its
    store."""
    store: Store
    cache: Path

    def measure(self, wanted: Sequence[Measurement], what: str, progress: Progress) -> list[Any]:
        """Return what everything came to, measured by the workers, in the same order.

        Args:
            wanted: what to measure, each with a name of its own.
            what: named in the progress.
            progress: called as replies come.

        Raises:
            ExternalError: the engine cannot be used, or workers ended over one of them.
            MergeAdvisorError: what measuring raised.
        """
        values: dict[str, Any] = {}

        def keep(item: WorkItem, reply: tuple[Any, StoreNews]) -> None:
            values[item.name], news = reply
            self.store.keep_news(news)
            progress(what, len(values), len(wanted))

        work = ListedWork([WorkItem(one.name, one) for one in wanted], keep)
        progress(what, 0, len(wanted))
        with copied_store(self.store, self.cache, hashes_only=True) as copy:
            run_beside(work, self.opening(copy), self.engine, self.machine)
        if work.failures:
            item, reason = work.failures[0]
            raise ExternalError(
                f"{what}: {len(work.failures)} of {len(wanted)} failed, the first: {item.name}: {reason}"
            )
        return [values[one.name] for one in wanted]


def run_beside(
    work: Work, opening: Opening, engine: Workers, machine: Machine, on_look: Callable[[], None] = lambda: None
) -> None:
    """Do work by an engine.

    Args:
        work: what is to be done.
        opening: what a worker opens.
        engine: who does it.
        machine: threads and device of a worker.
        on_look: called about twice a second.

    Raises:
        ExternalError: the engine cannot be used, or none of its workers can go on.
        MergeAdvisorError: what an item raised.
    """
    if work.over():
        return
    # as many workers as there is work for: another cluster would be begun for nothing
    engine = replace(engine, workers=min(engine.workers, max(1, work.waiting())))
    fleet = fleet_of(engine, machine, opening)
    run_work(work, fleet, engine.workers, silence=engine.silence, on_look=on_look)


@contextmanager
def copied_store(store: Store, cache: Path, *, hashes_only: bool = False) -> Iterator[Path]:
    """Yield a copy of the store for workers to read, which is deleted afterwards.

    Args:
        store: the session's.
        cache: where the copy goes: workers of other machines see it there.
        hashes_only: leave deltas and measurements out.

    Raises:
        RunError: it cannot be written.
    """
    folder = cache / _COPIES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        path = folder / f"{this_installation()}.{os.getpid()}.{next(_numbers)}.sqlite"
        _OPEN.add(path.name)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); give another `cache`") from error
    try:
        store.copy_to(path, hashes_only=hashes_only)
        yield path
    finally:
        path.unlink(missing_ok=True)
        _OPEN.discard(path.name)


def _clear(folder: Path) -> None:
    """Delete the copies of processes of this machine that were killed; age says nothing, a benchmark takes weeks."""
    for path in folder.iterdir():
        named = _NAME.fullmatch(path.name)
        if named is None or named["host"] != this_installation() or named["copy"] in _OPEN:
            continue
        if not other_runs(int(named["pid"])):
            path.unlink(missing_ok=True)
