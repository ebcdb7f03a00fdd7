"""What an adaptation leaves in a run folder, for `plan` and `tune` alike; and why a run's own cannot be tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.adapt.basis import Basis
from merge_advisor.adapt.continuing import chooses_anew, is_sum
from merge_advisor.adapt.prompting import Prompting
from merge_advisor.adapt.values import NOTHING
from merge_advisor.advisor.runs.plan_report import PROMPTED, UNADAPTED, AdaptationReport
from merge_advisor.errors import SpecError
from merge_advisor.select.evidence import FEW_ROWS
from merge_advisor.types import SHOTS_LORA, TRAINED, Candidate, Recipe

if TYPE_CHECKING:
    from merge_advisor.adapt.values import Adapted
    from merge_advisor.adapt.workbench import Adaptation
    from merge_advisor.advisor.measuring.adapting import AdaptedMerge
    from merge_advisor.advisor.runs.run_folder import Run


def adaptation_report(asked: str, made: AdaptedMerge, start: Recipe, shots_scale: float) -> AdaptationReport:
    """Return how rows and pool became one model, as plan.json says it.

    Args:
        asked: spec of the adaptation.
        made: what it came to.
        start: the merge as it was chosen.
        shots_scale: weight of `shots_lora` alone, as it is scored.
    """
    adapted = made.model
    return AdaptationReport(
        asked, adapted.name, adapted.reason, adapted.numbers,
        {key: value for key, value in adapted.settings.items() if isinstance(value, (str, int, float, bool))},
        adapted.options, made.predicted, start, shots_scale, adapted.losses,
    )  # fmt: skip


def scored_shots_lora(adapted: Adapted, other: Candidate, scale: float = 1.0) -> tuple[Candidate, float]:
    """Return the LoRA of the rows alone and its scale: that of the adaptation where it made one.

    One that is a member of the model goes first: a run folder holds one adapter of that name.

    Args:
        adapted: the model.
        other: the LoRA where the adaptation made none.
        scale: of that one.
    """
    alone = dict((adapted.without_pool or NOTHING).members)
    own = (candidate for candidate in (*adapted.merge.candidates, *alone) if candidate.id == SHOTS_LORA)
    shown = next(own, None)
    return (other, scale) if shown is None else (shown, alone.get(shown, 1.0))


def trained_into(adapted: Adapted) -> tuple[Candidate, ...]:
    """Return the adapters that were trained for a model and are members of it.

    Args:
        adapted: the model.
    """
    return tuple(candidate for candidate in adapted.merge.candidates if candidate.id in TRAINED)


def way_of(run: Run) -> str:
    """Return how a run's model was made, as the verdict calls it: the adaptation, or "shots" where no pool is in it.

    The name of an adaptation does not say that: `mix` may leave out all members, and `continue` begin at the base.

    Args:
        run: the run.
    """
    made = run.plan.adaptation or UNADAPTED
    members = any(member.weight and member.id not in TRAINED for member in run.recipe.members)
    if made.chosen in ("continue", "mix") and not members:
        return _ALONE
    asked = _asked(made)
    if made.chosen == PROMPTED and not run.is_base:
        prompted = "mean" if isinstance(asked, Prompting) and asked.on == "mean" else "merge"  # `auto` has no mean
        return f"prompt on {prompted if members else _ALONE}"
    if made.chosen not in ("basis", "continue"):
        return made.chosen
    begins = getattr(asked, "start", "merge") if made.chosen == getattr(asked, "name", "") else "merge"
    if made.chosen == "basis":
        if not isinstance(asked, Basis) or asked.source == "pool":  # `auto` has no other one
            return "basis"
        if not members:
            return _ALONE
    return "continue" if begins == "merge" else f"continue from {begins}"


def _asked(made: AdaptationReport) -> object:
    try:
        return registry.build("adaptation", made.asked)
    except SpecError:  # of a package that is not installed here
        return None


_ALONE = "shots"
"""Name of the adaptation whose model is a LoRA of the rows."""


def why_not_adapted(run: Run, spec: str) -> str:
    """Return why an adaptation cannot go on from a tuned merge of a run, and what can; "" where it can.

    Args:
        run: the run.
        spec: of the adaptation.

    Raises:
        SpecError: no such adaptation.
    """
    adaptation: Adaptation = registry.build("adaptation", spec)
    if adaptation.name == "none":
        return ""
    if adaptation.needs() != "merge":
        return (
            f"adaptation {spec} does not begin with the merge, so a tuned one changes nothing; give `adaptation=none` "
            "to tune the merge alone, or one that does, like `adaptation=continue` or `adaptation=basis:start=merge`"
        )
    if not getattr(adaptation, "folds", 1):
        return (
            f"adaptation {spec} holds no example out of its training, so none can tell whether a tuned merge makes a "
            "better model; give `adaptation=none` to tune the merge alone, or one with folds, like "
            "`adaptation=continue`"
        )
    if run.plan.inputs is not None and adaptation == registry.build("adaptation", run.own_adaptation.asked):
        return (
            f"adaptation {spec} was trained on a file of inputs, which the run folder does not hold, so it cannot be "
            "trained so again; give `adaptation=none` to tune the merge alone"
        )
    own = run.own_adaptation
    if own.start is not None and not own.losses:
        return (
            f"its own model ({own.asked}) was not judged on examples held out of its training, so none can be compared "
            "with it; give `adaptation=none` to tune the merge alone, or plan again with an adaptation that has folds"
        )
    if joined := [member.id for member in run.chosen.members if member.id in TRAINED]:
        return (
            f"{joined[0]} is a member of its merge, and has seen examples that would judge what is trained on top; "
            f"give `adaptation=none`, or plan with `adaptation={spec}`"
        )
    if reason := _judged_apart(run, spec):
        return reason
    if not is_sum(run.chosen.composition):
        return (
            f"its composition {run.chosen.composition} is no plain sum, so no adapter trained on top can be a member; "
            "give `adaptation=none`, or plan with `composition=exact`"
        )
    return ""


def _judged_apart(run: Run, spec: str) -> str:
    """Why the rows that a tuned merge was searched on cannot judge it beside what they did not choose; "" if they can.

    The search takes its merge by all rows, so that none is left that did not choose it. Of few rows the merge then
    looks better by as much as there is to see (`eval/adaptations_tried.md`: a nat).
    """
    own, composition = run.own_adaptation, run.chosen.composition
    rows = sum(len(task.shots) + len(task.tuning) for task in run.tasks)
    if chooses_anew(registry.build("adaptation", spec), rows, composition):
        return (
            f"adaptation {spec} judges merges by examples that did not choose them ({rows} examples, composition "
            f"{composition}), and all of them choose a tuned merge; give `adaptation=none` to tune the merge alone"
        )
    if rows >= FEW_ROWS or own.start is None:
        return ""
    planned = registry.build("adaptation", own.asked)
    if planned.needs() != "merge" or chooses_anew(planned, rows, composition):
        return (
            f"its own model ({own.asked}) was judged by {rows} examples that had not chosen its merge, and all of them "
            "choose a tuned one, so they cannot compare the two; give `adaptation=none` to tune the merge alone"
        )
    return ""
