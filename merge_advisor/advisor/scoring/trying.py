"""`try`: one prompt answered by base, icl, anchor, shots_lora and merge, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.measuring.in_context import planned_prompt, with_rows
from merge_advisor.advisor.measuring.meter import BASE, ScoredModel
from merge_advisor.advisor.runs.prompt_folder import rows_shown
from merge_advisor.advisor.runs.reopening import reopen
from merge_advisor.advisor.scoring.score_run import models_of
from merge_advisor.errors import TaskError
from merge_advisor.types import ICL

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.session_options import Where
    from merge_advisor.templates import Template
    from merge_advisor.types import Row, Task


def answers(
    run: str | Path,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    on_note: Callable[[str], None] | None = None,
    **where: Unpack[Where],
) -> dict[str, str]:
    """Return the greedy answers of base, icl, anchor, shots_lora and merge to one input, by label.

    `icl` has the examples in its prompt that it was scored with, and so has a merge that is the base with examples in
    its prompt; over several tasks each has an `icl` of its own, named after it.

    >>> sorted(answers("run", "say 1 twice", max_new_tokens=2))
    ['anchor', 'base', 'icl', 'merge', 'shots_lora']

    Args:
        run: the run folder.
        prompt: the input, put into the run's template.
        max_new_tokens: tokens of an answer at most.
        on_note: called with a sentence about each example that has no room beside the input.
        where: where members and base are, and how to compute, see `Where`.

    Raises:
        RunError: no run folder, another base, a member that cannot be found.
    """
    opened, session = reopen(Path(run), **where)
    with session:
        own = session.model.template
        shown = [m for m in models_of(session, opened) if m.label in ("base", "anchor", "shots_lora", "merge")]
        prompted = _prompted(session, opened, prompt, max_new_tokens, on_note or (lambda note: None))
        if opened.prompted and prompted:
            shown = [replace(m, template=prompted[0].template) if m.label == "merge" else m for m in shown]
        models = [*shown[:1], *prompted, *shown[1:]]

        def answer(template: Template) -> str:
            from merge_advisor.backbone.generate import generate

            said = generate(session.model.backbone, template.prompt(prompt), max_new_tokens=max_new_tokens)
            # without an end token between the examples a model goes on with one of its own
            return said.partition(template.next_example)[0].strip() if template.next_example else said

        return {m.label: session.meter.on_base(m.merge, lambda m=m: answer(m.template or own)) for m in models}  # type: ignore[misc]


def _prompted(
    session: Session, run: Run, prompt: str, new_tokens: int, on_note: Callable[[str], None]
) -> list[ScoredModel]:
    """The base with examples in its prompt, for each task that has any."""
    found = []
    for task in run.tasks:
        label = ICL if len(run.tasks) == 1 else f"{ICL} {task.name}"
        try:
            rows = _rows(session, run, task)
        except TaskError as error:
            on_note(f"{label} is left out: {error}")
            continue
        kept = _with_room(session, rows, prompt, new_tokens)
        if len(kept) < len(rows):
            on_note(f"{label}: {len(kept)} of its {len(rows)} examples have room beside this input and the answer")
        found.append(ScoredModel(label, BASE, with_rows(session.model.template, kept)))
    return found


def _rows(session: Session, run: Run, task: Task) -> tuple[Row, ...]:
    """The examples that were scored; of a run that was not scored, those that a plan would score.

    Raises:
        TaskError: not one example fits, or the base's chat template takes no earlier turns.
    """
    scored = next((score.examples for score in run.scores if score.task == task.name), None)
    return rows_shown(task, scored) if scored is not None else planned_prompt(session.meter, task).shown


def _with_room(session: Session, rows: tuple[Row, ...], prompt: str, new_tokens: int) -> tuple[Row, ...]:
    """The first of the examples, as many as leave the input whole and the answer its tokens."""
    from merge_advisor.backbone.encoding import context_length, encode

    backbone, template = session.model.backbone, session.model.template
    room = max(1, context_length(backbone) - new_tokens)

    def fits(part: tuple[Row, ...]) -> bool:
        text = with_rows(template, part).prompt(prompt)
        return len(encode(backbone, [(text, "")], max_length=2**40, end=False)[0].prompt) <= room

    while rows and not fits(rows):
        rows = rows[:-1]
    return rows
