"""A run in words and plots: report.md, report.html, and what the terminal shows."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.report.markdown import ReportInput, markdown_report, tuning_text
from merge_advisor.report.scores import SCORE_HEADERS, SCORE_RIGHT, score_rows, trade_off
from merge_advisor.report.tables import text_table
from merge_advisor.report.values import Side, TuningReport
from merge_advisor.scores import Score
from merge_advisor.types import RefusedModel, Row, Task

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.formats import Format

FILES = {
    "recipe.json": "the merge, independent of any tool",
    "shots_lora": "the LoRA finetuned on the shots",
    "report.md": "this result in full",
    "report.html": "the same with plots, for a browser",
    "tune.json": "the trials of `tune` and which won",
    "study.sqlite": "the same as an Optuna study, for optuna-dashboard",
}
REPORTS = ("report.md", "report.html")
"""Listed before they are there: they list themselves."""


def files_of(run: Run) -> list[tuple[str, str]]:
    """Files a person will use, with what each is; a format that could not be written, with the reason."""
    found = [(name, text) for name, text in FILES.items() if name in REPORTS or (run.folder / name).exists()]
    for name in registry.names("format"):
        rendering: Format = registry.build("format", name)
        if (run.folder / rendering.writes).exists():
            found.append((rendering.writes, rendering.runs_with))
        else:
            found.append((rendering.writes, f"not written: {rendering.refusal(run.recipe)}"))
    return found


def commands_of(run: Run, folder: Path) -> list[str]:
    """What to type next, for a run in `folder`."""
    name = shlex.quote(str(folder))
    scored = [] if run.scores else [f"merge-advisor score {name} --task held_out.jsonl"]
    tune = [] if run.tuning else [f"merge-advisor tune {name}"]
    return [*scored, f'merge-advisor try {name} "a prompt"', *tune, f"merge-advisor merge {name} --out model"]


def report_input(run: Run, shown: Path | None = None) -> ReportInput:
    """Return what a report tells of a run; its commands name `shown`, where `run` is still written elsewhere."""
    plan = run.plan
    return ReportInput(
        recipe=run.recipe,
        selection=plan.selection,
        tasks=(*run.tasks, *_asked(run)),
        pool_size=sum(candidate.status != "refused" for candidate in plan.candidates),
        scores=run.scores,
        verdict=plan.verdict,
        reason=plan.reason,
        refused=tuple(RefusedModel(c.id, c.reason) for c in plan.candidates if c.status == "refused"),
        conflicts=plan.conflicts,
        rank_error=plan.rank_error,
        notes=(*plan.notes, *(f"{task.name}: {note}" for task in plan.tasks for note in task.notes)),
        forwards=plan.forwards,
        files=tuple(files_of(run)),
        commands=tuple(commands_of(run, shown or run.folder)),
        map=plan.map,
        similarity={c.id: c.similarity for c in plan.candidates if c.status != "refused"},
        tuning=_tuning_of(run),
    )


def _tuning_of(run: Run) -> TuningReport | None:
    """How the run was tuned, its reference and winner compared on the held-out rows as well."""
    if run.tuning is None:
        return None
    return replace(
        run.tuning, sides=(*run.tuning.sides, *(_heldout(score, run.tuning.reference) for score in run.scores))
    )


def _heldout(score: Score, reference: str) -> Side:
    if reference == "plan" and not any(model.label == "plan" for model in score.models):
        reference = "merge"  # the plan stayed
    found = {comparison.against: comparison for comparison in score.comparisons}.get(reference)
    before, after = (
        next((model.metrics.get(score.metric) for model in score.models if model.label == label), None)
        for label in (reference, "merge")
    )
    lower, upper = (None, None) if found is None else (found.lower, found.upper)
    return Side(score.task, "held-out", score.metric, len(score.row_digests), before, after, lower, upper)


def report_of(run: Run, shown: Path | None = None) -> str:
    """Return report.md; `shown` as in `report_input`."""
    return markdown_report(report_input(run, shown))


def html_of(run: Run, shown: Path | None = None) -> str:
    """Return report.html; `shown` as in `report_input`."""
    from merge_advisor.report.html import html_report

    return html_report(report_input(run, shown))


def _asked(run: Run) -> list[Task]:
    """The tasks of lm-eval a run was scored on, their documents as held-out rows."""
    own = [task.name for task in run.tasks]
    found = []
    for score in run.scores:
        if score.task not in own:
            rows = (Row(log.prompt, log.wanted, log.choices) for log in score.logs)
            found.append(Task(score.task, (), (), tuple(rows)))
    return found


def run_summary(run: Run) -> str:
    """Return what the terminal shows: members, score tables, verdict, files, next commands."""
    plan = run.plan
    rows = []
    for member in plan.selection.members:
        clash = member.interference
        rows.append([
            member.role, member.id, f"{member.weight:.3f}",
            "" if member.similarity is None else f"{member.similarity:.3f}",
            "" if member.gain is None else f"{member.gain:.3f}",
            "" if clash is None else f"{clash.sign_conflict:.2f} / {clash.overlap:.2f}",
        ])  # fmt: skip
    heads = ["role", "member", "weight", "similarity", "gain", "sign conflict / overlap"]
    parts = [f"strategy {plan.selection.strategy}: {plan.selection.stopped}", text_table(heads, rows, right=(2, 3, 4))]
    if run.tuning is not None:
        final = run.tuning.won.weights if run.tuning.won else run.tuning.planned
        pairs = zip(run.tuning.members, run.tuning.planned, final, strict=True)
        weights = [[name, f"{planned:.3f}", f"{tuned:.3f}"] for name, planned, tuned in pairs]
        told = text_table(["member", "planned", "tuned"], weights, right=(1, 2))
        parts.append("\n".join(["tuning: " + tuning_text(run.tuning), *run.tuning.notes, "", told]))
    for score in run.scores:
        parts.append(
            f"{score.task}: {score.metric} on {len(score.row_digests)} held-out rows, {score.evaluator}\n\n"
            + text_table(list(SCORE_HEADERS), score_rows(score), right=SCORE_RIGHT)
        )
    if len(run.scores) > 1:
        headers, found = trade_off(run.scores)
        parts.append("one merge for all tasks\n\n" + text_table(headers, found, right=range(1, len(headers) - 1)))
    if plan.verdict is not None:
        parts.append(f"verdict: {plan.verdict}\n{plan.reason}")
    else:
        parts.append("verdict: none yet, nothing was scored")
    notes = [*plan.notes, *(f"{task.name}: {note}" for task in plan.tasks for note in task.notes)]
    if notes:
        parts.append("\n".join(f"note: {note}" for note in notes))
    files = [[name, text] for name, text in files_of(run)]
    parts.append(f"files in {run.folder}\n" + text_table(["file", "what it is, or runs it"], files))
    parts.append("next\n" + "\n".join(f"  {command}" for command in commands_of(run, run.folder)))
    return "\n\n".join(parts)
