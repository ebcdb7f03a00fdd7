"""The adaptation of a plan: from the merge that was chosen to the model that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.measuring.adapting import AdaptationRequest, adapt_merge
from merge_advisor.advisor.measuring.shots_lora import target_parameters
from merge_advisor.advisor.planning.choosing import ChosenMerge, members_of
from merge_advisor.advisor.runs.adapted_run import adaptation_report, scored_shots_lora, trained_into
from merge_advisor.advisor.runs.plan_report import UNADAPTED, AdaptationReport
from merge_advisor.merges import recipe_of
from merge_advisor.types import Candidate, Row, Task

if TYPE_CHECKING:
    from merge_advisor.adapt.values import Adapted
    from merge_advisor.advisor.measuring.deltas import EmbeddedCandidates
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.advisor.measuring.shots_lora import ShotsLora
    from merge_advisor.merges import WeightedMerge
    from merge_advisor.options import PlanOptions


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedPlan:
    """What a plan comes to: the model, how it was made, and the adapters that were trained for it.

    >>> AdaptedPlan.__slots__
    ('chosen', 'report', 'trained', 'forwards')
    """

    chosen: ChosenMerge
    """The selection, what was trained among its members, and the model itself."""
    report: AdaptationReport
    trained: tuple[Candidate, ...]
    """Adapters that go into the run folder: `shots_lora` always, `residual` where something was trained on top."""
    forwards: int
    """Cost in forward passes over one row."""


def adapt_chosen(
    session: Session, tasks: Sequence[Task], embedded: EmbeddedCandidates, chosen: ChosenMerge, lora: ShotsLora,
    options: PlanOptions, inputs: tuple[Row, ...] = (),
    choose: Callable[[Sequence[Task]], tuple[WeightedMerge, int]] | None = None,
) -> AdaptedPlan:  # fmt: skip
    """Return the model that the plan's adaptation makes of the chosen merge and the rows.

    Args:
        session: base, pool and store.
        tasks: the tasks.
        embedded: the pool's candidates.
        chosen: what the strategy chose.
        lora: the LoRA that embeds the task; it is `shots_lora` where the adaptation makes no better one.
        options: the adaptation, and how a finetune is made.
        inputs: unlabelled rows.
        choose: chooses by tasks with fewer rows, and says what it cost.

    Raises:
        SpecError: no such adaptation, or one that cannot go on from this merge.
        InputError: a loss became infinite; a smaller rate is needed.
    """
    if registry.build("adaptation", options.adaptation).name == "none":
        return AdaptedPlan(chosen, replace(UNADAPTED, asked=options.adaptation), (lora.candidate,), 0)
    start = recipe_of(chosen.merge, session.local.base, session.model.template.name)
    request = AdaptationRequest(
        options.adaptation, tuple(tasks), tuple(target_parameters(session.local, embedded.candidates)), chosen.merge,
        embedded.candidates, options.choose_by, options.finetune, options.seed, inputs, choose,
    )  # fmt: skip
    made = adapt_merge(session.meter, session.cache, request)
    adapted = made.model
    shots, scale = scored_shots_lora(adapted, lora.candidate)
    merge = adapted.merge
    if not merge.members:  # the base: a recipe names the members that were looked at, at weight 0
        merge = chosen.merge.with_weights([0.0] * len(chosen.merge.members))
    trained = {shots.id: shots} | {candidate.id: candidate for candidate in trained_into(adapted)}
    return AdaptedPlan(
        _selected(session, chosen, merge, adapted), adaptation_report(options.adaptation, made, start, scale),
        tuple(trained.values()), made.forwards,
    )  # fmt: skip


def _selected(session: Session, chosen: ChosenMerge, merge: WeightedMerge, adapted: Adapted) -> ChosenMerge:
    """The selection of the model: members keep what choosing found of them, what was trained has no such numbers."""
    known = {member.id: member for member in chosen.selection.members}
    gains = [known[c.id].gain if c.id in known else None for c in merge.candidates]
    similarity = {member.id: member.similarity for member in known.values() if member.similarity is not None}
    members = members_of(merge, session.weights, gains, similarity)
    stopped = f"{chosen.selection.stopped}; {adapted.reason}"
    return ChosenMerge(replace(chosen.selection, members=members, stopped=stopped), merge, chosen.used)
