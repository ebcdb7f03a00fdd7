"""report.md: what was asked, what was chosen, what it is worth, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merge_advisor.report.scores import (
    METRIC_TITLES,
    SCORE_HEADERS,
    SCORE_RIGHT,
    difference_text,
    hardest_rival,
    row_changes,
    score_rows,
    trade_off,
    value_text,
)
from merge_advisor.report.tables import escaped, markdown_table, printable, shortened
from merge_advisor.report.values import Side, SimilarityMap, TuningReport
from merge_advisor.scores import GuardScore, Score, Verdict
from merge_advisor.types import Member, Recipe, RefusedModel, Row, Selection, Task

INPUT_LENGTH = 60
"""Characters of an input, an output or a target shown in a table of rows."""
ROWS_SHOWN = 20
"""Rows won, and rows lost, listed for one task; the rest is counted."""
MEMBER_HEADERS = ("member", "role", "weight", "similarity", "gain", "sign conflict", "overlap")
MEMBER_RIGHT = (2, 3, 4, 5, 6)
"""Columns aligned on the right."""
SPLIT_HEADERS = ("task", "shots", "tuning", "held-out")
SIDE_HEADERS = ("task", "metric", "part", "rows", "reference", "winner", "gain", "95% interval")
SIDE_RIGHT = (3, 4, 5, 6, 7)

ADVICE = {
    Verdict.MERGE: "Use the merge.",
    Verdict.USE_ANCHOR: "Use the anchor alone; the merge adds nothing to it.",
    Verdict.TRAIN_ON_EXAMPLES: "Use the LoRA trained on your examples alone; the merge adds nothing to it.",
    Verdict.NO_GAIN: "Use the base as it is; nothing in this pool helps.",
    Verdict.UNDECIDED: "The held-out rows do not tell; see why below.",
}


@dataclass(frozen=True, slots=True)
class ReportInput:
    """All a report tells; text in it is shown as text, whatever characters it holds."""

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
    forwards: Mapping[str, int] = field(default_factory=dict)
    """Nominal cost in forward passes over one row, by step."""
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


def markdown_report(report: ReportInput) -> str:
    """Return the report as Markdown, with a final newline; the same values give the same bytes."""
    scores = {score.task: score for score in report.scores}
    parts = [
        _head(report),
        _verdict(report),
        *(_scored(scores[task.name], task, alone=len(scores) == 1) for task in report.tasks if task.name in scores),
        _trade_off(report.scores),
        _members(report),
        _tuning(report.tuning),
        _splits(report.tasks),
        _licences(report),
        _refused(report.refused),
        _section("Notes", _bullets(report.notes)),
        _cost(report.forwards),
        _next(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(items: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(item)}" for item in items)


def run_facts(report: ReportInput) -> list[tuple[str, str]]:
    """Return what was merged and how, as pairs of a word and its value."""
    recipe = report.recipe
    revision = f" at {recipe.base.revision}" if recipe.base.revision else ""
    rank = "" if recipe.rank is None else f", cut to rank {recipe.rank} (relative error {report.rank_error:.2g})"
    groups = f", weights by layer group times {', '.join(f'{x:.3g}' for x in recipe.layers)}" if recipe.layers else ""
    return [
        ("base", recipe.base.id + revision),
        ("pool", f"{_count(report.pool_size, 'candidate')}, {len(report.refused)} set aside"),
        ("template", recipe.template),
        ("strategy", f"{report.selection.strategy} ({report.selection.stopped})"),
        ("composition", recipe.composition + groups + rank),
    ]


def _head(report: ReportInput) -> str:
    names = ", ".join(task.name for task in report.tasks)
    lines = [f"- {name}: {escaped(value)}" for name, value in run_facts(report)]
    return "\n".join([f"# Merge plan for {escaped(names)}", "", *lines])


def _verdict(report: ReportInput) -> str:
    if report.verdict is None:
        return _section("Verdict", "Not scored yet.")
    return _section("Verdict", f"**{report.verdict}** — {ADVICE[report.verdict]}\n\n{escaped(report.reason)}.")


def _scored(score: Score, task: Task, *, alone: bool) -> str:
    """The score table of one task, the guard, and the rows won and lost against the model hardest to beat."""
    parts = [] if alone else [f"**{score.verdict}**: {escaped(score.reason)}."]
    parts += [escaped(measured_text(score)), markdown_table(SCORE_HEADERS, score_rows(score), right=SCORE_RIGHT)]
    if score.guard is not None:
        parts.append(guard_text(score.guard))
    hardest = hardest_rival(score)
    if hardest is not None:
        parts.append(_changes(score, hardest, {row.digest: row for row in task.heldout}))
    return _section(f"Scores: {escaped(task.name)}", "\n\n".join(parts))


def measured_text(score: Score) -> str:
    """Return what a score's numbers are, in two sentences."""
    measured = (
        f"{METRIC_TITLES.get(score.metric, score.metric)} on {len(score.row_digests)} held-out rows, "
        f"by {score.evaluator}"
    )
    return f"{measured[0].upper()}{measured[1:]}. Positive differences favour the merge; loss is in nats per token."


def guard_text(guard: GuardScore) -> str:
    """Return what the merge costs on unrelated text, in a sentence."""
    outcome = "the merge is ruled out" if guard.regressed else "no regression"
    return (
        f"Guard: loss on {guard.rows} unrelated texts {guard.base:.3f} (base) and {guard.merge:.3f} (merge), "
        f"difference {guard.merge - guard.base:+.3f} ({guard.lower:+.3f} to {guard.upper:+.3f}): {outcome}."
    )


def _trade_off(scores: Sequence[Score]) -> str:
    if len(scores) < 2:
        return ""
    headers, rows = trade_off(scores)
    return _section("One merge for all tasks", markdown_table(headers, rows, right=range(1, len(headers) - 1)))


def _changes(score: Score, against: str, rows: Mapping[str, Row]) -> str:
    parts = []
    headers = ("row", "input", "wanted", against, "merge")
    for word, found in zip(("won", "lost"), row_changes(score, against, rows), strict=True):
        parts.append(f"### Rows {word} against {escaped(against)}: {len(found)}")
        if found:
            shown = [[shortened(printable(cell), INPUT_LENGTH) for cell in row] for row in found[:ROWS_SHOWN]]
            parts.append(markdown_table(headers, shown))
        if len(found) > ROWS_SHOWN:
            parts.append(f"and {len(found) - ROWS_SHOWN} more, see the score's file")
    return "\n\n".join(parts)


def _members(report: ReportInput) -> str:
    rows = [member_row(member) for member in report.selection.members]
    return _section("Members", f"{markdown_table(MEMBER_HEADERS, rows, right=MEMBER_RIGHT)}\n\n{scale_text(report)}")


def scale_text(report: ReportInput) -> str:
    """Return what the weights sum to, in a sentence."""
    return f"Weights sum to 1 before one scale of {report.selection.scale:.4g}."


def member_row(member: Member) -> list[str]:
    """Return the cells of a member under `MEMBER_HEADERS`."""
    conflict = member.interference
    return [
        member.id,
        member.role,
        f"{member.weight:.4f}",
        _number(member.similarity, ".3f"),
        _number(member.gain, ".4g"),
        _number(conflict.sign_conflict if conflict else None, ".3f"),
        _number(conflict.overlap if conflict else None, ".3f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def tuning_text(tuning: TuningReport) -> str:
    """Return what was tuned, at which cost, and which trial won, in sentences."""
    stopped = sum(not trial.whole for trial in tuning.trials)
    early = f", {stopped} of them stopped early" if stopped else ""
    won = tuning.won
    named = "" if won is None else f" ({won.label}, {won.composition})"
    value = "" if won is None or won.value is None else f", value {won.value:.4g}"
    return (
        f"{_count(len(tuning.trials), 'trial')} by {tuning.sampler}{early}, {tuning.forwards} forward passes. "
        f"Goal: {tuning.goal}. Winner: trial {tuning.winner}{named}{value}; it is compared with {tuning.reference}."
    )


def side_row(side: Side) -> list[str]:
    """Return the cells of a comparison of reference and winner under `SIDE_HEADERS`."""
    reached = ["" if v is None else value_text(v, side.metric) for v in (side.reference, side.winner)]
    gain = "" if side.gain is None else difference_text(side.gain, side.metric)
    ends = [difference_text(v, side.metric) for v in (side.lower, side.upper) if v is not None]
    return [side.task, side.metric, side.part, str(side.rows), *reached, gain, " to ".join(ends)]


def _tuning(tuning: TuningReport | None) -> str:
    if tuning is None:
        return ""
    rows = [side_row(side) for side in tuning.sides]
    parts = [escaped(tuning_text(tuning)), markdown_table(SIDE_HEADERS, rows, right=SIDE_RIGHT) if rows else ""]
    final = tuning.planned if tuning.won is None else tuning.won.weights
    weights = [[m, f"{a:.4f}", f"{b:.4f}"] for m, a, b in zip(tuning.members, tuning.planned, final, strict=True)]
    parts.append(markdown_table(("member", "planned weight", "tuned weight"), weights, right=(1, 2)))
    return _section("Tuning", "\n\n".join(part for part in (*parts, _bullets(tuning.notes)) if part))


def _splits(tasks: Sequence[Task]) -> str:
    table = markdown_table(SPLIT_HEADERS, split_rows(tasks), right=(1, 2, 3))
    return _section("Splits", f"{table}\n\n{escaped(shared_text(tasks))}")


def split_rows(tasks: Sequence[Task]) -> list[list[str]]:
    """Return the cells of each task under `SPLIT_HEADERS`."""
    return [[t.name, str(len(t.shots)), str(len(t.tuning)), str(len(t.heldout))] for t in tasks]


def shared_text(tasks: Sequence[Task]) -> str:
    """Return whether a row stands in two parts of a task, in a sentence."""
    shared = [
        task.name
        for task in tasks
        if len({r.digest for r in (*task.shots, *task.tuning, *task.heldout)})
        < len(task.shots) + len(task.tuning) + len(task.heldout)
    ]
    return f"Rows occur in two parts of: {', '.join(shared)}." if shared else "The parts are disjoint by hash."


def _licences(report: ReportInput) -> str:
    rows = [[member.id, member.licence or "not stated"] for member in report.selection.members]
    conflicts = "\n".join(f"- **conflict**: {escaped(conflict)}" for conflict in report.conflicts)
    table = markdown_table(("member", "licence"), rows)
    return _section("Licences", f"{table}\n\n{conflicts or 'No conflict found among them.'}")


def _refused(refused: Sequence[RefusedModel]) -> str:
    if not refused:
        return ""
    return _section("Set aside", markdown_table(("model", "why"), [[found.id, found.reason] for found in refused]))


def _cost(forwards: Mapping[str, int]) -> str:
    if not forwards:
        return ""
    table = markdown_table(("step", "passes"), cost_rows(forwards), right=(1,))
    return _section("Cost, in forward passes over one row", table)


def cost_rows(forwards: Mapping[str, int]) -> list[list[str]]:
    """Return the steps with their forward passes, and their sum."""
    return [[step, str(passes)] for step, passes in (*forwards.items(), ("all", sum(forwards.values())))]


def _next(report: ReportInput) -> str:
    files = markdown_table(("file", "what it is"), [list(pair) for pair in report.files]) if report.files else ""
    # an indented block shows a command as it is, whatever it holds
    commands = "\n".join("    " + printable(command) for command in report.commands)
    return "\n\n".join(part for part in (_section("Files", files), _section("Next", commands)) if part)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
