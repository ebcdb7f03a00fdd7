"""`plan`: from tasks and a pool to a run folder. `make_plan` reads top to bottom as the steps of the flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from merge_advisor import registry
from merge_advisor.adapt.task_weights import row_weights
from merge_advisor.adapt.unlabelled import check_stops
from merge_advisor.adapt.workbench import trains_unlabelled
from merge_advisor.advisor.measuring.deltas import EmbeddedCandidates, take_deltas
from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.shots_lora import Shots, ShotsLora, finetune_on_shots, target_parameters
from merge_advisor.advisor.planning.adapted_plan import adapt_chosen
from merge_advisor.advisor.planning.choosing import ChoiceRequest, ChosenMerge, choose_merge
from merge_advisor.advisor.planning.choosing_cost import choosing_passes
from merge_advisor.advisor.planning.choosing_losses import ChoosingLosses
from merge_advisor.advisor.planning.plan_value import PlanSteps, StepTimer, plan_value
from merge_advisor.advisor.planning.row_check import check_task_rows
from merge_advisor.advisor.runs.out_folder import mark_unfinished, new_folder
from merge_advisor.advisor.runs.prompt_folder import write_planned_prompt
from merge_advisor.advisor.runs.renderings import write_formats, write_start
from merge_advisor.advisor.runs.run_folder import Run, read_run, write_values
from merge_advisor.advisor.runs.run_report import member_table, reports_of
from merge_advisor.errors import InputError, PoolError, SpecError, TaskError
from merge_advisor.merges import recipe_of
from merge_advisor.progress import announce
from merge_advisor.report.document import Paragraph
from merge_advisor.report.terminal import to_text
from merge_advisor.spaces import Space, same_space
from merge_advisor.types import SHOTS_LORA, ChooseBy, Pool, RefusedModel, Task
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.advisor.planning.sources import PlanInputs, PlanTask
    from merge_advisor.arrays import Float32Array
    from merge_advisor.merges import WeightedMerge
    from merge_advisor.options import PlanOptions


@dataclass(frozen=True, slots=True)
class PlanPlace:
    """Where a plan is written, and what its parts were called by who asked for it.

    >>> PlanPlace(Path("runs/mine"), pool="adapters").force
    False
    """

    out: Path
    """The run folder."""
    pool: str
    """The pool as it was named."""
    force: bool = False
    """Replace a run folder that is there."""
    asked: str = ""
    """Digest of the call, where its run is to be scored: until then, the same call goes on with it."""
    notes: tuple[str, ...] = ()
    """What the report says of where the pool comes from."""
    fitting: int | None = None
    """As of `Plan`."""


def make_plan(
    session: Session, given: Sequence[PlanTask], options: PlanOptions, place: PlanPlace,
    timer: StepTimer | None = None, inputs: PlanInputs | None = None,
) -> Run:  # fmt: skip
    """Return the run of what to merge for the tasks, its folder written, unscored.

    Args:
        session: base, pool and store.
        given: the tasks.
        options: strategy, k, shots, composition and the rest.
        place: where the run is written.
        timer: goes on counting the seconds of the steps.
        inputs: unlabelled rows, for an adaptation that trains on such.

    Raises:
        TaskError: a row that the template cannot render or the context cannot hold; shots that cannot be finetuned on.
        PoolError: nothing of the pool can be used.
        SpecError: a strategy, composition or embedding that cannot be.
        InputError: a demanded anchor that is not there.
        RunError: the run folder is in the way, or cannot be written.
    """
    timer = timer or StepTimer()
    tasks = tuple(item.task for item in given)
    pool = fitting(session.pool, options.composition)
    _check_anchor(options.anchor, pool)
    check_task_rows(session.model, tasks, inputs.rows if inputs else (), options)
    with timer.step("embed the pool"):
        embedded = _embed(session.meter, pool, options.embedding)
    with timer.step("finetune on the shots"):
        # of all tasks together: one LoRA, as there is to be one merge
        lora = finetune_on_tasks(session, tasks, target_parameters(session.local, embedded.candidates), options)
        task_delta = delta_of_lora(session.meter, lora, embedded.deltas.space, options.embedding)
    with timer.step("choose"):
        chosen = _choose(session.meter, tasks, embedded, lora, task_delta, options)
    told = (Paragraph("chosen, before anything is trained on it or scored:"), member_table(chosen.selection.members))
    announce(session.model.progress, "\n" + to_text(told, gap="\n") + "\n")

    def again(parts: Sequence[Task]) -> tuple[WeightedMerge, int]:
        made = _choose(session.meter, parts, embedded, lora, task_delta, options)
        return made.merge, made.selection.forwards

    with timer.step("adapt"):
        rows = inputs.rows if inputs else ()
        adapted = adapt_chosen(session, tasks, embedded, chosen, lora, options, rows, again)
    # made once here: the formats, the report and the recipe's rank all rest on this one merge
    carried = session.weights.cut(adapted.chosen.merge, options.rank)
    recipe = recipe_of(carried.merge, session.local.base, session.model.template.name)
    steps = PlanSteps(pool, embedded, lora, task_delta, adapted, recipe, carried.rank_error, inputs)
    with new_folder(place.out, force=place.force) as folder:
        prompted = adapted.report.prompted
        write_formats(session.local, recipe, carried, folder, trained=adapted.trained, prompted=prompted)
        if prompted:
            write_planned_prompt(session.meter, tasks[0], folder)
        if adapted.report.start is not None:
            write_start(session.local, adapted.report.start, session.weights.cut(chosen.merge, None), folder)
        plan = plan_value(session, given, options, steps, timer, place.pool)
        plan = replace(plan, notes=(*place.notes, *plan.notes), fitting=place.fitting)
        write_values(folder, plan, recipe, tasks)
        if place.asked:
            mark_unfinished(folder, place.asked)
        written = Run(folder, plan, recipe, tasks, ())
        # the folder has another name until it is whole; the report names the one it will have
        for name, text in reports_of(written, shown=place.out).items():
            write_text(folder / name, text)
    return read_run(place.out)


def _check_anchor(anchor: str | None, pool: Pool) -> None:
    ids = [candidate.id for candidate in pool.candidates]
    if anchor is not None and anchor not in ids:
        raise InputError(f"`anchor={anchor}`: no such candidate; choose one of: {', '.join(ids[:20])}")


def _embed(meter: MergeMeter, pool: Pool, embedding: str) -> EmbeddedCandidates:
    embedded = take_deltas(meter, embedding, pool.candidates)
    if not embedded.candidates:
        reasons = "; ".join(f"{item.id}: {item.reason}" for item in (*pool.refused, *embedded.refused)[:3])
        raise PoolError(f"no model of the pool can be used ({reasons}); give another `pool`")
    return embedded


def finetune_on_tasks(
    session: Session, tasks: Sequence[Task], targets: Sequence[str], options: PlanOptions
) -> ShotsLora:
    """Return the LoRA of the shots of all tasks, from the cache or finetuned now.

    Args:
        session: base and store.
        tasks: the tasks.
        targets: names of the parameters it changes.
        options: of the plan.

    Raises:
        InputError: the loss became infinite.
        RunError: the cache cannot be written.
    """
    watch = tuple(row for task in tasks for row in task.tuning)
    weights = row_weights([task.tuning for task in tasks], watch)
    shots = Shots(tuple(row for task in tasks for row in task.shots), watch, weights)
    return finetune_on_shots(session.model, session.memo, session.cache, shots, targets, options.finetune, options.seed)


def delta_of_lora(meter: MergeMeter, lora: ShotsLora, space: Space, embedding: str) -> Float32Array:
    """Return the task delta, (d,) float32: that of the LoRA of the shots.

    Args:
        meter: base, weights and store.
        lora: the LoRA.
        space: of the deltas that it is compared with.
        embedding: spec of the embedding.

    Raises:
        TaskError: it cannot be embedded.
        SpaceMismatchError: its delta would be in another space.
    """
    own = take_deltas(meter, embedding, [lora.candidate])
    same_space(space, own.deltas.space)
    if own.refused:
        raise TaskError(f"the LoRA of the shots cannot be embedded: {own.refused[0].reason}; lower `finetune.lr`")
    delta: Float32Array = own.deltas.array[0]
    return delta


def _choose(
    meter: MergeMeter,
    tasks: Sequence[Task],
    embedded: EmbeddedCandidates,
    lora: ShotsLora,
    task_delta: Float32Array,
    options: PlanOptions,
) -> ChosenMerge:
    composition = registry.build("composition", options.composition)
    # shots_lora is an adapter, so a composition of checkpoints alone cannot take it
    joins = may_join(tasks) and SHOTS_LORA not in options.exclude and composition.takes != "checkpoints"
    # every other adaptation trains on the rows itself, and weighs what it trained
    joins = joins and options.adaptation.partition(":")[0].strip() == "none"
    request = ChoiceRequest(options.strategy, options.k, options.composition, options.anchor, options.seed)
    rows = [task.choosing for task in tasks]

    def most() -> int:
        return choosing_passes(options.strategy, len(embedded.candidates), options.k, [len(part) for part in rows])

    losses = ChoosingLosses(meter, rows, options.choose_by, most)
    chosen = choose_merge(
        request,
        embedded.candidates,
        embedded.deltas.array,
        task_delta,
        losses,
        shots_lora=lora.candidate if joins else None,
        judging=ChoosingLosses(meter, [task.tuning for task in tasks], options.choose_by),
    )
    losses.end()
    return chosen


def may_join(tasks: Sequence[Task]) -> bool:
    """Return whether `shots_lora` may be judged as a member: on rows it was not trained on, which every task needs.

    Args:
        tasks: the tasks of a plan.
    """
    return all(task.tuning for task in tasks)


def fitting(pool: Pool, composition: str) -> Pool:
    """Return the pool with what the composition cannot take set aside.

    Args:
        pool: the pool.
        composition: spec of the composition.

    Raises:
        PoolError: nothing is left.
    """
    takes = registry.load("composition", composition.partition(":")[0].strip()).takes
    kept = tuple(c for c in pool.candidates if takes in ("both", f"{c.kind}s"))
    if not kept:
        raise PoolError(f"composition {composition} takes {takes}, and the pool has none; choose another composition")
    others = (c for c in pool.candidates if takes not in ("both", f"{c.kind}s"))
    aside = (RefusedModel(c.id, f"composition {composition} takes {takes} only") for c in others)
    return replace(pool, candidates=kept, refused=(*pool.refused, *aside))


def check_options(options: PlanOptions) -> None:
    """Refuse early what no tasks and no pool could make right.

    Args:
        options: of the plan.

    Raises:
        InputError: k or rank below 1; inputs that the adaptation does not train on, or steps it could not stop at.
        SpecError: an unknown strategy or composition, a wrong parameter, or more members than the composition takes.
    """
    if options.rank is not None and options.rank < 1:
        raise InputError(f"`rank={options.rank}`: an adapter has at least rank 1; give 1 or more")
    if options.k < 1:
        raise InputError(f"`k={options.k}`: a merge needs at least one member; give 1 or more")
    most = getattr(registry.build("composition", options.composition), "most", options.k)
    if options.k > most:
        raise SpecError(f"composition {options.composition} merges at most {most} members; give `k={most}`")
    registry.build("strategy", options.strategy)
    if trains_unlabelled(registry.build("adaptation", options.adaptation)):
        check_stops(options.finetune)
    elif options.inputs is not None:
        raise InputError(
            f"`inputs={options.inputs}`: adaptation {options.adaptation} does not train on inputs without outputs; "
            "give `adaptation=coefficients:objective=entropy`, or leave them out"
        )


def check_choosing(tasks: Sequence[Task], options: PlanOptions) -> None:
    """Refuse choosing by choices where there are none, and an adaptation that these rows could not stop or choose.

    Args:
        tasks: the tasks of the plan.
        options: of the plan.

    Raises:
        SpecError: no such way to choose, or no such adaptation.
        TaskError: a choosing row has no choices; the adaptation needs tuning rows, and there are none; or it
            takes fewer tasks.
    """
    adaptation = registry.build("adaptation", options.adaptation)
    if hasattr(adaptation, "check_rows"):
        adaptation.check_rows(sum(len(task.tuning) for task in tasks))
    if hasattr(adaptation, "check_tasks"):
        adaptation.check_tasks(len(tasks))
    if options.choose_by not in get_args(ChooseBy):
        raise SpecError(f"`choose_by={options.choose_by}` is unknown; choose one of: {', '.join(get_args(ChooseBy))}")
    for task in tasks:
        try:
            loss_kind_of(task.choosing, options.choose_by)
        except TaskError as error:
            raise TaskError(f"task {task.name}: {error}") from error
