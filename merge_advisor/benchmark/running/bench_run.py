"""Measure what is not done yet of a setup: rows, base and pool opened once, every result kept in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.advisor.measuring.common_disk import absolute_place
from merge_advisor.advisor.measuring.crew import copied_store, run_beside
from merge_advisor.benchmark.running.bench_work import BenchOpening, BenchWork, UnitRunner
from merge_advisor.benchmark.running.claims import Claims
from merge_advisor.benchmark.running.context import BenchContext, open_context
from merge_advisor.benchmark.running.identity import identity
from merge_advisor.benchmark.running.ledger import Ledger
from merge_advisor.benchmark.running.rows import BenchTask, in_view, read_bench_tasks
from merge_advisor.benchmark.running.units import result_keys, select_keys
from merge_advisor.benchmark.setup import SetupPlaces, notes_of, read_setup
from merge_advisor.benchmark.values import BenchResults
from merge_advisor.benchmark.views import candidate_families
from merge_advisor.engine.supervisor import do_here
from merge_advisor.errors import InputError
from merge_advisor.json_form import to_json
from merge_advisor.machine_options import Machine
from merge_advisor.progress import quiet_progress
from merge_advisor.session_options import SessionOptions, session_options
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from typing import Unpack

    from merge_advisor.session_options import BenchWhere


def measure_setup(path: Path, out: Path, *, only: Sequence[str] = (), **where: Unpack[BenchWhere]) -> BenchResults:
    """Measure what is not done yet of a setup; failed results are tried again.

    Other processes, of this machine and others, may do the same in the same folder: each takes draws of tasks that
    nobody else measures, and all end with all results.

    Args:
        path: the setup.
        out: folder of the ledger.
        only: patterns of `arm/task/view`; other results are left for later.
        where: `base`, `pool` and `tasks`, where they are not where the setup says; `offline`, `follow_links`, `cache`,
            `store`, `machine`, `beside` and `progress` as `open_session` takes them.

    Returns:
        All results in the ledger, those of earlier calls and other processes included.

    Raises:
        InputError: the setup, its places or a pattern cannot be used.
        RunError: `out` holds results of another setup, base, pool or rows.
        ExternalError: the engine cannot be used, or its workers ended.
    """
    setup, places = read_setup(path, base=where.get("base"), pool=where.get("pool"), tasks=where.get("tasks"))
    session = session_options(where)
    progress = session.get("progress", quiet_progress)
    tasks = {task.name: task for task in read_bench_tasks(setup, places, offline=where.get("offline", False))}
    every = list(result_keys(setup, list(tasks)))
    chosen = select_keys(every, only, setup)
    with open_context(setup, places, **session) as context:
        _check_context(context, tasks)  # before the folder is made: where a setup cannot be run nothing is written
        notes = [*places.said, *notes_of(setup, [task.family for task in tasks.values()]), *_pool_notes(context, tasks)]
        if len(chosen) < len(every):
            notes.append(f"`only` took {len(chosen)} of {len(every)} results")
        with Ledger(out) as ledger:
            # claimed first: the folder of another benchmark must not get this one's setup
            ledger.claim(*identity(context, tasks))
            write_text(out / "setup.json", to_json(setup))
            before = ledger.done()
            left = [key for key in chosen if key not in before]

            def show() -> None:
                progress("benchmark", ledger.count() - len(before), len(left))

            with Claims(ledger.path) as claims:
                work = BenchWork(ledger, claims, left, setup, tasks, context.meter.memo.store.keep_news)
                _measure(work, context, places, tasks, session, show)
            families = candidate_families(
                [candidate.id for candidate in context.candidates], setup.tasks.own, context.families
            )
            return BenchResults(
                out, setup, ledger.results(), len(every), context.refused, tuple(notes), families, ledger.added()
            )


def _measure(
    work: BenchWork, context: BenchContext, places: SetupPlaces, tasks: Mapping[str, BenchTask],
    session: SessionOptions, show: Callable[[], None],
) -> None:  # fmt: skip
    """Do the work in this process, or by the engine."""
    engine, meter = session.get("beside"), context.meter
    if engine is None or not engine.beside:
        do_here(work, UnitRunner(context, tasks).measure, show)
        return
    # its dtype is settled; its device is not, since each machine has others
    machine = replace(session.get("machine") or Machine(), dtype=meter.model.machine.dtype)
    cache = context.cache.absolute()
    told = SessionOptions(
        offline=session.get("offline", False), follow_links=session.get("follow_links", False), cache=cache,
        machine=machine,
    )  # fmt: skip
    seen = replace(
        places, base=absolute_place(places.base), pool=absolute_place(places.pool),
        families=places.families and places.families.absolute(),
    )  # fmt: skip
    with copied_store(meter.memo.store, cache) as copy:
        opening = BenchOpening(context.setup, seen, tasks, identity(context, tasks)[0], told, copy)
        run_beside(work, opening, engine, machine, show)


def _check_context(context: BenchContext, tasks: Mapping[str, BenchTask]) -> None:
    setup = context.setup
    ids = [c.id for c in context.candidates]
    for name, candidate in setup.tasks.own.items():
        if candidate not in ids:
            raise InputError(
                f"setup {setup.name}: tasks.own.{name}: the pool has no candidate '{candidate}'; correct it"
            )
    families = {task.family for task in tasks.values()}
    for family in setup.tasks.tried:
        if family not in families:
            known = ", ".join(sorted(families))
            raise InputError(f"setup {setup.name}: tasks.tried: no task is of family '{family}'; there are {known}")
    if families <= set(setup.tasks.tried):
        raise InputError(f"setup {setup.name}: tasks.tried names every family; leave some to answer the questions on")
    # a view without candidates is refused now, not as a failed result of every unit
    for task in tasks.values():
        for view in setup.views:
            in_view(context.candidates, task, view, setup.tasks.own, context.families)


def _pool_notes(context: BenchContext, tasks: Mapping[str, BenchTask]) -> list[str]:
    own = context.setup.tasks.own
    ids = {c.id for c in context.candidates}
    lone = [name for name in tasks if own.get(name, name) not in ids]
    if lone and "own-out" in context.setup.views and "own-in" in context.setup.views:
        more = "" if len(lone) == 1 else f" and {len(lone) - 1} more"
        return [f"{lone[0]}{more}: no adapter of its own in the pool, so own-out is own-in there"]
    return []
