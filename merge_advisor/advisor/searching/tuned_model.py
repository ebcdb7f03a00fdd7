"""What `tune` writes for the merge that its search ends in: that merge, or the run's adaptation begun anew from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.adapting import AdaptationRequest, adapt_merge, kinds_of, learned_losses
from merge_advisor.advisor.measuring.shots_lora import target_parameters
from merge_advisor.advisor.runs.adapted_run import adaptation_report, scored_shots_lora, trained_into
from merge_advisor.advisor.runs.plan_report import UNADAPTED, AdaptationReport
from merge_advisor.advisor.runs.renderings import write_formats, write_start
from merge_advisor.advisor.runs.reopening import find_candidates, find_members, find_shots_lora
from merge_advisor.merges import WeightedMerge, merge_of, recipe_of
from merge_advisor.options import FinetuneSettings
from merge_advisor.report.values import Side, TunedAdaptation
from merge_advisor.statistics import paired_interval
from merge_advisor.tuning.winner import choose_trained
from merge_advisor.types import RESIDUAL, Candidate, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from merge_advisor.advisor.measuring.adapting import AdaptedMerge
    from merge_advisor.advisor.measuring.pool_weights import MergedWeights
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.tuning import Point


@dataclass(frozen=True, slots=True, eq=False)
class TunedModel:
    """The model of a tuned run, and what its folder holds of it.

    >>> TunedModel.__slots__[:2]
    ('recipe', 'carried')
    """

    recipe: Recipe
    carried: MergedWeights
    """Its merge, carried out."""
    adaptation: AdaptationReport
    """How it was made; with its start, where it began with one."""
    start: MergedWeights | None = None
    """That start, carried out."""
    trained: tuple[Candidate, ...] = ()
    """Adapters that have to be copied into the folder."""
    outcome: TunedAdaptation | None = None
    """What came of the adaptation, for the report; None where nothing was trained."""
    sides: tuple[Side, ...] = ()
    """The plan's model and the one trained from the tuned merge, task by task."""

    def write(self, session: Session, folder: Path) -> None:
        """Write renderings, trained adapters and start into a folder.

        Args:
            session: holds the base.
            folder: that becomes part of the run folder.

        Raises:
            InputError: a format cannot be written.
        """
        write_formats(
            session.local, self.recipe, self.carried, folder, trained=self.trained, prompted=self.adaptation.prompted
        )
        if self.start is not None and self.adaptation.start is not None:
            write_start(session.local, self.adaptation.start, self.start, folder)


def merge_at(point: Point, members: Sequence[Candidate]) -> WeightedMerge:
    """Return the merge that a point of the search stands for; members of weight 0 leave it, unless that leaves none.

    Args:
        point: of the search.
        members: the candidates it weighs.
    """
    used = [place for place, weight in enumerate(point.weights) if weight] or list(range(len(point.weights)))
    layers = point.layers if any(factor != 1 for factor in point.layers) else ()
    return WeightedMerge(tuple((members[place], point.weights[place]) for place in used), point.composition, layers)


def unadapted_model(session: Session, run: Run, merge: WeightedMerge) -> TunedModel:
    """Return the tuned merge as it is.

    Args:
        session: base, pool and store.
        run: the run.
        merge: the tuned merge, its candidates under the plan's ids.
    """
    own, planned = run.own_adaptation, run.planned or run.recipe
    # the rank that was asked for in the plan holds for what becomes of it
    carried = session.weights.cut(merge, planned.rank if own.start is None else run.plan.settings.rank)
    report = own
    if own.start is not None:
        report = replace(UNADAPTED, reason="the merge that tuning found", shots_scale=own.shots_scale)
    shots = _unless_in_place(run, find_shots_lora(run, session.local, of_plan=True))
    return TunedModel(_recipe_like(run, carried.merge), carried, report, trained=shots)


def adapted_model(session: Session, run: Run, merge: WeightedMerge, spec: str, *, worst: bool) -> TunedModel:
    """Return what an adaptation makes of the tuned merge, or the plan's own model where that is not shown to be better.

    It learns from the same rows as the plan, with the plan's settings and seed. Both are judged by the loss on these
    rows: each held out of the training that it is judged by, where something was trained.

    Args:
        session: base, pool and store.
        run: the run.
        merge: the tuned merge, its candidates under the plan's ids.
        spec: of the adaptation; `why_not_adapted` has nothing against it.
        worst: whether the worst task counts.

    Raises:
        RunError: a candidate of the plan is not in the pool.
        InputError: a loss became infinite.
    """
    own = run.own_adaptation
    chosen = merge_of(run.chosen, find_members(session.pool, session.local, run.folder, run.chosen))
    adaptation = registry.build("adaptation", spec)
    again = own.start is not None and adaptation == registry.build("adaptation", own.asked)
    if again and merge.digest == chosen.digest:
        stays = TunedAdaptation(spec, own.chosen, False, "the search kept the plan's merge, so its model stays", 0)
        return _model_of_plan(session, run, stays)
    candidates, settings = find_candidates(session.pool, run), run.plan.settings
    finetune = FinetuneSettings(**settings.finetune)  # type: ignore[arg-type]  # they were made of one
    request = AdaptationRequest(
        spec, run.tasks, tuple(target_parameters(session.local, candidates)), merge, candidates, settings.choose_by,
        finetune, settings.seed,
    )  # fmt: skip
    session.model.progress(f"adaptation {spec} of the tuned merge", 0, 1)
    made = adapt_merge(session.meter, session.cache, request)
    session.model.progress(f"adaptation {spec} of the tuned merge", 1, 1)
    before, forwards = own.losses, made.forwards
    if own.start is None:  # nothing was trained: the rows chose its weights and no more
        planned = run.planned or run.recipe
        merged = merge_of(planned, find_members(session.pool, session.local, run.folder, planned))
        before = tuple(learned_losses(session.meter, run.tasks, settings.choose_by, merged))
        forwards += len(before)
    kinds = kinds_of(run.tasks, settings.choose_by)
    tasks = [number for number, task in enumerate(run.tasks) for _ in (*task.shots, *task.tuning)]
    unit = "nats a row" if set(kinds.values()) == {"choices"} else "nats"
    after, name = made.model.losses, made.model.name
    if not after:
        reason = "it held no example out of its training, so none shows that it is better: the plan's model stays"
        return _model_of_plan(session, run, TunedAdaptation(spec, name, False, reason, forwards))
    if made.model.merge.digest == merge.digest and not _is_merge_alone(run):
        reason = (
            "it took the tuned merge as it is, which all examples chose, as they did not choose the plan's model: they "
            "cannot compare the two, and the plan's model stays"
        )
        return _model_of_plan(session, run, TunedAdaptation(spec, name, False, reason, forwards))
    choice = choose_trained(before, after, tasks, worst=worst, unit=unit)
    outcome = TunedAdaptation(spec, name, choice.tuned, choice.reason, forwards)
    sides = _sides(run, before, after)
    if not choice.tuned:
        return _model_of_plan(session, run, outcome, sides)
    return _trained_model(session, run, request, made, outcome, sides)


def _is_merge_alone(run: Run) -> bool:
    """Whether the plan's model is a merge that its rows chose, with nothing trained on top."""
    recipe = run.planned or run.recipe
    return run.own_adaptation.start is None or recipe.digest == run.chosen.digest


def _trained_model(
    session: Session, run: Run, request: AdaptationRequest, made: AdaptedMerge, outcome: TunedAdaptation,
    sides: tuple[Side, ...],
) -> TunedModel:  # fmt: skip
    """The model that was trained from the tuned merge."""
    own, adapted = run.own_adaptation, made.model
    start = session.weights.cut(request.merge, None)
    plans = find_shots_lora(run, session.local, of_plan=True)
    shots, scale = scored_shots_lora(adapted, plans, own.shots_scale)
    if shots.fingerprint == plans.fingerprint:
        shots = plans  # the same one: it may stay where it lies
    # the base: a recipe names the members that were looked at, at weight 0
    nothing = request.merge.with_weights([0.0] * len(request.merge.members))
    carried = session.weights.cut(adapted.merge if adapted.merge.members else nothing, run.plan.settings.rank)
    trained = [candidate for candidate in trained_into(adapted) if candidate.id == RESIDUAL]
    report = adaptation_report(request.adaptation, made, _recipe_like(run, start.merge), scale)
    return TunedModel(
        _recipe_like(run, carried.merge), carried, report, start, (*trained, *_unless_in_place(run, shots)), outcome,
        sides,
    )  # fmt: skip


def _model_of_plan(session: Session, run: Run, outcome: TunedAdaptation, sides: tuple[Side, ...] = ()) -> TunedModel:
    """The plan's own model, whatever an earlier search had put in its place."""
    own, recipe = run.own_adaptation, run.planned or run.recipe
    members = find_members(session.pool, session.local, run.folder, recipe)
    carried = session.weights.carry_out(merge_of(recipe, members))
    start = None
    if own.start is not None:
        begun = merge_of(own.start, find_members(session.pool, session.local, run.folder, own.start))
        start = session.weights.cut(begun, None)
    trained = [members[member.id] for member in recipe.members if member.id == RESIDUAL]
    shots = _unless_in_place(run, find_shots_lora(run, session.local, of_plan=True))
    return TunedModel(recipe, carried, own, start, (*trained, *shots), outcome, sides)


def _unless_in_place(run: Run, shots: Candidate) -> tuple[Candidate, ...]:
    """The LoRA of the rows, where it does not lie in the run folder under its name already."""
    return () if shots.path == str(run.folder / shots.id) else (shots,)


def _recipe_like(run: Run, merge: WeightedMerge) -> Recipe:
    """The recipe of a merge, with base, template and members named as the plan named them."""
    recipes = (run.chosen, run.planned or run.recipe)
    named = {member.fingerprint: member for recipe in recipes for member in recipe.members}
    written = recipe_of(merge, run.chosen.base, run.chosen.template)
    members = tuple(replace(named.get(member.fingerprint, member), weight=member.weight) for member in written.members)
    return replace(written, members=members)


def _sides(run: Run, before: Sequence[float], after: Sequence[float]) -> tuple[Side, ...]:
    """The plan's model and the other on the rows learned from, task by task."""
    kinds, sides, place = kinds_of(run.tasks, run.plan.settings.choose_by), [], 0
    for task in run.tasks:
        rows = (*task.shots, *task.tuning)
        one, other = (losses[place : place + len(rows)] for losses in (before, after))
        place += len(rows)
        gains = [a - b for a, b in zip(one, other, strict=True)]
        interval = paired_interval(gains, counts=False) if len(gains) > 1 else None
        metric = "choice loss" if {kinds[row.digest] for row in rows} == {"choices"} else "loss"
        reference, tuned = (math.fsum(losses) / len(rows) for losses in (one, other))
        lower, upper = (None, None) if interval is None else (interval.lower, interval.upper)
        sides.append(Side(task.name, "cross-fitted", metric, len(rows), reference, tuned, lower, upper))
    return tuple(sides)
