"""A benchmark's numbers and contrasts as text, and what was run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from merge_advisor.benchmark.analysis.findings import Findings
from merge_advisor.benchmark.values import Contrast, Metric, Setup

UNIT_WORDS: dict[Metric, str] = {
    "accuracy": "points of accuracy", "loss": "nats per token", "judged": "nats over the choices, or per token",
}  # fmt: skip
"""The unit of a difference, by metric."""


def amount(value: float | None, metric: Metric) -> str:
    """Return a difference with its sign; empty where there is none.

    Args:
        value: points of accuracy, or nats.
        metric: which of them.

    >>> amount(1.04, "accuracy"), amount(-0.0504, "loss"), amount(None, "loss")
    ('+1.0', '-0.050', '')
    """
    if value is None or not math.isfinite(value):
        return ""
    value += 0.0  # -0.0 becomes 0.0: "-0.0" would read as a loss
    return f"{value:+.1f}" if metric == "accuracy" else f"{value:+.3f}"


def interval_text(lower: float | None, upper: float | None, metric: Metric) -> str:
    """Return an interval; empty where there is none.

    Args:
        lower: its lower end, points of accuracy or nats.
        upper: its upper end.
        metric: which of them.

    >>> interval_text(0.6, 3.0, "accuracy")
    '+0.6 to +3.0'
    """
    low, high = amount(lower, metric), amount(upper, metric)
    return f"{low} to {high}" if low and high else ""


def p_text(p: float | None) -> str:
    """Return a p value: three decimals, or that it is below them; empty where there is none.

    Args:
        p: from 0 to 1.

    >>> p_text(0.013), p_text(0.0004)
    ('.013', '< .001')
    """
    if p is None or not math.isfinite(p):
        return ""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def p_phrase(p: float) -> str:
    """Return a p value with its letter.

    Args:
        p: from 0 to 1.

    >>> p_phrase(0.013)
    'p = .013'
    """
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def share_text(value: float | None) -> str:
    """Return a share as a percentage; empty where there is none.

    Args:
        value: from 0 to 1.

    >>> share_text(0.375)
    '37.5%'
    """
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def loss_text(value: float | None) -> str:
    """Return a loss; empty where there is none.

    Args:
        value: nats per token.

    >>> loss_text(1.5)
    '1.500'
    """
    return "" if value is None else f"{value:.3f}"


def sentence(text: str) -> str:
    """Return a text with one full stop at its end.

    Args:
        text: with or without one.

    >>> sentence("no arms differ"), sentence("no arms differ.")
    ('no arms differ.', 'no arms differ.')
    """
    return text.rstrip(". ") + "."


def plural(number: int, one: str, many: str) -> str:
    """Return a number with its noun.

    Args:
        number: how many.
        one: the noun for one.
        many: the noun for any other number.

    >>> plural(1200, "family", "families")
    '1,200 families'
    """
    return f"{number:,} {one if number == 1 else many}"


def outcome(contrast: Contrast) -> str:
    """Return how a contrast stands, in a few words.

    Args:
        contrast: the answer to a question.
    """
    better, than = contrast.question.better, contrast.question.than
    return {
        "better": f"{better} beats {than}",
        "worse": f"{better} does worse than {than}",
        "equivalent": f"{better} and {than} are equivalent",
        "undecided": f"{better} against {than}: undecided",
    }[contrast.standing]


def win_counts(contrast: Contrast) -> str:
    """Return in how many families an arm won, tied and lost.

    Args:
        contrast: the answer to a question.
    """
    return f"{contrast.wins} won, {contrast.ties} tied, {contrast.losses} lost"


def listed_contrasts(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Return the contrasts to list one by one: the primary, and those with results.

    Args:
        contrasts: the primary first.
    """
    return [contrast for number, contrast in enumerate(contrasts) if not number or contrast.families]


def unanswered(contrasts: Sequence[Contrast]) -> str:
    """Return the questions that no unit answers, in one sentence; empty where there is none.

    Args:
        contrasts: the answers.
    """
    asked = [f"{c.question.text} ({c.question.metric})" for c in contrasts if not c.families]
    return f"No unit has results of both arms: {'; '.join(asked)}." if asked else ""


def headline_words(findings: Findings) -> tuple[str, str, str]:
    """Return the answer to the primary question.

    Args:
        findings: with the contrasts.

    Returns:
        CSS class of the page's box, the answer in a few words, and the sentence with the numbers, without full stop.
    """
    primary, asked = findings.primary, findings.setup.primary
    if primary is None or not primary.families:
        why = "its arms have no results in common" if findings.results else "there is no result yet"
        return "none", "No answer", f"The primary question, {asked.text}, has no answer: {why}"
    # the classes of a run's verdicts: "merge" is blue and "undecided" orange, like better and worse in the figures
    kind = {"better": "merge", "worse": "undecided", "undecided": "undecided"}.get(primary.standing, "none")
    text = f"{asked.view}, k = {asked.k}: {primary.reason.rstrip('.')}; families: {win_counts(primary)}"
    return kind, outcome(primary), text


def _smallest_gain(setup: Setup) -> str:
    """The smallest gain that matters, with its unit."""
    gain, unit = setup.smallest_gain, UNIT_WORDS[setup.primary.metric]
    return f"{gain:g} {unit.replace('points', 'point') if gain == 1 else unit}"


def bench_facts(findings: Findings) -> list[tuple[str, str]]:
    """Return what was run, as pairs of a word and its value.

    Args:
        findings: results and setup.
    """
    setup, draws = findings.setup, findings.setup.draws
    tasks = {result.unit.task: result.unit.family for result in findings.results}
    failed = f", {len(findings.failed)} of them failed" if findings.failed else ""
    own = f"{setup.tasks.shots} shots, {setup.tasks.tuning} tuning rows, {setup.tasks.heldout} held-out rows"
    asked = f"{setup.primary.text}; the smallest gain that matters is {_smallest_gain(setup)}"
    return [
        ("question", asked),
        ("base", setup.base),
        ("pool", setup.pool),
        ("tasks", f"{len(tasks)} in {plural(len(set(tasks.values())), 'family', 'families')}"),
        ("rows of a task", own),
        ("draws of a task", f"{draws.shots} of shots × {draws.selections} of selections × {draws.tuners} of tuners"),
        ("views", ", ".join(setup.views)),
        ("k", ", ".join(map(str, setup.k))),
        ("seed", str(setup.seed)),
        ("results", f"{len(findings.results):,}{failed}"),
    ]
