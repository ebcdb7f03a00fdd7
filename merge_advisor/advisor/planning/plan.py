"""`plan`: from a task file and a pool to a run folder."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from merge_advisor import registry
from merge_advisor.advisor.measuring.measure import (
    lora_of_shots,
    loss_kind_of,
    settings_plain,
    take_deltas,
    target_parameters,
)
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.merging import merged_delta, with_rank, write_formats
from merge_advisor.advisor.planning.choosing import ChoosingLosses, choose_merge, cosine
from merge_advisor.advisor.planning.pool_map import pool_map
from merge_advisor.advisor.planning.sources import read_sources, sources_of, task_report
from merge_advisor.advisor.runs.run_folder import (
    CandidateReport,
    Environment,
    Plan,
    PlanSettings,
    Run,
    check_out,
    new_folder,
    read_run,
    write_values,
)
from merge_advisor.advisor.runs.run_report import html_of, report_of
from merge_advisor.errors import InputError, PoolError, SpecError, TaskError
from merge_advisor.evaluators.lm_eval_tasks import TaskName
from merge_advisor.options import Machine, PlanOptions
from merge_advisor.pool import licence_conflicts
from merge_advisor.progress import Progress, quiet_progress
from merge_advisor.report.values import SimilarityMap
from merge_advisor.types import (
    SHOTS_LORA,
    VERSION,
    Candidate,
    ChooseBy,
    Deltas,
    Pool,
    Recipe,
    RecipeMember,
    RefusedModel,
    Selection,
    Task,
    same_space,
)
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(eq=False)
class StepTimer:
    """Seconds by step, for the environment block."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def check_composition(options: PlanOptions) -> None:
    """Refuse a composition that cannot merge as many members as asked for.

    Raises:
        SpecError: unknown, wrongly parameterised, or k is more than it takes.
    """
    most = getattr(registry.build("composition", options.composition), "most", options.k)
    if options.k > most:
        raise SpecError(f"composition {options.composition} merges at most {most} members; give --k {most}")


def check_choosing(tasks: Sequence[Task], options: PlanOptions) -> None:
    """Refuse choosing by choices where there are none.

    Raises:
        SpecError: no such way to choose.
        TaskError: a choosing row has no choices.
    """
    if options.choose_by not in get_args(ChooseBy):
        raise SpecError(f"--choose-by {options.choose_by} is unknown; choose one of: {', '.join(get_args(ChooseBy))}")
    for task in tasks:
        try:
            loss_kind_of(task.choosing, options.choose_by)
        except TaskError as error:
            raise TaskError(f"task {task.name}: {error}") from error


def make_plan(
    tasks: Sequence[Path],
    *,
    lm_eval: Sequence[TaskName] = (),
    pool: str | Path,
    base: str,
    out: Path,
    options: PlanOptions | None = None,
    force: bool = False,
    offline: bool = False,
    cache: Path | None = None,
    store: Path | None = None,
    machine: Machine | None = None,
    progress: Progress = quiet_progress,
) -> Run:
    """Choose what to merge for the tasks and write the run folder `out` (unscored).

    Raises:
        TaskError, PoolError, BaseModelError, SpecError, RunError, OfflineError: see `merge_advisor.errors`.
    """
    options = options or PlanOptions()
    clock = StepTimer()
    check_out(out, force=force)
    if options.rank is not None and options.rank < 1:
        raise InputError(f"--rank {options.rank}: an adapter has at least rank 1")
    if options.k < 1:
        raise InputError(f"--k {options.k}: a merge needs at least one member; give 1 or more")
    check_composition(options)
    registry.build("strategy", options.strategy)
    sources = sources_of(tasks, lm_eval, offline=offline)
    parts, notes = read_sources(sources, options)
    check_choosing(parts, options)
    with clock.step("open"):
        session = open_session(
            base, pool, template=options.template, include=options.include, exclude=options.exclude,
            licence=options.licence, cache=cache, store=store, offline=offline, machine=machine, progress=progress,
        )  # fmt: skip
    with session:
        found = _choose_all(session, parts, options, clock)
        recipe = recipe_of(session, found.selection, found.members, options)
        merged, error = merged_delta(session, recipe, found.members)
        plan = _plan_value(session, parts, notes, options, found, recipe, error)
        with new_folder(out, force=force) as folder:
            write_formats(session, recipe, found.members, merged, folder, lora=found.lora, error=error)
            paths = {"base": str(session.local.path), "pool": str(pool), "store": str(session.store.path)}
            paths |= {f"task {task.name}": str(source) for task, source in zip(parts, sources, strict=True)}
            plan = replace(plan, environment=environment_of(session, clock, paths))
            write_values(folder, plan, recipe, parts)
            written = Run(folder, plan, recipe, parts, ())
            write_text(folder / "report.md", report_of(written, shown=out))
            write_text(folder / "report.html", html_of(written, shown=out))
    return read_run(out)


@dataclass(frozen=True, slots=True)
class PlannedChoice:
    """What choosing found, before it is written."""

    deltas: Deltas
    map: SimilarityMap
    candidates: tuple[Candidate, ...]
    refused: tuple[RefusedModel, ...]
    similarity: dict[str, float]
    selection: Selection
    members: dict[str, Candidate]
    lora: Candidate
    forwards: dict[str, int]
    notes: tuple[str, ...]
    conflicts: tuple[str, ...]


def _choose_all(session: Session, tasks: Sequence[Task], options: PlanOptions, clock: StepTimer) -> PlannedChoice:
    """Embed the pool and the tasks, then choose."""
    pool, settings = fitting(session.pool, options.composition), options.finetune
    ids = [c.id for c in pool.candidates]
    if options.anchor is not None and options.anchor not in ids:
        raise InputError(f"--anchor {options.anchor}: no such candidate; choose one of: {', '.join(ids[:20])}")
    with clock.step("embed the pool"):
        deltas, candidates, broken = take_deltas(session, options.embedding, pool.candidates)
    if not candidates:
        reasons = "; ".join(f"{item.id}: {item.reason}" for item in (*pool.refused, *broken)[:3])
        raise PoolError(f"no model of the pool can be used ({reasons}); give another --pool")
    shots = [row for task in tasks for row in task.shots]
    with clock.step("finetune on the shots"):
        targets = target_parameters(session, candidates)
        watch = [row for task in tasks for row in task.tuning]
        lora, training = lora_of_shots(session, shots, targets, settings, options.seed, watch=watch)
        own, _, failed = take_deltas(session, options.embedding, [lora])
    same_space(deltas.space, own.space)
    if failed:
        raise TaskError(f"the LoRA of the shots cannot be embedded: {failed[0].reason}; lower --lr")
    losses = ChoosingLosses(session, [task.choosing for task in tasks], options.composition, options.choose_by)
    judging = ChoosingLosses(session, [task.tuning for task in tasks], options.composition, options.choose_by)
    fair = all(task.tuning for task in tasks)  # without tuning rows it would be judged on the rows it was trained on
    composition = registry.build("composition", options.composition)
    joins = fair and SHOTS_LORA not in options.exclude and composition.takes != "checkpoints"
    notes = [] if fair else ["no tuning rows: shots_lora was not considered as a member; give more examples"]
    with clock.step("choose"):
        chosen = choose_merge(
            session, options.strategy, options.k, candidates, deltas.array, own.array[0], losses,
            anchor=options.anchor, lora=lora if joins else None, seed=options.seed, judging=judging,
        )  # fmt: skip
    selection, members = chosen.selection, chosen.members
    if options.k > len(candidates):
        notes.append(f"--k {options.k} is more than the pool holds; {len(candidates)} can be chosen")
    if options.rank is None and not composition.low_rank:
        notes.append(
            f"{options.composition} gives no LoRA factors: `merge` writes a full model, `merge --adapter` one cut to a "
            "rank, with its error; `plan --rank R` plans and scores the cut one"
        )
    if options.rank is not None and any(c.kind == "checkpoint" for c in members.values()):
        notes.append(f"--rank {options.rank} was not applied: a member is a full checkpoint, no adapter holds that")
    if selection.scale == 0:
        notes.append("no scale of the chosen members lowers the loss on the choosing rows: the merge is the base")
    by_choices = [t.name for t in tasks if loss_kind_of(t.choosing, options.choose_by) == "choices"]
    if by_choices:
        which = "" if len(by_choices) == len(tasks) else f" of {', '.join(by_choices)}"
        notes.append(
            f"chosen by the likelihood of the right choice among the choices{which} (gains in nats a row), as accuracy "
            "is; --choose-by loss takes the loss of the right answer's tokens"
        )
    forwards = {"embed the pool": 5 * (len(candidates) + 1), "finetune on the shots": training.forwards + 5}
    if training.watched:
        least = f"{min(training.watched):.3f} nats per token"
        notes.append(f"{SHOTS_LORA}: {training.steps} steps, where the loss on the tuning rows was least ({least})")
    similarity = dict(zip(deltas.ids, cosine(deltas.array, own.array[0]).tolist(), strict=True))
    return PlannedChoice(
        deltas=deltas,
        map=pool_map(deltas, own.array[0]),
        candidates=tuple(candidates),
        refused=(*pool.refused, *broken),
        similarity=similarity,
        selection=selection,
        members=members,
        lora=lora,
        forwards=forwards | {"choose": selection.forwards},
        notes=tuple(notes),
        conflicts=licence_conflicts([c.licence for c in members.values() if c.id != SHOTS_LORA]),
    )


def fitting(pool: Pool, composition: str) -> Pool:
    """The pool with what the composition cannot take set aside.

    Raises:
        PoolError: nothing is left.
    """
    takes = registry.load("composition", composition.partition(":")[0].strip()).takes
    kept = tuple(c for c in pool.candidates if takes in ("both", f"{c.kind}s"))
    if not kept:
        raise PoolError(f"composition {composition} takes {takes}, and the pool has none; choose another composition")
    aside = (c for c in pool.candidates if takes not in ("both", f"{c.kind}s"))
    found = (RefusedModel(c.id, f"composition {composition} takes {takes} only") for c in aside)
    return replace(pool, candidates=kept, refused=(*pool.refused, *found))


def recipe_of(session: Session, selection: Selection, members: Mapping[str, Candidate], options: PlanOptions) -> Recipe:
    """The neutral recipe of a selection."""
    recipe = Recipe(
        version=VERSION,
        base=session.local.base,
        template=session.template.name,
        composition=options.composition,
        rank=None,
        members=tuple(
            RecipeMember(m.id, m.fingerprint, m.kind, m.source, m.revision, m.weight) for m in selection.members
        ),
    )
    return with_rank(session, recipe, members, options.rank)


def _plan_value(
    session: Session,
    tasks: Sequence[Task],
    notes: Sequence[tuple[str, ...]],
    options: PlanOptions,
    found: PlannedChoice,
    recipe: Recipe,
    rank_error: float,
) -> Plan:
    chosen = {member.id for member in found.selection.members}
    reports = [
        CandidateReport(
            c.id, "member" if c.id in chosen else "candidate", "", c.kind, c.fingerprint, found.similarity[c.id],
            c.licence, c.notes,
        )
        for c in found.candidates
    ]  # fmt: skip
    reports += [CandidateReport(r.id, "refused", r.reason, None, "", None, None, ()) for r in found.refused]
    settings = PlanSettings(
        strategy=options.strategy, k=options.k, composition=options.composition, rank=options.rank,
        embedding=options.embedding, shots=options.shots, seed=options.seed, anchor=options.anchor,
        choose_by=options.choose_by,
        include=tuple(options.include), exclude=tuple(options.exclude), licence=tuple(options.licence),
        finetune=settings_plain(options.finetune),
    )  # fmt: skip
    return Plan(
        version=VERSION,
        base=session.local.base,
        template=session.template.name,
        template_digest=session.template.digest,
        pool_digest=session.pool.digest,
        space=found.deltas.space,
        settings=settings,
        tasks=tuple(task_report(task, said) for task, said in zip(tasks, notes, strict=True)),
        candidates=tuple(sorted(reports, key=lambda report: report.id)),
        selection=found.selection,
        recipe_digest=recipe.digest,
        rank_error=rank_error,
        forwards=found.forwards,
        notes=found.notes,
        conflicts=found.conflicts,
        verdict=None,
        reason="",
        environment=Environment("", "", {}, {}, 0, 0, {}),
        map=found.map,
    )


def environment_of(session: Session, clock: StepTimer, paths: dict[str, str]) -> Environment:
    """The block of plan.json that differs between machines and runs."""
    from importlib.metadata import PackageNotFoundError, version

    from merge_advisor.version import __version__

    versions = {"python": platform.python_version(), "merge-advisor": __version__}
    for package in ("torch", "transformers", "peft", "numpy", "lm_eval", "mergekit"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return Environment(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}, {session.machine.device}, {session.machine.dtype}",
        versions=versions,
        seconds=dict(clock.seconds),
        store_hits=session.hits,
        store_misses=session.misses,
        paths=paths,
    )
