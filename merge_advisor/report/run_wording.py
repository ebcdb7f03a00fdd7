"""What a run's report says in sentences, and the cells of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from merge_advisor.report.score_table import METRIC_TITLES, difference_text, value_text
from merge_advisor.report.values import Side, TunedAdaptation, TuningReport
from merge_advisor.scores import GuardScore, Score
from merge_advisor.types import Member, Task

MEMBER_HEADERS = ("member", "role", "weight", "similarity", "gain", "sign conflict", "overlap")
MEMBER_RIGHT = (2, 3, 4, 5, 6)
"""Columns aligned on the right."""
SPLIT_HEADERS = ("task", "shots", "tuning", "held-out")
SIDE_HEADERS = ("task", "metric", "part", "rows", "reference", "winner", "gain", "95% interval")
SIDE_RIGHT = (3, 4, 5, 6, 7)


def measured_text(score: Score) -> str:
    """Return what a score's numbers are, in two sentences.

    Args:
        score: of one task.
    """
    measured = (
        f"{METRIC_TITLES.get(score.metric, score.metric)} on {len(score.row_digests)} held-out rows, "
        f"by {score.evaluator}"
    )
    # not capitalize(): that would write "lm-eval" and a metric's own name in small letters
    return f"{measured[0].upper()}{measured[1:]}. Positive differences favour the merge; loss is in nats per token."


def guard_text(guard: GuardScore) -> str:
    """Return what the merge costs on unrelated text, in a sentence.

    Args:
        guard: losses of base and merge on these texts.
    """
    outcome = "the merge is ruled out" if guard.regressed else "no regression"
    return (
        f"Guard: loss on {guard.rows} unrelated texts {guard.base:.3f} (base) and {guard.merge:.3f} (merge), "
        f"difference {guard.merge - guard.base:+.3f} ({guard.lower:+.3f} to {guard.upper:+.3f}): {outcome}."
    )


def member_cells(member: Member) -> tuple[str, ...]:
    """Return the cells of a member under `MEMBER_HEADERS`.

    Args:
        member: of the selection.
    """
    conflict = member.interference
    return (
        member.id,
        member.role,
        f"{member.weight:.4f}",
        _number(member.similarity, ".3f"),
        _number(member.gain, ".4g"),
        _number(conflict.sign_conflict if conflict else None, ".3f"),
        _number(conflict.overlap if conflict else None, ".3f"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def tuning_text(tuning: TuningReport) -> str:
    """Return what was tuned, at which cost, and which trial won, in sentences.

    Args:
        tuning: how the run was tuned.
    """
    stopped = sum(not trial.whole for trial in tuning.trials)
    early = f", {stopped} of them stopped early" if stopped else ""
    won = tuning.won
    named = "" if won is None else f" ({won.label}, {won.composition})"
    value = "" if won is None or won.value is None else f", value {won.value:.4g}"
    return (
        f"{counted(len(tuning.trials), 'trial')} by {tuning.sampler}{early}, {tuning.forwards} forward passes. "
        f"Goal: {tuning.goal}. Winner: trial {tuning.winner}{named}{value}; it is compared with {tuning.reference}."
        f"{_trained_text(tuning.adaptation)}"
    )


def _trained_text(found: TunedAdaptation | None) -> str:
    """What an adaptation made of the tuned merge, as a sentence with a blank before it."""
    if found is None:
        return ""
    chose = "" if found.chosen == found.asked.partition(":")[0].strip() else f" (which chose {found.chosen})"
    cost = f", {found.forwards} forward passes" if found.forwards else ""
    return f" Adaptation {found.asked}{chose}{cost}: {found.reason}."


def side_cells(side: Side) -> tuple[str, ...]:
    """Return the cells of a comparison of reference and winner under `SIDE_HEADERS`.

    Args:
        side: the comparison on one part of a task's rows.
    """
    reached = ["" if v is None else value_text(v, side.metric) for v in (side.reference, side.winner)]
    gain = "" if side.gain is None else difference_text(side.gain, side.metric)
    ends = [difference_text(v, side.metric) for v in (side.lower, side.upper) if v is not None]
    return (side.task, side.metric, side.part, str(side.rows), *reached, gain, " to ".join(ends))


def split_rows(tasks: Sequence[Task]) -> tuple[tuple[str, ...], ...]:
    """Return the cells of each task under `SPLIT_HEADERS`.

    Args:
        tasks: with their rows.
    """
    return tuple((t.name, str(len(t.shots)), str(len(t.tuning)), str(len(t.heldout))) for t in tasks)


def shared_text(tasks: Sequence[Task]) -> str:
    """Return whether an input stands in two parts, of one task or of two, in a sentence.

    Args:
        tasks: with their rows.

    >>> from merge_advisor.types import Row
    >>> row, other = Row("1 + 1", "2"), Row("2 + 2", "4")
    >>> shared_text([Task("a", (row,), (), ()), Task("b", (other,), (), (row,))])
    'Inputs occur in two parts: shots of a and held-out rows of b.'
    """
    parts = [
        (what, task.name, {row.plain_input for row in rows})
        for task in tasks
        for what, rows in (("shots", task.shots), ("tuning rows", task.tuning), ("held-out rows", task.heldout))
    ]
    shared = [
        f"{what} of {name} and {other} of {task}"
        for at, (what, name, inputs) in enumerate(parts)
        for other, task, others in parts[at + 1 :]
        if what != other and not inputs.isdisjoint(others)
    ]
    if shared:
        return f"Inputs occur in two parts: {'; '.join(shared)}."
    return f"The parts are disjoint by input{', across tasks too' if len(tasks) > 1 else ''}."


def cost_rows(forwards: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
    """Return the steps with their forward passes, and their sum.

    Args:
        forwards: passes over one row, by step.

    >>> cost_rows({"deltas": 115, "selection": 300})
    (('deltas', '115'), ('selection', '300'), ('all', '415'))
    """
    return tuple((step, str(passes)) for step, passes in (*forwards.items(), ("all", sum(forwards.values()))))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Args:
        number: how many.
        noun: in the singular; it takes an s.

    >>> counted(1, "trial"), counted(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")
