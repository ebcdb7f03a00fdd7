"""A benchmark's figures as SVG: ranks, gain by size and by cost, promises against measurements.

Each takes frozen values. What has no number is left out; where there is nothing to draw, the SVG is an empty string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from merge_advisor.benchmark.analysis.calibration import Calibration
from merge_advisor.benchmark.analysis.curves import CostPoint, Sweep
from merge_advisor.benchmark.analysis.prediction import Agreement
from merge_advisor.benchmark.analysis.ranks import Ranking
from merge_advisor.report.labels import Labels
from merge_advisor.report.plots import front_points, stairs
from merge_advisor.report.svg import (
    WIDTH,
    Scale,
    coordinate,
    dots,
    element,
    figure,
    finite_numbers,
    fitted,
    horizontal_axis,
    label,
    line,
    marked,
    polyline,
    scale_over,
    tooltip,
    vertical_axis,
)

_LEFT = 40
"""Units kept free for the numbers of an upright axis."""
_NAMES = 128
"""Units kept free for names beside rows or lines."""
_PROMISES = 2000
"""Merges drawn in the reliability plot at most, evenly spaced by their place."""


def rank_plot(key: str, title: str, ranking: Ranking, marks: Mapping[str, str]) -> str:
    """Return each arm's mean rank, best on top, with a bar beside those that cannot be told apart.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        ranking: arms by mean rank.
        marks: class of an arm's mark, for the arms that stand out.

    Returns:
        One SVG element; empty with fewer than two arms.
    """
    if len(ranking.arms) < 2:
        return ""
    # the axis goes from the best mean rank there could be to the worst, not from the best there is
    high, step = 22, 9
    bottom = high * len(ranking.arms) + 4
    right = WIDTH - 14 - step * len(ranking.cliques)
    scale = scale_over([1.0, *ranking.mean_ranks, float(len(ranking.arms))], _NAMES + 8, right)
    parts = horizontal_axis(scale, 0, bottom)
    rows = {arm: number * high + high / 2 + 2 for number, arm in enumerate(ranking.arms)}
    for arm, rank in zip(ranking.arms, ranking.mean_ranks, strict=True):
        y, kind = rows[arm], marks.get(arm, "even")
        parts.append(label(2, y + 4, arm, room=_NAMES - 4, class_="strong" if arm in marks else ""))
        parts.append(line(_NAMES, y, scale(rank), y, "stem"))
        parts.append(marked("circle", scale(rank), y, 4, f"mark {kind}", f"{arm}: mean rank {rank:.2f}"))
    for number, clique in enumerate(ranking.cliques):
        x = right + 12 + step * number
        arms = tooltip("not told apart: " + ", ".join(fitted(arm, 400) for arm in clique))
        path = f"M{coordinate(x)} {coordinate(rows[clique[0]] - 5)}L{coordinate(x)} {coordinate(rows[clique[-1]] + 5)}"
        parts.append(element("path", arms, d=path, class_="clique"))
    parts.append(label(right, bottom + 30, "mean rank, 1 is best", anchor="end", class_="tick"))
    ranks = "; ".join(f"{arm} {rank:.2f}" for arm, rank in zip(ranking.arms, ranking.mean_ranks, strict=True))
    return figure(key, title, fitted(ranks, 4000), bottom + 36, parts)


def sweep_plot(key: str, title: str, sweeps: Sequence[Sweep], marks: Mapping[str, str]) -> str:
    """Return each arm's gain over the base against the number of members.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        sweeps: one an arm; those of one size are points.
        marks: class of an arm's line, for the arms that stand out: these have their intervals drawn.

    Returns:
        One SVG element; empty without sizes.
    """
    sizes = sorted({point.k for sweep in sweeps for point in sweep.points})
    if not sizes:
        return ""
    right = WIDTH - _NAMES - 6
    step = (right - _LEFT - 30) / max(len(sizes) - 1, 1)
    places = {k: _LEFT + 15 + step * number for number, k in enumerate(sizes)}
    # the axis has room for the intervals that are drawn, not for all: one wide interval would flatten the lines
    ends = [v for sweep in sweeps if sweep.arm in marks for point in sweep.points for v in (point.lower, point.upper)]
    y = scale_over([0.0, *(p.mean for sweep in sweeps for p in sweep.points), *ends], 228, 12, margin=0.04)
    parts = vertical_axis(y, _LEFT, right)
    parts += [label(x, 244, str(k), anchor="middle", class_="tick") for k, x in places.items()]
    parts.append(label(right, 260, "members (k)", anchor="end", class_="tick"))
    last = []
    for number, sweep in enumerate(sorted(sweeps, key=lambda sweep: sweep.arm in marks)):  # those lie on top
        kind = marks.get(sweep.arm, "even")
        path = [(places[point.k], y(point.mean)) for point in sweep.points]
        if sweep.arm in marks:
            parts += [_interval(x, y, p.lower, p.upper, kind) for (x, _), p in zip(path, sweep.points, strict=True)]
        parts.append(polyline(path, f"course {kind}" + (" oracle" if sweep.oracle else "")) if len(path) > 1 else "")
        parts += [
            marked("circle", *spot, 2.8, f"mark {kind}", f"{sweep.arm[:120]}, k = {p.k}: {p.mean:+.4g}")
            for spot, p in zip(path, sweep.points, strict=True)
        ]
        last.append((path[-1][1], number, sweep.arm, path[-1][0], kind))
    parts += _named(last, right)
    return figure(key, title, f"{len(sweeps)} arms at k = {', '.join(map(str, sizes))}", 266, parts)


def _interval(x: float, y: Scale, lower: float | None, upper: float | None, kind: str) -> str:
    ends = finite_numbers((lower, upper))
    return line(x, y(ends[0]), x, y(ends[1]), f"whisker {kind}") if len(ends) == 2 else ""


def _named(ends: Sequence[tuple[float, int, str, float, str]], right: float) -> list[str]:
    """Names at the ends of lines, from top to bottom, none on another, with a leader where they had to move."""
    high, parts = 13.0, []
    ordered = sorted(ends)
    places = [max(8.0, end[0]) for end in ordered]
    for number in range(1, len(places)):
        places[number] = max(places[number], places[number - 1] + high)
    # pushed down from the top they may leave the plot at the bottom; from there they are pushed up again
    floor = 258.0
    for number in reversed(range(len(places))):
        places[number] = min(places[number], floor)
        floor = places[number] - high
    for place, (y, _, arm, x, kind) in zip(places, ordered, strict=True):
        parts.append(line(x + 4, y, right + 4, place, "leader"))
        weight = "tick" if kind == "even" else "strong"
        parts.append(label(right + 8, place + 4, arm, room=_NAMES - 4, class_=weight))
    return parts


def cost_plot(key: str, title: str, costs: Sequence[CostPoint], marks: Mapping[str, str]) -> str:
    """Return each arm's gain over the base against its forward passes, on a logarithmic axis with a place for zero.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        costs: one an arm; oracles are drawn hollow and keep off the front.
        marks: class of an arm's mark, for the arms that stand out.

    Returns:
        One SVG element; empty without arms.
    """
    if not costs:
        return ""
    x, axis = _passes([point.forwards for point in costs])
    ends = [v for point in costs for v in (point.lower, point.upper)]
    y = scale_over([0.0, *(point.mean for point in costs), *ends], 258, 12, margin=0.04)
    parts = [*vertical_axis(y, _LEFT, WIDTH), *axis]
    parts.append(label(WIDTH, 292, "forward passes over one row, a unit", anchor="end", class_="tick"))
    spots = {point.arm: (x(point.forwards), y(point.mean)) for point in costs}
    parts.append(polyline(stairs(front_points([spots[point.arm] for point in costs if not point.oracle])), "front"))
    for point in costs:
        kind = "oracle" if point.oracle else marks.get(point.arm, "even")
        parts.append(_interval(spots[point.arm][0], y, point.lower, point.upper, "faint " + kind))
    labels = Labels([*spots.values()], 300)
    for point in sorted(costs, key=lambda point: point.arm not in marks):  # they are named first, where there is room
        kind = "oracle" if point.oracle else marks.get(point.arm, "even")
        shown = f"{point.arm[:120]}: {point.mean:+.4g} for {point.forwards:,.0f} passes"
        parts.append(marked("circle", *spots[point.arm], 4, f"mark {kind}", shown))
        labels.put(spots[point.arm], point.arm, "strong" if point.arm in marks else "tick", needed=True)
    return figure(key, title, f"{len(costs)} arms by cost and gain", 300, [*parts, *labels.parts])


def _passes(forwards: Sequence[float]) -> tuple[Callable[[float], float], list[str]]:
    """The place of a number of forward passes, and the axis with its lines and numbers.

    Zero passes, which a logarithm cannot place, stand apart at the left where an arm costs nothing.
    """
    spent = [value for value in finite_numbers(forwards) if value > 0] or [1.0]
    free = min(finite_numbers(forwards), default=0.0) <= 0
    powers = range(math.floor(math.log10(min(spent))), math.ceil(math.log10(max(spent))) + 1)
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)  # over many powers of ten 2 and 5 would crowd the axis
    round_ = [step * 10.0**power for power in powers for step in steps]
    low = max((value for value in round_ if value <= min(spent)), default=round_[0])
    high = min((value for value in round_ if value >= max(spent) and value > low), default=10 * low)
    scale = Scale(math.log10(low), math.log10(high), _LEFT + (50 if free else 16), WIDTH - 20)
    ticks = [(scale(math.log10(value)), f"{value:,.0f}") for value in round_ if low <= value <= high]
    ticks += [(_LEFT + 14.0, "0")] if free else []
    parts = [line(x, 12, x, 258, "grid") for x, _ in ticks]
    parts += [label(x, 274, text, anchor="middle", class_="tick") for x, text in ticks]
    return lambda value: scale(math.log10(value)) if value > 0 else _LEFT + 14.0, parts


def reliability_plot(key: str, title: str, agreement: Agreement) -> str:
    """Return measured against predicted gain: each arm on each task as a dot, the means of equal counts as squares.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        agreement: promises and bins, nats; on the slanted line the measured gain equals the promised one.

    Returns:
        One SVG element; empty without promises.
    """
    if not agreement.promises:
        return ""
    promises = agreement.promises[:: max(1, math.ceil(len(agreement.promises) / _PROMISES))]
    x = scale_over(_bulk([p.predicted for p in promises]), _LEFT + 8, WIDTH - 8, margin=0.04)
    y = scale_over(_bulk([0.0, *(p.measured for p in promises)]), 288, 12, margin=0.04)
    shown = [
        f"predicted {bin_.predicted:+.3f}, measured {bin_.measured:+.3f}, {bin_.count} merges"
        for bin_ in agreement.bins
    ]
    means = [(bin_.predicted, bin_.measured) for bin_ in agreement.bins]
    points = [(p.predicted, p.measured) for p in promises]
    equal = max(x.low, y.low), min(x.high, y.high)  # the two axes have scales of their own
    parts = _reliability_parts((x, y), equal, points, means, shown, ("predicted gain, nats", "measured gain, nats"))
    outside = sum(not (x.low <= p.predicted <= x.high and y.low <= p.measured <= y.high) for p in promises)
    count = (
        f"{len(agreement.promises)} promises, {len(promises)} drawn, {outside} of them at the edge that lie beyond it"
    )
    return figure(key, title, count, 326, parts)


def calibration_plot(key: str, title: str, found: Calibration) -> str:
    """Return how often a gain came against the chance that was stated: the means of equal counts as squares.

    Args:
        key: makes the ids of this plot unique on its page.
        title: what it shows.
        found: forecasts and bins; on the slanted line chances come true as often as stated.

    Returns:
        One SVG element; empty without forecasts.
    """
    if not found.forecasts:
        return ""
    x = scale_over([0.0, 1.0], _LEFT + 8, WIDTH - 8, margin=0.02)
    y = scale_over([0.0, 1.0], 288, 12, margin=0.02)
    shown = [f"stated {100 * bin_.chance:.0f}%, came {100 * bin_.came:.0f}%, {bin_.count} units" for bin_ in found.bins]
    means = [(bin_.chance, bin_.came) for bin_ in found.bins]
    # above the edge those that came true, below it those that did not: how many chances stand behind each mean
    points = [(one.chance, float(one.came)) for one in found.forecasts]
    parts = _reliability_parts((x, y), (0.0, 1.0), points, means, shown, ("stated chance of a gain", "share that came"))
    return figure(key, title, f"{len(found.forecasts)} chances", 326, parts)


def _reliability_parts(
    scales: tuple[Scale, Scale],
    equal: tuple[float, float],
    points: Sequence[tuple[float, float]],
    means: Sequence[tuple[float, float]],
    shown: Sequence[str],
    names: tuple[str, str],
) -> list[str]:
    """What came against what was said: named axes, the line where they are equal (its ends), points, their means."""
    x, y = scales
    parts = [*vertical_axis(y, _LEFT, WIDTH), *horizontal_axis(x, 12, 288)]
    low, high = equal
    if low < high:
        parts.append(line(x(low), y(low), x(high), y(high), "reference"))
    parts.append(dots([(x(said), y(came)) for said, came in points], "promises"))
    spots = [(x(said), y(came)) for said, came in means]
    parts.append(polyline(spots, "best") if len(spots) > 1 else "")
    parts += [marked("square", *spot, 4, "mark better", text) for spot, text in zip(spots, shown, strict=True)]
    parts.append(label(WIDTH, 320, names[0], anchor="end", class_="tick"))
    turned = label(0, 0, names[1], room=270, anchor="end", class_="tick")
    parts.append(element("g", turned, transform="translate(7 12) rotate(-90)"))
    return parts


def _bulk(values: Sequence[float]) -> list[float]:
    """The values without far tails on either side: one broken merge would flatten all others."""
    ordered = sorted(finite_numbers(values))
    if len(ordered) < 10:
        return ordered
    low, high = ordered[int(0.05 * (len(ordered) - 1))], ordered[int(0.95 * (len(ordered) - 1))]
    free = 0.5 * (high - low)
    return [value for value in ordered if low - free <= value <= high + free]
