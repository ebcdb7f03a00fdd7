"""`bench`: from a setup to results, contrasts and a report; the same folder again goes on where it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.benchmark.analysis.families import judged
from merge_advisor.benchmark.running.arms import BenchContext, open_context
from merge_advisor.benchmark.running.ledger import Ledger
from merge_advisor.benchmark.running.rows import BenchTask, in_view, kin_of, read_bench_tasks
from merge_advisor.benchmark.running.units import keys_of, run_units, wanted
from merge_advisor.benchmark.running.workers import Job, run_workers
from merge_advisor.benchmark.setup import ks_of, notes_of, read_setup
from merge_advisor.benchmark.values import LateAddition, Result, Setup
from merge_advisor.errors import InputError
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.types import digest_of, to_json, to_plain
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from merge_advisor.benchmark.values import Contrast, Question


@dataclass(frozen=True, slots=True)
class BenchResults:
    """A benchmark's results so far."""

    folder: Path
    setup: Setup
    results: tuple[Result, ...]
    wanted: int
    """Results the setup asks for."""
    refused: tuple[str, ...]
    """Models of the pool that were set aside, each with its reason."""
    notes: tuple[str, ...]
    """What it cannot show."""
    kin: Mapping[str, str]
    """Family of each candidate, by id."""
    added: tuple[LateAddition, ...] = ()
    """Parts of the setup that came when results were there."""

    @property
    def failed(self) -> tuple[Result, ...]:
        """The results that failed."""
        return tuple(result for result in self.results if result.status == "failed")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `bench` found."""

    measured: BenchResults
    contrasts: tuple[Contrast, ...]
    """The primary one first."""


def bench(setup: str | Path, out: str | Path, **settings: Any) -> Benchmark:
    """Measure what a setup asks for, compare the arms, and write the report into `out`.

    Args:
        setup: the YAML file, see `benchmark.values.Setup`.
        out: folder of results, tables and report; called again it goes on.
        settings: as `measure_setup` takes them.

    Raises:
        MergeAdvisorError: see `merge_advisor.errors`; the message is one line. What was measured is never lost, and a
            unit that crashes is a failed result.
    """
    measured = measure_setup(Path(setup), Path(out), **settings)
    return Benchmark(measured, conclude(measured))


def conclude(measured: BenchResults) -> tuple[Contrast, ...]:
    """Answer the setup's questions and write report, page and tables."""
    from merge_advisor.benchmark.analysis.contrasts import contrast, holm_adjusted
    from merge_advisor.benchmark.report.report import write_report

    setup, results = measured.setup, measured.results
    fresh = judged(results, setup.tasks.tried)

    def answer(question: Question) -> Contrast:
        comparable = question.metric == setup.primary.metric  # the smallest gain is in the primary's unit
        return contrast(question, fresh, setup.smallest_gain if comparable else None, seed=setup.seed)

    contrasts = (answer(setup.primary), *holm_adjusted([answer(question) for question in setup.secondaries]))
    write_report(measured.folder, setup, results, contrasts, measured.kin, measured.added)
    return contrasts


def measure_setup(
    path: Path,
    out: Path,
    *,
    base: str | None = None,
    pool: str | None = None,
    tasks: str | None = None,
    only: Sequence[str] = (),
    workers: int = 1,
    progress: Progress = quiet_progress,
    **settings: Any,
) -> BenchResults:
    """Measure what is not done yet of a setup; failed results are tried anew.

    Args:
        path: the setup.
        out: folder of the ledger.
        base: where the base is, if not where the setup says.
        pool: where the pool is.
        tasks: where the task files are.
        only: patterns of `arm/task/view`; others are left for later.
        workers: processes.
        progress: called as work goes on.
        settings: `offline`, `cache`, `store`, `machine` as in `open_session`.

    Raises:
        InputError: the setup, its places or a pattern cannot be used.
        RunError: `out` holds results of another setup, base, pool or rows.
        ExternalError: a worker died.
    """
    setup, places = read_setup(path, base=base, pool=pool, tasks=tasks)
    if workers < 1:
        raise InputError(f"--workers {workers}: give 1 or more")
    rows = {task.name: task for task in read_bench_tasks(setup, places, offline=bool(settings.get("offline")))}
    every = list(keys_of(setup, list(rows)))
    chosen = wanted(every, only, setup)
    with open_context(setup, places, progress=progress, **settings) as world:
        _check_world(world, rows)
        notes = [*notes_of(setup, [task.family for task in rows.values()]), *_pool_notes(world, rows)]
        with Ledger(out) as ledger:
            ledger.claim(*identity(world, rows))
            write_text(out / "setup.json", to_json(setup))
            before = ledger.done()
            left = [key for key in chosen if key not in before]

            def tell() -> None:
                progress("benchmark", ledger.count() - len(before), len(left))

            if left and workers > 1:
                run_workers(Job(setup, places, rows, out, settings), left, workers, tell)
            else:
                run_units(world, rows, left, ledger, tell)
            if len(chosen) < len(every):
                notes.append(f"--only took {len(chosen)} of {len(every)} results")
            kin = kin_of([candidate.id for candidate in world.candidates], setup.tasks.own, world.families)
            return BenchResults(
                out, setup, ledger.results(), len(every), world.refused, tuple(notes), kin, ledger.added()
            )


def identity(world: BenchContext, rows: Mapping[str, BenchTask]) -> tuple[dict[str, str], dict[str, str]]:
    """All that results depend on, by name, and the parts of the setup that may become more (see `Ledger.claim`).

    Where things are on this machine is no part of it.
    """
    setup = to_plain(world.setup)
    for name in ("base", "pool", "arms", "controls", "secondaries", "views", "k"):
        del setup[name]
    tasks = setup.pop("tasks")
    found = {name: digest_of(value) for name, value in setup.items()}
    found |= {f"tasks.{name}": digest_of(value) for name, value in tasks.items() if name not in ("path", "families")}
    session = world.session
    fixed = found | {
        "base": session.local.base.digest,
        "pool": digest_of([[c.id, c.fingerprint] for c in world.candidates]),
        "prompt template": session.template.digest,
        "dtype": session.machine.dtype,
        "rows or families of the tasks": digest_of([[task.digest for task in rows.values()], world.families]),
    }
    return fixed, setup_parts(world.setup)


def setup_parts(setup: Setup) -> dict[str, str]:
    """Arms, controls, sizes, views and secondary questions by name, each with a digest of what it is."""
    found = {f"arm {arm.name}": digest_of(to_plain(replace(arm, k=()))) for arm in setup.arms}
    found |= {f"control {name}": "" for name in setup.controls}
    found |= {f"k {k} of {arm.name}": "" for arm in setup.arms for k in ks_of(arm, setup)}
    found |= {f"k {k} of the controls": "" for k in setup.k}
    found |= {f"view {view}": "" for view in setup.views}
    return found | {f"question {q.text} ({q.metric})": "" for q in setup.secondaries}


def _check_world(world: BenchContext, rows: Mapping[str, BenchTask]) -> None:
    setup = world.setup
    ids = [c.id for c in world.candidates]
    for name, candidate in setup.tasks.own.items():
        if candidate not in ids:
            raise InputError(
                f"setup {setup.name}: tasks.own.{name}: the pool has no candidate '{candidate}'; correct it"
            )
    families = {task.family for task in rows.values()}
    for family in setup.tasks.tried:
        if family not in families:
            known = ", ".join(sorted(families))
            raise InputError(f"setup {setup.name}: tasks.tried: no task is of family '{family}'; there are {known}")
    if families <= set(setup.tasks.tried):
        raise InputError(f"setup {setup.name}: tasks.tried names every family; leave some to answer the questions on")
    for task in rows.values():
        for view in setup.views:
            in_view(world.candidates, task, view, setup.tasks.own, world.families)


def _pool_notes(world: BenchContext, rows: Mapping[str, BenchTask]) -> list[str]:
    own = world.setup.tasks.own
    ids = {c.id for c in world.candidates}
    lone = [name for name in rows if own.get(name, name) not in ids]
    if lone and "own-out" in world.setup.views and "own-in" in world.setup.views:
        more = "" if len(lone) == 1 else f" and {len(lone) - 1} more"
        return [f"{lone[0]}{more}: no adapter of its own in the pool, so own-out is own-in there"]
    return []
