"""The sections of a benchmark's report that draw: ranks, tasks, sizes, costs, promises kept."""

from __future__ import annotations

from dataclasses import replace

from merge_advisor.benchmark.analysis.findings import Findings, ResultSlice, arm_order
from merge_advisor.benchmark.analysis.means import family_means, values_by_arm
from merge_advisor.benchmark.analysis.prediction import TaskTable
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
from merge_advisor.benchmark.report.pictures import (
    cost_plot,
    heat_limit,
    heat_map,
    rank_picture,
    reliability_plot,
    sweep_plot,
)
from merge_advisor.benchmark.report.tables import task_differences


def _marks(found: Findings) -> dict[str, str]:
    """Classes of the two arms of the primary question."""
    asked = found.setup.primary
    return {asked.than: "worse", asked.better: "better"}


def _legend(found: Findings, *more: Swatch) -> tuple[Swatch, ...]:
    asked = found.setup.primary
    return ((*BETTER, asked.better), (*THAN, asked.than), (*OTHERS, "other arms"), *more)


def _at(at: ResultSlice) -> str:
    return f"{words.UNIT_WORDS[at.metric]}, {at.view}"


def ranks(found: Findings) -> Section | None:
    """Return the mean ranks of all arms and which cannot be told apart."""
    if found.ranking is None or len(found.ranking.arms) < 2:
        return None
    title = f"Mean rank over families: {found.main.metric}, {found.main.view}, k = {found.main.k}"
    svg = rank_picture("ranks", title, found.ranking, _marks(found))
    legend = _legend(found, ("upright", "--ink", "not told apart"))
    text = (
        words.sentence(f"{found.ranking.reason}; Friedman's test: {words.p_phrase(found.ranking.friedman)}"),
        (
            "Bars, numbered in the table, join arms of which no two differ: sign-flip test over families, Holm-adjusted"
            " over all pairs, p < .05."
        ),
    )
    bars = found.ranking.cliques
    rows = tuple(
        (arm, f"{rank:.2f}", ", ".join(str(number) for number, bar in enumerate(bars, 1) if arm in bar))
        for arm, rank in zip(found.ranking.arms, found.ranking.mean_ranks, strict=True)
    )
    grid = Grid(title, ("arm", "mean rank", "bars"), rows, (1,), folded=True)
    return Section("ranks", "Ranks", text, pictures=(Picture(title, svg, legend),), grids=(grid,))


def tasks(found: Findings) -> Section | None:
    """Return every arm on every task, and by family."""
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
        ("heat same", "--grid", "equal"),
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


def _family_grid(found: Findings, at: ResultSlice, *, folded: bool) -> Grid:
    values = {arm: family_means(units) for arm, units in values_by_arm(found.results, at.metric, at.view, at.k).items()}
    arms = [arm for arm in arm_order(found.setup, found.results) if arm in values]
    arms.sort(key=lambda arm: arm in found.oracles)
    tasks = {result.unit.task: result.unit.family for result in found.results}
    families = sorted({family for found_ in values.values() for family in found_})
    asked = next((c for c in found.contrasts if c.question == found.setup.primary and at == found.main), None)
    gaps = {} if asked is None else dict(zip(asked.families, asked.differences, strict=True))

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.1f}%" if at.metric == "accuracy" else f"{-value:.3f}"

    first = (f"{asked.question.better} − {asked.question.than}",) if asked else ()
    headers = ("family", "tasks", *first, *(arm_label(arm, found) for arm in arms))
    rows = tuple(
        (
            family_label(family, found),
            str(list(tasks.values()).count(family)),
            *((words.amount(gaps.get(family), at.metric),) if asked else ()),
            *(shown(values[arm].get(family)) for arm in arms),
        )
        for family in families
    )
    caption = f"{'Accuracy' if at.metric == 'accuracy' else 'Loss'} by family, {at.view}, k = {at.k}"
    return Grid(caption, headers, rows, tuple(range(1, len(headers))), folded=folded)


def sizes(found: Findings) -> Section | None:
    """Return the gain over the base by number of members."""
    if not found.sweeps:
        return None
    pictures, grids = [], []
    for number, (at, sweeps) in enumerate(found.sweeps):
        title = f"Gain over the base by k: {_at(at)}"
        svg = sweep_plot(f"sweep{number}", title, sweeps, _marks(found))
        pictures.append(Picture(title, svg, _legend(found)))
        ks = sorted({point.k for sweep in sweeps for point in sweep.points})
        cells = [{point.k: words.amount(point.mean, at.metric) for point in sweep.points} for sweep in sweeps]
        rows = [
            (arm_label(sweep.arm, found), *(row.get(k, "") for k in ks))
            for sweep, row in zip(sweeps, cells, strict=True)
        ]
        headers = ("arm", *(f"k = {k}" for k in ks))
        grids.append(Grid(title, headers, tuple(rows), tuple(range(1, len(headers))), folded=True))
    text = "Intervals are drawn for the arms of the primary question; tables/k_sweep.csv has all of them."
    return Section("sizes", "How many members", (text,), pictures=tuple(pictures), grids=tuple(grids))


def costs(found: Findings) -> Section | None:
    """Return the gain over the base by what it cost."""
    if not found.costs:
        return None
    pictures, grids = [], []
    for number, (at, points) in enumerate(found.costs):
        title = f"Gain over the base by cost: {_at(at)}, k = {at.k}"
        svg = cost_plot(f"cost{number}", title, points, _marks(found))
        oracle = (("ring", "--grey", "oracle"),) if any(cost.oracle for cost in points) else ()
        pictures.append(Picture(title, svg, _legend(found, ("dashed", "--soft", "nothing cheaper is better"), *oracle)))
        rows = tuple(
            (
                arm_label(point.arm, found),
                f"{point.forwards:,.0f}",
                words.amount(point.mean, at.metric),
                words.interval_text(point.lower, point.upper, at.metric),
            )
            for point in points
        )
        grids.append(Grid(title, ("arm", "forwards", "gain", "95% interval"), rows, (1, 2, 3), folded=True))
    text = "What choosing, finetuning and tuning cost a unit. Embedding the pool is paid once for a pool and not in it."
    return Section("costs", "Cost and gain", (text,), pictures=tuple(pictures), grids=tuple(grids))


def promises(found: Findings) -> Section | None:
    """Return what choosing promised against what was measured."""
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
    grid = Grid("Predicted and measured gain, nats", headers, rows, (0, 1, 2, 3, 4), folded=True)
    text = [words.sentence(f"{found.main.view}, k = {found.main.k}: {told.reason}")]
    if any(result.came is not None for result in found.results):
        text.append("Where members were chosen by choices, a gain is that of the right choice among them, nats a row.")
    if told.within is not None:
        ends = (told.within_lower, told.within_upper)
        interval = "" if None in ends else f" ({ends[0]:+.2f} to {ends[1]:+.2f})"
        text.append(
            f"Among the merges of one unit it is {told.within:+.2f}{interval}: this is free of what tasks differ by."
        )
    heading = "Does the predicted gain come true?"
    return Section("promises", heading, tuple(text), pictures=(picture,), grids=(grid,))
