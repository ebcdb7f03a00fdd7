"""report.html: the report as one page with plots, for a browser and for print.

The page asks for nothing: no script, no font, no picture from elsewhere, and a policy in its head that forbids them.
Whatever text stands in a run is shown as text: Jinja2 escapes it, and what a browser would act on unseen (control
characters, direction overrides) is written out before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.report import markdown as words
from merge_advisor.report.maps import similarity_map
from merge_advisor.report.plots import NAMED_AXES, Bar, Whisker, axes_of, bars, forest, history, parallel, pareto
from merge_advisor.report.scores import (
    METRIC_TITLES,
    SCORE_HEADERS,
    SCORE_RIGHT,
    difference_text,
    hardest_rival,
    row_changes,
    score_rows,
    trade_off,
    value_text,
)
from merge_advisor.report.svg import brief, element, marked
from merge_advisor.report.tables import printable, shortened
from merge_advisor.scores import Comparison, Score
from merge_advisor.types import Task

if TYPE_CHECKING:
    from jinja2 import Environment

    from merge_advisor.report.markdown import ReportInput
    from merge_advisor.report.values import TrialReport, TuningReport

TEMPLATES = Path(__file__).with_name("templates")
_CELL = 200
"""Characters of a name shown in a table, a heading or a note."""
ROW_TEXT = 300
"""Characters of an input, an output or a target shown in the rows won and lost."""
NEAREST = 12
"""Candidates listed under the map."""
SET_ASIDE = 100
"""Models set aside that are listed; the rest is counted."""
BARS = 30
"""Members with a bar of their weight, the heaviest; the table has all."""
BEST = 12
"""Trials listed, the best of them."""

Table = Mapping[str, Any]
EMPTY: Table = {}


def html_report(report: ReportInput) -> str:
    """Return the report as one HTML page, with a final newline; the same values give the same bytes."""
    scores = {score.task: score for score in report.scores}
    page = environment().get_template("report.html.j2")
    return page.render(
        names=", ".join(task.name for task in report.tasks),
        facts=words.run_facts(report),
        verdict=report.verdict,
        advice="" if report.verdict is None else words.ADVICE[report.verdict],
        reason=report.reason,
        scored=[
            _scored(number, scores[task.name], task) for number, task in enumerate(report.tasks) if task.name in scores
        ],
        trade_off=_trade_off(report.scores),
        members=_members(report),
        map=_map(report),
        tuning=None if report.tuning is None else _tuning(report.tuning),
        splits=_table(words.SPLIT_HEADERS, words.split_rows(report.tasks), right=(1, 2, 3)),
        shared=words.shared_text(report.tasks),
        licences=_table(("member", "licence"), [[m.id, m.licence or "not stated"] for m in report.selection.members]),
        conflicts=report.conflicts,
        refused=_table(("model", "why"), [[found.id, found.reason] for found in report.refused[:SET_ASIDE]]),
        refused_count=len(report.refused),
        notes=report.notes,
        cost=_table(("step", "passes"), words.cost_rows(report.forwards), right=(1,)) if report.forwards else EMPTY,
        files=_table(("file", "what it is"), [list(pair) for pair in report.files]) if report.files else EMPTY,
        commands=[printable(command) for command in report.commands],
    )


def environment() -> Environment:
    """Return templates whose every expression is made printable and escaped, unless it is markup made here."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def shown(value: object) -> object:
        return value if isinstance(value, Markup) else printable(str(value))

    def block(value: str) -> Markup:
        text = shortened(value, ROW_TEXT)
        return escape("\n".join(printable(part) for part in text.replace("\r\n", "\n").split("\n")))

    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["block"] = block
    found.filters["short"] = lambda value: shortened(str(value), _CELL)
    found.filters["plot"] = Markup  # SVG of plots.py and maps.py, which escape what they are given
    return found


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Table:
    cells = [[shortened(cell, _CELL) for cell in row] for row in rows]
    return {"headers": headers, "rows": cells, "right": tuple(right)}


def _scored(number: int, score: Score, task: Task) -> Mapping[str, Any]:
    """One task's plots and tables."""
    hardest = hardest_rival(score)
    return {
        "task": score.task,
        "verdict": score.verdict,
        "reason": score.reason,
        "told": words.measured_text(score),
        "bars": _score_bars(f"bars{number}", score),
        "forest": _differences(f"forest{number}", score),
        "table": _table(SCORE_HEADERS, score_rows(score), right=SCORE_RIGHT),
        "guard": "" if score.guard is None else words.guard_text(score.guard),
        "against": hardest or "",
        "changes": [] if hardest is None else _changes(score, hardest, task),
    }


def _score_bars(key: str, score: Score) -> str:
    rows = []
    for model in score.models:
        value = model.metrics.get(score.metric)
        shown = "" if value is None else value_text(value, score.metric)
        rows.append(Bar(model.label, value, shown, strong=model.label == "merge"))
    title = f"Score of each model: {METRIC_TITLES.get(score.metric, score.metric)}"
    return bars(key, title, rows, percent=score.metric != "loss")


def _differences(key: str, score: Score) -> str:
    units = 1 if score.metric == "loss" else 100

    def whisker(found: Comparison) -> Whisker:
        value, lower, upper = (difference_text(v, score.metric) for v in (found.difference, found.lower, found.upper))
        told = f"{value} ({lower} to {upper})"
        return Whisker(found.against, units * found.difference, units * found.lower, units * found.upper, told)

    rows = [whisker(found) for found in score.comparisons]
    return forest(key, "Merge minus each model, with 95% intervals", rows, ends=("merge is worse", "merge is better"))


def _changes(score: Score, against: str, task: Task) -> list[Mapping[str, Any]]:
    found = row_changes(score, against, {row.digest: row for row in task.heldout})
    return [
        {"word": word, "count": len(rows), "rows": rows[: words.ROWS_SHOWN], "more": len(rows[words.ROWS_SHOWN :])}
        for word, rows in zip(("won", "lost"), found, strict=True)
    ]


def _trade_off(scores: Sequence[Score]) -> Table:
    if len(scores) < 2:
        return EMPTY
    headers, rows = trade_off(scores)
    return _table([shortened(header, 60) for header in headers], rows, right=range(1, len(headers) - 1))


def _members(report: ReportInput) -> Mapping[str, Any]:
    members = report.selection.members
    short = brief([m.id for m in members], 200)
    rows = [Bar(short[m.id], m.weight, f"{m.weight:.3f}") for m in _heaviest(members)]
    return {
        "table": _table(words.MEMBER_HEADERS, [words.member_row(m) for m in members], right=words.MEMBER_RIGHT),
        "scale": words.scale_text(report),
        "weights": bars("weights", "Weights of the plan", rows) if rows and report.tuning is None else "",
    }


def _heaviest(members: Sequence[Any]) -> list[Any]:
    """The members of the largest weights, in their order."""
    ranked = sorted(range(len(members)), key=lambda place: (-abs(members[place].weight), place))
    return [members[place] for place in sorted(ranked[:BARS])]


def _map(report: ReportInput) -> Mapping[str, Any]:
    if report.map is None:
        return {}
    chosen = {member.id for member in report.selection.members}
    known = [(name, value) for name, value in report.similarity.items() if value is not None]
    nearest = sorted(known, key=lambda pair: (-pair[1], pair[0]))[:NEAREST]
    rows = [[name, f"{value:.3f}", "member" if name in chosen else ""] for name, value in nearest]
    return {
        "plot": similarity_map("map", report.map, report.selection, report.similarity),
        "shares": [f"{100 * share:.0f}%" for share in report.map.shares],
        "nearest": _table(("candidate", "similarity", ""), rows, right=(1,)) if rows else EMPTY,
        "marks": [
            (_key("cross", "task"), "the task"),
            (_key("diamond", "member"), "anchor"),
            (_key("circle", "member"), "partner"),
            (_key("circle", "candidate"), "another candidate"),
        ],
    }


def _key(shape: str, class_: str) -> str:
    """A mark as the plots draw it, small enough to stand in a line of text."""
    return element("svg", marked(shape, 0, 0, 4, class_), class_="key", viewBox="-6 -6 12 12", aria_hidden="true")


def _tuning(tuning: TuningReport) -> Mapping[str, Any]:
    """The plots and tables of a tuned run."""
    axes = axes_of(tuning)
    return {
        "told": words.tuning_text(tuning),
        "sides": _table(words.SIDE_HEADERS, [words.side_row(side) for side in tuning.sides], right=words.SIDE_RIGHT),
        "reference": tuning.reference,
        "stopped": any(not trial.whole for trial in tuning.trials),
        "failed": any(trial.value is None for trial in tuning.trials),
        "history": history("history", tuning) if tuning.trials else "",
        "weights": _weights(tuning) if tuning.members else "",
        "parallel": parallel("parallel", tuning) if tuning.trials and tuning.members else "",
        "pareto": pareto("pareto", tuning) if any(len(trial.values) == 2 for trial in tuning.trials) else "",
        "axes": [] if len(axes) <= NAMED_AXES else [(place + 1, tuning.members[place]) for place in axes],
        "best": _best(tuning),
        "notes": tuning.notes,
    }


def _weights(tuning: TuningReport) -> str:
    won = tuning.won
    final = tuning.planned if won is None else won.weights
    places = sorted(range(len(final)), key=lambda place: (-abs(final[place]), place))[:BARS]
    short = brief(tuning.members, 200)
    rows = [
        Bar(short[name], weight, f"{weight:.3f} (plan {planned:.3f})", other=planned, strong=True)
        for place, (name, weight, planned) in enumerate(zip(tuning.members, final, tuning.planned, strict=True))
        if place in places
    ]
    return bars("tuned", "Weights of the final recipe", rows)


def _best(tuning: TuningReport) -> Table:
    """The best trials, and the first ones they are measured against."""
    ranked = sorted((t for t in tuning.trials if t.value is not None), key=lambda t: (t.value, t.number))
    kept = {trial.number for trial in ranked[:BEST]} | {tuning.winner}

    def cells(trial: TrialReport) -> list[str]:
        weights = ", ".join(f"{weight:.2f}" for weight in trial.weights[:8]) + (", …" if trial.weights[8:] else "")
        state = "winner" if trial.number == tuning.winner else "" if trial.whole else "stopped early"
        values = " / ".join("none" if value is None else f"{value:.4g}" for value in trial.values)
        return [str(trial.number), trial.label, values, weights, trial.composition, str(trial.forwards), state]

    headers = ("trial", "from", "value", "weights", "composition", "passes", "")
    return _table(headers, [cells(t) for t in ranked if t.number in kept], right=(0, 2, 3, 5))
