"""The rows of a search: those it sees, and those kept from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor.errors import TaskError
from merge_advisor.tuning.winner import confirmation_rows
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.advisor.runs.run_folder import Run


@dataclass(frozen=True, slots=True)
class TuningRows:
    """The choosing rows of a run: those the search sees, and those kept from it to confirm what it found.

    >>> from pathlib import Path
    >>> from merge_advisor.advisor.runs.run_folder import read_run
    >>> rows = tuning_rows(read_run(Path("run")), seed=0)
    >>> len(rows.search) > 1, rows.kept
    (True, ())
    """

    search: tuple[Row, ...]
    tasks: tuple[int, ...]
    """The task of each row of `search`."""
    kept: tuple[Row, ...]
    kept_tasks: tuple[int, ...]


def tuning_rows(run: Run, seed: int) -> TuningRows:
    """Return the choosing rows of all tasks (the tuning rows alone with `shots_lora` among the members).

    Some are kept aside where there are many.

    Args:
        run: the run.
        seed: draws those kept aside.

    Raises:
        TaskError: one row in all, on which nothing can be told apart.
    """
    members = [member.id for member in run.chosen.members]
    pairs = [(row, number) for number, task in enumerate(run.tasks) for row in task.choosing_among(members)]
    if len(pairs) < 2:
        raise TaskError(f"{run.folder}: one row to tune on tells nothing; plan with more examples, or `tuning=N`")
    # drawn within tasks, so that none loses most of its rows
    kept = confirmation_rows([task for _, task in pairs], seed)
    used = [place for place in range(len(pairs)) if place not in kept]
    return TuningRows(
        search=tuple(pairs[place][0] for place in used),
        tasks=tuple(pairs[place][1] for place in used),
        kept=tuple(pairs[place][0] for place in kept),
        kept_tasks=tuple(pairs[place][1] for place in kept),
    )
