"""Where the rows of a plan come from: task files, and tasks of lm-eval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.errors import TaskError
from merge_advisor.evaluators.lm_eval_rows import lm_eval_rows
from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask, TaskName, load_all_tasks
from merge_advisor.json_form import digest_of
from merge_advisor.plain_text import printable
from merge_advisor.tasks import DATA_SET_ROWS, keep_apart, read_inputs, read_rows, shared_choices, split
from merge_advisor.types import Row, Task

if TYPE_CHECKING:
    from merge_advisor.options import PlanOptions

_TUNING = 20
"""Tuning rows that are made room for where no number is given."""
Source = Path | LmEvalTask
"""Where a task's rows come from."""


@dataclass(frozen=True, slots=True, eq=False)
class PlanInputs:
    """Unlabelled rows beside the tasks of a plan.

    >>> len(PlanInputs(Path("more.jsonl"), (Row("2 + 2", ""),), ()).digest)
    64
    """

    path: Path
    rows: tuple[Row, ...]
    """At least one, ordered by digest: the order of the file does not matter."""
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Sha256 over the digests of the rows."""
        return digest_of([row.digest for row in self.rows])


@dataclass(frozen=True, slots=True, eq=False)
class PlanTask:
    """A task to plan for: its rows, where they come from, and what was noticed about them.

    >>> from merge_advisor.options import PlanOptions
    >>> examples = read_sources([Path("examples.jsonl")], PlanOptions())[0]
    >>> examples.task.name, len(examples.task.shots)
    ('examples', 20)
    """

    task: Task
    source: Source
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()
    """What its files were understood as, a line each."""


def find_sources(paths: Sequence[Path], named: Sequence[TaskName] = (), *, offline: bool = False) -> list[Source]:
    """Return task files, then the tasks of lm-eval that names stand for, loaded.

    Args:
        paths: task files, and data sets as `tasks.data_set_of` takes them.
        named: tasks, groups or tags of lm-eval.
        offline: never fetch their documents.

    Raises:
        TaskError: neither is given, or a task of lm-eval cannot be used.
        OfflineError: as `load_tasks`.
        ExternalError: as `load_tasks`.
    """
    if not paths and not named:
        raise TaskError("no task named; give `task=FILE` or `lm_eval=NAME`")
    return [*paths, *(load_all_tasks(named, offline=offline) if named else ())]


def read_sources(sources: Sequence[Source], options: PlanOptions, *, offline: bool = False) -> tuple[PlanTask, ...]:
    """Return the tasks of some sources, read and split.

    Args:
        sources: one or more.
        options: how many rows are shots, tuning rows and held out.
        offline: never fetch a data set.

    Raises:
        TaskError: a file that cannot be used, two tasks of one name, or one without rows that judge no other.
        OfflineError: a data set is not in the cache, and fetching is off.
        ExternalError: lm-eval failed, or a data set cannot be fetched.
    """
    read: list[PlanTask] = []
    for source in sources:
        if isinstance(source, LmEvalTask):
            planned = _split_lm_eval(source, options)
        else:
            planned = _split_file(source, options, alone=len(sources) == 1, offline=offline)
        # reports, score files and notes are by name
        if any(planned.task.name == other.task.name for other in read):
            raise TaskError(f"{source}: a task named '{planned.task.name}' is there already; rename the file")
        read.append(planned)
    apart = keep_apart([planned.task for planned in read])
    return tuple(
        replace(planned, task=task, notes=(*planned.notes, *notes))
        for planned, (task, notes) in zip(read, apart, strict=True)
    )


def read_plan_inputs(tasks: Sequence[Task], options: PlanOptions, *, offline: bool = False) -> PlanInputs | None:
    """Return the unlabelled rows of a plan, None where no file of them is named.

    Rows whose input is in a task, white space aside, are left out: what is held out is then held out of this training
    too, and no row that judges it is trained on.

    Args:
        tasks: of the plan.
        options: name the file.
        offline: never fetch a data set.

    Raises:
        TaskError: a file that cannot be used, or that has no input beside those of the tasks.
    """
    if options.inputs is None:
        return None
    known = [row for task in tasks for row in (*task.shots, *task.tuning, *task.heldout)]
    labels = shared_choices(known)
    file = read_inputs(options.inputs, fields=options.fields, labels=labels, offline=offline)
    inputs = {row.plain_input for row in known}
    rows = tuple(sorted((row for row in file.rows if row.plain_input not in inputs), key=lambda row: row.digest))
    if not rows:
        raise TaskError(
            f"{options.inputs}: each of its inputs is in the task too, so none is left to train on; add inputs, or "
            "leave `inputs` out, and the task's own are trained on"
        )
    notes = [file.understood, *file.notes]
    if len(rows) < len(file.rows):
        notes.append(f"{file.name}: inputs not trained on, as they are in the task too: {len(file.rows) - len(rows)}")
    if all(row.choices for row in known) and not any(row.choices for row in rows):
        notes.append(
            f"{file.name}: no input has choices, as the task's rows do, so the entropy is that of the answer's first "
            "token; give them choices"
        )
    return PlanInputs(options.inputs, rows, tuple(notes))


def _split_file(path: Path, options: PlanOptions, *, alone: bool, offline: bool) -> PlanTask:
    counted = options.heldout if isinstance(options.heldout, int) else 0 if options.heldout else DATA_SET_ROWS
    most = options.shots + (_TUNING if options.tuning is None else options.tuning) + counted
    file = read_rows(path, fields=options.fields, most=most, offline=offline)
    heldout: Sequence[Row] | int | None = None
    extra: tuple[str, ...] = ()
    understood = [file.understood]
    if isinstance(options.heldout, Path):
        if not alone:
            raise TaskError("`heldout=FILE` goes with one `task`; give a number, or one file with all rows a task")
        other = read_rows(options.heldout, minimum=1, fields=options.fields, labels=file.labels, offline=offline)
        heldout, extra = other.rows, tuple(other.notes)
        understood.append(other.understood)
    else:
        heldout = options.heldout
    task, notes = split(
        file.rows, name=file.name, shots=options.shots, heldout=heldout, tuning=options.tuning, seed=options.seed
    )
    return PlanTask(task, path, (*file.notes, *extra, *notes, *_unlearned(task, file.labels)), tuple(understood))


def _unlearned(task: Task, labels: Sequence[str]) -> list[str]:
    """What is to be said of labels that no row learned from has: where answers are labels, they are choices too."""
    learned = {row.output for row in (*task.shots, *task.tuning)}
    lacking = sorted({row.output for row in task.heldout} - learned) if labels else []
    if not lacking:
        return []
    shown = printable(", ".join(lacking[:5])) + (", …" if len(lacking) > 5 else "")
    told = "held-out rows have labels that no row learned from has, and that are choices too"
    return [f"{task.name}: {told}: {shown}; correct them, or add rows of them"]


def _split_lm_eval(source: LmEvalTask, options: PlanOptions) -> PlanTask:
    """A task of lm-eval, split: what it scores on is held out, other splits are learned from."""
    if isinstance(options.heldout, Path):
        raise TaskError(f"{source.name}: `heldout=FILE` goes with `task`; give the number of documents to hold out")
    rows = lm_eval_rows(source, heldout=options.heldout)
    task, notes = split(
        rows.learning, name=rows.name, shots=options.shots, heldout=rows.heldout, tuning=options.tuning,
        seed=options.seed,
    )  # fmt: skip
    return PlanTask(task, source, (*rows.notes, *notes))
