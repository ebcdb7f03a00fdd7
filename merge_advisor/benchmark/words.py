"""What a benchmark's report says in sentences, and its numbers as text."""

from __future__ import annotations

import math

from merge_advisor.benchmark.findings import Findings
from merge_advisor.benchmark.values import Contrast, Metric, Question, Setup

LEAST_FAMILIES = 6
"""With fewer no sign-flip test reaches p < .05."""
UNIT_WORDS: dict[Metric, str] = {"accuracy": "points of accuracy", "loss": "nats per token"}


def amount(value: float | None, metric: Metric) -> str:
    """Return a difference with its sign: points, or nats; empty where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value + 0.0:+.1f}" if metric == "accuracy" else f"{value + 0.0:+.3f}"


def interval_text(lower: float | None, upper: float | None, metric: Metric) -> str:
    """Return an interval, e.g. "+0.6 to +3.0"; empty where there is none."""
    low, high = amount(lower, metric), amount(upper, metric)
    return f"{low} to {high}" if low and high else ""


def p_text(p: float | None) -> str:
    """Return a p value: three decimals, or that it is below them; empty where there is none."""
    if p is None or not math.isfinite(p):
        return ""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def share_text(value: float | None) -> str:
    """Return a share as a percentage; empty where there is none."""
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def question_text(question: Question) -> str:
    """Return who is compared with whom, and where."""
    return f"{question.better} against {question.than}, {question.view}, k = {question.k}"


def outcome(found: Contrast) -> str:
    """Return the standing of a contrast in a few words."""
    better, than = found.question.better, found.question.than
    return {
        "better": f"{better} beats {than}",
        "worse": f"{better} does worse than {than}",
        "equivalent": f"{better} and {than} are equivalent",
        "undecided": f"{better} against {than}: undecided",
    }[found.standing]


def numbers(found: Contrast) -> str:
    """Return a contrast's difference, interval, p and count of families, in one sentence without its end."""
    metric = found.question.metric
    interval = interval_text(found.lower, found.upper, metric)
    told = f"{amount(found.mean, metric)} {UNIT_WORDS[metric]}"
    told += f" (95% interval {interval}; " if interval else " (no interval; "
    if p := p_text(found.sign_flip):
        told += f"sign-flip p {p if p[0] == '<' else '= ' + p}; "
    count = len(found.families)
    return told + f"{count} {'family' if count == 1 else 'families'}: {tally(found)})"


def tally(found: Contrast) -> str:
    """Return in how many families it won, tied and lost."""
    return f"{found.wins} won, {found.ties} tied, {found.losses} lost"


def headline(found: Findings) -> tuple[str, str, str]:
    """Return the class of the verdict, its few words, and the sentence with the numbers."""
    primary, asked = found.primary, found.setup.primary
    if primary is None or not primary.families:
        why = "its arms have no results in common" if found.results else "there is no result yet"
        text = f"The primary question, {question_text(asked)}, has no answer: {why}"
        return "none", "No answer", text
    kind = {"better": "merge", "worse": "undecided", "undecided": "undecided"}.get(primary.standing, "none")
    text = f"{question_text(asked)}: {numbers(primary)}; the smallest gain that matters is {smallest(found.setup)}"
    return kind, outcome(primary), text


def smallest(setup: Setup) -> str:
    """Return the smallest gain with its unit."""
    gain, unit = setup.smallest_gain, UNIT_WORDS[setup.primary.metric]
    return f"{gain:g} {unit.replace('points', 'point') if gain == 1 else unit}"


def facts(found: Findings) -> list[tuple[str, str]]:
    """Return what was run, as pairs of a word and its value."""
    setup, draws = found.setup, found.setup.draws
    tasks = {result.unit.task: result.unit.family for result in found.results}
    failed = f", {len(found.failed)} of them failed" if found.failed else ""
    own = f"{setup.tasks.shots} shots, {setup.tasks.tuning} tuning rows, {setup.tasks.heldout} held-out rows"
    return [
        ("base", setup.base),
        ("pool", setup.pool),
        ("tasks", f"{len(tasks)} in {plural(len(set(tasks.values())), 'family', 'families')}"),
        ("rows of a task", own),
        ("draws of a task", f"{draws.shots} of shots × {draws.selections} of selections × {draws.tuners} of tuners"),
        ("views", ", ".join(setup.views)),
        ("k", ", ".join(map(str, setup.k))),
        ("seed", str(setup.seed)),
        ("results", f"{len(found.results):,}{failed}"),
    ]


def limits(found: Findings) -> list[str]:
    """Return what the benchmark cannot show, one sentence each."""
    setup, primary = found.setup, found.primary
    draws = (("shots", setup.draws.shots), ("selections", setup.draws.selections))
    tuned = [arm.name for arm in setup.arms if arm.tuner is not None]
    told = ["One base and one pool: nothing here is about others."]
    if primary is not None and 0 < len(primary.families) < LEAST_FAMILIES:
        least = 2.0 ** (1 - len(primary.families))
        told.append(
            f"{plural(len(primary.families), 'family', 'families')} of tasks: no sign-flip test over so few goes below"
            f" p = {p_text(least)}; at least {LEAST_FAMILIES} can reach p < .05."
        )
    told += [f"One draw of {name}: how much that chance matters is not seen." for name, n in draws if n == 1]
    if tuned and setup.draws.tuners == 1:
        told.append(f"One tuner seed ({', '.join(tuned)}): how much that chance matters is not seen.")
    if "own-out" not in setup.views and "family-out" not in setup.views:
        told.append("The adapter trained on a task is in its pool: nothing here is about new tasks.")
    told.append(
        "Intervals are over families: they speak of tasks of other families like these, and the same held-out rows"
        " serve all draws of a task."
    )
    told.append("Only the contrasts are tests; all other tables and plots describe.")
    if found.failed:
        told.append(
            f"{plural(len(found.failed), 'result', 'results')} failed and are in no mean;"
            " a contrast takes the units on which both of its arms are done."
        )
    return told


def plural(n: int, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{n:,} {one if n == 1 else many}"
