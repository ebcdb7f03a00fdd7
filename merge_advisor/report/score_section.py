"""The sections of a run's report about scores: one a task, and the table of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from merge_advisor.plain_text import shortened
from merge_advisor.report.document import (
    Block,
    Figure,
    FigureGroup,
    Heading,
    LegendEntry,
    Paragraph,
    RowChanges,
    Section,
    Table,
)
from merge_advisor.report.plots import Bar, Whisker, bar_plot, forest_plot
from merge_advisor.report.run_wording import guard_text, measured_text
from merge_advisor.report.score_table import (
    METRIC_TITLES,
    SCORE_HEADERS,
    SCORE_RIGHT,
    difference_text,
    hardest_rival,
    row_changes,
    score_rows,
    trade_off,
    value_text,
)
from merge_advisor.scores import Comparison, Score
from merge_advisor.types import Task

_ROWS_SHOWN = 20
"""Rows won, and rows lost, listed for one task; the rest is counted."""
_TASK_HEADER = 60
"""Characters of a task's name over a column of the page's trade-off table: there is one column a task."""


def score_section(place: int, score: Score, task: Task, *, alone: bool) -> Section:
    """Return the section of one task: its figures, its score table, the guard, and the rows won and lost.

    Args:
        place: of the task among the tasks, from 0; it makes the ids on the page unique.
        score: of the task.
        task: with the held-out rows.
        alone: whether no other task was scored: then the verdict over all tasks says it already.
    """
    blocks: list[Block] = [] if alone else [Paragraph(f": {score.reason}.", strong=score.verdict)]
    blocks.append(Paragraph(measured_text(score)))
    blocks.append(FigureGroup((_score_bars(place, score), _differences(place, score))))
    blocks.append(Table("Scores", SCORE_HEADERS, score_rows(score), SCORE_RIGHT))
    blocks += [Paragraph(note) for note in score.notes]
    if score.guard is not None:
        blocks.append(Paragraph(guard_text(score.guard)))
    hardest = hardest_rival(score)
    if hardest is not None:
        won, lost = row_changes(score, hardest, {row.digest: row for row in task.heldout})
        blocks.append(RowChanges("won", hardest, won[:_ROWS_SHOWN], len(won)))
        blocks.append(RowChanges("lost", hardest, lost[:_ROWS_SHOWN], len(lost)))
    link = "Scores" if alone else f"Scores: {shortened(task.name, 200)}"
    return Section(f"scores-{place + 1}", Heading("Scores: ", task.name), tuple(blocks), link)


def _score_bars(place: int, score: Score) -> Figure:
    rows = []
    for model in score.models:
        value = model.metrics.get(score.metric)
        shown = "" if value is None else value_text(value, score.metric)
        rows.append(Bar(model.label, value, shown, strong=model.label == "merge"))
    title = f"Score of each model: {METRIC_TITLES.get(score.metric, score.metric)}"
    return Figure("Score of each model", bar_plot(f"bars{place}", title, rows, percent=score.metric != "loss"))


def _differences(place: int, score: Score) -> Figure:
    units = 1 if score.metric == "loss" else 100  # a share is drawn in points

    def whisker(comparison: Comparison) -> Whisker:
        numbers = (comparison.difference, comparison.lower, comparison.upper)
        value, lower, upper = (difference_text(number, score.metric) for number in numbers)
        drawn, low, high = (units * number for number in numbers)
        return Whisker(comparison.against, drawn, low, high, f"{value} ({lower} to {upper})")

    title = "Merge minus each model, with 95% intervals"
    rows = [whisker(comparison) for comparison in score.comparisons]
    legend = (
        LegendEntry("better beyond noise", colour="--blue"),
        LegendEntry("worse beyond noise", colour="--orange"),
        LegendEntry("the rows do not tell", colour="--grey"),
    )
    svg = forest_plot(f"forest{place}", title, rows, ends=("merge is worse", "merge is better"))
    return Figure(title, svg, legend, run_on=True)


def trade_off_section(scores: Sequence[Score]) -> Section | None:
    """Return the table of models by tasks; None where there are fewer than two tasks.

    Args:
        scores: one per task.
    """
    if len(scores) < 2:
        return None
    headers, rows = trade_off(scores)
    right = tuple(range(1, len(headers) - 1))
    table = Table("Models by tasks", headers, rows, right, header_length=_TASK_HEADER)
    return Section("all-tasks", Heading("One merge for all tasks"), (table,))
