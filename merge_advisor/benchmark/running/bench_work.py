"""The work of a benchmark: draws of tasks that nobody else measures, result by result, kept here alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from merge_advisor.advisor.measuring.common_disk import COMMON_DISK, check_base_seen, worker_store
from merge_advisor.benchmark.running.claims import Claims, DrawKey
from merge_advisor.benchmark.running.context import BenchContext, open_context
from merge_advisor.benchmark.running.identity import identity
from merge_advisor.benchmark.running.ledger import Ledger, ResultKey
from merge_advisor.benchmark.running.rows import BenchTask
from merge_advisor.benchmark.running.task_draw import TaskDraw
from merge_advisor.benchmark.running.units import failed_result, measure_result
from merge_advisor.benchmark.setup import SetupPlaces
from merge_advisor.benchmark.values import Result, Setup
from merge_advisor.engine.work import WorkItem, WorkShare
from merge_advisor.errors import RunError
from merge_advisor.machine_options import Machine
from merge_advisor.session_options import SessionOptions
from merge_advisor.store import StoreNews

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOK = 1.0
"""Seconds between two looks at what other processes have done."""


class UnitOrder(NamedTuple):
    """What a worker is told of one result.

    >>> UnitOrder(ResultKey("dates", 0, 0, 0, "own-out", 4, "nearest"), None).matched
    """

    key: ResultKey
    matched: Result | None
    """The result of the arm whose cost it matches, where there is such an arm and it was measured."""


class UnitReply(NamedTuple):
    """What a worker gives back.

    >>> UnitReply._fields
    ('result', 'alone', 'news')
    """

    result: Result
    alone: tuple[tuple[str, float, float], ...]
    """Id, accuracy and loss of candidates that were scored alone for it."""
    news: StoreNews | None
    """What was measured on the way; None where it is in the store already."""


class UnitRunner:
    """Measures results one after the other; those of one draw share its finetune.

    >>> UnitRunner.__name__
    'UnitRunner'

    Args:
        context: what the units share.
        tasks: the rows by task name.
        take_news: gives what the store of a worker has got since; None where the store is the one that all share.
    """

    def __init__(
        self, context: BenchContext, tasks: Mapping[str, BenchTask], take_news: Callable[[], StoreNews] | None = None
    ) -> None:
        self._context, self._tasks, self._take_news = context, tasks, take_news
        self._arms = {arm.name: arm for arm in context.setup.arms}
        self._draw: TaskDraw | None = None

    def measure(self, order: UnitOrder) -> UnitReply:
        """Return one result, with what was learned on the way.

        Args:
            order: which one.
        """
        key, draw = order.key, self._draw
        if draw is None or (draw.rows.name, draw.number) != (key.task, key.shot_draw):
            draw = self._draw = TaskDraw(self._context, self._tasks[key.task], key.shot_draw)
        result = measure_result(draw, key, self._arms.get(key.arm), order.matched)
        alone = draw.alone.items() if key.arm == "best-single-oracle" else ()
        news = None if self._take_news is None else self._take_news()
        return UnitReply(result, tuple((name, *score) for name, score in alone), news)


@dataclass(frozen=True, slots=True)
class BenchOpening:
    """All that a worker needs to measure results (`engine.work.Opening`).

    >>> BenchOpening.__slots__[:3]
    ('setup', 'places', 'tasks')
    """

    setup: Setup
    places: SetupPlaces
    tasks: Mapping[str, BenchTask]
    """The rows by task name: read once, by the process that keeps the ledger."""
    made_for: Mapping[str, str]
    """What every result depends on, as `identity` gives it."""
    session_options: SessionOptions
    """`offline`, `follow_links`, `cache` and `machine`."""
    before: Path | None
    """Copy of the store that it reads."""

    @contextmanager
    def open(self, threads: int) -> Iterator[Callable[[UnitOrder], UnitReply]]:
        """Yield what measures results.

        Args:
            threads: of the processor.

        Yields:
            A function from an order to a reply.

        Raises:
            RunError: the worker sees another pool, or other task families.
            MergeAdvisorError: as `open_context`.
        """
        check_base_seen(self.places.base)
        store = worker_store(self.before)
        asked = self.session_options.get("machine") or Machine()
        where = SessionOptions(**self.session_options)
        where["machine"] = Machine(asked.device, asked.dtype, threads)
        with open_context(self.setup, self.places, on=store, **where) as context:
            there = identity(context, self.tasks)[0]
            differ = sorted(name for name, value in self.made_for.items() if there.get(name) != value)
            if differ:
                raise RunError(f"a worker sees another {', '.join(differ)}; {COMMON_DISK}")
            yield UnitRunner(context, self.tasks, store.take_news).measure


class BenchWork:
    """All results that are to be measured (`engine.work.Work`): claimed draw by draw, written here.

    >>> BenchWork.__name__
    'BenchWork'

    Args:
        ledger: where results go.
        claims: which draws are this process's.
        keys: what to measure; keys of one task and draw stand together.
        setup: says which arm matches which.
        tasks: the rows by task name.
        keep_news: keeps what workers measured on the way.
    """

    def __init__(
        self,
        ledger: Ledger,
        claims: Claims,
        keys: Sequence[ResultKey],
        setup: Setup,
        tasks: Mapping[str, BenchTask],
        keep_news: Callable[[StoreNews], None],
    ) -> None:
        self._ledger, self._claims, self._tasks, self._keep_news = ledger, claims, tasks, keep_news
        self._matches = {arm.name: arm.match for arm in setup.arms if arm.match}
        self._draws: dict[DrawKey, list[ResultKey]] = {}
        for key in keys:
            self._draws.setdefault(DrawKey(key.task, key.shot_draw), []).append(key)
        self._failed = ledger.failures()
        """Failed results as they are when this process begins: it tries them again, and others once only."""
        self._elsewhere: set[DrawKey] = set()
        """Draws that other processes measure."""
        self._running: dict[DrawKey, int] = {}
        """Results to come of the draws that were handed out."""
        self._looked = time.monotonic()

    def waiting(self) -> int:
        """See `Work.waiting`."""
        self._look_elsewhere()
        return len(self._draws) - len(self._elsewhere)

    def over(self) -> bool:
        """See `Work.over`."""
        self._look_elsewhere()
        return not self._draws

    def take(self, labels: Collection[str]) -> WorkShare | None:
        """See `Work.take`; draws of a task share scores on held-out rows: a worker is given those of its tasks."""
        begun = {draw.task for draw in self._running}
        # first draws first: a benchmark that is stopped early has units of every task
        order = sorted(self._draws, key=lambda draw: (draw.shot_draw, draw.task not in labels, draw.task in begun))
        for draw in order:
            if draw in self._elsewhere:
                continue
            if not self._claims.take(draw):
                self._elsewhere.add(draw)
                continue
            keys = self._left(self._draws.pop(draw))
            if keys:
                self._running[draw] = len(keys)
                return WorkShare(draw.task, tuple(WorkItem("/".join(map(str, key)), key) for key in keys))
            self._claims.give_up(draw)
        return None

    def prepare(self, item: WorkItem) -> UnitOrder:
        """See `Work.prepare`: what the arm it matches has spent is in the ledger by now."""
        key: ResultKey = item.value
        match = self._matches.get(key.arm)
        return UnitOrder(key, self._ledger.find(key._replace(arm=match)) if match else None)

    def done(self, item: WorkItem, reply: UnitReply) -> None:
        """See `Work.done`."""
        if reply.news is not None:
            self._keep_news(reply.news)
        if reply.alone:
            # before the result, since a draw that has that is not measured again
            self._ledger.keep_singles(item.value.task, reply.alone)
        self._ledger.keep(reply.result)
        self._finish(item.value)

    def failed(self, item: WorkItem, reason: str) -> None:
        """See `Work.failed`: kept as a failed result."""
        key: ResultKey = item.value
        told = f"{reason}; with little memory take fewer `workers`"
        self._ledger.keep(failed_result(key, self._tasks[key.task].family, told))
        self._finish(key)

    def _finish(self, key: ResultKey) -> None:
        draw = DrawKey(key.task, key.shot_draw)
        self._running[draw] -= 1
        if not self._running[draw]:
            del self._running[draw]
            self._claims.give_up(draw)

    def _left(self, keys: Sequence[ResultKey]) -> list[ResultKey]:
        """Return those of the keys that have no result, nor one that failed since this process began."""
        done, failed = self._ledger.done(), self._ledger.failures()
        return [key for key in keys if key not in done and failed.get(key) == self._failed.get(key)]

    def _look_elsewhere(self) -> None:
        """Now and then see which draws others have done, or have left."""
        if not self._elsewhere or time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        for draw in sorted(self._elsewhere):
            if not self._left(self._draws[draw]):
                del self._draws[draw]
                self._elsewhere.remove(draw)
            elif self._claims.free(draw):
                self._elsewhere.remove(draw)
