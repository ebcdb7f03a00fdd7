"""Where the rows of a plan come from: task files, and tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.advisor.runs.run_folder import TaskReport
from merge_advisor.errors import TaskError
from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask, TaskName
from merge_advisor.tasks import read_rows, split
from merge_advisor.types import Row, Task

if TYPE_CHECKING:
    from merge_advisor.options import PlanOptions

Source = Path | LmEvalTask
"""Where a task's rows come from."""


def sources_of(paths: Sequence[Path], named: Sequence[TaskName], *, offline: bool) -> list[Source]:
    """Task files, then the tasks of lm-eval that names stand for, loaded.

    Raises:
        TaskError: neither is given, or a task of lm-eval cannot be used.
        OfflineError, ExternalError: as `lm_eval_tasks.load_tasks`.
    """
    if not paths and not named:
        raise TaskError("no task named; give --task FILE or --lm-eval-task NAME")
    if not named:
        return list(paths)
    from merge_advisor.advisor.scoring.lm_eval_scoring import load_all

    return [*paths, *load_all(named, offline=offline)]


def read_sources(
    sources: Sequence[Source], options: PlanOptions
) -> tuple[tuple[Task, ...], tuple[tuple[str, ...], ...]]:
    """Read and split tasks; returns them and the notes on each.

    Raises:
        TaskError: a file that cannot be used, or two tasks of one name.
    """
    tasks: list[Task] = []
    notes: list[tuple[str, ...]] = []
    for source in sources:
        if isinstance(source, LmEvalTask):
            from merge_advisor.advisor.scoring.lm_eval_scoring import plan_task

            task, said = plan_task(source, options)
        else:
            task, said = _split_file(source, options, alone=len(sources) == 1)
        if any(task.name == other.name for other in tasks):
            raise TaskError(f"{source}: a task named '{task.name}' is there already; rename the file")
        tasks.append(task)
        notes.append(said)
    return tuple(tasks), tuple(notes)


def _split_file(path: Path, options: PlanOptions, *, alone: bool) -> tuple[Task, tuple[str, ...]]:
    file = read_rows(path)
    heldout: Sequence[Row] | int | None = None
    extra: tuple[str, ...] = ()
    if isinstance(options.heldout, Path):
        if not alone:
            raise TaskError("--heldout FILE goes with one --task; give a number, or one file with all rows a task")
        other = read_rows(options.heldout, minimum=1)
        heldout, extra = other.rows, tuple(other.notes)
    else:
        heldout = options.heldout
    task, said = split(
        file.rows, name=file.name, shots=options.shots, heldout=heldout, tuning=options.tuning, seed=options.seed
    )
    return task, (*file.notes, *extra, *said)


def task_report(task: Task, notes: Sequence[str]) -> TaskReport:
    """A task's rows by digest."""
    parts = [tuple(row.digest for row in part) for part in (task.shots, task.tuning, task.heldout)]
    return TaskReport(task.name, task.digest, parts[0], parts[1], parts[2], tuple(notes))
