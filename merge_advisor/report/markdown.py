"""report.md: what was asked, what was chosen, what it is worth, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merge_advisor.report.scores import NAMES, SCORE_HEADERS, SCORE_RIGHT, row_changes, score_rows, trade_off
from merge_advisor.report.tables import escaped, markdown_table, printable, shortened
from merge_advisor.types import Member, Recipe, Refused, Row, Score, Selection, Task, Verdict

INPUT_LENGTH = 60
"""Characters of an input, an output or a target shown in a table of rows."""
ROWS_SHOWN = 20
"""Rows won, and rows lost, listed for one task; the rest is counted."""

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
    refused: tuple[Refused, ...] = ()
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


def markdown_report(report: ReportInput) -> str:
    """Return the report as Markdown, with a final newline; the same values give the same bytes."""
    scores = {score.task: score for score in report.scores}
    parts = [
        _head(report),
        _verdict(report),
        *(_scored(scores[task.name], task, alone=len(scores) == 1) for task in report.tasks if task.name in scores),
        _trade_off(report.scores),
        _members(report),
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


def _head(report: ReportInput) -> str:
    recipe = report.recipe
    names = ", ".join(task.name for task in report.tasks)
    revision = f" at {recipe.base.revision}" if recipe.base.revision else ""
    rank = "" if recipe.rank is None else f", cut to rank {recipe.rank} (relative error {report.rank_error:.2g})"
    groups = f", weights by layer group times {', '.join(f'{x:.3g}' for x in recipe.layers)}" if recipe.layers else ""
    facts = (
        ("base", recipe.base.id + revision),
        ("pool", f"{_count(report.pool_size, 'candidate')}, {len(report.refused)} set aside"),
        ("template", recipe.template),
        ("strategy", f"{report.selection.strategy} ({report.selection.stopped})"),
        ("composition", recipe.composition + groups + rank),
    )
    lines = [f"- {name}: {escaped(value)}" for name, value in facts]
    return "\n".join([f"# Merge plan for {escaped(names)}", "", *lines])


def _verdict(report: ReportInput) -> str:
    if report.verdict is None:
        return _section("Verdict", "Not scored yet.")
    return _section("Verdict", f"**{report.verdict}** — {ADVICE[report.verdict]}\n\n{escaped(report.reason)}.")


def _scored(score: Score, task: Task, *, alone: bool) -> str:
    """The score table of one task, the guard, and the rows won and lost against the model hardest to beat."""
    measured = (
        f"{NAMES.get(score.metric, score.metric)} on {len(score.row_digests)} held-out rows, by {score.evaluator}"
    )
    told = f"{measured[0].upper()}{measured[1:]}. Positive differences favour the merge; loss is in nats per token."
    parts = [] if alone else [f"**{score.verdict}**: {escaped(score.reason)}."]
    parts += [escaped(told), markdown_table(SCORE_HEADERS, score_rows(score), right=SCORE_RIGHT)]
    if score.guard is not None:
        guard = score.guard
        outcome = "the merge is ruled out" if guard.regressed else "no regression"
        parts.append(
            f"Guard: loss on {guard.rows} unrelated texts {guard.base:.3f} (base) and {guard.merge:.3f} (merge), "
            f"difference {guard.merge - guard.base:+.3f} ({guard.lower:+.3f} to {guard.upper:+.3f}): {outcome}."
        )
    rivals = [found for found in score.comparisons if found.against in ("base", "anchor", "shots_lora")]
    if rivals:
        hardest = min(rivals, key=lambda found: found.difference).against
        parts.append(_changes(score, hardest, {row.digest: row for row in task.heldout}))
    return _section(f"Scores: {escaped(task.name)}", "\n\n".join(parts))


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
    headers = ("member", "role", "weight", "similarity", "gain", "sign conflict", "overlap")
    body = markdown_table(headers, [_member(m) for m in report.selection.members], right=(2, 3, 4, 5, 6))
    scale = f"Weights sum to 1 before one scale of {report.selection.scale:.4g}."
    return _section("Members", f"{body}\n\n{scale}")


def _member(member: Member) -> list[str]:
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


def _splits(tasks: Sequence[Task]) -> str:
    rows = [[t.name, str(len(t.shots)), str(len(t.tuning)), str(len(t.heldout))] for t in tasks]
    table = markdown_table(("task", "shots", "tuning", "held-out"), rows, right=(1, 2, 3))
    shared = [
        task.name
        for task in tasks
        if len({r.digest for r in (*task.shots, *task.tuning, *task.heldout)})
        < len(task.shots) + len(task.tuning) + len(task.heldout)
    ]
    told = f"Rows occur in two parts of: {escaped(', '.join(shared))}." if shared else "The parts are disjoint by hash."
    return _section("Splits", f"{table}\n\n{told}")


def _licences(report: ReportInput) -> str:
    rows = [[member.id, member.licence or "not stated"] for member in report.selection.members]
    conflicts = "\n".join(f"- **conflict**: {escaped(conflict)}" for conflict in report.conflicts)
    table = markdown_table(("member", "licence"), rows)
    return _section("Licences", f"{table}\n\n{conflicts or 'No conflict found among them.'}")


def _refused(refused: Sequence[Refused]) -> str:
    if not refused:
        return ""
    return _section("Set aside", markdown_table(("model", "why"), [[found.id, found.reason] for found in refused]))


def _cost(forwards: Mapping[str, int]) -> str:
    if not forwards:
        return ""
    rows = [[step, str(passes)] for step, passes in forwards.items()]
    rows.append(["all", str(sum(forwards.values()))])
    return _section("Cost, in forward passes over one row", markdown_table(("step", "passes"), rows, right=(1,)))


def _next(report: ReportInput) -> str:
    files = markdown_table(("file", "what it is"), [list(pair) for pair in report.files]) if report.files else ""
    # an indented block shows a command as it is, whatever it holds
    commands = "\n".join("    " + printable(command) for command in report.commands)
    return "\n\n".join(part for part in (_section("Files", files), _section("Next", commands)) if part)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")
