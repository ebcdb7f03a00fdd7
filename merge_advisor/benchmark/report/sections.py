"""The sections of a benchmark's report: the same values for Markdown, which leaves the pictures out, and for HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from merge_advisor.benchmark.analysis.choices import TaskChoices
from merge_advisor.benchmark.analysis.findings import ArmSummary, Findings, arm_order
from merge_advisor.benchmark.analysis.means import paired_differences, task_means, values_by_arm
from merge_advisor.benchmark.report import words
from merge_advisor.benchmark.report.parts import (
    BETTER,
    OTHERS,
    THAN,
    Grid,
    Picture,
    Section,
    Swatch,
    arm_label,
    family_label,
)
from merge_advisor.benchmark.report.pictured import costs, promises, ranks, sizes, tasks
from merge_advisor.benchmark.values import Contrast, Metric, Unit, View
from merge_advisor.report.plots import Whisker, forest

MEMBERS = 4
"""Members of a task that are named; `tables/chosen_members.csv` has all."""
FAILED = 40
"""Failed results listed; `tables/failed.csv` has all."""


def sections(found: Findings) -> list[Section]:
    """Return the sections that have something to tell."""
    all_ = (_contrasts, _arms, _limits, ranks, tasks, _chosen, sizes, costs, promises, _failed, _setup)
    return [section for make in all_ if (section := make(found)) is not None]


def _limits(found: Findings) -> Section:
    return Section("limits", "What this cannot show", bullets=tuple(words.limits(found)))


def _contrasts(found: Findings) -> Section | None:
    if not found.contrasts:
        return None
    text = (
        "A difference is one number a family: units are averaged within their task, tasks within their family."
        " Intervals are 95%, families resampled; p is of the sign-flip test over families, Holm-adjusted among the"
        " secondaries."
    )
    metrics: tuple[Metric, ...] = ("accuracy", "loss")
    drawn = [(metric, [c for c in found.contrasts if c.question.metric == metric and c.families]) for metric in metrics]
    pictures = tuple(_forest(found, metric, group) for metric, group in drawn if group)
    headers = ("contrast", "metric", "difference", "95% interval", "p", "adjusted p", "Wilcoxon p", "won/tied/lost")
    told = words.shown(found.contrasts)
    rows = tuple(_contrast_row(found, contrast) for contrast in told)
    grid = Grid("Contrasts", (*headers, "standing"), rows, right=(2, 3, 4, 5, 6, 7))
    reasons = tuple((c.question.text, c.question.metric, c.reason) for c in told[1:])
    spoken = Grid("The secondaries in words", ("contrast", "metric", "what it says"), reasons, folded=True)
    texts = tuple(filter(None, (text, words.unanswered(found.contrasts))))
    return Section("contrasts", "Contrasts", texts, pictures=pictures, grids=(grid, spoken) if reasons else (grid,))


def _contrast_row(found: Findings, c: Contrast) -> tuple[str, ...]:
    metric, first = c.question.metric, c.question == found.setup.primary
    name = c.question.text + (" (primary)" if first else "")
    if not c.families:
        return name, metric, *[""] * 6, "no results in common"
    return (
        name,
        metric,
        words.amount(c.mean, metric),
        words.interval_text(c.lower, c.upper, metric),
        words.p_text(c.sign_flip),
        "" if first else words.p_text(c.adjusted),
        words.p_text(c.wilcoxon),
        f"{c.wins}/{c.ties}/{c.losses}",
        c.standing + ("" if c.agree else " (tests disagree)"),
    )


def _forest(found: Findings, metric: Metric, group: Sequence[Contrast]) -> Picture:
    unit = words.UNIT_WORDS[metric]
    gains = {contrast.smallest_gain for contrast in group}
    band = gains.pop() or 0.0 if len(gains) == 1 else 0.0
    rows = [_whisker(found, contrast) for contrast in group]
    title = f"Differences, {unit}, with 95% intervals"
    legend: tuple[Swatch, ...] = (
        (*BETTER, "better"),
        (*THAN, "worse"),
        (*OTHERS, "undecided or equivalent"),
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
    p = words.p_phrase(c.sign_flip) if first else "adjusted " + words.p_phrase(c.adjusted)
    note = f"{c.question.view}, k = {c.question.k}; {p}; {words.tally(c)}"
    side = c.standing if c.standing in ("better", "worse") else "even"
    return Whisker(name, c.mean, c.lower, c.upper, shown, note, strong=first, side=side)


def _arms(found: Findings) -> Section | None:
    if not found.summaries:
        return None
    views = tuple(dict.fromkeys(level.view for level in found.summaries))
    main = found.main.view if found.main.view in views else views[0]
    sizes = {level.arm for level in found.summaries if level.k == found.main.k}
    rows: dict[tuple[str, int], dict[View, ArmSummary]] = {}
    for level in found.summaries:
        if level.k == found.main.k or level.arm not in sizes:
            rows.setdefault((level.arm, level.k), {})[level.view] = level
    order = arm_order(found.setup, found.results)
    ordered = sorted(rows.items(), key=lambda row: (row[0][0] in found.oracles, order.index(row[0][0]), row[0][1]))
    there = [by_view[main] for _, by_view in ordered if main in by_view]
    shares = ("accuracy", "over base", "valid format", "accuracy if valid")
    headers = ("arm", "k", *shares, "loss", "forwards", "results", "failed")
    right = tuple(range(1, len(headers)))
    free = tuple(_level_row(level) for level in there if not level.oracle)
    oracles = tuple(_level_row(level) for level in there if level.oracle)
    note = "These read the held-out answers: they show what there is to gain and are compared with nothing."
    grids = [Grid(f"All that can be compared, {main}", headers, free, right)]
    grids.append(Grid(f"Oracles, {main}", headers, oracles, right, note=note))
    if len(views) > 1:
        heads = ("arm", *(f"{metric}, {view}" for metric in ("accuracy", "loss") for view in views))
        names = [arm_label(arm, found) + ("" if k == found.main.k else f", k = {k}") for (arm, k), _ in ordered]
        cells = tuple(_views_row(name, by_view, views) for name, (_, by_view) in zip(names, ordered, strict=True))
        grids.append(Grid("The views side by side", heads, cells, tuple(range(1, len(heads)))))
    text = (
        f"Means over families, at k = {found.main.k} where an arm has it. Over base: points of accuracy, on the units"
        " that the arm and the base both have. Forwards are nominal passes over one row, a unit; loss is in nats per"
        " token, less is better."
    )
    return Section("arms", "Arms and controls", (text,), grids=tuple(grids))


def _level_row(level: ArmSummary) -> tuple[str, ...]:
    return (
        level.arm,
        str(level.k),
        words.share_text(level.accuracy),
        words.amount(level.over_base, "accuracy"),
        words.share_text(level.valid),
        words.share_text(level.accuracy_valid),
        words.loss_text(level.loss),
        "" if level.forwards is None else f"{level.forwards:,.0f}",
        str(level.done),
        str(level.failed),
    )


def _views_row(arm: str, there: Mapping[View, ArmSummary], views: Sequence[View]) -> tuple[str, ...]:
    levels = [there.get(view) for view in views]
    accuracies = ["" if level is None else words.share_text(level.accuracy) for level in levels]
    return (arm, *accuracies, *("" if level is None else words.loss_text(level.loss) for level in levels))


def _chosen(found: Findings) -> Section | None:
    """Return what the two arms of the primary question chose, task by task, and what came of it."""
    asked, at = found.setup.primary, found.main
    pair = (asked.better, asked.than)
    here = [c for c in found.chosen if (c.view, c.k) == (at.view, at.k) and c.arm in pair]
    if not here:
        return None
    by_task: dict[str, dict[str, TaskChoices]] = {}
    for one in sorted(here, key=lambda one: (one.family, one.task)):
        by_task.setdefault(one.task, {})[one.arm] = one
    gaps = _task_gaps(found)
    heads = tuple(f"{arm}: {what}" for arm in pair for what in ("kin", "gain"))
    headers = ("task", "family", f"{asked.better} − {asked.than}", *heads)
    rows = tuple(
        (
            task,
            family_label(next(iter(arms.values())).family, found),
            words.amount(gaps.get(task), at.metric),
            *(cell for arm in pair for cell in _kept_text(arms.get(arm))),
        )
        for task, arms in by_task.items()
    )
    names = tuple((task, *(_members_text(arms.get(arm)) for arm in pair)) for task, arms in by_task.items())
    text = (
        "Kin: in how many units a member was trained on a task of the same family (empty: the pool has none). Gain:"
        " what choosing promised, and what came of it on the held-out rows, nats, means over units (see below)."
    )
    grids = (
        Grid(f"By task, {at.view}, k = {at.k}", headers, rows, right=(2, 3, 4, 5, 6)),
        Grid("Who was chosen most often, and in how many units", ("task", *pair), names, folded=True),
    )
    return Section("chosen", "What was chosen, and what came of it", (text,), grids=grids)


def _task_gaps(found: Findings) -> dict[str, float]:
    """Primary's difference on each task, on the units that both arms have."""
    at, asked = found.main, found.setup.primary
    values = values_by_arm(found.results, at.metric, at.view, at.k)
    gaps = paired_differences(values.get(asked.better, {}), values.get(asked.than, {}))
    return {task: gap for (_, task), gap in task_means(gaps).items()}


def _kept_text(one: TaskChoices | None) -> tuple[str, str]:
    if one is None:
        return "", ""
    kin = "" if one.kin is None else f"{one.kin} of {one.units}"
    if one.predicted is None or one.measured is None:
        return kin, ""
    return kin, f"{one.predicted:+.2f}, {one.measured:+.2f}"


def _members_text(one: TaskChoices | None) -> str:
    if one is None:
        return ""
    shown = [f"{member.id} {member.units}" for member in one.members[:MEMBERS]]
    return ", ".join(shown + ([f"{len(one.members) - MEMBERS} more"] if len(one.members) > MEMBERS else []))


def _failed(found: Findings) -> Section | None:
    if not found.failed:
        return None
    headers = ("arm", "task", "view", "k", "draws (shots, selection, tuner)", "reason")
    rows = tuple((r.arm, r.unit.task, r.view, str(r.k), _draws(r.unit), r.reason) for r in found.failed[:FAILED])
    count = words.plural(len(found.failed), "result", "results")
    more = f" The first {FAILED} are listed, tables/failed.csv has all." if len(found.failed) > FAILED else ""
    text = f"{count} of {len(found.results):,} failed.{more} The same command again tries them anew."
    return Section("failed", "Failed results", (text,), grids=(Grid("Failed results", headers, rows, (3,)),))


def _draws(unit: Unit) -> str:
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
        code=(words.setup_text(setup), f"merge-advisor bench {name}.yaml --out {name}-again"),
    )
