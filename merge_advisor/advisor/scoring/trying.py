"""`try`: one prompt answered by base, anchor and merge, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from merge_advisor.advisor.merging import reopen
from merge_advisor.advisor.scoring.score_run import models_of
from merge_advisor.options import Where


def answers(folder: Path, prompt: str, *, max_new_tokens: int = 64, **where: Unpack[Where]) -> dict[str, str]:
    """Return the greedy answers of base, anchor, shots_lora and merge to one input, by label.

    Args:
        folder: the run folder.
        prompt: the input, put into the run's template.
        max_new_tokens: tokens of an answer at most.
        where: where members and base are, and where to compute.

    Raises:
        RunError: no run folder, another base, a member that cannot be found.
    """
    from merge_advisor.backbone.generate import generate
    from merge_advisor.backbone.place import placed

    run, session = reopen(folder, **where)
    with session:
        text = session.template.prompt(prompt)
        found = {}
        for label, _, delta in models_of(session, run):
            if label in ("base", "anchor", "shots_lora", "merge"):
                with placed(session.backbone, delta()):
                    found[label] = generate(session.backbone, text, max_new_tokens=max_new_tokens)
        return found
