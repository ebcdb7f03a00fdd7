"""plan.json: what was found, chosen and why, in values; its notes; and the block of what differs by machine."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from merge_advisor import registry
from merge_advisor.advisor.measuring.cut_prompts import cut_notes
from merge_advisor.advisor.measuring.deltas import EmbeddedCandidates, cosine
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.peak_memory import peak_memory
from merge_advisor.advisor.measuring.shots_lora import ShotsLora, settings_plain
from merge_advisor.advisor.planning.adapted_plan import AdaptedPlan
from merge_advisor.advisor.planning.choosing import ChosenMerge
from merge_advisor.advisor.planning.pool_map import pool_map
from merge_advisor.advisor.runs.plan_report import (
    CandidateReport,
    Environment,
    InputsReport,
    Plan,
    PlanSettings,
    TaskReport,
)
from merge_advisor.json_form import VERSION
from merge_advisor.pool import licence_conflicts
from merge_advisor.types import KIND_NAMES, SHOTS_LORA, TRAINED, Pool, Recipe, Row, Task

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.advisor.planning.sources import PlanInputs, PlanTask
    from merge_advisor.arrays import Float32Array
    from merge_advisor.options import PlanOptions


@dataclass(eq=False)
class StepTimer:
    """Seconds by step, for the environment block.

    >>> timer = StepTimer()
    >>> with timer.step("choose"):
    ...     pass
    >>> list(timer.seconds)
    ['choose']
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Yield, and add the seconds of the block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


@dataclass(frozen=True, slots=True, eq=False)
class PlanSteps:
    """What the steps of a plan came to, before it is written.

    >>> PlanSteps.__slots__[:3]
    ('pool', 'embedded', 'lora')
    """

    pool: Pool
    """The candidates the composition can take, and those set aside."""
    embedded: EmbeddedCandidates
    lora: ShotsLora
    task_delta: Float32Array
    """(d,)."""
    adapted: AdaptedPlan
    recipe: Recipe
    rank_error: float
    """Relative Frobenius error of cutting the merge to the recipe's rank."""
    inputs: PlanInputs | None = None
    """Unlabelled rows that it was given."""

    @property
    def chosen(self) -> ChosenMerge:
        """The selection and the model."""
        return self.adapted.chosen


def plan_value(
    session: Session, given: Sequence[PlanTask], options: PlanOptions, steps: PlanSteps, timer: StepTimer, pool: str
) -> Plan:
    """Return plan.json's value.

    Args:
        session: base, pool and store.
        given: the tasks.
        options: what was asked for.
        steps: what the steps came to.
        timer: their seconds.
        pool: the pool as it was named.
    """
    tasks = [item.task for item in given]
    members = [candidate for candidate in steps.chosen.merge.candidates if candidate.id not in TRAINED]
    local = session.local
    paths = {"base": str(local.path), "pool": pool, "store": str(session.memo.store.path)}
    inputs = steps.inputs
    paths |= {} if inputs is None else {"inputs": str(inputs.path)}
    return Plan(
        version=VERSION,
        base=local.base,
        template=session.model.template.name,
        template_digest=session.model.template.digest,
        pool_digest=session.pool.digest,
        space=steps.embedded.deltas.space,
        settings=settings_of(options),
        tasks=tuple(
            task_report(item.task, (*item.notes, *cut_notes(session.meter, _rows_of(item.task))), item.understood)
            for item in given
        ),
        candidates=_candidate_reports(steps),
        selection=steps.chosen.selection,
        recipe_digest=steps.recipe.digest,
        rank_error=steps.rank_error,
        forwards=_forwards(steps, options),
        notes=(*([local.dequantised] if local.dequantised else []), *_notes(tasks, options, steps)),
        conflicts=licence_conflicts([candidate.licence for candidate in members]),
        verdict=None,
        reason="",
        environment=environment_of(
            session, timer, paths | {f"task {item.task.name}": str(item.source) for item in given}
        ),
        adaptation=steps.adapted.report,
        inputs=None if inputs is None else InputsReport(inputs.digest, len(inputs.rows), inputs.notes),
        map=pool_map(steps.embedded.deltas, steps.task_delta),
    )


def settings_of(options: PlanOptions) -> PlanSettings:
    """Return what is kept of the options in a run folder: every field of `PlanSettings`, by its name.

    Args:
        options: of the plan.
    """
    kept: dict[str, Any] = {item.name: getattr(options, item.name) for item in fields(PlanSettings)}
    kept |= {name: tuple(kept[name]) for name in ("include", "exclude", "licence")}
    return PlanSettings(**kept | {"finetune": settings_plain(options.finetune)})


def task_report(task: Task, notes: Sequence[str], understood: Sequence[str] = ()) -> TaskReport:
    """Return a task's rows by digest.

    Args:
        task: the task.
        notes: what was noticed about it.
        understood: what its files were understood as.
    """
    shots, tuning, heldout = (tuple(row.digest for row in part) for part in (task.shots, task.tuning, task.heldout))
    return TaskReport(task.name, task.digest, shots, tuning, heldout, tuple(notes), tuple(understood))


def _candidate_reports(steps: PlanSteps) -> tuple[CandidateReport, ...]:
    chosen = {member.id for member in steps.chosen.selection.members}
    similarity = cosine(steps.embedded.deltas.array, steps.task_delta).tolist()
    reports = [
        CandidateReport(
            c.id, "member" if c.id in chosen else "candidate", "", c.kind, c.fingerprint, value, c.licence, c.notes
        )
        for c, value in zip(steps.embedded.candidates, similarity, strict=True)
    ]
    refused = (*steps.pool.refused, *steps.embedded.refused)
    reports += [CandidateReport(item.id, "refused", item.reason, None, "", None, None, ()) for item in refused]
    return tuple(sorted(reports, key=lambda report: report.id))


def _forwards(steps: PlanSteps, options: PlanOptions) -> dict[str, int]:
    """Nominal cost in forward passes over one row, by step."""
    probes = registry.build("embedding", options.embedding).forwards
    return {
        "embed the pool": probes * (len(steps.embedded.candidates) + 1),  # and the base
        "finetune on the shots": steps.lora.record.forwards + probes,
        "choose": steps.chosen.selection.forwards,
        **({"adapt": steps.adapted.forwards} if steps.adapted.forwards else {}),
    }


def _rows_of(task: Task) -> tuple[Row, ...]:
    return (*task.shots, *task.tuning, *task.heldout)


def _notes(tasks: Sequence[Task], options: PlanOptions, steps: PlanSteps) -> tuple[str, ...]:
    """What a reader has to know beside the numbers, one sentence each."""
    composition = registry.build("composition", options.composition)
    candidates, selection = steps.embedded.candidates, steps.chosen.selection
    notes = []
    if not all(task.tuning for task in tasks) and not steps.adapted.report.start:
        notes.append("no tuning rows: shots_lora was not considered as a member; give more examples")
    if options.k > len(candidates):
        notes.append(f"`k={options.k}` is more than the pool holds; {len(candidates)} can be chosen")
    if options.rank is None and not composition.low_rank:
        notes.append(
            f"{options.composition} gives no LoRA factors: `merge` writes a full model, `merge(run, adapter=True)` one "
            "cut to a rank, with its error; `plan(rank=R)` plans and scores the cut one"
        )
    other = next((c for c in steps.chosen.merge.candidates if c.kind != "adapter"), None)
    if options.rank is not None and other is not None:
        notes.append(
            f"`rank={options.rank}` was not applied: {other.id} is {KIND_NAMES[other.kind]}, no LoRA holds that"
        )
    if selection.scale == 0:
        notes.append("no scale of the chosen members lowers the loss on the choosing rows: the merge is the base")
    by_choices = [task.name for task in tasks if loss_kind_of(task.choosing, options.choose_by) == "choices"]
    if by_choices:
        which = "" if len(by_choices) == len(tasks) else f" of {', '.join(by_choices)}"
        notes.append(
            f"chosen by the likelihood of the right choice among the choices{which} (gains in nats a row), as accuracy "
            "is; `choose_by='loss'` takes the loss of the right answer's tokens"
        )
    record = steps.lora.record
    if record.watched:
        least = f"{min(record.watched):.3f} nats per token"
        notes.append(f"{SHOTS_LORA}: {record.steps} steps, where the loss on the tuning rows was least ({least})")
    return tuple(notes)


def environment_of(session: Session, timer: StepTimer, paths: dict[str, str]) -> Environment:
    """Return the block of plan.json that differs between machines and runs.

    Args:
        session: machine and counts of the store.
        timer: seconds by step.
        paths: where base, pool, store and task files were.
    """
    from importlib.metadata import PackageNotFoundError, version

    from merge_advisor.version import __version__

    versions = {"python": platform.python_version(), "merge-advisor": __version__}
    for package in ("torch", "transformers", "peft", "numpy", "lm_eval", "mergekit"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    machine = session.model.machine
    threads = f", {session.model.said.partition(';')[0]}" if session.model.said else ""
    return Environment(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}, {machine.device}, {machine.dtype}{threads}",
        versions=versions,
        seconds=dict(timer.seconds),
        store_hits=session.memo.hits,
        store_misses=session.memo.misses,
        paths=paths,
        peak_bytes=peak_memory(),
    )
