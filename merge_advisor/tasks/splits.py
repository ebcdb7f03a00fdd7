"""Split the rows of a task into shots, tuning rows and held-out rows; the order of the file never matters."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from merge_advisor.errors import TaskError
from merge_advisor.tasks.files import MINIMUM_ROWS
from merge_advisor.types import Row, Task

_ENOUGH_ROWS = 12
"""Rows from which some are held out unless `heldout` says otherwise."""

_MOST_TUNING = 20
"""Tuning rows at most, unless `tuning` says otherwise."""


def split(
    rows: Sequence[Row],
    *,
    name: str,
    shots: int,
    heldout: int | Sequence[Row] | None = None,
    tuning: int | None = None,
    seed: int = 0,
) -> tuple[Task, tuple[str, ...]]:
    """Return a task: rows split by hash into three parts that never overlap, neither by row nor by input.

    Inputs are compared without regard to white space. Rows of one input stand together, and a part that would end among
    them ends before them. Rows are ordered by sha256 of seed and row digest. Shots come from the front (fewer shots are
    a subset of more), held-out rows from the end, tuning rows before those. By default, of n rows: from 12 on, shots
    are at most 0.4·n, tuning rows min(20, 0.2·n), the rest is held out; below 12 there are neither held-out nor tuning
    rows. With held-out rows given, or their number, n counts what is left: tuning rows are min(20, n // 3), none below
    6.

    >>> rows = [Row(f"say {n}", f"{n}") for n in range(30)]
    >>> task, notes = split(rows, name="numbers", shots=20)
    >>> len(task.shots), len(task.tuning), len(task.heldout), notes
    (12, 6, 12, ('numbers: 12 shots, not 20: there are 30 rows to split; add examples',))

    Args:
        rows: the rows of the task file.
        name: the task's name, for the messages.
        shots: rows to finetune on at most; at least 2.
        heldout: rows to score on (those of `rows` with an input of theirs are not learned from), or how many; None for
            the default.
        tuning: how many tuning rows; None for the default.
        seed: another seed gives another split.

    Returns:
        The task, and notes of one line each.

    Raises:
        TaskError: fewer than 2 rows to learn from, or a number out of range.
    """
    asked = heldout if isinstance(heldout, int) else None
    for option, value, least in (("shots", shots, MINIMUM_ROWS), ("heldout", asked, 0), ("tuning", tuning, 0)):
        if value is not None and value < least:
            raise TaskError(f"{name}: {option} {value} is too few; give at least {least}")
    notes: list[str] = []
    given = () if heldout is None or isinstance(heldout, int) else _ordered(heldout, seed)
    ordered = _ordered(rows, seed)
    if len(ordered) < len(rows):
        notes.append(f"rows left out, as they repeat input and output of another: {len(rows) - len(ordered)}")
    ordered = _together(_learning(ordered, given, name, notes), notes)
    shot_count, tuning_count, held_count = _counts(len(ordered), shots, asked, tuning, unasked=heldout is None)
    learning = len(ordered) - held_count
    first, second, third = (_between_inputs(ordered, at) for at in (shot_count, learning - tuning_count, learning))
    task = Task(
        name=name,
        shots=ordered[: min(first, shots)],
        tuning=ordered[second:third],
        heldout=given or ordered[third:],
    )
    unused = len(ordered) - len(task.shots) - len(task.tuning) - (0 if given else len(task.heldout))
    if unused:
        notes.append(f"rows not used: {unused}; a larger `shots` takes them in")
    notes += _notes(task, len(ordered), shots, asked, tuning)
    return task, tuple(f"{name}: {note}" for note in notes)


def keep_apart(tasks: Sequence[Task]) -> tuple[tuple[Task, tuple[str, ...]], ...]:
    """Return tasks that are given together without rows that judge one of them and are learned from in another.

    What is held out of one is learned from in none, and what tunes one is a shot of none; inputs are compared as in
    `split`.

    >>> rows = tuple(Row(f"say {n}", f"{n}") for n in range(5))
    >>> tasks = keep_apart([Task("a", rows[:3], (), rows[3:]), Task("b", rows[1:4], (), ())])
    >>> [len(task.shots) for task, _ in tasks], tasks[1][1]
    ([3, 2], ('b: rows not learned from, as another task holds their inputs out: 1',))

    Args:
        tasks: each split.

    Returns:
        Each task, and notes of one line each.

    Raises:
        TaskError: fewer than 2 shots are left of one.
    """
    held = {row.plain_input for task in tasks for row in task.heldout}
    tuning = {row.plain_input for task in tasks for row in task.tuning}
    return tuple(_kept_apart(task, held, tuning) for task in tasks)


def _kept_apart(task: Task, held: Container[str], tuning: Container[str]) -> tuple[Task, tuple[str, ...]]:
    """The task without what judges another one, and what is to be said of that."""
    shots, watch = ([row for row in part if row.plain_input not in held] for part in (task.shots, task.tuning))
    trained = [row for row in shots if row.plain_input not in tuning]
    if len(trained) < MINIMUM_ROWS:
        raise TaskError(
            f"{task.name}: shots: {len(trained)} ({len(task.shots) - len(trained)} more have inputs that judge another "
            f"task), the minimum is {MINIMUM_ROWS}; give each task rows of its own, or the rows of all as one task"
        )
    counts = {
        "rows not learned from, as another task holds their inputs out":
            len(task.shots) + len(task.tuning) - len(shots) - len(watch),
        "shots left out, as their inputs are tuning rows of another task": len(shots) - len(trained),
    }  # fmt: skip
    left = replace(task, shots=tuple(trained), tuning=tuple(watch))
    return left, tuple(f"{task.name}: {what}: {count}" for what, count in counts.items() if count)


def majority(rows: Iterable[Row]) -> str:
    """Return the commonest output, of equally common ones the first in sorted order.

    >>> majority([Row("a", "yes"), Row("b", "no"), Row("c", "yes")])
    'yes'

    Args:
        rows: at least one.

    Raises:
        ValueError: no rows.
    """
    counts = Counter(row.output for row in rows)
    return min(counts, key=lambda output: (-counts[output], output))


def _ordered(rows: Iterable[Row], seed: int) -> tuple[Row, ...]:
    """Order by hash, and keep one of those with equal input and output: other choices do not make another example."""
    kept: dict[tuple[str, str], Row] = {}
    # by hash and not by a shuffle: a row's place depends on no other row, so that adding some moves few to another part
    for row in sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.digest}".encode()).digest()):
        kept.setdefault((row.input, row.output), row)
    return tuple(kept.values())


def _learning(ordered: tuple[Row, ...], given: tuple[Row, ...], name: str, notes: list[str]) -> tuple[Row, ...]:
    """Return the rows whose inputs are not among those of the held-out rows given."""
    scored = {row.plain_input for row in given}
    kept = tuple(row for row in ordered if row.plain_input not in scored)
    removed = len(ordered) - len(kept)
    if removed:
        notes.append(f"rows not learned from, as their inputs are among the held-out rows: {removed}")
    if len(kept) < MINIMUM_ROWS:
        without = f" ({removed} more are held-out rows too)" if removed else ""
        raise TaskError(
            f"{name}: rows to learn from: {len(kept)}{without}, the minimum is {MINIMUM_ROWS}; add examples"
        )
    return kept


def _together(ordered: tuple[Row, ...], notes: list[str]) -> tuple[Row, ...]:
    """Return the rows with those of one input behind the first of them."""
    groups: dict[str, list[Row]] = {}
    for row in ordered:
        groups.setdefault(row.plain_input, []).append(row)
    shared = sum(len(rows) for rows in groups.values() if len(rows) > 1)
    if shared:
        notes.append(f"rows whose input another row has too: {shared}; those of one input stay in one part")
    return tuple(row for rows in groups.values() for row in rows)


def _between_inputs(ordered: Sequence[Row], place: int) -> int:
    """Return the place, or the last one before it that has rows of two inputs around it and enough rows in front."""

    def between(at: int) -> bool:
        return at == len(ordered) or ordered[at - 1].plain_input != ordered[at].plain_input

    before = next((at for at in range(place, MINIMUM_ROWS - 1, -1) if between(at)), None)
    return next(at for at in range(place, len(ordered) + 1) if between(at)) if before is None else before


def _counts(n: int, shots: int, asked: int | None, tuning: int | None, *, unasked: bool) -> tuple[int, int, int]:
    """Return how many of n rows are shots, tuning rows and held out; at least `MINIMUM_ROWS` shots."""
    held = min(asked or 0, n - MINIMUM_ROWS)
    learning = n - held
    takes_rest = unasked and n >= _ENOUGH_ROWS
    if takes_rest:
        shots, usual = min(shots, round(0.4 * n)), round(0.2 * n)
    else:
        usual = 0 if unasked or learning < 6 else learning // 3
    wanted = min(_MOST_TUNING, usual) if tuning is None else tuning
    tuned = min(wanted, learning - (shots if takes_rest else MINIMUM_ROWS))
    taken = min(shots, learning - tuned)
    return taken, tuned, (n - taken - tuned if takes_rest else held)


def _notes(task: Task, n: int, shots: int, asked: int | None, tuning: int | None) -> list[str]:
    wanted = (
        ("shots", task.shots, shots),
        ("tuning rows", task.tuning, tuning),
        ("held-out rows", task.heldout, asked),
    )
    notes = [
        f"{len(part)} {what}, not {number}: there are {n} rows to split; add examples"
        for what, part, number in wanted
        if number is not None and len(part) < number
    ]
    if not task.heldout:
        notes.append(
            f"no held-out rows, so nothing can be scored; give some as `heldout`, or at least {_ENOUGH_ROWS} rows"
        )
    return notes
