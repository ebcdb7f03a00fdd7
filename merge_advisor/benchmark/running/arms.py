"""One arm on one unit: choose as `plan` does, tune as `tune` does, score what was held out, charge what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from merge_advisor import registry
from merge_advisor.adapt.values import NOTHING
from merge_advisor.adapt.workbench import Adaptation
from merge_advisor.advisor.measuring.adapting import AdaptationRequest, AdaptedMerge, adapt_merge
from merge_advisor.advisor.measuring.shots_lora import target_parameters
from merge_advisor.advisor.planning.choosing import LORA_LOSSES, SEARCH, ChoiceRequest, ChosenMerge, choose_merge
from merge_advisor.advisor.planning.choosing_losses import ChoosingLosses, rows_in
from merge_advisor.benchmark.running.context import seed_of
from merge_advisor.benchmark.running.task_draw import ResultPlace, TaskDraw
from merge_advisor.benchmark.running.tuners import tune_weights
from merge_advisor.benchmark.setup import finetune_of
from merge_advisor.benchmark.values import Arm, Result
from merge_advisor.merges import WeightedMerge
from merge_advisor.select.halving import HALVING_SHARES, halving_rounds
from merge_advisor.select.weight_rule import first_scales
from merge_advisor.types import Task


def run_arm(draw: TaskDraw, arm: Arm, place: ResultPlace, budget: int | None = None) -> Result:
    """Return the result of an arm: chosen, tuned where the arm says so, and scored.

    Args:
        draw: the task and its shots.
        arm: how to choose.
        place: unit, view and k.
        budget: forward passes it may spend, of an arm that matches another's.

    Raises:
        MergeAdvisorError: whatever choosing, finetuning or merging refuses.
    """
    setup, task = draw.context.setup, draw.task
    if arm.adaptation:
        adapted, forwards = adapt_arm(draw, arm, place)
        return draw.adapted_result(place, adapted, forwards=forwards, by=arm.choose_by)
    chosen = choose_members(draw, arm, place, budget)
    merge, forwards, reason = chosen.merge, chosen.selection.forwards, chosen.selection.stopped
    if arm.tuner:
        seed = seed_of(setup.seed, task.name, place.unit.shot_draw, place.unit.tuner_seed, "tuner")
        rows = task.choosing_among([candidate.id for candidate in merge.candidates])
        tuned = tune_weights(draw.context.meter, merge, arm.tuner, rows, seed)
        merge, forwards = tuned.merge, forwards + tuned.forwards
        reason = f"{reason}; {tuned.reason}"
    # charged to the arms that use it: the others could have been run without the finetune
    if "task_delta" in chosen.used:
        forwards += draw.finetune_forwards + draw.delta_forwards
    elif arm.shots_lora:
        forwards += draw.finetune_forwards
    return draw.result(place, merge, forwards=forwards, reason=reason, by=arm.choose_by)


def adapt_arm(draw: TaskDraw, arm: Arm, place: ResultPlace) -> tuple[AdaptedMerge, int]:
    """Return what an adaptation makes of the merge that the arm's strategy chooses, where it needs one.

    Args:
        draw: the task and its shots.
        arm: the strategy and the adaptation.
        place: unit, view and k.

    Returns:
        The model, and the forward passes over one row that all of it took.

    Raises:
        MergeAdvisorError: whatever choosing and finetuning refuse.
    """
    context, task = draw.context, draw.task
    adaptation: Adaptation = registry.build("adaptation", arm.adaptation)
    merge, spent = NOTHING, 0
    used: frozenset[str] = frozenset()
    if adaptation.needs() == "merge":
        chosen = choose_members(draw, arm, place)  # it matches no other arm's budget: a setup that asks so is refused
        merge, spent, used = chosen.merge, chosen.selection.forwards, frozenset(chosen.used)
    candidates = tuple(draw.in_view(place.view, arm.composition)[0]) if adaptation.needs() != "nothing" else ()

    def again(tasks: Sequence[Task]) -> tuple[WeightedMerge, int]:
        made = choose_members(draw, arm, place, rows=tasks[0])
        return made.merge, made.selection.forwards

    request = AdaptationRequest(
        arm.adaptation, (task,), tuple(target_parameters(context.meter.model.local, context.candidates)), merge,
        candidates, arm.choose_by, finetune_of(context.setup),
        seed_of(context.setup.seed, task.name, draw.number, "adaptation"), choose=again,
    )  # fmt: skip
    adapted = adapt_merge(context.meter, context.cache, request)
    if "task_delta" in used:
        spent += draw.finetune_forwards + draw.delta_forwards
    return adapted, spent + adapted.forwards


def choose_members(
    draw: TaskDraw, arm: Arm, place: ResultPlace, budget: int | None = None, rows: Task | None = None
) -> ChosenMerge:
    """Return what an arm chooses, within its budget where it has one.

    Args:
        draw: the task and its shots.
        arm: how to choose.
        place: unit, view and k.
        budget: forward passes it may spend, of an arm that matches another's.
        rows: the task with the rows to choose by, where those are not all.

    Raises:
        MergeAdvisorError: whatever choosing refuses.
    """
    task, unit = rows or draw.task, place.unit
    candidates, deltas = draw.in_view(place.view, arm.composition)
    losses, judging = (
        ChoosingLosses(draw.context.meter, [rows], arm.choose_by) for rows in (task.choosing, task.tuning)
    )
    request = ChoiceRequest(
        arm.strategy,
        place.k,
        arm.composition,
        seed=seed_of(draw.context.setup.seed, task.name, unit.shot_draw, unit.selection_draw),
        search=0 if arm.tuner and arm.tuner.begins_at_zero else SEARCH,
    )
    if budget is not None:
        paid = draw.finetune_forwards + LORA_LOSSES * len(task.tuning) if arm.shots_lora else 0
        paid += arm.tuner.trials * len(task.choosing) if arm.tuner else 0
        k = min(place.k, len(candidates))
        sets, search = sets_within(budget - paid, len(task.choosing), k, request.search)
        request = replace(request, strategy=f"random:sets={sets}", search=search)
    lora = draw.shots_lora.candidate if arm.shots_lora else None
    return choose_merge(request, candidates, deltas, lambda: draw.task_delta, losses, shots_lora=lora, judging=judging)


def sets_within(budget: int, rows: int, k: int, most: int = SEARCH) -> tuple[int, int]:
    """Return how many random sets a budget pays for, with halving, and how many losses the scale's search may take.

    Args:
        budget: forward passes over one row.
        rows: choosing rows; a loss costs one pass over each.
        k: members of a set; each set is measured at two scales, of one member at one. The search finds those of the
            best set measured.
        most: losses that the search of the scale may measure at most; 0 where a tuner does without its scale.
    """
    search = min(most, max(2, budget // rows))
    scales = {1.0, float(k)}
    left = budget - (search - len(scales.intersection(first_scales(k)[:search]))) * rows
    sets = 1
    while len(scales) * halving_passes(sets + 1, rows) <= left:
        sets += 1
    return sets, search


def halving_passes(size: int, rows: int, shares: Sequence[float] = HALVING_SHARES) -> int:
    """Return the forward passes that finding the best of so many takes, each row of a loss one.

    >>> halving_passes(4, 20)
    60

    Args:
        size: how many are compared.
        rows: choosing rows.
        shares: of the rows, that the halving looks at.
    """
    spent = before = 0
    for left, share in halving_rounds(size, shares):
        now = rows_in(share, rows)
        spent, before = spent + left * (now - before), now
    return spent
