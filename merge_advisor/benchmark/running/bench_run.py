"""Measure what is not done yet of a setup: rows, base and pool opened once, every result kept in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.benchmark.running.context import BenchContext, open_context
from merge_advisor.benchmark.running.ledger import Ledger
from merge_advisor.benchmark.running.rows import BenchTask, in_view, read_bench_tasks
from merge_advisor.benchmark.running.units import result_keys, run_units, select_keys
from merge_advisor.benchmark.running.workers import Job, run_workers
from merge_advisor.benchmark.setup import ks_of, notes_of, read_setup
from merge_advisor.benchmark.values import Arm, BenchResults, Setup
from merge_advisor.benchmark.views import candidate_families
from merge_advisor.errors import InputError
from merge_advisor.json_form import digest_of, to_json, to_plain
from merge_advisor.progress import quiet_progress
from merge_advisor.session_options import session_options
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from typing import Unpack

    from merge_advisor.session_options import BenchWhere


def measure_setup(
    path: Path, out: Path, *, only: Sequence[str] = (), workers: int = 1, **where: Unpack[BenchWhere]
) -> BenchResults:
    """Measure what is not done yet of a setup; failed results are tried again.

    Args:
        path: the setup.
        out: folder of the ledger.
        only: patterns of `arm/task/view`; other results are left for later.
        workers: number of processes.
        where: `base`, `pool` and `tasks`, where they are not where the setup says; `offline`, `follow_links`, `cache`,
            `store`, `machine` and `progress` as `open_session` takes them.

    Returns:
        All results in the ledger, those of earlier calls included.

    Raises:
        InputError: the setup, its places or a pattern cannot be used.
        RunError: `out` holds results of another setup, base, pool or rows.
        ExternalError: a worker died.
    """
    setup, places = read_setup(path, base=where.get("base"), pool=where.get("pool"), tasks=where.get("tasks"))
    if workers < 1:
        raise InputError(f"`workers={workers}`: give 1 or more")
    session = session_options(where)
    progress = session.get("progress", quiet_progress)
    tasks = {task.name: task for task in read_bench_tasks(setup, places, offline=where.get("offline", False))}
    every = list(result_keys(setup, list(tasks)))
    chosen = select_keys(every, only, setup)
    with open_context(setup, places, **session) as context:
        _check_context(context, tasks)  # before the folder is made: where a setup cannot be run nothing is written
        notes = [*notes_of(setup, [task.family for task in tasks.values()]), *_pool_notes(context, tasks)]
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

            if left and workers > 1:
                # progress is a function of this process and cannot be sent to another
                session.pop("progress", None)
                run_workers(Job(setup, places, tasks, out, session), left, workers, show)
            else:
                run_units(context, tasks, left, ledger, show)
            families = candidate_families(
                [candidate.id for candidate in context.candidates], setup.tasks.own, context.families
            )
            return BenchResults(
                out, setup, ledger.results(), len(every), context.refused, tuple(notes), families, ledger.added()
            )


def identity(context: BenchContext, tasks: Mapping[str, BenchTask]) -> tuple[dict[str, str], dict[str, str]]:
    """Return all that results depend on, by name, and the parts of the setup that may become more.

    Where things are on this machine is no part of it: results may be measured on several.

    Args:
        context: the setup, and the base, pool and template that are open.
        tasks: the tasks by name.

    Returns:
        What must stay as it is, and what may be added to (see `Ledger.claim`), each name with a digest.
    """
    model = context.meter.model
    fixed = setup_digests(context.setup) | {
        "base": model.local.base.digest,
        "pool": digest_of([[c.id, c.fingerprint] for c in context.candidates]),
        "prompt template": model.template.digest,
        "dtype": model.machine.dtype,
        "rows or families of the tasks": digest_of([[task.digest for task in tasks.values()], context.families]),
    }
    return fixed, setup_parts(context.setup)


def setup_digests(setup: Setup) -> dict[str, str]:
    """Return a digest of every key of the setup that every result depends on, by name.

    Args:
        setup: what is asked. Base, pool, task files and families count by their contents (see `identity`), arms,
            controls, secondary questions, views and k one by one (see `setup_parts`).
    """
    plain = to_plain(setup)
    for name in ("base", "pool", "arms", "controls", "secondaries", "views", "k"):
        del plain[name]
    tasks = plain.pop("tasks")
    digests = {name: digest_of(value) for name, value in plain.items()}
    return digests | {f"tasks.{name}": digest_of(v) for name, v in tasks.items() if name not in ("path", "families")}


def setup_parts(setup: Setup) -> dict[str, str]:
    """Return arms, controls, sizes, views and secondary questions by name, each with a digest of what it is.

    Args:
        setup: what is asked.
    """
    # an arm's sizes are parts of their own, so that a k may be added without the arm becoming another
    parts = {f"arm {arm.name}": _arm_digest(arm) for arm in setup.arms}
    parts |= {f"control {name}": "" for name in setup.controls}
    parts |= {f"k {k} of {arm.name}": "" for arm in setup.arms for k in ks_of(arm, setup)}
    parts |= {f"k {k} of the controls": "" for k in setup.k}
    parts |= {f"view {view}": "" for view in setup.views}
    return parts | {f"question {q.text} ({q.metric})": "" for q in setup.secondaries}


def _arm_digest(arm: Arm) -> str:
    plain = to_plain(replace(arm, k=()))
    if not arm.adaptation:  # digests of arms from before there were adaptations stay valid
        del plain["adaptation"]
    return digest_of(plain)


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
