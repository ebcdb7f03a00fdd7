"""A benchmark in a terminal: the table of the primary question, what it says, and where the rest is."""

from __future__ import annotations

from collections.abc import Sequence

from merge_advisor.benchmark.analysis.findings import arm_summaries
from merge_advisor.benchmark.report.wording import amount, listed_contrasts, loss_text, unanswered
from merge_advisor.benchmark.values import Benchmark, Question, Result, Setup
from merge_advisor.report.document import Paragraph, Table, TextBlock


def bench_blocks(benchmark: Benchmark) -> tuple[TextBlock, ...]:
    """Return what a terminal shows: a table, then one paragraph a line, with no line between them.

    Args:
        benchmark: results and contrasts.
    """
    measured = benchmark.measured
    lines = []
    for number, contrast in enumerate(listed_contrasts(benchmark.contrasts)):
        role = "secondary" if number else "primary"
        lines.append(f"{role} ({contrast.question.metric}, {_place(contrast.question)}): {contrast.reason}")
    if left := unanswered(benchmark.contrasts[1:]):
        lines.append(f"not answered: {left}")
    lines += [f"note: {note}" for note in measured.notes]
    if failed := measured.failed:
        lines.append(f"failed: {len(failed)} of {measured.wanted} results, the first: {failed[0].reason}")
    lines.append(f"wrote {measured.folder}: report.html, report.md, tables/, results.sqlite")
    return (*_arm_table(measured.setup, measured.results), *map(Paragraph, lines))


def _place(question: Question) -> str:
    return f"{question.view}, k {question.k}"


def _arm_table(setup: Setup, results: Sequence[Result]) -> tuple[TextBlock, ...]:
    """The arms where the primary question is asked, the best first."""
    asked = setup.primary
    here = [
        summary
        for summary in arm_summaries(setup, results)
        if (summary.view, summary.k) == (asked.view, asked.k) and summary.done
    ]
    rows = []
    for summary in sorted(here, key=lambda summary: -(summary.accuracy or 0.0)):
        # some arms are called oracles already
        oracle = " (oracle)" if summary.oracle and not summary.arm.endswith("-oracle") else ""
        accuracy = "" if summary.accuracy is None else f"{100 * summary.accuracy:.1f}"
        spent = "" if summary.forwards is None else f"{summary.forwards:.0f}"
        gain, loss = amount(summary.over_base, "accuracy"), loss_text(summary.loss)
        rows.append((summary.arm + oracle, accuracy, gain, loss, spent, str(summary.done)))
    caption = f"{_place(asked)}, means over families:"
    if not rows:
        return Paragraph(caption), Paragraph("nothing is done yet")
    headers = ("arm", "accuracy", "over base", "loss", "forwards", "units")
    return (Table(caption, headers, tuple(rows)),)
