"""How tuning went, as SVG: value by trial, weights by trial, and the trials on two tasks.

Each plot takes any number of trials and values that are no numbers; what cannot be drawn is left out and counted in the
plot's description.
"""

from __future__ import annotations

from collections.abc import Sequence

from merge_advisor.report.plots import front_points, stairs
from merge_advisor.report.svg import (
    EM,
    WIDTH,
    Scale,
    breadth,
    brief,
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
    vertical_axis,
)
from merge_advisor.report.values import TrialReport, TuningReport, best_so_far

_LEFT = 46
"""Units kept free for the numbers of an upright axis."""
_AXES = 16
"""Members that get an axis in the parallel plot: those of the largest weights."""
NAMED_AXES = 5
"""Members whose names fit under their axes; more of them are numbered."""
_LINES = 300
"""Trials drawn in the parallel plot: the best of them."""
_MARKS = 1000
"""Trials drawn at most in history and scatter: each has a tooltip, and a page should stay below a few hundred kB."""
_SHADES = 5
"""Classes of colour from the worst trials (v0) to the best (v4)."""


def history_plot(key: str, tuning: TuningReport) -> str:
    """Return the value of each trial and the best so far against the forward passes spent.

    Args:
        key: makes the ids of this plot unique on its page.
        tuning: the trials.

    Returns:
        One SVG element.
    """
    trials = tuning.trials[:_MARKS]
    spent, places = 0, []
    for number, trial in enumerate(trials):
        spent += trial.forwards
        # where no trial cost anything they stand one after another
        places.append(float(spent if tuning.forwards else number + 1))
    values = finite_numbers(trial.value for trial in trials)
    scale = scale_over(_bulk(values), 228, 12, margin=0.04)
    x = scale_over([0.0, *places], _LEFT, WIDTH - 8)
    parts = [*vertical_axis(scale, _LEFT, WIDTH), *horizontal_axis(x, 230, 230)]
    parts.append(label(WIDTH, 262, "forward passes" if tuning.forwards else "trials", anchor="end", class_="tick"))
    steps: list[tuple[float, float]] = []
    for place, best in zip(places, best_so_far(trials), strict=True):
        if best is not None:
            steps += [(x(place), steps[-1][1])] if steps else []
            steps.append((x(place), scale(best)))
    reference = next((t.value for t in trials if t.label == tuning.reference and t.value is not None), None)
    if reference is not None:
        parts.append(line(_LEFT, scale(reference), WIDTH, scale(reference), "reference"))
    parts += [_trial(scale, x(place), trial) for place, trial in zip(places, trials, strict=True)]
    parts.append(polyline(steps, "best"))
    won = next(((p, t.value) for p, t in zip(places, trials, strict=True) if t.number == tuning.winner), None)
    if won is not None and won[1] is not None:
        parts.append(marked("diamond", x(won[0]), scale(won[1]), 5, "winner", f"the winner, trial {tuning.winner}"))
    above = sum(value > scale.high for value in values)
    words = f"{len(trials)} trials, {len(trials) - len(values)} of them without a number, {above} above the axis"
    return figure(key, "Value of each trial and the best so far", words, 268, parts)


def _bulk(values: Sequence[float]) -> list[float]:
    """The values without a far tail above: a merge that broke the model would flatten all others."""
    ordered = sorted(values)
    if len(ordered) < 5:  # too few to say which of them is the tail
        return ordered
    bulk = ordered[int(0.85 * (len(ordered) - 1))]
    limit = bulk + 0.5 * (bulk - ordered[0])
    return [value for value in ordered if value <= limit]


def _trial(scale: Scale, x: float, trial: TrialReport) -> str:
    words = f"trial {trial.number}, {trial.label}: " + ("no number" if trial.value is None else f"{trial.value:.4g}")
    if not trial.whole:
        words += ", stopped early"
    if trial.value is None:
        # above the plot, where no number can stand
        return marked("cross", x, scale.end - 5, 3, "lost", words)
    if trial.value > scale.high:
        return marked("up", x, scale.end - 5, 3.5, "off", words)
    return marked("circle", x, scale(trial.value), 2.6, "trial" if trial.whole else "trial stopped", words)


def parallel_coordinate_plot(key: str, tuning: TuningReport) -> str:
    """Return each trial as a line over the weights of the members and its value, coloured by value, the winner bold.

    Args:
        key: makes the ids of this plot unique on its page.
        tuning: the trials and their members.

    Returns:
        One SVG element.
    """
    ranked = sorted((t for t in tuning.trials if t.value is not None), key=lambda t: (t.value, t.number))[:_LINES]
    shown = axes_of(tuning)
    floor, top = 222, 14
    places = [_LEFT + (WIDTH - _LEFT - 30) * n / max(len(shown), 1) for n in range(len(shown) + 1)]
    weights = [t.weights[m] for t in ranked for m in shown] + [tuning.planned[m] for m in shown]
    scale = scale_over([0.0, *weights], floor, top)
    worth = scale_over(_bulk([t.value for t in ranked if t.value is not None]), floor, top)
    parts = vertical_axis(scale, _LEFT, places[-2] if shown else _LEFT)
    parts += [line(x, top, x, floor, "axis") for x in places]
    winner = ""
    # the best lie on top of the worse, the winner on top of all
    for rank, trial in reversed(list(enumerate(ranked))):
        along = [(x, scale(trial.weights[m])) for x, m in zip(places, shown, strict=False)]
        path = [*along, (places[-1], worth(trial.value or 0.0))]
        if trial.number == tuning.winner:
            winner = polyline(path, "along winning", f"the winner, trial {trial.number}")
        else:
            shade = _SHADES - 1 - rank * _SHADES // max(len(ranked), 1)
            stopped = "" if trial.whole else " stopped"
            parts.append(polyline(path, f"along v{shade}{stopped}"))
    parts.append(winner)
    parts += _axis_names(tuning, shown, places, floor + 16)
    parts.append(label(WIDTH, floor + 16, "value", anchor="end", class_="tick"))
    ends = ((worth.end + 4, worth.high), (worth.start, worth.low)) if ranked else ()
    parts += [label(places[-1] + 4, y, f"{value:.2g}", class_="tick") for y, value in ends]
    words = f"the {len(ranked)} best of {len(tuning.trials)} trials over the weights of {len(shown)} members"
    return figure(key, "Weights and value of the trials", words, floor + 24, parts)


def axes_of(tuning: TuningReport) -> list[int]:
    """Return the positions of the members drawn in the parallel plot: all, or those the winner weighs most.

    Args:
        tuning: members and winner.
    """
    weights = tuning.won.weights if tuning.won else tuning.planned
    heaviest = sorted(range(len(tuning.members)), key=lambda m: (-abs(weights[m]), m))
    return sorted(heaviest[:_AXES])


def _axis_names(tuning: TuningReport, shown: Sequence[int], places: Sequence[float], y: float) -> list[str]:
    room = (places[1] - places[0] if len(places) > 1 else WIDTH) - 6
    short = brief(tuning.members, room)
    parts = []
    for x, member in zip(places, shown, strict=False):
        if len(shown) <= NAMED_AXES:
            name = fitted(short[tuning.members[member]], room)
            x = max(x, breadth(name) * EM / 2)
        else:
            name = str(member + 1)
        parts.append(label(x, y, name, anchor="middle", class_="tick"))
    return parts


def pareto_plot(key: str, tuning: TuningReport) -> str:
    """Return the trials by their values on two tasks, with the front that no trial beats on both.

    Args:
        key: makes the ids of this plot unique on its page.
        tuning: the trials; those with fewer than two values are left out.

    Returns:
        One SVG element.
    """
    trials = [
        t for t in tuning.trials[:_MARKS] if len(t.values) >= 2 and len(finite_numbers(t.values)) == len(t.values)
    ]
    points = [(t, finite_numbers(t.values)) for t in trials]
    x = scale_over(_bulk([v[0] for _, v in points]), _LEFT, WIDTH - 8, margin=0.05)
    y = scale_over(_bulk([v[1] for _, v in points]), 288, 10, margin=0.05)
    parts = [*vertical_axis(y, _LEFT, WIDTH), *horizontal_axis(x, 10, 288)]
    # a trial that was stopped early has only estimates
    front = front_points([(v[0], v[1]) for t, v in points if t.whole])
    winner = ""
    for trial, values in points:
        words = f"trial {trial.number}, {trial.label}: {values[0]:.4g}, {values[1]:.4g}"
        inside = values[0] <= x.high and values[1] <= y.high
        kind = ("trial" if trial.whole else "trial stopped") if inside else "off"
        parts.append(marked("circle" if inside else "up", x(values[0]), y(values[1]), 2.8, kind, words))
        if trial.number == tuning.winner:
            winner = marked("diamond", x(values[0]), y(values[1]), 5, "winner", f"the winner, {words}")
    parts += [polyline(stairs([(x(a), y(b)) for a, b in front]), "best"), winner]
    names = (*tuning.tasks, "first task", "second task")[:2] if len(tuning.tasks) < 2 else tuning.tasks[:2]
    parts.append(label(WIDTH, 320, names[0], room=WIDTH - _LEFT, anchor="end", class_="tick"))
    turned = element(
        "g", label(0, 0, names[1], room=260, anchor="end", class_="tick"), transform="translate(9 10) rotate(-90)"
    )
    words = f"{len(points)} trials by their values on two tasks, {len(front)} of them on the front; less is better"
    return figure(key, f"Values on {fitted(names[0], 300)} and {fitted(names[1], 300)}", words, 326, [*parts, turned])
