"""Several processes over one ledger: each takes whole tasks, or whole draws of the shots where there are few tasks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from merge_advisor.advisor.session import Machine
from merge_advisor.benchmark.arms import open_world
from merge_advisor.benchmark.ledger import Key, Ledger
from merge_advisor.benchmark.rows import TaskRows
from merge_advisor.benchmark.setup import Places
from merge_advisor.benchmark.units import run_units
from merge_advisor.benchmark.values import Setup
from merge_advisor.errors import ExternalError, MergeAdvisorError

POLL = 0.5
"""Seconds between two looks at how far the workers are."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to work alone."""

    setup: Setup
    places: Places
    tasks: Mapping[str, TaskRows]
    out: Path
    settings: Mapping[str, Any]
    """As `open_session` takes them."""


def shares(keys: Sequence[Key], workers: int) -> list[list[Key]]:
    """Deal keys out: all of a task to one worker, since its held-out scores are shared, or else all of a draw."""
    groups = [list(group) for _, group in groupby(keys, key=lambda key: (key.task, key.shot_draw))]
    tasks = list(dict.fromkeys(key.task for key in keys))
    found: list[list[Key]] = [[] for _ in range(workers)]
    for number, group in enumerate(groups):
        place = tasks.index(group[0].task) if len(tasks) >= workers else number
        found[place % workers] += group
    return [share for share in found if share]


def run_workers(job: Job, keys: Sequence[Key], workers: int, tell: Callable[[], None]) -> None:
    """Measure keys in `workers` spawned processes.

    Raises:
        ExternalError: a worker ended before its share was done.
    """
    machine = job.settings.get("machine") or Machine()
    threads = machine.threads or max(1, (os.cpu_count() or 1) // workers)
    job = replace(job, settings={**job.settings, "machine": replace(machine, threads=threads)})
    spawn = multiprocessing.get_context("spawn")
    started = [spawn.Process(target=_work, args=(job, share)) for share in shares(keys, workers)]
    try:
        for process in started:
            process.start()
        while any(process.is_alive() for process in started):
            for process in started:
                process.join(POLL / len(started))
            tell()
    except BaseException:
        for process in started:
            process.terminate()
        raise
    codes = [process.exitcode for process in started if process.exitcode]
    if codes:
        raise ExternalError(
            f"{len(codes)} of {len(started)} workers ended early (exit code {codes[0]}); what they measured is kept, "
            "the same command goes on; with little memory take fewer --workers"
        )


def _work(job: Job, share: Sequence[Key]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with open_world(job.setup, job.places, **job.settings) as world, Ledger(job.out) as ledger:
            run_units(world, job.tasks, share, ledger)
    except MergeAdvisorError as error:
        sys.exit(f"merge-advisor: worker: {error}")


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
