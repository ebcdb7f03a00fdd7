"""The section of a run's report about tuning: what was searched, what won, and how the search went."""

from __future__ import annotations

from merge_advisor.report.document import (
    Block,
    BulletList,
    Disclosure,
    Figure,
    FigureGroup,
    Heading,
    LegendEntry,
    OnlyIn,
    Paragraph,
    Section,
    Table,
)
from merge_advisor.report.plots import Bar, bar_plot
from merge_advisor.report.run_wording import SIDE_HEADERS, SIDE_RIGHT, side_cells, tuning_text
from merge_advisor.report.svg import brief
from merge_advisor.report.tuning_plots import NAMED_AXES, axes_of, history_plot, parallel_coordinate_plot, pareto_plot
from merge_advisor.report.values import TrialReport, TuningReport

WEIGHT_BARS = 30
"""Members with a bar of their weight, the heaviest; the table has all."""
_BEST = 12
"""Trials listed, the best of them."""


def tuning_section(tuning: TuningReport) -> Section:
    """Return the section about how a run was tuned.

    Args:
        tuning: trials, winner, and the comparison of reference and winner.
    """
    final = tuning.planned if tuning.won is None else tuning.won.weights
    pairs = zip(tuning.members, tuning.planned, final, strict=True)
    weights = Table(
        "Weights",
        ("member", "planned weight", "tuned weight"),
        tuple((member, f"{planned:.4f}", f"{tuned:.4f}") for member, planned, tuned in pairs),
        right=(1, 2),
    )
    blocks: list[Block] = [Paragraph(tuning_text(tuning))]
    if tuning.sides:
        rows = tuple(side_cells(side) for side in tuning.sides)
        blocks.append(Table("Reference and winner", SIDE_HEADERS, rows, SIDE_RIGHT))
        remark = "A gain on the tuning rows that is gone on the held-out rows was fitted to the tuning rows."
        blocks.append(OnlyIn("page", (Paragraph(remark, soft=True),)))
    # on the page a figure has the weights, and the notes are paragraphs before the figures
    blocks.append(OnlyIn("markdown", (weights, *((BulletList(tuning.notes),) if tuning.notes else ()))))
    blocks.append(OnlyIn("page", (*(Paragraph(note) for note in tuning.notes), *_page_blocks(tuning, final))))
    return Section("tuning", Heading("Tuning"), tuple(blocks), "Tuning")


def _page_blocks(tuning: TuningReport, final: tuple[float, ...]) -> list[Block]:
    drawn = [_history(tuning), _weights(tuning, final), _parallel(tuning), _pareto(tuning)]
    figures = tuple(figure for figure in drawn if figure is not None)
    blocks: list[Block] = [FigureGroup(figures)] if figures else []
    best = _best(tuning)
    return [*blocks, Disclosure(best.caption, (best,))] if best.rows else blocks


def _stopped(tuning: TuningReport) -> bool:
    return any(not trial.whole for trial in tuning.trials)


def _history(tuning: TuningReport) -> Figure | None:
    if not tuning.trials:
        return None
    stopped = _stopped(tuning)
    lost = ", a cross where it gave no number" if any(trial.value is None for trial in tuning.trials) else ""
    trial = f"a trial{', hollow where stopped early' if stopped else ''}, a triangle where above the axis{lost}"
    legend = (
        LegendEntry("best so far" + (", of trials that saw all rows" if stopped else ""), "line", "--blue"),
        LegendEntry(tuning.reference, "dashed", "--soft"),
        LegendEntry(trial, colour="--grey"),
        LegendEntry("the winner", colour="--orange"),
    )
    return Figure("Value by trial, less is better", history_plot("history", tuning), legend, run_on=True)


def _weights(tuning: TuningReport, final: tuple[float, ...]) -> Figure | None:
    if not tuning.members:
        return None
    heaviest = sorted(range(len(final)), key=lambda place: (-abs(final[place]), place))[:WEIGHT_BARS]
    short = brief(tuning.members, 200)
    rows = [
        Bar(short[name], weight, f"{weight:.3f} (plan {planned:.3f})", other=planned, strong=True)
        for place, (name, weight, planned) in enumerate(zip(tuning.members, final, tuning.planned, strict=True))
        if place in heaviest
    ]
    title = "Weights of the final recipe" if tuning.adaptation is None else "Weights of the merge that is trained on"
    legend = (LegendEntry("tuned", colour="--blue"), LegendEntry("plan", colour="--grey"))
    return Figure(title, bar_plot("tuned", title, rows), legend, run_on=True)


def _parallel(tuning: TuningReport) -> Figure | None:
    if not tuning.trials or not tuning.members:
        return None
    axes = axes_of(tuning)
    winner = "the winner" + ("; dashed where stopped early" if _stopped(tuning) else "")
    legend = (
        LegendEntry("from the worst trials to the best", "ramp"),
        LegendEntry(winner, "line", "--orange"),
    )
    numbered = () if len(axes) <= NAMED_AXES else tuple((place + 1, tuning.members[place]) for place in axes)
    svg = parallel_coordinate_plot("parallel", tuning)
    return Figure("Weights and value of the trials", svg, legend, run_on=True, axes=numbered)


def _pareto(tuning: TuningReport) -> Figure | None:
    if not any(len(trial.values) == 2 for trial in tuning.trials):
        return None
    hollow = ", hollow where stopped early" if _stopped(tuning) else ""
    legend = (
        LegendEntry("the front, which no trial beats on both", "line", "--blue"),
        LegendEntry(f"a trial{hollow}, a triangle where off the axes", colour="--grey"),
        LegendEntry("the winner", colour="--orange"),
    )
    title = "The two tasks against each other, less is better"
    return Figure(title, pareto_plot("pareto", tuning), legend, run_on=True)


def _best(tuning: TuningReport) -> Table:
    """The best trials and the winner, which may be the plan itself: that stays where nothing beats it beyond noise."""
    ranked = sorted((t for t in tuning.trials if t.value is not None), key=lambda t: (t.value, t.number))
    kept = {trial.number for trial in ranked[:_BEST]} | {tuning.winner}

    def cells(trial: TrialReport) -> tuple[str, ...]:
        weights = ", ".join(f"{weight:.2f}" for weight in trial.weights[:8]) + (", …" if trial.weights[8:] else "")
        state = "winner" if trial.number == tuning.winner else "" if trial.whole else "stopped early"
        values = " / ".join("none" if value is None else f"{value:.4g}" for value in trial.values)
        return (str(trial.number), trial.label, values, weights, trial.composition, str(trial.forwards), state)

    headers = ("trial", "from", "value", "weights", "composition", "passes", "")
    rows = tuple(cells(trial) for trial in ranked if trial.number in kept)
    return Table("The best trials", headers, rows, right=(0, 2, 3, 5))
