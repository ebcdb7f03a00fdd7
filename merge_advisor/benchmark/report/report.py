"""The report of a benchmark: report.md, report.html (one page that asks for nothing) and the numbers as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from merge_advisor.benchmark.analysis.choices import NO_KIN
from merge_advisor.benchmark.analysis.findings import Findings, make_findings
from merge_advisor.benchmark.report.parts import Section
from merge_advisor.benchmark.report.sections import sections
from merge_advisor.benchmark.report.tables import frames, write_tables
from merge_advisor.benchmark.report.words import bench_facts, headline
from merge_advisor.benchmark.values import Contrast, LateAddition, Result, Setup
from merge_advisor.report.html import environment
from merge_advisor.report.tables import escaped, markdown_table, printable, shortened
from merge_advisor.whole_files import write_text

_CELL = 200
"""Characters of a cell, a name or a reason that are shown; the CSV has all."""


def write_report(
    folder: Path,
    setup: Setup,
    results: Sequence[Result],
    contrasts: Sequence[Contrast],
    kin: Mapping[str, str] = NO_KIN,
    added: Sequence[LateAddition] = (),
) -> None:
    """Write `report.md`, `report.html` and `tables/*.csv` into a folder; the same values give the same bytes.

    Args:
        folder: is there already.
        setup: what was asked.
        results: those there are: some may have failed, all may be missing.
        contrasts: answers to the setup's questions, p values adjusted; the primary is found by its question.
        kin: family of each candidate, by id; empty: not known.
        added: parts of the setup that came when results were there.

    Raises:
        RunError: no permission, or no room.
    """
    found = make_findings(setup, results, contrasts, kin, added)
    parts = [_cut(section) for section in sections(found)]
    write_tables(folder / "tables", frames(found))
    write_text(folder / "report.md", markdown_text(found, parts))
    write_text(folder / "report.html", html_text(found, parts))


def markdown_text(found: Findings, parts: Sequence[Section]) -> str:
    """Return the report as Markdown, with a final newline; pictures are left to the page."""
    _, word, sentence = headline(found)
    lines = [f"# Benchmark {escaped(found.setup.name)}", f"**{escaped(word)}** — {escaped(sentence)}."]
    lines.append("\n".join(f"- {name}: {escaped(value)}" for name, value in bench_facts(found)))
    lines.append("The plots are in report.html, the numbers behind each in tables/.")
    for section in parts:
        lines.append(f"## {section.title}")
        lines += [escaped(text) for text in section.text]
        if section.bullets:
            lines.append("\n".join(f"- {escaped(bullet)}" for bullet in section.bullets))
        shown = [grid for grid in section.grids if grid.rows]
        for grid in shown:
            lines += [f"### {escaped(grid.caption)}"] if grid.caption != section.title else []
            lines += [escaped(grid.note)] if grid.note else []
            lines.append(markdown_table(grid.headers, grid.rows, right=grid.right))
        lines += ["\n".join("    " + printable(line) for line in code.split("\n")) for code in section.code]
    return "\n\n".join(lines) + "\n"


def html_text(found: Findings, parts: Sequence[Section]) -> str:
    """Return the report as one HTML page, with a final newline."""
    kind, word, sentence = headline(found)
    page = environment().get_template("bench.html.j2")
    return page.render(
        name=found.setup.name,
        kind=kind,
        word=word,
        sentence=sentence,
        facts=bench_facts(found),
        sections=parts,
    )


def _cut(section: Section) -> Section:
    """The section with cells that can be read at a glance."""

    def cut(cells: Sequence[str]) -> tuple[str, ...]:
        return tuple(shortened(cell, _CELL) for cell in cells)

    grids = (replace(grid, headers=cut(grid.headers), rows=tuple(map(cut, grid.rows))) for grid in section.grids)
    return replace(section, grids=tuple(grids))
