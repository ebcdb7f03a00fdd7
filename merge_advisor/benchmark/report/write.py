"""Write the report of a benchmark: report.md, report.html (one page that asks for nothing) and the numbers as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from merge_advisor.benchmark.analysis.choices import NO_FAMILIES
from merge_advisor.benchmark.analysis.findings import make_findings
from merge_advisor.benchmark.report.csv_files import write_tables
from merge_advisor.benchmark.report.csv_tables import csv_tables
from merge_advisor.benchmark.report.document import bench_document
from merge_advisor.benchmark.values import Contrast, LateAddition, Result, Setup
from merge_advisor.report.html import to_html
from merge_advisor.report.markdown import to_markdown
from merge_advisor.whole_files import write_text

_STYLE = Path(__file__).with_name("bench.css")


def write_report(
    folder: Path,
    setup: Setup,
    results: Sequence[Result],
    contrasts: Sequence[Contrast],
    families: Mapping[str, str] = NO_FAMILIES,
    added: Sequence[LateAddition] = (),
) -> None:
    """Write `report.md`, `report.html` and `tables/*.csv` into a folder; the same values give the same bytes.

    Args:
        folder: is there already.
        setup: what was asked.
        results: those there are: some may have failed, all may be missing.
        contrasts: answers to the setup's questions, p values adjusted; the primary is found by its question.
        families: family of each candidate, by id; empty: not known.
        added: parts of the setup that came when results were there.

    Raises:
        RunError: no permission, or no room.
    """
    findings = make_findings(setup, results, contrasts, families, added)
    document = bench_document(findings)
    write_tables(folder / "tables", csv_tables(findings))
    write_text(folder / "report.md", to_markdown(document))
    write_text(folder / "report.html", to_html(document, style=_STYLE.read_text(encoding="utf-8")))
