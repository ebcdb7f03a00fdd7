"""The sections of a benchmark's report: the same values for Markdown, which leaves the pictures out, and for HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from merge_advisor.benchmark import words
from merge_advisor.benchmark.families import by_arm, family_means
from merge_advisor.benchmark.findings import Findings, Level, Place, arm_order
from merge_advisor.benchmark.pictures import (
    cost_plot,
    heat_limit,
    heat_map,
    rank_picture,
    reliability_plot,
    sweep_plot,
)
from merge_advisor.benchmark.prediction import TaskTable
from merge_advisor.benchmark.tables import task_differences
from merge_advisor.benchmark.values import Contrast, Metric, Setup, View
from merge_advisor.report.plots import Whisker, forest
from merge_advisor.types import to_plain

FAILED = 40
"""Failed results listed; `tables/failed.csv` has all."""
BETTER, THAN, OTHERS = ("", "--blue"), ("", "--orange"), ("", "--grey")
"""Swatches of the arms of the primary question, and of the others."""

Swatch = tuple[str, str, str]
"""Class of the mark, colour, words."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()
    """Columns of numbers."""
    note: str = ""
    """A sentence above it."""
    folded: bool = False
    """Whether a reader opens it; Markdown leaves it to its CSV."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot with its legend."""

    title: str
    svg: str
    legend: tuple[Swatch, ...] = ()
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it, in this order."""

    id: str
    title: str
    text: tuple[str, ...] = ()
    bullets: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    grids: tuple[Grid, ...] = ()
    code: tuple[str, ...] = ()


def sections(found: Findings) -> list[Section]:
    """Return the sections that have something to tell."""
    all_ = (_contrasts, _arms, _limits, _ranks, _tasks, _sizes, _costs, _promises, _failed, _setup)
    return [section for make in all_ if (section := make(found)) is not None]


def _marks(found: Findings) -> dict[str, str]:
    """Classes of the two arms of the primary question."""
    asked = found.setup.primary
    return {asked.than: "worse", asked.better: "better"}


def _legend(found: Findings, *more: Swatch) -> tuple[Swatch, ...]:
    asked = found.setup.primary
    return ((*BETTER, asked.better), (*THAN, asked.than), (*OTHERS, "other arms"), *more)


def _at(at: Place) -> str:
    return f"{words.UNIT_WORDS[at.metric]}, {at.view}"


def _limits(found: Findings) -> Section:
    return Section("limits", "What this cannot show", bullets=tuple(words.limits(found)))


def _contrasts(found: Findings) -> Section | None:
    if not found.contrasts:
        return None
    rule = (
        "A difference is one number a family: units are averaged within their task, tasks within their family."
        " Intervals are 95%, families resampled; p is of the sign-flip test over families, Holm-adjusted among the"
        " secondaries."
    )
    text = (rule, *(f"{words.question_text(c.question)}: {c.reason.rstrip('.')}." for c in found.contrasts[:1]))
    metrics: tuple[Metric, ...] = ("accuracy", "loss")
    drawn = [(metric, [c for c in found.contrasts if c.question.metric == metric and c.families]) for metric in metrics]
    pictures = tuple(_forest(found, metric, group) for metric, group in drawn if group)
    headers = ("contrast", "metric", "difference", "95% interval", "p", "adjusted p", "Wilcoxon p", "won/tied/lost")
    rows = tuple(_contrast_row(found, contrast) for contrast in found.contrasts)
    grid = Grid("Contrasts", (*headers, "standing"), rows, right=(2, 3, 4, 5, 6, 7))
    reasons = tuple((words.question_text(c.question), c.question.metric, c.reason) for c in found.contrasts[1:])
    told = Grid("The secondaries in words", ("contrast", "metric", "what it says"), reasons, folded=True)
    return Section("contrasts", "Contrasts", text, pictures=pictures, grids=(grid, told) if reasons else (grid,))


def _contrast_row(found: Findings, c: Contrast) -> tuple[str, ...]:
    metric, first = c.question.metric, c.question == found.setup.primary
    return (
        words.question_text(c.question) + (" (primary)" if first else ""),
        metric,
        words.amount(c.mean, metric),
        words.interval_text(c.lower, c.upper, metric),
        words.p_text(c.sign_flip),
        "" if first else words.p_text(c.adjusted),
        words.p_text(c.wilcoxon),
        f"{c.wins}/{c.ties}/{c.losses}",
        c.standing + ("" if c.agree else " (interval and test disagree)"),
    )


def _forest(found: Findings, metric: Metric, group: Sequence[Contrast]) -> Picture:
    unit = words.UNIT_WORDS[metric]
    band = found.setup.smallest_gain if metric == found.setup.primary.metric else 0.0
    rows = [_whisker(found, contrast) for contrast in group]
    title = f"Differences, {unit}, with 95% intervals"
    legend: tuple[Swatch, ...] = (
        (*BETTER, "better beyond noise"),
        (*THAN, "worse beyond noise"),
        (*OTHERS, "not told apart"),
    )
    if band:
        legend = (*legend, ("band", "--band", "below the smallest gain that matters"))
    svg = forest(f"forest-{metric}", title, rows, ends=("worse", "better"), band=band)
    return Picture(title, svg, legend)


def _whisker(found: Findings, c: Contrast) -> Whisker:
    metric, first = c.question.metric, c.question == found.setup.primary
    interval = words.interval_text(c.lower, c.upper, metric)
    name = f"{c.question.better} − {c.question.than}" + (" (primary)" if first else "")
    shown = words.amount(c.mean, metric) + (f" ({interval})" if interval else "")
    p = words.p_text(c.sign_flip if first else c.adjusted)
    note = f"{c.question.view}, k = {c.question.k}; {'p' if first else 'adjusted p'} {p}; {words.tally(c)}"
    return Whisker(name, c.mean, c.lower, c.upper, shown, note, strong=first)


def _arms(found: Findings) -> Section | None:
    if not found.levels:
        return None
    views = tuple(dict.fromkeys(level.view for level in found.levels))
    main = found.main.view if found.main.view in views else views[0]
    sizes = {level.arm for level in found.levels if level.k == found.main.k}
    rows: dict[tuple[str, int], dict[View, Level]] = {}
    for level in found.levels:
        if level.k == found.main.k or level.arm not in sizes:
            rows.setdefault((level.arm, level.k), {})[level.view] = level
    order = arm_order(found.setup, found.results)
    ordered = sorted(rows.items(), key=lambda row: (row[0][0] in found.oracles, order.index(row[0][0]), row[0][1]))
    there = [level for _, by_view in ordered if (level := by_view.get(main)) is not None]
    headers = ("arm", "k", "accuracy", "valid format", "accuracy if valid", "loss", "forwards", "results", "failed")
    right = tuple(range(1, len(headers)))
    free = tuple(_level_row(level) for level in there if not level.oracle)
    oracles = tuple(_level_row(level) for level in there if level.oracle)
    note = "These read the held-out answers: they show what there is to gain and are compared with nothing."
    grids = [Grid(f"All that can be compared, {main}", headers, free, right)]
    grids.append(Grid(f"Oracles, {main}", headers, oracles, right, note=note))
    if len(views) > 1:
        heads = ("arm", "k", *(f"{metric}, {view}" for metric in ("accuracy", "loss") for view in views))
        cells = tuple(_views_row(_named(arm, found), k, found_, views) for (arm, k), found_ in ordered)
        grids.append(Grid("The views side by side", heads, cells, tuple(range(1, len(heads)))))
    text = (
        f"Means over families, at k = {found.main.k} where an arm has it. Forwards are nominal passes over one row, a"
        " unit; loss is in nats per token, less is better."
    )
    return Section("arms", "Arms and controls", (text,), grids=tuple(grids))


def _level_row(level: Level) -> tuple[str, ...]:
    return (
        level.arm,
        str(level.k),
        words.share_text(level.accuracy),
        words.share_text(level.valid),
        words.share_text(level.accuracy_valid),
        _loss_text(level),
        "" if level.forwards is None else f"{level.forwards:,.0f}",
        str(level.done),
        str(level.failed),
    )


def _views_row(arm: str, k: int, there: Mapping[View, Level], views: Sequence[View]) -> tuple[str, ...]:
    levels = [there.get(view) for view in views]
    accuracies = ["" if level is None else words.share_text(level.accuracy) for level in levels]
    return (arm, str(k), *accuracies, *("" if level is None else _loss_text(level) for level in levels))


def _loss_text(level: Level) -> str:
    return "" if level.loss is None else f"{level.loss:.3f}"


def _named(arm: str, found: Findings) -> str:
    return f"{arm} (oracle)" if arm in found.oracles else arm


def _ranks(found: Findings) -> Section | None:
    if found.ranking is None or len(found.ranking.arms) < 2:
        return None
    title = f"Mean rank over families: {found.main.metric}, {found.main.view}, k = {found.main.k}"
    svg = rank_picture("ranks", title, found.ranking, _marks(found))
    legend = _legend(found, ("upright", "--ink", "not told apart"))
    return Section("ranks", "Ranks", (found.ranking.reason,), pictures=(Picture(title, svg, legend),))


def _tasks(found: Findings) -> Section | None:
    if not found.tasks:
        return None
    at, table = next(((at, table) for at, table in found.tasks if at == found.main), found.tasks[0])
    table = _ordered(table, found)
    gaps = task_differences(table, found.reference)
    kept = [place for place, arm in enumerate(table.arms) if arm != found.reference]
    drawn = replace(table, arms=tuple(table.arms[place] for place in kept))
    shown = [[row[place] for place in kept] for row in gaps]
    title = f"Each arm minus {found.reference}, by task: {_at(at)}, k = {at.k}"
    limit = heat_limit(shown)
    ends = words.amount(limit, at.metric).lstrip("+")
    legend = (
        ("heat down4", "--orange", f"worse by {ends} or more"),
        ("heat same", "--grey", "equal"),
        ("heat up4", "--blue", f"better by {ends} or more"),
        ("heat none", "--page", "no result"),
    )
    svg = heat_map("heat", title, drawn, shown, points=at.metric == "accuracy")
    pictures = (Picture(title, svg, legend, wide=True),) if kept else ()
    grids = tuple(_family_grid(found, place, folded=place != at) for place, _ in found.tasks)
    return Section("tasks", "Tasks and families", pictures=pictures, grids=grids)


def _ordered(table: TaskTable, found: Findings) -> TaskTable:
    """The table with the arms in the report's order, oracles last."""
    order, oracles = arm_order(found.setup, found.results), found.oracles
    places = sorted(range(len(table.arms)), key=lambda n: (table.arms[n] in oracles, order.index(table.arms[n])))
    return replace(
        table,
        arms=tuple(table.arms[place] for place in places),
        values=tuple(tuple(row[place] for place in places) for row in table.values),
    )


def _family_grid(found: Findings, at: Place, *, folded: bool) -> Grid:
    values = {arm: family_means(units) for arm, units in by_arm(found.results, at.metric, at.view, at.k).items()}
    arms = [arm for arm in arm_order(found.setup, found.results) if arm in values]
    arms.sort(key=lambda arm: arm in found.oracles)
    tasks = {result.unit.task: result.unit.family for result in found.results}
    families = sorted({family for found_ in values.values() for family in found_})
    asked = next((c for c in found.contrasts if c.question == found.setup.primary and at == found.main), None)
    gaps = {} if asked is None else dict(zip(asked.families, asked.differences, strict=True))

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}%" if at.metric == "accuracy" else f"{-value:.3f}"

    first = (f"{asked.question.better} − {asked.question.than}",) if asked else ()
    headers = ("family", "tasks", *first, *(_named(arm, found) for arm in arms))
    rows = tuple(
        (
            family,
            str(list(tasks.values()).count(family)),
            *((words.amount(gaps.get(family), at.metric),) if asked else ()),
            *(shown(values[arm].get(family)) for arm in arms),
        )
        for family in families
    )
    caption = f"{'Accuracy' if at.metric == 'accuracy' else 'Loss'} by family, {at.view}, k = {at.k}"
    return Grid(caption, headers, rows, tuple(range(1, len(headers))), folded)


def _sizes(found: Findings) -> Section | None:
    if not found.sweeps:
        return None
    pictures = []
    for number, (at, sweeps) in enumerate(found.sweeps):
        title = f"Gain over the base by k: {_at(at)}"
        svg = sweep_plot(f"sweep{number}", title, sweeps, _marks(found))
        pictures.append(Picture(title, svg, _legend(found)))
    text = "Intervals are drawn for the arms of the primary question; tables/k_sweep.csv has all of them."
    return Section("sizes", "How many members", (text,), pictures=tuple(pictures))


def _costs(found: Findings) -> Section | None:
    if not found.costs:
        return None
    pictures = []
    for number, (at, costs) in enumerate(found.costs):
        title = f"Gain over the base by cost: {_at(at)}, k = {at.k}"
        svg = cost_plot(f"cost{number}", title, costs, _marks(found))
        oracle = (("ring", "--grey", "oracle"),) if any(cost.oracle for cost in costs) else ()
        pictures.append(Picture(title, svg, _legend(found, ("dashed", "--soft", "nothing cheaper is better"), *oracle)))
    text = "What choosing, finetuning and tuning cost a unit. Embedding the pool is paid once for a pool and not in it."
    return Section("costs", "Cost and gain", (text,), pictures=tuple(pictures))


def _promises(found: Findings) -> Section | None:
    told = found.agreement
    if told is None or not told.promises:
        return None
    title = "Measured gain against the predicted one"
    legend = (
        ("", "--grey", "an arm on a task"),
        ("line", "--blue", "means of equal counts"),
        ("dashed", "--soft", "measured as predicted"),
    )
    picture = Picture(title, reliability_plot("reliability", title, told), legend)
    headers = ("predicted from", "to", "mean predicted", "mean measured", "merges")
    rows = tuple(
        (f"{b.lowest:+.3f}", f"{b.highest:+.3f}", f"{b.predicted:+.3f}", f"{b.measured:+.3f}", str(b.count))
        for b in told.bins
    )
    grid = Grid("Predicted and measured gain, nats per token", headers, rows, (0, 1, 2, 3, 4), folded=True)
    text = (told.reason, *_taus(found))
    return Section("promises", "Does the predicted gain come true?", text, pictures=(picture,), grids=(grid,))


def _taus(found: Findings) -> list[str]:
    told = found.agreement
    if told is None:
        return []
    rows = (
        ("over all", told.tau, told.lower, told.upper),
        ("among the merges of one unit", told.within, told.within_lower, told.within_upper),
    )
    parts = []
    for name, tau, lower, upper in rows:
        if tau is not None:
            interval = "" if lower is None or upper is None else f" ({lower:.2f} to {upper:.2f})"
            parts.append(f"{name} {tau:.2f}{interval}")
    return [f"Kendall's tau: {'; '.join(parts)}."] if parts else []


def _failed(found: Findings) -> Section | None:
    if not found.failed:
        return None
    headers = ("arm", "task", "view", "k", "draws (shots, selection, tuner)", "reason")
    rows = tuple((r.arm, r.unit.task, r.view, str(r.k), _draws(r.unit), r.reason) for r in found.failed[:FAILED])
    count = words.plural(len(found.failed), "result", "results")
    more = f" The first {FAILED} are listed, tables/failed.csv has all." if len(found.failed) > FAILED else ""
    text = f"{count} of {len(found.results):,} failed.{more} The same command again tries them anew."
    return Section("failed", "Failed results", (text,), grids=(Grid("Failed results", headers, rows, (3,)),))


def _draws(unit: Any) -> str:
    return f"{unit.shot_draw}, {unit.selection_draw}, {unit.tuner_seed}"


def _setup(found: Findings) -> Section:
    setup = found.setup
    rows = tuple(
        (
            arm.name,
            arm.strategy,
            arm.composition,
            ", ".join(map(str, arm.k or setup.k)),
            "member" if arm.shots_lora else "",
            arm.match,
            "" if arm.tuner is None else f"{arm.tuner.sampler}, {arm.tuner.trials} trials, {arm.tuner.objective}",
        )
        for arm in setup.arms
    )
    headers = ("arm", "strategy", "composition", "k", "shots_lora", "budget of", "tuner")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", setup.name).strip("-.") or "setup"
    text = f"This text as {name}.yaml, beside what its paths lead to, and the command under it repeat the benchmark."
    return Section(
        "setup",
        "Setup",
        (text,),
        grids=(Grid("Arms", headers, rows),),
        code=(setup_text(setup), f"merge-advisor bench {name}.yaml --out {name}-again"),
    )


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
