"""The document model: what a report says, apart from how it is written down.

A builder (`run_document` for a run, `benchmark.report.document` for a benchmark) makes one `Document`; `to_markdown`
and `to_html` write it, and `to_text` writes blocks for a terminal. Figures are for the page alone. Where the two
files differ in content, the document says so: a section with `only`, or blocks inside `OnlyIn`.

All text in a document is plain text, whatever characters it holds: the renderers escape it. The one exception is the
SVG of a `Figure` or a `LegendEntry`, which `report.svg` made and escaped already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Medium = Literal["markdown", "page"]
"""Where a part of a document is shown: in report.md or in report.html."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: words of ours, then a name from elsewhere, which the page isolates from the words' direction.

    >>> Heading("Scores: ", "my task").text
    'Scores: my task'
    """

    words: str
    name: str = ""

    @property
    def text(self) -> str:
        """Words and name together."""
        return self.words + self.name


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph, its beginning in bold where `strong` is given.

    >>> Paragraph(": the merge is better.", strong="merge").strong
    'merge'
    """

    text: str
    strong: str = ""
    soft: bool = False
    """Whether the page shows it in a fainter colour, as a remark."""


@dataclass(frozen=True, slots=True)
class Subheading:
    """A heading inside a section.

    >>> Subheading("Notes").text
    'Notes'
    """

    text: str


@dataclass(frozen=True, slots=True)
class BulletList:
    """A list of sentences.

    >>> BulletList(("gpl-3.0 and mit do not go together",), strong="conflict").strong
    'conflict'
    """

    items: tuple[str, ...]
    strong: str = ""
    """A word in bold before each item."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Pairs of a word and its value.

    >>> Facts((("seed", "0"),)).pairs
    (('seed', '0'),)
    """

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text.

    >>> table = Table("Members", ("member", "weight"), (("legal", "0.750"),), right=(1,))
    >>> table.rows[0]
    ('legal', '0.750')
    """

    caption: str
    """What it shows: read aloud on the page, above the table in a terminal (unless empty)."""
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()
    """Positions of the columns aligned on the right (numbers)."""
    header_length: int = 200
    """Characters of a header that the page shows."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A mark of a figure and what it means.

    >>> LegendEntry("better", colour="--blue").colour
    '--blue'
    """

    words: str
    swatch: str = ""
    """CSS class of the mark: "line", "dashed", "band", …; empty: a filled square."""
    colour: str = ""
    """CSS variable of its colour; empty: the class has one."""
    svg: str = ""
    """A mark as the plot draws it, instead of a swatch."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with its legend; Markdown leaves it out.

    >>> Figure("Weights", "<svg/>").legend
    ()
    """

    title: str
    """Above the plot; empty: none."""
    svg: str
    legend: tuple[LegendEntry, ...] = ()
    run_on: bool = False
    """Whether the legend runs on like a sentence; otherwise no entry is broken over two lines."""
    note: str = ""
    """A sentence below the legend."""
    axes: tuple[tuple[int, str], ...] = ()
    """Numbers in the plot that stand for names too long to fit."""
    wide: bool = False
    """Whether it takes the width of the page."""


@dataclass(frozen=True, slots=True)
class FigureGroup:
    """Figures beside one another where there is room; Markdown leaves them out.

    >>> len(FigureGroup((Figure("Weights", "<svg/>"),)).figures)
    1
    """

    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """A figure with other blocks beside it; only for the page.

    >>> Beside(Figure("", "<svg/>"), (Paragraph("what it shows"),)).blocks[0].text
    'what it shows'
    """

    figure: Figure
    blocks: tuple[Paragraph | Subheading | Table, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy: commands, or a file.

    >>> Code(("merge-advisor tune run",), title="next").lines
    ('merge-advisor tune run',)
    """

    lines: tuple[str, ...]
    title: str = ""
    """Above the lines, in a terminal only."""


@dataclass(frozen=True, slots=True)
class RowChange:
    """A held-out row that the merge won or lost against another model.

    >>> RowChange("1a2b3c4d", "2 + 2 =", "4", other="5", merge="4").wanted
    '4'
    """

    digest: str
    """The first eight characters of the row's digest."""
    input: str
    wanted: str
    other: str
    """What the other model gave; empty where a metric has no outputs."""
    merge: str
    place: str = ""
    """The file it stands in and the line there; empty where that is not known."""

    @property
    def name(self) -> str:
        """What it is called in a table.

        >>> RowChange("1a2b3c4d", "2 + 2 =", "4", "5", "4", place="sums.jsonl:7").name
        'sums.jsonl:7'
        """
        return self.place or self.digest


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Rows won, or lost, against a model: a table in Markdown, rows in full to unfold on the page.

    >>> RowChanges("won", "anchor", (), 0).count
    0
    """

    word: Literal["won", "lost"]
    against: str
    """Label of the other model."""
    rows: tuple[RowChange, ...]
    """Those listed."""
    count: int
    """Of all, listed or not."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Blocks that a reader of the page unfolds; Markdown shows them under a heading.

    >>> Disclosure("The best trials", (Paragraph("none"),)).summary
    'The best trials'
    """

    summary: str
    blocks: tuple[Paragraph | Table, ...]


@dataclass(frozen=True, slots=True)
class OnlyIn:
    """Blocks that one of the two files leaves out.

    >>> OnlyIn("page", (Paragraph("see the plot"),)).medium
    'page'
    """

    medium: Medium
    blocks: tuple[Block, ...]


# one class a kind: a renderer that forgets one fails its type check, or a test where it is a template
Block: TypeAlias = (
    Paragraph
    | Subheading
    | BulletList
    | Facts
    | Table
    | Figure
    | FigureGroup
    | Beside
    | Code
    | RowChanges
    | Disclosure
    | OnlyIn
)
"""What a section is made of."""

TextBlock: TypeAlias = Paragraph | Table | Code
"""What a terminal shows."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the blocks under it.

    >>> Section("notes", Heading("Notes"), (Paragraph("none"),)).heading.text
    'Notes'
    """

    id: str
    """Its anchor on the page."""
    heading: Heading
    blocks: tuple[Block, ...]
    link: str = ""
    """Its entry in the page's list of sections; empty: none."""
    only: Medium | None = None
    """The one file that has it; None: both."""


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer, at the top of the page in large letters.

    >>> Headline("Verdict", "merge", "merge", "The merge is better.").word
    'merge'
    """

    label: str
    """What the answer is, read aloud."""
    kind: str
    """CSS class: "none", or the verdict."""
    word: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Document:
    """A report.

    >>> from merge_advisor.report.markdown import to_markdown
    >>> facts = Facts((("base", "owner/base"),))
    >>> notes = Section("notes", Heading("Notes"), (BulletList(("one row was empty",)),))
    >>> answer = Headline("Verdict", "none", "Not scored yet", "Run score.")
    >>> print(to_markdown(Document(Heading("Merge plan for ", "a task"), answer, facts, (facts,), (notes,))))
    # Merge plan for a task
    <BLANKLINE>
    - base: owner/base
    <BLANKLINE>
    ## Notes
    <BLANKLINE>
    - one row was empty
    <BLANKLINE>
    """

    heading: Heading
    headline: Headline
    """For the page; Markdown says the same in `opening` or in a section of its own."""
    facts: Facts
    """For the page's head."""
    opening: tuple[Block, ...]
    """For Markdown: what stands before the first section."""
    sections: tuple[Section, ...]
