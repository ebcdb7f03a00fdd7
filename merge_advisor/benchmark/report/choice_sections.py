"""The sections about choosing: which members the two arms of the primary question took, and what that promised."""

from __future__ import annotations

from merge_advisor.benchmark.analysis.choices import TaskChoices
from merge_advisor.benchmark.analysis.findings import Findings
from merge_advisor.benchmark.analysis.means import paired_differences, task_means, values_by_arm
from merge_advisor.benchmark.analysis.prediction import Agreement
from merge_advisor.benchmark.report.common_blocks import bench_section, cut_table, family_label, figures, folded, titled
from merge_advisor.benchmark.report.drawing import reliability_plot
from merge_advisor.benchmark.report.wording import amount, sentence
from merge_advisor.report.document import Figure, LegendEntry, Paragraph, Section

_MEMBERS = 4
"""Members of a task that are named; `tables/chosen_members.csv` has all."""


def chosen_section(findings: Findings) -> Section | None:
    """Return what the two arms of the primary question chose, task by task, and what came of it; None: neither chose.

    Args:
        findings: with the members chosen.
    """
    asked, at = findings.setup.primary, findings.main
    pair = (asked.better, asked.than)
    here = [c for c in findings.chosen if (c.view, c.k) == (at.view, at.k) and c.arm in pair]
    if not here:
        return None
    by_task: dict[str, dict[str, TaskChoices]] = {}
    for one in sorted(here, key=lambda one: (one.family, one.task)):
        by_task.setdefault(one.task, {})[one.arm] = one
    gaps = _task_gaps(findings)
    arm_headers = tuple(f"{arm}: {what}" for arm in pair for what in ("kin", "gain"))
    headers = ("task", "family", f"{asked.better} − {asked.than}", *arm_headers)
    rows = [
        (
            task,
            family_label(next(iter(arms.values())).family, findings),
            amount(gaps.get(task), at.metric),
            *(cell for arm in pair for cell in _kin_and_gain(arms.get(arm))),
        )
        for task, arms in by_task.items()
    ]
    names = [(task, *(_members_text(arms.get(arm)) for arm in pair)) for task, arms in by_task.items()]
    text = (
        "Kin: in how many units a member was trained on a task of the same family (empty: the pool has none). Gain:"
        " what choosing promised, and what came of it on the held-out rows, nats, means over units (see below)."
    )
    return bench_section(
        "chosen",
        "What was chosen, and what came of it",
        Paragraph(text),
        *titled(cut_table(f"By task, {at.view}, k = {at.k}", headers, rows, right=(2, 3, 4, 5, 6))),
        *folded(cut_table("Who was chosen most often, and in how many units", ("task", *pair), names)),
    )


def _task_gaps(findings: Findings) -> dict[str, float]:
    """Primary's difference on each task, on the units that both arms have."""
    at, asked = findings.main, findings.setup.primary
    values = values_by_arm(findings.results, at.metric, at.view, at.k)
    gaps = paired_differences(values.get(asked.better, {}), values.get(asked.than, {}))
    return {task: gap for (_, task), gap in task_means(gaps).items()}


def _kin_and_gain(choices: TaskChoices | None) -> tuple[str, str]:
    if choices is None:
        return "", ""
    kin = "" if choices.kin is None else f"{choices.kin} of {choices.units}"
    # a promise without a measurement, or the other way round, compares nothing
    if choices.predicted is None or choices.measured is None:
        return kin, ""
    return kin, f"{choices.predicted:+.2f}, {choices.measured:+.2f}"


def _members_text(choices: TaskChoices | None) -> str:
    if choices is None:
        return ""
    named = [f"{member.id} {member.units}" for member in choices.members[:_MEMBERS]]
    more = len(choices.members) - _MEMBERS
    return ", ".join(named + ([f"{more} more"] if more > 0 else []))


def promises_section(findings: Findings) -> Section | None:
    """Return what choosing promised against what was measured; None where nothing was promised.

    Args:
        findings: with the agreement of promises and measurements.
    """
    agreement = findings.agreement
    if agreement is None or not agreement.promises:
        return None
    title = "Measured gain against the predicted one"
    legend = (
        LegendEntry("an arm on a task", colour="--grey"),
        LegendEntry("means of equal counts", "line", "--blue"),
        LegendEntry("measured as predicted", "dashed", "--soft"),
    )
    headers = ("predicted from", "to", "mean predicted", "mean measured", "merges")
    rows = [
        (f"{b.lowest:+.3f}", f"{b.highest:+.3f}", f"{b.predicted:+.3f}", f"{b.measured:+.3f}", str(b.count))
        for b in agreement.bins
    ]
    return bench_section(
        "promises",
        "Does the predicted gain come true?",
        *map(Paragraph, _promise_texts(findings, agreement)),
        *figures([Figure(title, reliability_plot("reliability", title, agreement), legend)]),
        *folded(cut_table("Predicted and measured gain, nats", headers, rows, (0, 1, 2, 3, 4))),
    )


def _promise_texts(findings: Findings, agreement: Agreement) -> list[str]:
    texts = [sentence(f"{findings.main.view}, k = {findings.main.k}: {agreement.reason}")]
    if any(result.came is not None for result in findings.results):
        texts.append("Where members were chosen by choices, a gain is that of the right choice among them, nats a row.")
    if agreement.within is not None:
        ends = (agreement.within_lower, agreement.within_upper)
        interval = "" if None in ends else f" ({ends[0]:+.2f} to {ends[1]:+.2f})"
        texts.append(
            f"Among the merges of one unit it is {agreement.within:+.2f}{interval}: this is free of what tasks differ"
            " by."
        )
    return texts
