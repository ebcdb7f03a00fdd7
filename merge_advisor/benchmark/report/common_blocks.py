"""What several sections of a benchmark's report share: tables that can be read at a glance, labels, legends."""

from __future__ import annotations

from collections.abc import Iterable

from merge_advisor.benchmark.analysis.findings import Findings, ResultSlice
from merge_advisor.benchmark.report.wording import UNIT_WORDS
from merge_advisor.plain_text import shortened
from merge_advisor.report.document import (
    Block,
    Disclosure,
    Figure,
    FigureGroup,
    Heading,
    LegendEntry,
    Paragraph,
    Section,
    Subheading,
    Table,
)

_CELL = 200
"""Characters of a cell, a name or a reason that are shown: a reason may be long; the CSV has all of it."""


def bench_section(id_: str, title: str, *blocks: Block) -> Section:
    """Return a section that the page links to under its title.

    Args:
        id_: its anchor.
        title: its heading.
        blocks: what stands under it.
    """
    return Section(id_, Heading(title), blocks, link=title)


def cut_table(
    caption: str, headers: Iterable[str], rows: Iterable[Iterable[str]], right: tuple[int, ...] = ()
) -> Table:
    """Return a table with cells cut to what can be read at a glance.

    Args:
        caption: what it shows.
        headers: one per column.
        rows: cells.
        right: positions of the columns of numbers.
    """

    def cut(cells: Iterable[str]) -> tuple[str, ...]:
        return tuple(shortened(cell, _CELL) for cell in cells)

    return Table(caption, cut(headers), tuple(cut(row) for row in rows), right)


def titled(table: Table, note: str = "") -> tuple[Block, ...]:
    """Return a table under its caption; nothing where it has no rows.

    Args:
        table: the table.
        note: a sentence above it; empty: none.
    """
    if not table.rows:
        return ()
    return (Subheading(table.caption), *((Paragraph(note),) if note else ()), table)


def folded(table: Table) -> tuple[Block, ...]:
    """Return a table that a reader of the page unfolds; nothing where it has no rows.

    Args:
        table: the table.
    """
    return (Disclosure(table.caption, (table,)),) if table.rows else ()


def figures(drawn: Iterable[Figure]) -> tuple[Block, ...]:
    """Return figures as one block; nothing where there are none.

    Args:
        drawn: the figures.
    """
    group = tuple(drawn)
    return (FigureGroup(group),) if group else ()


def better_entry(words: str) -> LegendEntry:
    """Return the legend of the arm that the primary question asks about, or of what is better.

    Args:
        words: what the mark means.
    """
    return LegendEntry(words, colour="--blue")


def worse_entry(words: str) -> LegendEntry:
    """Return the legend of the arm that the primary question compares with, or of what is worse.

    Args:
        words: what the mark means.
    """
    return LegendEntry(words, colour="--orange")


def other_entry(words: str) -> LegendEntry:
    """Return the legend of everything else.

    Args:
        words: what the mark means.
    """
    return LegendEntry(words, colour="--grey")


def arm_legend(findings: Findings, *more: LegendEntry) -> tuple[LegendEntry, ...]:
    """Return the legend of a figure of all arms: the two of the primary question stand out.

    Args:
        findings: with the primary question.
        more: entries behind these.
    """
    asked = findings.setup.primary
    return (better_entry(asked.better), worse_entry(asked.than), other_entry("other arms"), *more)


def arm_classes(findings: Findings) -> dict[str, str]:
    """Return the CSS class of each of the two arms of the primary question, by arm.

    Args:
        findings: with the primary question.
    """
    asked = findings.setup.primary
    return {asked.than: "worse", asked.better: "better"}


def arm_label(arm: str, findings: Findings) -> str:
    """Return an arm's name, an oracle marked as one.

    Args:
        arm: its name.
        findings: where it has results.
    """
    return f"{arm} (oracle)" if arm in findings.oracles else arm


def family_label(family: str, findings: Findings) -> str:
    """Return a family's name, one that ideas were tried out on marked as such.

    Args:
        family: its name.
        findings: with the setup that lists those.
    """
    return f"{family} (tried)" if family in findings.setup.tasks.tried else family


def slice_words(at: ResultSlice) -> str:
    """Return the unit and the view of a table or a figure, for its title.

    Args:
        at: where it is taken.
    """
    return f"{UNIT_WORDS[at.metric]}, {at.view}"
