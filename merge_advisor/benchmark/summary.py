"""A benchmark in a terminal: the table of the primary question, what it says, and where the rest is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from merge_advisor.benchmark.families import family_means, mean
from merge_advisor.benchmark.values import Question, Result
from merge_advisor.report.tables import text_table

if TYPE_CHECKING:
    from merge_advisor.benchmark.running import Benchmark


def summary_of(found: Benchmark) -> str:
    """Return the table, the contrasts, what cannot be shown, and the files."""
    measured, question = found.measured, found.measured.setup.primary
    lines = [f"{question.view}, k {question.k}, means over families:", *_table(measured.results, question)]
    for number, contrast in enumerate(found.contrasts):
        asked = contrast.question
        label = f"{'secondary' if number else 'primary'} ({asked.metric}, {asked.view}, k {asked.k})"
        lines.append(f"{label}: {contrast.reason}")
    lines += [f"note: {note}" for note in measured.notes]
    if measured.failed:
        lines.append(
            f"failed: {len(measured.failed)} of {measured.wanted} results, the first: {measured.failed[0].reason}"
        )
    lines.append(f"wrote {measured.folder}: report.html, report.md, tables/, results.sqlite")
    return "\n".join(lines)


def _table(results: Sequence[Result], question: Question) -> list[str]:
    by_arm: defaultdict[str, list[Result]] = defaultdict(list)
    for result in results:
        if (result.view, result.k, result.status) == (question.view, question.k, "done"):
            by_arm[result.arm].append(result)
    rows = []
    for arm, mine in sorted(by_arm.items(), key=lambda item: -over_families(item[1], "accuracy")):
        loss = f"{over_families(mine, 'loss'):.3f}" if all(r.loss is not None for r in mine) else ""
        oracle = " (oracle)" if mine[0].oracle and not arm.endswith("-oracle") else ""
        spent = f"{fmean(r.forwards for r in mine):.0f}"
        rows.append([arm + oracle, f"{100 * over_families(mine, 'accuracy'):.1f}", loss, spent, str(len(mine))])
    return [text_table(["arm", "accuracy", "loss", "forwards", "units"], rows)] if rows else ["nothing is done yet"]


def over_families(results: Sequence[Result], field: str) -> float:
    """Mean over families of the mean over their tasks of the mean over the task's units."""
    return mean([*family_means({result.unit: getattr(result, field) for result in results}).values()])
