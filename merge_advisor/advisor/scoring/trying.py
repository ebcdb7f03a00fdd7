"""`try`: one prompt answered by base, anchor, shots_lora and merge, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from merge_advisor.advisor.runs.reopening import reopen
from merge_advisor.advisor.scoring.score_run import models_of

if TYPE_CHECKING:
    from merge_advisor.session_options import Where


def answers(run: str | Path, prompt: str, *, max_new_tokens: int = 64, **where: Unpack[Where]) -> dict[str, str]:
    """Return the greedy answers of base, anchor, shots_lora and merge to one input, by label.

    >>> sorted(answers("run", "say 1 twice", max_new_tokens=2))
    ['anchor', 'base', 'merge', 'shots_lora']

    Args:
        run: the run folder.
        prompt: the input, put into the run's template.
        max_new_tokens: tokens of an answer at most.
        where: where members and base are, and how to compute, see `Where`.

    Raises:
        RunError: no run folder, another base, a member that cannot be found.
    """
    from merge_advisor.backbone.generate import generate

    opened, session = reopen(Path(run), **where)
    with session:
        text = session.model.template.prompt(prompt)

        def answer() -> str:
            return generate(session.model.backbone, text, max_new_tokens=max_new_tokens)

        shown = [m for m in models_of(session, opened) if m.label in ("base", "anchor", "shots_lora", "merge")]
        return {model.label: session.meter.on_base(model.merge, answer) for model in shown}
