"""tune.json: what was tried, which trial won, and what it gained on which rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.report.values import Side, TrialReport, TuningReport
from merge_advisor.statistics import paired_interval

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.advisor.searching.problem import MergeProblem
    from merge_advisor.advisor.searching.tuned_model import TunedModel
    from merge_advisor.advisor.searching.tuning_rows import TuningRows
    from merge_advisor.options import TuneOptions
    from merge_advisor.tuning.settings import SearchResult
    from merge_advisor.tuning.winner import Winner


def tuning_report(
    run: Run,
    options: TuneOptions,
    result: SearchResult,
    winner: Winner,
    judge: MergeProblem,
    rows: TuningRows,
    model: TunedModel,
) -> TuningReport:
    """Return the values of tune.json.

    Args:
        run: names the tasks and the members.
        options: sampler, goal and objective.
        result: the trials.
        winner: what the search ended in.
        judge: says the unit of the losses and what one costs.
        rows: of the search.
        model: what became of the winner.
    """
    trials = [
        TrialReport(t.number, t.label, _plain(t.values), t.point.weights, t.point.composition, t.whole, t.forwards)
        for t in result.trials
    ]
    number = next((trial.number for trial in result.trials if trial.point == winner.point), len(result.trials))
    if number == len(result.trials):  # a point on the way to the best trial, measured in the end
        cost = len(rows.search) * judge.forwards
        label = f"{winner.share:.0%} of the way from {winner.reference}"
        mean = math.fsum(winner.losses) / len(winner.losses)
        point = winner.point
        trials.append(TrialReport(number, label, (mean,), point.weights, point.composition, True, cost))
    alone = "" if model.outcome is None else "the merges alone: "  # not what became of them
    notes = [alone + winner.reason, f"the search ended: {result.stopped}"]
    if winner.gain is not None:
        notes.append(
            f"cross-validated gain of the search over the best start: {winner.gain.mean:+.3f} {judge.unit} "
            f"({winner.gain.lower:+.3f} to {winner.gain.upper:+.3f})"
        )
    own = run.own_adaptation
    if own.start is not None and model.adaptation.start is None:
        notes.append(f"the plan's adaptation ({own.asked}) was left out; the plan's own model is kept under plan/")
    unit = "nats per token" if judge.unit == "nats" else judge.unit
    return TuningReport(
        sampler=options.sampler,
        goal=f"{options.goal} over {len(rows.search)} tuning rows of {options.objective} ({unit})",
        members=tuple(member.id for member in run.chosen.members),
        planned=tuple(member.weight for member in run.chosen.members),
        trials=tuple(trials),
        winner=number,
        reference=winner.reference,
        sides=(*_sides(run, winner, judge, rows), *model.sides),
        tasks=tuple(task.name for task in run.tasks) if len(run.tasks) > 1 else (),
        notes=tuple(notes),
        adaptation=model.outcome,
    )


def _sides(run: Run, winner: Winner, judge: MergeProblem, rows: TuningRows) -> list[Side]:
    """Reference and winner on the tuning rows of each task, and on those kept aside."""
    sides = []
    for number, task in enumerate(run.tasks):
        places = [place for place, of in enumerate(rows.tasks) if of == number]
        if not places or len(winner.losses) < len(rows.tasks):  # a plan that is no number on some row has none
            continue
        before, after = ([losses[place] for place in places] for losses in (winner.reference_losses, winner.losses))
        gains = [one - other for one, other in zip(before, after, strict=True)]
        interval = paired_interval(gains) if len(gains) > 1 and any(gains) else None
        sides.append(
            Side(
                task.name,
                "tuning",
                {"nats": "loss", "nats a row": "choice loss"}.get(judge.unit, judge.unit),
                len(places),
                math.fsum(before) / len(before),
                math.fsum(after) / len(after),
                None if interval is None else interval.lower,
                None if interval is None else interval.upper,
            )
        )
    return sides


def _plain(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values)
