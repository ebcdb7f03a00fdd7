"""The document of a run: what was asked, what was chosen, what it is worth, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merge_advisor.report.document import (
    Beside,
    Block,
    BulletList,
    Code,
    Disclosure,
    Document,
    Facts,
    Figure,
    Heading,
    Headline,
    LegendEntry,
    Paragraph,
    Section,
    Subheading,
    Table,
)
from merge_advisor.report.maps import similarity_map
from merge_advisor.report.plots import Bar, bar_plot
from merge_advisor.report.run_wording import (
    MEMBER_HEADERS,
    MEMBER_RIGHT,
    SPLIT_HEADERS,
    cost_rows,
    counted,
    member_cells,
    shared_text,
    split_rows,
)
from merge_advisor.report.score_section import score_section, trade_off_section
from merge_advisor.report.svg import brief, element, marked
from merge_advisor.report.tuning_section import WEIGHT_BARS, tuning_section
from merge_advisor.report.values import SimilarityMap, TuningReport
from merge_advisor.scores import Score, Verdict
from merge_advisor.types import Member, Recipe, RefusedModel, Selection, Task

_NEAREST = 12
"""Candidates listed beside the map."""
SET_ASIDE = 100
"""Models set aside that the page lists; the rest is counted. Markdown lists all."""


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All that a run's report says; text in it is shown as text, whatever characters it holds.

    >>> from merge_advisor.report.markdown import to_markdown
    >>> from merge_advisor.types import Base, RecipeMember
    >>> base = Base("owner/base", "c0ffee", "digest", "LlamaForCausalLM")
    >>> recipe = Recipe(1, base, "alpaca", "exact", None, (RecipeMember("a", "f", "adapter", "a", None, 1.0),))
    >>> member = Member("a", "f", "adapter", "a", None, None, "anchor", 1.0, 0.9, None, None)
    >>> report = ReportInput(recipe, Selection("top_k", (member,), 1.0, "k reached", 0), (), pool_size=6)
    >>> to_markdown(run_document(report)).splitlines()[2:5]
    ['- base: owner/base at c0ffee', '- pool: 6 candidates, 0 set aside', '- template: alpaca']
    """

    recipe: Recipe
    """What is merged: base, template, composition, members."""
    selection: Selection
    tasks: tuple[Task, ...]
    pool_size: int
    """Candidates that fit the base."""
    scores: tuple[Score, ...] = ()
    """One per task, by its name; empty where nothing was scored."""
    verdict: Verdict | None = None
    """Over all tasks; None where nothing was scored."""
    reason: str = ""
    refused: tuple[RefusedModel, ...] = ()
    conflicts: tuple[str, ...] = ()
    """Licences of the members that do not go together, one sentence each."""
    rank_error: float = 0.0
    """Relative Frobenius error of cutting the merge to the recipe's rank."""
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()
    """What the task files were understood as, a line each."""
    forwards: Mapping[str, int] = field(default_factory=dict)
    """Nominal cost in forward passes over one row, by step."""
    alternatives: tuple[tuple[str, int], ...] = ()
    """What scoring took, and what would have been done instead, each with its forward passes."""
    files: tuple[tuple[str, str], ...] = ()
    """Name in the run folder, and what it is (or why it is not there)."""
    commands: tuple[str, ...] = ()
    """What to type next, one command line each."""
    map: SimilarityMap | None = None
    """Where the pool and the task lie; None in runs made before it was kept."""
    similarity: Mapping[str, float | None] = field(default_factory=dict)
    """Cosine of each candidate's delta with the task's, by id."""
    tuning: TuningReport | None = None
    """None until the run was tuned."""
    adaptation: tuple[tuple[str, str], ...] = ()
    """How rows and pool became one model, as pairs of a word and its value; empty where the merge is as chosen."""
    weights_adapted: bool = False
    """Whether the weights of the selection are those of an adapted model."""
    compared: tuple[tuple[str, float, float, int], ...] = ()
    """What was compared for it, the best first: name, loss on rows held out, standard error of its difference to the
    best, forward passes."""


def run_document(report: ReportInput) -> Document:
    """Return the document of a run.

    Args:
        report: all that it says.
    """
    # by name: the sections follow the order of the tasks, whatever the order of the scores
    scores = {score.task: score for score in report.scores}
    alone = len(scores) == 1
    facts = Facts(tuple(_run_facts(report)))
    # one order for both files; the sections of one file alone stand where that file has them
    sections = [
        _verdict(report),
        *(
            score_section(place, scores[task.name], task, alone=alone)
            for place, task in enumerate(report.tasks)
            if task.name in scores
        ),
        trade_off_section(report.scores),
        _members(report),
        _adaptation(report) if report.adaptation else None,
        None if report.tuning is None else tuning_section(report.tuning),
        None if report.map is None else _map(report, report.map),
        *_markdown_endings(report),
        _rows_and_licences(report),
        _files_and_next_steps(report),
    ]
    return Document(
        heading=Heading("Merge plan for ", ", ".join(task.name for task in report.tasks)),
        headline=_headline(report),
        facts=facts,
        opening=(facts,),
        sections=tuple(section for section in sections if section is not None),
    )


def _run_facts(report: ReportInput) -> list[tuple[str, str]]:
    """What was merged and how, as pairs of a word and its value."""
    recipe = report.recipe
    revision = f" at {recipe.base.revision}" if recipe.base.revision else ""
    rank = "" if recipe.rank is None else f", cut to rank {recipe.rank} (relative error {report.rank_error:.2g})"
    groups = f", weights by layer group times {', '.join(f'{x:.3g}' for x in recipe.layers)}" if recipe.layers else ""
    return [
        ("base", recipe.base.id + revision),
        ("pool", f"{counted(report.pool_size, 'candidate')}, {len(report.refused)} set aside"),
        ("template", recipe.template),
        ("strategy", f"{report.selection.strategy} ({report.selection.stopped})"),
        ("composition", recipe.composition + groups + rank),
    ]


def _headline(report: ReportInput) -> Headline:
    if report.verdict is None:
        todo = "The score command measures the merge on rows it has not seen."
        return Headline("Verdict", "none", "Not scored yet", todo)
    return Headline("Verdict", report.verdict, report.verdict, f"{report.reason}.")


def _verdict(report: ReportInput) -> Section:
    """The headline in Markdown, which has no header above its sections."""
    blocks: tuple[Block, ...] = (Paragraph("Not scored yet."),)
    if report.verdict is not None:
        blocks = (Paragraph(f": {report.reason}.", strong=report.verdict),)
    return Section("verdict", Heading("Verdict"), blocks, only="markdown")


def _members(report: ReportInput) -> Section:
    members = report.selection.members
    rows = tuple(member_cells(member) for member in members)
    blocks: list[Block] = [
        Table("Members", MEMBER_HEADERS, rows, MEMBER_RIGHT),
        Paragraph(_weights_text(report)),
    ]
    if members and report.tuning is None:  # the section about tuning draws planned and tuned weights in one figure
        short = brief([member.id for member in members], 200)
        drawn = [Bar(short[member.id], member.weight, f"{member.weight:.3f}") for member in _heaviest(members)]
        blocks.append(Figure("Weights", bar_plot("weights", "Weights of the plan", drawn)))
    return Section("members", Heading("Members"), tuple(blocks), "Members")


def _weights_text(report: ReportInput) -> str:
    if not report.weights_adapted:
        return f"Weights sum to 1 before one scale of {report.selection.scale:.4g}."
    if report.tuning is None:
        return "Weights are as adapted, see below."
    return "Weights are those of the plan's own model; what was tuned is below."


def _adaptation(report: ReportInput) -> Section:
    blocks: list[Block] = [Table("How examples and pool became one model", ("", ""), report.adaptation)]
    if report.compared:
        rows = tuple((n, f"{loss:.3f}", f"{error:.3f}", str(cost)) for n, loss, error, cost in report.compared)
        headers = ("compared", "loss", "standard error", "passes")
        blocks.append(Table("Each judged on examples that it was not trained on", headers, rows, right=(1, 2, 3)))
    return Section("adaptation", Heading("Adaptation"), tuple(blocks), "Adaptation")


def _heaviest(members: Sequence[Member]) -> list[Member]:
    """The members of the largest weights, in their order."""
    ranked = sorted(range(len(members)), key=lambda place: (-abs(members[place].weight), place))
    return [members[place] for place in sorted(ranked[:WEIGHT_BARS])]


def _map(report: ReportInput, placed: SimilarityMap) -> Section:
    chosen = {member.id for member in report.selection.members}
    known = [(name, value) for name, value in report.similarity.items() if value is not None]
    nearest = sorted(known, key=lambda pair: (-pair[1], pair[0]))[:_NEAREST]
    rows = tuple((name, f"{value:.3f}", "member" if name in chosen else "") for name, value in nearest)
    table = Table("The candidates nearest to the task", ("candidate", "similarity", ""), rows, right=(1,))
    first, second = (f"{100 * share:.0f}%" for share in placed.shares)
    legend = (
        LegendEntry("the task", svg=_mark("cross", "task")),
        LegendEntry("anchor", svg=_mark("diamond", "member")),
        LegendEntry("partner", svg=_mark("circle", "member")),
        LegendEntry("another candidate", svg=_mark("circle", "candidate")),
    )
    note = (
        f"The deltas at unit length on their first two principal axes, which hold {first} and {second} of their"
        " variance. Near points are alike, as far as two axes can show it."
    )
    svg = similarity_map("map", placed, report.selection, report.similarity)
    blocks = (Subheading("Nearest to the task"), table) if rows else ()
    beside = Beside(Figure("", svg, legend, note=note, wide=True), blocks)
    return Section("map", Heading("Similarity map"), (beside,), "Map", only="page")


def _mark(shape: str, class_: str) -> str:
    """A mark as the map draws it, small enough to stand in a line of text."""
    return element("svg", marked(shape, 0, 0, 4, class_), class_="key", viewBox="-6 -6 12 12", aria_hidden="true")


def _splits(report: ReportInput) -> tuple[Block, ...]:
    table = Table("Rows by task", SPLIT_HEADERS, split_rows(report.tasks), right=(1, 2, 3))
    read = (BulletList(report.understood),) if report.understood else ()
    return (table, Paragraph(shared_text(report.tasks)), *read)


def _licences(report: ReportInput) -> tuple[Block, ...]:
    rows = tuple((member.id, member.licence or "not stated") for member in report.selection.members)
    conflicts = BulletList(report.conflicts, strong="conflict") if report.conflicts else None
    return (Table("Licences", ("member", "licence"), rows), conflicts or Paragraph("No conflict found among them."))


def _refused(report: ReportInput, limit: int | None = None) -> Table:
    rows = tuple((model.id, model.reason) for model in report.refused[:limit])
    return Table("Models set aside", ("model", "why"), rows)


def _files(report: ReportInput) -> tuple[Block, ...]:
    return (Table("Files", ("file", "what it is"), report.files),) if report.files else ()


def _cost(report: ReportInput) -> tuple[Table, ...]:
    made = Table("Cost", ("step", "passes"), cost_rows(report.forwards), right=(1,))
    if not report.alternatives:
        return (made,)
    others = tuple((what, str(passes)) for what, passes in report.alternatives)
    return (made, Table("Cost of scoring, and what it would have been instead", ("", "passes"), others, right=(1,)))


_COST = "Cost, in forward passes over one row"


def _markdown_endings(report: ReportInput) -> list[Section]:
    """The sections that end Markdown: one subject each, as there is nothing to unfold."""
    subjects: list[tuple[str, tuple[Block, ...]]] = [
        ("Splits", _splits(report)),
        ("Licences", _licences(report)),
        ("Set aside", (_refused(report),) if report.refused else ()),
        ("Notes", (BulletList(report.notes),) if report.notes else ()),
        (_COST, _cost(report) if report.forwards else ()),
        ("Files", _files(report)),
        ("Next", (Code(report.commands),) if report.commands else ()),
    ]
    return [
        Section(title.lower(), Heading(title), blocks, only="markdown") for title, blocks in subjects if blocks
    ]  # fmt: skip


def _rows_and_licences(report: ReportInput) -> Section:
    """The page's section about where rows and models come from."""
    blocks = [*_splits(report), *_licences(report)]
    if report.refused:  # folded and cut: a hub may hold thousands of models that do not fit
        more = len(report.refused) - SET_ASIDE
        rest = (Paragraph(f"and {more} more, see plan.json", soft=True),) if more > 0 else ()
        aside = (_refused(report, SET_ASIDE), *rest)
        blocks.append(Disclosure(f"Models set aside: {len(report.refused)}", aside))
    if report.notes:
        blocks += [Subheading("Notes"), BulletList(report.notes)]
    title = "Rows and licences"
    return Section("rows", Heading(title), tuple(blocks), title, only="page")


def _files_and_next_steps(report: ReportInput) -> Section:
    """The page's section about what to use and what to type; the cost comes last, for those who ask."""
    blocks = [*_files(report)]
    if report.commands:
        blocks.append(Code(report.commands))
    if report.forwards:
        blocks.append(Disclosure(_COST, _cost(report)))
    title = "Files and next steps"
    return Section("next", Heading(title), tuple(blocks), title, only="page")
