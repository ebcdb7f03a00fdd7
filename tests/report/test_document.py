"""The document model: every kind of block is written by both renderers, or left out on purpose."""

from importlib.resources import files
from typing import get_args

import pytest

from merge_advisor.report.document import (
    Beside,
    Block,
    BulletList,
    Code,
    Disclosure,
    Document,
    Facts,
    Figure,
    FigureGroup,
    Heading,
    Headline,
    LegendEntry,
    OnlyIn,
    Paragraph,
    RowChange,
    RowChanges,
    Section,
    Subheading,
    Table,
    TextBlock,
)
from merge_advisor.report.html import to_html
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.svg import figure
from merge_advisor.report.terminal import to_text
from tests.support.pages import check, texts

SVG = figure("plot", "a plot", "of nothing", 10, [])
MARK = '<svg aria-hidden="true"></svg>'
PLOT = Figure("a plot", SVG, (LegendEntry("better", colour="--blue"),))
EXAMPLES: dict[type, Block] = {
    Paragraph: Paragraph(" word", strong="needle"),
    Subheading: Subheading("needle"),
    BulletList: BulletList(("needle", "other"), strong="conflict"),
    Facts: Facts((("name", "needle"),)),
    Table: Table("caption", ("header", "needle"), (("a", "1"),), right=(1,)),
    Figure: Figure("needle", SVG, (LegendEntry("better", colour="--blue"),), run_on=True, axes=((1, "axis"),)),
    FigureGroup: FigureGroup((Figure("needle", SVG),)),
    Beside: Beside(Figure("", SVG, (LegendEntry("mark", svg=MARK),), note="needle", wide=True), (Subheading("x"),)),
    Code: Code(("needle", "more")),
    RowChanges: RowChanges("won", "base", (RowChange("1234abcd", "needle", "yes", "no", "yes"),), 3),
    Disclosure: Disclosure("needle", (Paragraph("text"),)),
    OnlyIn: OnlyIn("page", (Paragraph("needle"),)),
}
PAGE_ONLY = {Figure, FigureGroup, Beside, OnlyIn}


def document(*blocks: Block) -> Document:
    facts = Facts((("base", "b"),))
    sections = (Section("one", Heading("One: ", "name"), blocks, "link"), Section("two", Heading("Two"), (PLOT,)))
    return Document(
        Heading("Title of ", "it"), Headline("Answer", "none", "word", "sentence."), facts, (facts,), sections
    )


def test_every_kind_of_block_has_an_example() -> None:
    assert set(EXAMPLES) == set(get_args(Block))


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_both_renderers_write_every_kind_of_block_or_leave_it_out_on_purpose(kind: type) -> None:
    example = document(EXAMPLES[kind])
    if kind in (Figure, FigureGroup, Beside):  # the plot of the second section would have the same ids
        example = Document(example.heading, example.headline, example.facts, example.opening, example.sections[:1])
    assert "needle" in texts(check(to_html(example)))
    assert ("needle" in to_markdown(example)) == (kind not in PAGE_ONLY)


def test_a_section_for_one_file_and_one_without_text() -> None:
    sections = (
        Section("page", Heading("Page"), (Paragraph("a"),), "to the page", only="page"),
        Section("markdown", Heading("Markdown"), (Paragraph("b"),), "to Markdown", only="markdown"),
        Section("plot", Heading("Plot"), (PLOT,)),
    )
    facts = Facts(())
    whole = Document(Heading("T"), Headline("A", "none", "w", "s"), facts, (), sections)
    page, text = check(to_html(whole)), to_markdown(whole)
    assert [element.text for element in page.all("h2")] == ["Page", "Plot"]
    assert [element.text for element in page.all("a")] == ["to the page"]
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Markdown"]


def test_blocks_of_a_terminal() -> None:
    blocks: tuple[TextBlock, ...] = (
        Paragraph("one\ntwo"),
        Table("files in run", ("file", "what"), (("a", "b"),)),
        Code(("merge-advisor tune run",), title="next"),
    )
    assert (
        to_text(blocks) == "one\ntwo\n\nfiles in run\nfile  what\n----  ----\na     b\n\nnext\n  merge-advisor tune run"
    )
    assert to_text(blocks[:1] * 2, gap="\n") == "one\ntwo\none\ntwo"


def test_templates_and_style_sheets_lie_in_the_package() -> None:
    """What is no Python file is easily left out of a wheel."""
    package = files("merge_advisor")
    for path in ("report/templates/page.html.j2", "report/templates/style.css", "benchmark/report/bench.css"):
        assert package.joinpath(path).read_text(encoding="utf-8")
