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

from merge_advisor.benchmark.running.arms import open_context
from merge_advisor.benchmark.running.ledger import Ledger, ResultKey
from merge_advisor.benchmark.running.rows import BenchTask
from merge_advisor.benchmark.running.units import failed_result, run_units
from merge_advisor.benchmark.setup import SetupPlaces
from merge_advisor.benchmark.values import Setup
from merge_advisor.errors import ExternalError, MergeAdvisorError
from merge_advisor.options import Machine, SessionOptions

POLL = 0.5
"""Seconds between two looks at how far the workers are."""
DEATHS = 2
"""Workers that may die on one result before it counts as failed: the first may have died of something else."""
STARTING, REFUSED = -1, -2
"""Places of a worker that has not begun to measure, and of one that said why it cannot."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to work alone."""

    setup: Setup
    places: SetupPlaces
    tasks: Mapping[str, BenchTask]
    out: Path
    session_options: SessionOptions
    """As `open_session` takes them, without `progress`."""


def deal_keys(keys: Sequence[ResultKey], workers: int) -> list[list[ResultKey]]:
    """Deal keys out: all of a task to one worker, since its held-out scores are shared, or else all of a draw."""
    groups = [list(group) for _, group in groupby(keys, key=lambda key: (key.task, key.shot_draw))]
    tasks = list(dict.fromkeys(key.task for key in keys))
    found: list[list[ResultKey]] = [[] for _ in range(workers)]
    for number, group in enumerate(groups):
        place = tasks.index(group[0].task) if len(tasks) >= workers else number
        found[place % workers] += group
    return [share for share in found if share]


@dataclass(eq=False)
class _Worker:
    """A process, what it measures, and where in that it is: memory of its own, which a kill leaves readable."""

    process: Any
    share: list[ResultKey]
    place: Any

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self.process.exitcode
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def run_workers(job: Job, keys: Sequence[ResultKey], workers: int, tell: Callable[[], None]) -> None:
    """Measure keys in `workers` spawned processes.

    A worker that dies (killed, out of memory) is replaced by a fresh one that goes on where it died; a result on which
    `DEATHS` of them died is kept as failed.

    Raises:
        ExternalError: a worker could not start, or refused to go on, before its share was done.
    """
    machine = job.session_options.get("machine") or Machine()
    # torch takes all cores in every process unless told: workers would wait for each other
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
                worker.process.join(POLL / len(running))
            tell()
            for worker in [worker for worker in running if worker.process.exitcode is not None]:
                running.remove(worker)
                rest = _rest(job, worker, died)
                if rest is None:
                    lost.append(worker)
                elif rest:
                    running.append(_started(job, rest))
    except BaseException:
        for worker in running:
            worker.process.terminate()
        raise
    if lost:
        raise ExternalError(
            f"{len(lost)} of {len(dealt)} workers ended early ({lost[0].ending}); what they measured is kept, "
            "the same command goes on; with little memory take fewer --workers"
        )


def _started(job: Job, share: list[ResultKey]) -> _Worker:
    spawn = multiprocessing.get_context("spawn")
    place = spawn.Value("q", STARTING, lock=False)
    process = spawn.Process(target=_work, args=(job, share, place))
    process.start()
    return _Worker(process, share, place)


def _rest(job: Job, worker: _Worker, died: Counter[tuple[ResultKey, bool]]) -> list[ResultKey] | None:
    """What a worker that ended leaves to a fresh one; None where a fresh one would fare no better."""
    place = worker.place.value
    if worker.process.exitcode == 0 or place == len(worker.share):
        return []
    if place == REFUSED:
        return None
    rest = worker.share[max(place, 0) :]
    where = (rest[0], place == STARTING)
    died[where] += 1
    if died[where] < DEATHS:
        return rest
    if place == STARTING:
        return None
    reason = f"the worker died on it twice, {worker.ending}; with little memory take fewer --workers"
    with Ledger(job.out) as ledger:
        ledger.keep(failed_result(rest[0], job.tasks[rest[0].task].family, reason))
    return rest[1:]


def _work(job: Job, share: Sequence[ResultKey], place: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell() -> None:
        place.value += 1

    try:
        with open_context(job.setup, job.places, **job.session_options) as world, Ledger(job.out) as ledger:
            tell()
            run_units(world, job.tasks, share, ledger, tell)
    except MergeAdvisorError as error:
        place.value = REFUSED
        sys.exit(f"merge-advisor: worker: {error}")


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
