"""The sections about `auto`: what it took, and whether the chances that it stated came true."""

from __future__ import annotations

from collections import Counter

from merge_advisor.benchmark.analysis.findings import Findings, arm_order
from merge_advisor.benchmark.report.common_blocks import bench_section, cut_table, figures, titled
from merge_advisor.benchmark.report.drawing import calibration_plot
from merge_advisor.benchmark.report.wording import sentence
from merge_advisor.report.document import Block, Figure, LegendEntry, Paragraph, Section


def taken_section(findings: Findings) -> Section | None:
    """Return what each arm of `auto` took, and in how many units; None where none is.

    Args:
        findings: with the results.
    """
    at = findings.main
    counts: dict[str, Counter[str]] = {}
    for result in findings.results:
        if (result.view, result.k, result.status) == (at.view, at.k, "done") and result.options:
            counts.setdefault(result.arm, Counter())[result.options[0][0]] += 1
    if not counts:
        return None
    names = sorted({name for taken in counts.values() for name in taken})
    order = [arm for arm in arm_order(findings.setup, findings.results) if arm in counts]
    rows = [(arm, *(str(counts[arm][name]) for name in names), str(counts[arm].total())) for arm in order]
    table = cut_table(
        f"Units by what was taken, {at.view}, k = {at.k}",
        ("arm", *names, "units"),
        rows,
        tuple(range(1, len(names) + 2)),
    )
    return bench_section("taken", "What auto took", *titled(table))


def calibration_section(findings: Findings) -> Section | None:
    """Return stated chances of a gain against what came; None where none was stated.

    Args:
        findings: with the calibrations.
    """
    if not findings.calibrations:
        return None
    blocks: list[Block] = []
    for number, found in enumerate(findings.calibrations):
        title = f"How often {found.arm} was better than {found.than}, by the stated chance"
        legend = (
            LegendEntry("a unit: came true above, did not below", colour="--grey"),
            LegendEntry("means of equal counts", "line", "--blue"),
            LegendEntry("comes true as often as stated", "dashed", "--soft"),
        )
        headers = ("mean stated", "came", "units")
        rows = [(f"{100 * one.chance:.0f}%", f"{100 * one.came:.0f}%", str(one.count)) for one in found.bins]
        verdict = (
            "Plans may show such chances."
            if found.calibrated
            else "No plan shows such a chance: they are not calibrated."
        )
        blocks += [
            Paragraph(f"{sentence(f'{found.arm}: {found.reason}')} {verdict}"),
            *figures([Figure(title, calibration_plot(f"calibration{number}", title, found), legend)]),
            *titled(cut_table(title, headers, rows, (0, 1, 2))),
        ]
    return bench_section("calibration", "Do stated chances come true?", *blocks)
