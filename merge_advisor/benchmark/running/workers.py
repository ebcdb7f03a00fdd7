"""Several processes over one ledger: each takes whole tasks, or whole draws of the shots where there are few tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from merge_advisor.benchmark.running.context import open_context
from merge_advisor.benchmark.running.ledger import Ledger, ResultKey
from merge_advisor.benchmark.running.rows import BenchTask
from merge_advisor.benchmark.running.units import failed_result, run_units
from merge_advisor.benchmark.setup import SetupPlaces
from merge_advisor.benchmark.values import Setup
from merge_advisor.errors import ExternalError, MergeAdvisorError
from merge_advisor.machine_options import Machine
from merge_advisor.session_options import SessionOptions

_POLL = 0.5
"""Seconds between two looks at how far the workers are."""
_DEATHS = 2
"""Deaths on one result after which it counts as failed: the first worker may have died of something else (another
program took the memory), a second death on the same result is no accident, and a third would only cost time."""
_STARTING, _REFUSED = -1, -2
"""Places of a worker that has not begun to measure, and of one that said why it cannot."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs to measure alone; it is sent to another process, so it holds values only.

    >>> from merge_advisor.benchmark.values import Arm, Question, Tasks
    >>> setup = Setup("mine", "base", "adapters", Tasks("bench"), (Arm("a", "top_k"),), Question("a", "base"), 1.0)
    >>> Job(setup, SetupPlaces("base", "adapters", "bench", None), {}, Path("out"), {"offline": True}).out.name
    'out'
    """

    setup: Setup
    places: SetupPlaces
    tasks: Mapping[str, BenchTask]
    """The rows by task name: read once, in the parent."""
    out: Path
    """Folder of the ledger."""
    session_options: SessionOptions
    """As `open_session` takes them, without `progress`."""


def deal_keys(keys: Sequence[ResultKey], workers: int) -> list[list[ResultKey]]:
    """Return the keys dealt out: all of a task to one worker, or all of a draw where tasks are fewer than workers.

    Draws of a task share the scores of equal merges on its held-out rows, and all results of a draw share the finetune
    of its shots; two workers would compute these twice.

    Args:
        keys: what to measure; keys of one task and draw stand together.
        workers: number of processes.

    Returns:
        One list for each worker that has something to do.

    >>> keys = [ResultKey(task, 0, 0, 0, "own-out", 4, "nearest") for task in ("dates", "sums", "verbs")]
    >>> [[key.task for key in share] for share in deal_keys(keys, workers=2)]
    [['dates', 'verbs'], ['sums']]
    """
    groups = [list(group) for _, group in groupby(keys, key=lambda key: (key.task, key.shot_draw))]
    tasks = list(dict.fromkeys(key.task for key in keys))
    shares: list[list[ResultKey]] = [[] for _ in range(workers)]
    for number, group in enumerate(groups):
        place = tasks.index(group[0].task) if len(tasks) >= workers else number
        shares[place % workers] += group
    return [share for share in shares if share]


@dataclass(eq=False)
class _Worker:
    """A process, what it measures, and where in that it is: memory of its own, which a kill leaves readable."""

    process: Any
    share: list[ResultKey]
    place: Any

    @property
    def ending(self) -> str:
        """How it ended, in words; a negative exit code is a signal's number."""
        code = self.process.exitcode
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def run_workers(job: Job, keys: Sequence[ResultKey], workers: int, on_progress: Callable[[], None]) -> None:
    """Measure keys in spawned processes.

    A worker that dies (killed, out of memory) is replaced by a new one that goes on where it died; a result on which
    two of them died is kept as failed.

    Args:
        job: what every worker needs.
        keys: what to measure; keys of one task and draw stand together.
        workers: number of processes at a time.
        on_progress: called every half a second.

    Raises:
        ExternalError: a worker could not start, or refused to go on, before its share was done.
    """
    machine = job.session_options.get("machine") or Machine()
    # torch takes all cores in every process unless limited: workers would wait for each other
    threads = machine.threads or max(1, (os.cpu_count() or 1) // workers)
    job = replace(job, session_options={**job.session_options, "machine": replace(machine, threads=threads)})
    dealt = deal_keys(keys, workers)
    died: Counter[tuple[ResultKey, bool]] = Counter()
    lost: list[_Worker] = []
    running: list[_Worker] = []
    try:
        for share in dealt:
            running.append(_started(job, share))
        while running:
            for worker in running:
                worker.process.join(_POLL / len(running))
            on_progress()
            for worker in [worker for worker in running if worker.process.exitcode is not None]:
                running.remove(worker)
                rest = _rest(job, worker, died)
                if rest is None:
                    lost.append(worker)
                elif rest:
                    running.append(_started(job, rest))
    except BaseException:  # an interrupt above all: workers ignore it and would go on alone
        for worker in running:
            worker.process.terminate()
        raise
    if lost:
        raise ExternalError(
            f"{len(lost)} of {len(dealt)} workers ended early ({lost[0].ending}); what they measured is kept, "
            "the same command goes on; with little memory take fewer `workers`"
        )


def _started(job: Job, share: list[ResultKey]) -> _Worker:
    # spawn, not fork: a fork has the locks of torch's threads without the threads, and an SQLite connection must not be
    # carried into another process
    spawn = multiprocessing.get_context("spawn")
    # no lock: the worker alone writes, and one killed while it held a lock would block the parent for good
    place = spawn.Value("q", _STARTING, lock=False)
    process = spawn.Process(target=_work, args=(job, share, place))
    process.start()
    return _Worker(process, share, place)


def _rest(job: Job, worker: _Worker, died: Counter[tuple[ResultKey, bool]]) -> list[ResultKey] | None:
    """Return what a worker that ended leaves to a new one; None where a new one would fare no better."""
    place = worker.place.value
    if worker.process.exitcode == 0 or place == len(worker.share):
        return []
    if place == _REFUSED:
        return None
    rest = worker.share[max(place, 0) :]
    # a death while the base was loading is none on the first result
    where = (rest[0], place == _STARTING)
    died[where] += 1
    if died[where] < _DEATHS:
        return rest
    if place == _STARTING:
        return None
    reason = f"the worker died on it twice, {worker.ending}; with little memory take fewer `workers`"
    with Ledger(job.out) as ledger:
        ledger.keep(failed_result(rest[0], job.tasks[rest[0].task].family, reason))
    return rest[1:]


def _work(job: Job, share: Sequence[ResultKey], place: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def advance() -> None:
        place.value += 1

    try:
        with open_context(job.setup, job.places, **job.session_options) as context, Ledger(job.out) as ledger:
            advance()  # from _STARTING to the first key
            run_units(context, job.tasks, share, ledger, advance)
    except MergeAdvisorError as error:
        place.value = _REFUSED
        sys.exit(f"merge-advisor: worker: {error}")


def _end_with_parent() -> None:
    """End this process when its parent ends: a worker whose parent was killed would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # `sys.exit` would end this thread alone
