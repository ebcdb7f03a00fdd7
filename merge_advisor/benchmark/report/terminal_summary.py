"""A benchmark in a terminal: the table of the primary question, what it says, and where the rest is."""

from __future__ import annotations

from collections.abc import Sequence

from merge_advisor.benchmark.analysis.findings import arm_summaries
from merge_advisor.benchmark.report import wording as words
from merge_advisor.benchmark.values import Benchmark, Result, Setup
from merge_advisor.report.document import Paragraph, Table, TextBlock


def bench_blocks(found: Benchmark) -> list[TextBlock]:
    """Return the table, the contrasts, what cannot be shown, and the files; a line each, with no line between them.

    Args:
        found: the benchmark.
    """
    measured, question = found.measured, found.measured.setup.primary
    heading = Paragraph(f"{question.view}, k {question.k}, means over families:")
    lines: list[str] = []
    for number, contrast in enumerate(words.shown(found.contrasts)):
        asked = contrast.question
        label = f"{'secondary' if number else 'primary'} ({asked.metric}, {asked.view}, k {asked.k})"
        lines.append(f"{label}: {contrast.reason}")
    if left := words.unanswered(found.contrasts[1:]):
        lines.append(f"not answered: {left}")
    lines += [f"note: {note}" for note in measured.notes]
    if measured.failed:
        lines.append(
            f"failed: {len(measured.failed)} of {measured.wanted} results, the first: {measured.failed[0].reason}"
        )
    lines.append(f"wrote {measured.folder}: report.html, report.md, tables/, results.sqlite")
    return [heading, _table(measured.setup, measured.results), *map(Paragraph, lines)]


def _table(setup: Setup, results: Sequence[Result]) -> TextBlock:
    """The arms where the primary question is asked, the best first."""
    asked = setup.primary
    here = [
        level
        for level in arm_summaries(setup, results)
        if (level.view, level.k) == (asked.view, asked.k) and level.done
    ]
    rows = []
    for level in sorted(here, key=lambda level: -(level.accuracy or 0.0)):
        oracle = " (oracle)" if level.oracle and not level.arm.endswith("-oracle") else ""
        accuracy = "" if level.accuracy is None else f"{100 * level.accuracy:.1f}"
        spent = "" if level.forwards is None else f"{level.forwards:.0f}"
        gain, loss = words.amount(level.over_base, "accuracy"), words.loss_text(level.loss)
        rows.append((level.arm + oracle, accuracy, gain, loss, spent, str(level.done)))
    headers = ("arm", "accuracy", "over base", "loss", "forwards", "units")
    return Table("", headers, tuple(rows)) if rows else Paragraph("nothing is done yet")
