"""The sections about the gain over the base: by number of members, and by what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from merge_advisor.benchmark.analysis.curves import CostPoint, Sweep
from merge_advisor.benchmark.analysis.findings import Findings, ResultSlice
from merge_advisor.benchmark.report.common_blocks import (
    arm_classes,
    arm_label,
    arm_legend,
    bench_section,
    cut_table,
    figures,
    folded,
    slice_words,
)
from merge_advisor.benchmark.report.drawing import cost_plot, sweep_plot
from merge_advisor.benchmark.report.wording import amount, interval_text
from merge_advisor.report.document import Block, Figure, LegendEntry, Paragraph, Section, Table


def sizes_section(findings: Findings) -> Section | None:
    """Return the gain over the base by number of members; None where no arm has several sizes.

    Args:
        findings: with the sweeps over k.
    """
    if not findings.sweeps:
        return None
    drawn: list[Figure] = []
    tables: list[Block] = []
    for number, (at, sweeps) in enumerate(findings.sweeps):
        title = f"Gain over the base by k: {slice_words(at)}"
        svg = sweep_plot(f"sweep{number}", title, sweeps, arm_classes(findings))
        drawn.append(Figure(title, svg, arm_legend(findings)))
        tables += folded(_sizes_table(findings, title, at, sweeps))
    text = "Intervals are drawn for the arms of the primary question; tables/k_sweep.csv has all of them."
    return bench_section("sizes", "How many members", Paragraph(text), *figures(drawn), *tables)


def _sizes_table(findings: Findings, title: str, at: ResultSlice, sweeps: Sequence[Sweep]) -> Table:
    sizes = sorted({point.k for sweep in sweeps for point in sweep.points})
    rows = []
    for sweep in sweeps:
        gains = {point.k: amount(point.mean, at.metric) for point in sweep.points}
        rows.append((arm_label(sweep.arm, findings), *(gains.get(k, "") for k in sizes)))
    headers = ("arm", *(f"k = {k}" for k in sizes))
    return cut_table(title, headers, rows, tuple(range(1, len(headers))))


def costs_section(findings: Findings) -> Section | None:
    """Return the gain over the base by what it cost; None where the base was not measured.

    Args:
        findings: with the costs of the arms.
    """
    if not findings.costs:
        return None
    drawn: list[Figure] = []
    tables: list[Block] = []
    for number, (at, points) in enumerate(findings.costs):
        title = f"Gain over the base by cost: {slice_words(at)}, k = {at.k}"
        svg = cost_plot(f"cost{number}", title, points, arm_classes(findings))
        oracle = (LegendEntry("oracle", "ring", "--grey"),) if any(point.oracle for point in points) else ()
        front = LegendEntry("nothing cheaper is better", "dashed", "--soft")
        drawn.append(Figure(title, svg, arm_legend(findings, front, *oracle)))
        tables += folded(_costs_table(findings, title, at, points))
    text = "What choosing, finetuning and tuning cost a unit. Embedding the pool is paid once for a pool and not in it."
    return bench_section("costs", "Cost and gain", Paragraph(text), *figures(drawn), *tables)


def _costs_table(findings: Findings, title: str, at: ResultSlice, points: Sequence[CostPoint]) -> Table:
    rows = [
        (
            arm_label(point.arm, findings),
            f"{point.forwards:,.0f}",
            amount(point.mean, at.metric),
            interval_text(point.lower, point.upper, at.metric),
        )
        for point in points
    ]
    return cut_table(title, ("arm", "forwards", "gain", "95% interval"), rows, (1, 2, 3))
