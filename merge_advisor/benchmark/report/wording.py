"""What a benchmark's report says in sentences, and its numbers as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any

from merge_advisor.benchmark.analysis.findings import Findings
from merge_advisor.benchmark.analysis.means import without_tried
from merge_advisor.benchmark.analysis.resampling import ENOUGH_FAMILIES
from merge_advisor.benchmark.values import Contrast, Metric, Setup
from merge_advisor.types import to_plain

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


def p_phrase(p: float) -> str:
    """Return a p value with its letter, e.g. "p = .013"."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def share_text(value: float | None) -> str:
    """Return a share as a percentage; empty where there is none."""
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def loss_text(value: float | None) -> str:
    """Return a loss in nats per token; empty where there is none."""
    return "" if value is None else f"{value:.3f}"


def outcome(found: Contrast) -> str:
    """Return the standing of a contrast in a few words."""
    better, than = found.question.better, found.question.than
    return {
        "better": f"{better} beats {than}",
        "worse": f"{better} does worse than {than}",
        "equivalent": f"{better} and {than} are equivalent",
        "undecided": f"{better} against {than}: undecided",
    }[found.standing]


def shown(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Return the contrasts to show one by one, of some with the primary first: that one, and those with results."""
    return [c for number, c in enumerate(contrasts) if not number or c.families]


def unanswered(contrasts: Sequence[Contrast]) -> str:
    """Return the questions that no unit answers, in one sentence; empty where there is none."""
    asked = [f"{c.question.text} ({c.question.metric})" for c in contrasts if not c.families]
    return f"No unit has results of both arms: {'; '.join(asked)}." if asked else ""


def tally(found: Contrast) -> str:
    """Return in how many families it won, tied and lost."""
    return f"{found.wins} won, {found.ties} tied, {found.losses} lost"


def headline(found: Findings) -> tuple[str, str, str]:
    """Return the class of the verdict, its few words, and the sentence with the numbers."""
    primary, asked = found.primary, found.setup.primary
    if primary is None or not primary.families:
        why = "its arms have no results in common" if found.results else "there is no result yet"
        text = f"The primary question, {asked.text}, has no answer: {why}"
        return "none", "No answer", text
    kind = {"better": "merge", "worse": "undecided", "undecided": "undecided"}.get(primary.standing, "none")
    text = f"{asked.view}, k = {asked.k}: {primary.reason.rstrip('.')}; families: {tally(primary)}"
    return kind, outcome(primary), text


def smallest(setup: Setup) -> str:
    """Return the smallest gain with its unit."""
    gain, unit = setup.smallest_gain, UNIT_WORDS[setup.primary.metric]
    return f"{gain:g} {unit.replace('points', 'point') if gain == 1 else unit}"


def bench_facts(found: Findings) -> list[tuple[str, str]]:
    """Return what was run, as pairs of a word and its value."""
    setup, draws = found.setup, found.setup.draws
    tasks = {result.unit.task: result.unit.family for result in found.results}
    failed = f", {len(found.failed)} of them failed" if found.failed else ""
    own = f"{setup.tasks.shots} shots, {setup.tasks.tuning} tuning rows, {setup.tasks.heldout} held-out rows"
    asked = f"{setup.primary.text}; the smallest gain that matters is {smallest(setup)}"
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
        ("results", f"{len(found.results):,}{failed}"),
    ]


def limits(found: Findings) -> list[str]:
    """Return what the benchmark cannot show, one sentence each."""
    setup, primary = found.setup, found.primary
    tuned = [arm.name for arm in setup.arms if arm.tuner is not None]
    told = ["One base and one pool: nothing here is about others."]
    if primary is not None and 0 < len(primary.families) < ENOUGH_FAMILIES:
        least = 2.0 ** (1 - len(primary.families))
        told.append(
            f"{plural(len(primary.families), 'family', 'families')} of tasks: no sign-flip test over so few goes below"
            f" p = {p_text(least)}; at least {ENOUGH_FAMILIES} can reach p < .05."
        )
    tried = [family for family in setup.tasks.tried if any(r.unit.family == family for r in found.results)]
    if tried:
        told.append(
            f"Strategies were tried out on {', '.join(tried)}: in the tables by task, in no contrast and no mean."
        )
    told += _draws(found)
    if tuned and setup.draws.tuners == 1:
        told.append(f"One tuner seed ({', '.join(tuned)}): how much that chance matters is not seen.")
    if found.own and "own-out" not in setup.views and "family-out" not in setup.views:
        told.append("The adapter trained on a task is in its pool: nothing here is about new tasks.")
    told.append(
        "Intervals are over families: they speak of tasks of other families like these, and the same held-out rows"
        " serve all draws of a task."
    )
    done = [r for r in without_tried(found.results, setup.tasks.tried) if r.status == "done"]
    if len({r.unit for r in done}) * len({(r.arm, r.view, r.k) for r in done}) > len(done):
        told.append(
            "Not every arm was run on every unit: compare contrasts, and what arms gained over the base, which take the"
            " units that both sides have; not the other columns."
        )
    told.append("Only the primary contrast was fixed as the one question; the tables and plots of all arms describe.")
    for number, parts in groupby(found.added, key=lambda added: added.results):
        came = [added.name for added in parts]
        arms = {name.removeprefix("arm ") for name in came if name.startswith("arm ")}
        names = "; ".join(n for n in came if not (n.startswith("k ") and n.partition(" of ")[2] in arms))
        told.append(
            f"Added when {plural(number, 'result was', 'results were')} there, so not fixed before them: {names}."
        )
    if found.failed:
        told.append(
            f"{plural(len(found.failed), 'result', 'results')} failed and are in no mean;"
            " a contrast takes the units on which both of its arms are done."
        )
    return told


def _draws(found: Findings) -> list[str]:
    """What chance was drawn once, and what the setup asks for that was not run."""
    asked, units, told = found.setup.draws, {result.unit for result in found.results}, []
    for name, run, n in (
        ("shots", len({unit.shot_draw for unit in units}), asked.shots),
        ("selections", len({unit.selection_draw for unit in units}), asked.selections),
    ):
        if min(run or n, n) == 1:
            of_more = f" (the setup asks for {n})" if n > 1 else ""
            told.append(f"One draw of {name}{of_more}: how much that chance matters is not seen.")
        elif 0 < run < n:
            told.append(f"{run} of {n} draws of {name} were run.")
    return told


def sentence(text: str) -> str:
    """Return a text with one full stop at its end."""
    return text.rstrip(". ") + "."


def plural(n: int, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{n:,} {one if n == 1 else many}"


def setup_text(setup: Setup) -> str:
    """Return a setup as YAML that the benchmark reads; what is as by default is left out."""
    import yaml

    return yaml.safe_dump(_said(setup), sort_keys=False, allow_unicode=True, width=100).rstrip("\n")


def _said(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that have no default or differ from it."""
    found: dict[str, Any] = {}
    for item in fields(value):
        given = getattr(value, item.name)
        default = item.default_factory() if callable(item.default_factory) else item.default
        if given == default and item.name != "version":
            continue
        if is_dataclass(given):
            found[item.name] = _said(given)
        elif isinstance(given, tuple):
            found[item.name] = [_said(part) if is_dataclass(part) else to_plain(part) for part in given]
        else:
            found[item.name] = to_plain(given)
    return found
