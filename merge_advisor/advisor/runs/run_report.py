"""A run as a report: report.md, report.html, and the summary that a terminal shows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor import registry
from merge_advisor.advisor.runs.adapted_run import why_not_adapted
from merge_advisor.advisor.runs.prompt_folder import PROMPT, prompt_description, prompt_files
from merge_advisor.advisor.runs.run_cost import cost_file_of, run_cost_lines, scored_forwards
from merge_advisor.advisor.runs.run_folder import PLAN_START
from merge_advisor.errors import SpecError
from merge_advisor.report.document import Code, Paragraph, Table, TextBlock
from merge_advisor.report.html import to_html
from merge_advisor.report.markdown import to_markdown
from merge_advisor.report.run_document import ReportInput, run_document
from merge_advisor.report.run_wording import tuning_text
from merge_advisor.report.score_table import SCORE_HEADERS, SCORE_RIGHT, score_rows, trade_off
from merge_advisor.report.values import Side, TuningReport
from merge_advisor.scores import Score, Verdict
from merge_advisor.types import Member, RefusedModel, Row, Task

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.formats import Format

_FILES = {
    "recipe.json": "the merge, independent of any tool",
    "shots_lora": "the LoRA finetuned on the shots",
    "residual": "what was trained on top of the merge; it is a member of the recipe at weight 1",
    "start": "the merge as it was chosen, before that, as a recipe and its renderings",
    PROMPT: "",
    "plan": "the plan's own recipe and what goes with it",
    "report.md": "this result in full",
    "report.html": "the same with plots, for a browser",
    "cost.txt": "what it took here: seconds and memory; and what its alternatives would have",
    "tune.json": "the trials of `tune` and which won",
    "study.sqlite": "the same as an Optuna study, for optuna-dashboard",
}
_REPORTS = ("report.md", "report.html", "cost.txt")
"""Listed before they are there: they list themselves."""


def report_of(run: Run, shown: Path | None = None) -> str:
    """Return report.md.

    Args:
        run: the run.
        shown: folder that the commands name, where `run` is still written elsewhere; None: the run's own.

    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> print(report_of(read_run(Path("run"))).splitlines()[0])
    # Merge plan for examples
    """
    return to_markdown(run_document(_report_input(run, shown)))


def html_of(run: Run, shown: Path | None = None) -> str:
    """Return report.html.

    Args:
        run: the run.
        shown: as in `report_of`.
    """
    return to_html(run_document(_report_input(run, shown)))


def reports_of(run: Run, shown: Path | None = None) -> dict[str, str]:
    """Return all reports of a run, as texts by the names of their files.

    Args:
        run: the run.
        shown: as in `report_of`.

    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> list(reports_of(read_run(Path("run"))))
    ['report.md', 'report.html', 'cost.txt']
    """
    return dict(zip(_REPORTS, (report_of(run, shown), html_of(run, shown), cost_file_of(run.plan)), strict=True))


def summary_blocks(run: Run, price: float | None = None) -> tuple[TextBlock, ...]:
    """Return what a terminal shows, as blocks: `report.terminal.to_text` writes them as plain text.

    Args:
        run: the run.
        price: of an hour of this machine; None: costs stay seconds.

    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> summary_blocks(read_run(Path("run")))[-1].lines[0]
    'merge-advisor score run --task held_out.jsonl'
    """
    plan = run.plan
    understood = _understood(run)
    blocks: list[TextBlock] = [
        *([Paragraph("\n".join(understood))] if understood else []),
        Paragraph(f"strategy {plan.selection.strategy}: {plan.selection.stopped}"),
        member_table(plan.selection.members),
    ]
    if run.tuning is not None:
        blocks += _tuning_blocks(run.tuning)
    blocks += _score_blocks(run.scores)
    if plan.verdict is not None:
        blocks.append(Paragraph(f"verdict: {plan.verdict}\n{plan.reason}"))
    else:
        blocks.append(Paragraph("verdict: none yet, nothing was scored"))
    if notes := _notes(run):
        blocks.append(Paragraph("\n".join(f"note: {note}" for note in notes)))
    blocks.append(Paragraph("\n".join(run_cost_lines(run.plan, price))))
    files = tuple(_files(run))
    blocks.append(Table(f"files in {run.folder}", ("file", "what it is, or runs it"), files))
    blocks.append(Code(tuple(_commands(run, run.folder)), title="next"))
    return tuple(blocks)


def member_table(members: Sequence[Member]) -> Table:
    """Return the members of a selection as they stand in the terminal.

    Args:
        members: of the selection.

    >>> member_table([]).headers[:3]
    ('role', 'member', 'weight')
    """
    rows = []
    for member in members:
        clash = member.interference
        rows.append((
            member.role, member.id, f"{member.weight:.3f}",
            "" if member.similarity is None else f"{member.similarity:.3f}",
            "" if member.gain is None else f"{member.gain:.3f}",
            "" if clash is None else f"{clash.sign_conflict:.2f} / {clash.overlap:.2f}",
        ))  # fmt: skip
    headers = ("role", "member", "weight", "similarity", "gain", "sign conflict / overlap")
    return Table("", headers, tuple(rows), right=(2, 3, 4))


def _tuning_blocks(tuning: TuningReport) -> list[TextBlock]:
    final = tuning.won.weights if tuning.won else tuning.planned
    pairs = zip(tuning.members, tuning.planned, final, strict=True)
    rows = tuple((name, f"{planned:.3f}", f"{tuned:.3f}") for name, planned, tuned in pairs)
    words = Paragraph("\n".join(["tuning: " + tuning_text(tuning), *tuning.notes]))
    return [words, Table("", ("member", "planned", "tuned"), rows, right=(1, 2))]


def _score_blocks(scores: tuple[Score, ...]) -> list[TextBlock]:
    blocks: list[TextBlock] = []
    for score in scores:
        rows = f"{len(score.row_digests)} held-out rows"
        blocks.append(Paragraph(f"{score.task}: {score.metric} on {rows}, {score.evaluator}"))
        blocks.append(Table("", SCORE_HEADERS, score_rows(score), SCORE_RIGHT))
        blocks += [Paragraph(note) for note in score.notes]
    if len(scores) > 1:
        headers, cells = trade_off(scores)
        blocks.append(Paragraph("one merge for all tasks"))
        blocks.append(Table("", headers, cells, tuple(range(1, len(headers) - 1))))
    return blocks


def _files(run: Run) -> list[tuple[str, str]]:
    """The files a person will use, with what each is; a format that could not be written, with the reason."""
    files = [(name, text) for name, text in _FILES.items() if name in _REPORTS or (run.folder / name).exists()]
    files = [(name, text or prompt_description(run)) for name, text in files if text or prompt_files(run)]
    no_format = (
        "the model is the base with examples in its prompt, no weights are that" if run.prompted and run.is_base else ""
    )
    for name in registry.names("format"):
        rendering: Format = registry.build("format", name)
        if (run.folder / rendering.writes).exists():
            files.append((rendering.writes, rendering.runs_with))
        else:
            files.append((rendering.writes, f"not written: {no_format or rendering.refusal(run.recipe)}"))
    return files


def _commands(run: Run, folder: Path) -> list[str]:
    """What to type next, for a run that is, or will be, in a folder."""
    name = shlex.quote(str(folder))  # a line that can be pasted whatever the folder is called
    scored = [] if run.scores else [f"merge-advisor score {name} --task held_out.jsonl"]
    tune = [] if run.tuning or not _may_be_tuned(run) else [f"merge-advisor tune {name}"]
    return [*scored, f'merge-advisor try {name} "a prompt"', *tune, *_uses(run, folder)]


def _uses(run: Run, folder: Path) -> list[str]:
    """What to use the model with: of examples in the base's prompt that prompt, of the base itself nothing."""
    prompts = prompt_files(run)
    advised = run.plan.verdict == Verdict.PROMPT_WITH_EXAMPLES
    whose = "the base" if run.is_base or advised else "this model"
    asked = prompts if run.prompted or advised else []
    shown = [f"cat {shlex.quote(str(folder / name))}  # the prompt for {whose}" for name in asked]
    merge = (
        [] if run.is_base or (advised and shown) else [f"merge-advisor merge {shlex.quote(str(folder))} --out model"]
    )
    return [*merge, *shown]


def _may_be_tuned(run: Run) -> bool:
    """Whether the run's own adaptation can begin anew from a tuned merge."""
    try:
        return not why_not_adapted(run, run.own_adaptation.asked)
    except SpecError:  # of a package that is not installed here
        return False


def _report_input(run: Run, shown: Path | None) -> ReportInput:
    """All that the report of a run says."""
    plan = run.plan
    return ReportInput(
        recipe=run.recipe,
        selection=plan.selection,
        tasks=(*run.tasks, *_lm_eval_tasks(run)),
        pool_size=sum(candidate.status != "refused" for candidate in plan.candidates),
        scores=run.scores,
        verdict=plan.verdict,
        reason=plan.reason,
        refused=tuple(RefusedModel(c.id, c.reason) for c in plan.candidates if c.status == "refused"),
        conflicts=plan.conflicts,
        rank_error=plan.rank_error,
        notes=tuple(_notes(run)),
        understood=_understood(run),
        forwards=plan.forwards,
        alternatives=scored_forwards(plan, run.scores),
        files=tuple(_files(run)),
        commands=tuple(_commands(run, shown or run.folder)),
        map=plan.map,
        similarity={c.id: c.similarity for c in plan.candidates if c.status != "refused"},
        tuning=_tuning_of(run),
        adaptation=_adaptation(run),
        weights_adapted=run.own_adaptation.start is not None,
        compared=tuple(
            (o.name, o.loss, o.error, o.forwards) for o in (plan.adaptation.options if plan.adaptation else ())
        ),
    )


def _adaptation(run: Run) -> tuple[tuple[str, str], ...]:
    """What was trained into the merge and how, in pairs of a word and its value."""
    found = run.plan.adaptation
    if found is None or found.start is None:
        return ()
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    promised = "none" if found.predicted is None else f"{found.predicted:+.3f} nats below the base"
    return (
        ("adaptation", found.chosen if found.chosen == found.asked else f"{found.chosen}, of {found.asked}"),
        ("what was done", found.reason),
        *([("begun with", "the merge that tuning found")] if _trained_anew(run) else []),
        ("numbers trained", str(found.numbers)),
        ("on examples held out of the training", promised),
        ("settings", settings),
    )


def _trained_anew(run: Run) -> bool:
    """Whether the run's model was trained from a tuned merge."""
    return run.tuning is not None and run.tuning.adaptation is not None and run.tuning.adaptation.tuned


def _notes(run: Run) -> list[str]:
    inputs = run.plan.inputs.notes if run.plan.inputs else ()
    return [*run.plan.notes, *inputs, *(f"{task.name}: {note}" for task in run.plan.tasks for note in task.notes)]


def _understood(run: Run) -> tuple[str, ...]:
    """What the task files were understood as, a line each."""
    return tuple(line for task in run.plan.tasks for line in task.understood)


def _tuning_of(run: Run) -> TuningReport | None:
    """How the run was tuned, its reference and winner compared on the held-out rows as well."""
    if run.tuning is None:
        return None
    reference = run.tuning.reference
    if run.tuning.adaptation is not None:  # what was trained is compared with the plan's model, whatever was searched
        reference = "plan"
    elif reference == "plan" and run.own_adaptation.start is not None:
        reference = PLAN_START
    heldout = (_heldout(score, reference) for score in run.scores)
    return replace(run.tuning, sides=(*run.tuning.sides, *heldout))


def _heldout(score: Score, reference: str) -> Side:
    if reference in ("plan", PLAN_START) and not any(model.label == reference for model in score.models):
        reference = "merge"  # the plan won, so the merge that was scored is the plan
    comparison = next((c for c in score.comparisons if c.against == reference), None)
    before, after = (
        next((model.metrics.get(score.metric) for model in score.models if model.label == label), None)
        for label in (reference, "merge")
    )
    lower, upper = (None, None) if comparison is None else (comparison.lower, comparison.upper)
    return Side(score.task, "held-out", score.metric, len(score.row_digests), before, after, lower, upper)


def _lm_eval_tasks(run: Run) -> list[Task]:
    """The tasks of lm-eval that a run was scored on, their documents as held-out rows."""
    own = [task.name for task in run.tasks]
    tasks = []
    for score in run.scores:
        if score.task not in own:
            rows = (Row(log.prompt, log.wanted, log.choices, answers=log.answers) for log in score.logs)
            tasks.append(Task(score.task, (), (), tuple(rows)))
    return tasks
