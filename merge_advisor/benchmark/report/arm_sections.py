"""The sections that compare all arms: what each reached, their ranks, and every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from merge_advisor.benchmark.analysis.curves import TaskTable
from merge_advisor.benchmark.analysis.findings import ArmSummary, Findings, ResultSlice, arm_order
from merge_advisor.benchmark.analysis.means import family_means, values_by_arm
from merge_advisor.benchmark.report.common_blocks import (
    arm_classes,
    arm_label,
    arm_legend,
    bench_section,
    cut_table,
    family_label,
    figures,
    folded,
    slice_words,
    titled,
)
from merge_advisor.benchmark.report.csv_tables import task_differences
from merge_advisor.benchmark.report.drawing import rank_plot
from merge_advisor.benchmark.report.heat_map import heat_limit, heat_map
from merge_advisor.benchmark.report.wording import amount, loss_text, p_phrase, sentence, share_text
from merge_advisor.benchmark.values import View
from merge_advisor.report.document import Block, Figure, LegendEntry, Paragraph, Section, Table


def arms_section(findings: Findings) -> Section | None:
    """Return what each arm reached: those that can be compared, the oracles, and the views side by side.

    Args:
        findings: with the arm_summaries of the arms.
    """
    if not findings.summaries:
        return None
    views = tuple(dict.fromkeys(level.view for level in findings.summaries))
    main = findings.main.view if findings.main.view in views else views[0]
    ordered = _ordered_levels(findings)
    there = [by_view[main] for by_view in ordered.values() if main in by_view]
    shares = ("accuracy", "over base", "valid format", "accuracy if valid")
    headers = ("arm", "k", *shares, "loss", "judged", "forwards", "results", "failed")
    right = tuple(range(1, len(headers)))
    free = [_level_row(level) for level in there if not level.oracle]
    oracles = [_level_row(level) for level in there if level.oracle]
    note = "These read the held-out answers: they show what there is to gain and are compared with nothing."
    text = (
        f"Means over families, at k = {findings.main.k} where an arm has it. Over base: points of accuracy, on the"
        " units that the arm and the base both have. Forwards are nominal passes over one row, a unit; loss is in nats"
        " per token, less is better; judged is the loss that rows are judged by, over the choices where there are some."
    )
    # oracles apart: beside the others they would look like arms that can be chosen
    return bench_section(
        "arms",
        "Arms and controls",
        Paragraph(text),
        *titled(cut_table(f"All that can be compared, {main}", headers, free, right)),
        *titled(cut_table(f"Oracles, {main}", headers, oracles, right), note),
        *(titled(_views_table(findings, ordered, views)) if len(views) > 1 else ()),
    )


def _ordered_levels(findings: Findings) -> dict[tuple[str, int], dict[View, ArmSummary]]:
    """What is shown of each arm, by arm and k and then by view: the main k, or all of an arm that lacks it."""
    with_main_k = {level.arm for level in findings.summaries if level.k == findings.main.k}
    rows: dict[tuple[str, int], dict[View, ArmSummary]] = {}
    for level in findings.summaries:
        if level.k == findings.main.k or level.arm not in with_main_k:
            rows.setdefault((level.arm, level.k), {})[level.view] = level
    order = arm_order(findings.setup, findings.results)
    keys = sorted(rows, key=lambda key: (key[0] in findings.oracles, order.index(key[0]), key[1]))
    return {key: rows[key] for key in keys}


def _level_row(level: ArmSummary) -> tuple[str, ...]:
    return (
        level.arm,
        str(level.k),
        share_text(level.accuracy),
        amount(level.over_base, "accuracy"),
        share_text(level.valid),
        share_text(level.accuracy_valid),
        loss_text(level.loss),
        loss_text(level.judged),
        "" if level.forwards is None else f"{level.forwards:,.0f}",
        str(level.done),
        str(level.failed),
    )


def _views_table(
    findings: Findings, ordered: Mapping[tuple[str, int], Mapping[View, ArmSummary]], views: Sequence[View]
) -> Table:
    headers = ("arm", *(f"{metric}, {view}" for metric in ("accuracy", "loss") for view in views))
    rows = []
    for (arm, k), by_view in ordered.items():
        name = arm_label(arm, findings) + ("" if k == findings.main.k else f", k = {k}")
        arm_summaries = [by_view.get(view) for view in views]
        accuracies = ["" if level is None else share_text(level.accuracy) for level in arm_summaries]
        rows.append((name, *accuracies, *("" if level is None else loss_text(level.loss) for level in arm_summaries)))
    return cut_table("The views side by side", headers, rows, tuple(range(1, len(headers))))


def ranks_section(findings: Findings) -> Section | None:
    """Return the mean ranks of all arms and which cannot be told apart; None where there are fewer than two arms.

    Args:
        findings: with the ranking.
    """
    ranking, main = findings.ranking, findings.main
    if ranking is None or len(ranking.arms) < 2:
        return None
    title = f"Mean rank over families: {main.metric}, {main.view}, k = {main.k}"
    svg = rank_plot("ranks", title, ranking, arm_classes(findings))
    legend = arm_legend(findings, LegendEntry("not told apart", "upright", "--ink"))
    bars = ranking.cliques
    rows = [
        (arm, f"{rank:.2f}", ", ".join(str(number) for number, bar in enumerate(bars, 1) if arm in bar))
        for arm, rank in zip(ranking.arms, ranking.mean_ranks, strict=True)
    ]
    return bench_section(
        "ranks",
        "Ranks",
        Paragraph(sentence(f"{ranking.reason}; Friedman's test: {p_phrase(ranking.friedman)}")),
        Paragraph(
            "Bars, numbered in the table, join arms of which no two differ: sign-flip test over families, Holm-adjusted"
            " over all pairs, p < .05."
        ),
        *figures([Figure(title, svg, legend)]),
        *folded(cut_table(title, ("arm", "mean rank", "bars"), rows, (1,))),
    )


def tasks_section(findings: Findings) -> Section | None:
    """Return every arm on every task, and by family; None where nothing was measured.

    Args:
        findings: with the tables of tasks.
    """
    if not findings.tasks:
        return None
    at, table = next(((at, table) for at, table in findings.tasks if at == findings.main), findings.tasks[0])
    tables: list[Block] = []
    for place, _ in findings.tasks:
        family_table = _family_table(findings, place)
        tables += titled(family_table) if place == at else folded(family_table)
    return bench_section("tasks", "Tasks and families", *figures(_heat_map(findings, at, table)), *tables)


def _heat_map(findings: Findings, at: ResultSlice, table: TaskTable) -> list[Figure]:
    """The heat map; none where the reference is the only arm."""
    table = _in_order(table, findings)
    gaps = task_differences(table, findings.reference)
    # the column of the reference would be zero throughout
    kept = [place for place, arm in enumerate(table.arms) if arm != findings.reference]
    if not kept:
        return []
    drawn = replace(table, arms=tuple(table.arms[place] for place in kept))
    differences = [[row[place] for place in kept] for row in gaps]
    title = f"Each arm minus {findings.reference}, by task: {slice_words(at)}, k = {at.k}"
    ends = amount(heat_limit(differences), at.metric).lstrip("+")
    legend = (
        LegendEntry(f"worse by {ends} or more", "heat down4", "--orange"),
        LegendEntry("equal", "heat same", "--grid"),
        LegendEntry(f"better by {ends} or more", "heat up4", "--blue"),
        LegendEntry("no result", "heat none", "--page"),
    )
    svg = heat_map("heat", title, drawn, differences, points=at.metric == "accuracy")
    return [Figure(title, svg, legend, wide=True)]


def _in_order(table: TaskTable, findings: Findings) -> TaskTable:
    """The table with the arms in the report's order, oracles last."""
    order, oracles = arm_order(findings.setup, findings.results), findings.oracles
    places = sorted(range(len(table.arms)), key=lambda n: (table.arms[n] in oracles, order.index(table.arms[n])))
    return replace(
        table,
        arms=tuple(table.arms[place] for place in places),
        values=tuple(tuple(row[place] for place in places) for row in table.values),
    )


def _family_table(findings: Findings, at: ResultSlice) -> Table:
    measured = values_by_arm(findings.results, at.metric, at.view, at.k)
    values = {arm: family_means(units) for arm, units in measured.items()}
    arms = [arm for arm in arm_order(findings.setup, findings.results) if arm in values]
    arms.sort(key=lambda arm: arm in findings.oracles)  # stable: both kinds keep the order of the setup
    tasks = {result.unit.task: result.unit.family for result in findings.results}
    families = sorted({family for by_family in values.values() for family in by_family})
    asked = next(
        (c for c in findings.contrasts if c.question == findings.setup.primary and at == findings.main), None
    )  # fmt: skip
    gaps = {} if asked is None else dict(zip(asked.families, asked.differences, strict=True))

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}%" if at.metric == "accuracy" else f"{-value:.3f}"

    first = (f"{asked.question.better} − {asked.question.than}",) if asked else ()
    headers = ("family", "tasks", *first, *(arm_label(arm, findings) for arm in arms))
    rows = [
        (
            family_label(family, findings),
            str(list(tasks.values()).count(family)),
            *((amount(gaps.get(family), at.metric),) if asked else ()),
            *(cell(values[arm].get(family)) for arm in arms),
        )
        for family in families
    ]
    caption = f"{'Accuracy' if at.metric == 'accuracy' else 'Loss'} by family, {at.view}, k = {at.k}"
    return cut_table(caption, headers, rows, tuple(range(1, len(headers))))
