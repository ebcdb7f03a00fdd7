"""The lines of prior_simulation.py as tables and as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from merge_advisor.report.svg import EM, WIDTH, breadth, element, figure, label, line, marked, polyline

Line = Mapping[str, Any]

ESTIMATORS = ("merge", "continue", "basis", "basis from merge", "prior", "mix")
OTHERS = ("shots halved", "random basis", "from the mean", "from random", "to the end", "that halved")
SHOWN = (5, 20, 80, 200)
"""Examples of the long tables."""

PANELS = (
    ("strange task", None, "merges reach {span:.0%}", "no directions shared"),
    ("centre", 0.0, "merges reach 0%", "some directions shared"),
    ("centre", None, "merges reach {span:.0%}", "as a held-out adapter"),
    ("private 0.3", None, "merges reach {span:.0%}", "most directions shared"),
    ("centre", 0.3, "merges reach 30%", "some directions shared"),
    ("centre", 0.8, "merges reach 80%", "some directions shared"),
)
"""Setting, share, and two lines of title."""
MARKS = {"merge": "square", "continue": "circle", "basis": "diamond", "prior": "up", "mix": "cross"}
LEFT, TOP, WIDE, HIGH, APART, BETWEEN = 30, 124, 160, 118, 32, 76
LOW, UP = 0.28, 2.0
"""Ends of the upright axes, which are logarithmic."""
STYLE = """
text{font:12px system-ui,sans-serif;fill:#1b1f24}.tick{font-size:11px;fill:#57606a}.strong{font-weight:650}
path{fill:none}.grid{stroke:#e6eaee}.shots{stroke:#57606a;stroke-width:1.6px}
.base{stroke:#98a2ad;stroke-dasharray:3 3;stroke-width:1.4px}
.way{stroke-width:1.8px;stroke-linejoin:round}.merge{stroke:#c2540a}.continue{stroke:#0b5fa5}.basis{stroke:#2a8f5b}
.prior{stroke:#8a3fa0}.mix{stroke:#b8930b}.dot.merge{fill:#c2540a}.dot.continue{fill:#0b5fa5}.dot.basis{fill:#2a8f5b}
.dot.prior{fill:#8a3fa0}.dot{stroke-width:1px}.dot.mix{stroke-width:1.8px}
"""


def _about(lines: Sequence[Line]) -> list[Line]:
    return [one for one in lines if "name" in one]


def _cells(lines: Sequence[Line], setting: str, share: float | None) -> list[Line]:
    return [one for one in lines if one.get("setting") == setting and one["share"] == share]


def summarise(lines: Sequence[Line]) -> None:
    """Print what a held-out adapter looks like, who wins, and the ratios of the first setting, as Markdown."""
    print("| setting | in the span | output side | input side | worlds | seconds of a core |\n" + "|---" * 6 + "|")
    for one in _about(lines):
        shown = " | ".join(f"{one[key]:.1%}" for key in ("span", "output side", "input side"))
        print(f"| {one['name']} | {shown} | {one['worlds']} | {one['seconds']:.0f} |")
    found = sorted({one["m"] for one in lines if "m" in one})
    print("\n| setting | share in the span | " + " | ".join(f"m = {m}" for m in found) + " |")
    print("|---" * (2 + len(found)) + "|")
    for one in _about(lines):
        shares = list(dict.fromkeys(cell["share"] for cell in lines if cell.get("setting") == one["name"]))
        for share in shares if one["name"] in ("centre", "strange task") else shares[:1]:
            won = [winner(cell) for cell in _cells(lines, one["name"], share)]
            print(f"| {one['name']} | {_share(one, share)} | " + " | ".join(won) + " |")
    print("\nhow many examples shots alone needs for the excess risk of an estimator with m\n")
    print(
        "| setting | share in the span | m | " + " | ".join(ESTIMATORS) + " |\n" + "|---" * (3 + len(ESTIMATORS)) + "|"
    )
    for setting, share, *_ in PANELS:
        cells, about = _cells(lines, setting, share), [one for one in _about(lines) if one["name"] == setting]
        for cell in (cell for cell in cells if cell["m"] in (5, 20)):
            shown = " | ".join(worth(cells, cell[name][0]) for name in ESTIMATORS)
            print(f"| {setting} | {_share(about[0], share)} | {cell['m']} | {shown} |")
    for one, names in itertools.product(_about(lines)[:1], (ESTIMATORS, OTHERS)):
        print(f"\n{one['name']}: excess risk of shots (base = 1), then the ratio to it\n")
        print("| share in the span | m | shots | " + " | ".join(names) + " |\n" + "|---" * (3 + len(names)) + "|")
        for cell in (cell for cell in lines if cell.get("setting") == one["name"] and cell["m"] in SHOWN):
            if names == OTHERS and cell["share"] is not None:
                continue  # they hardly depend on it
            values = " | ".join(f"{cell[name][1]:.2f}" for name in names)
            print(f"| {_share(one, cell['share'])} | {cell['m']} | {cell['shots'][0]:.2f} | {values} |")
    errors = sorted(cell[name][2] for cell in lines if "m" in cell for name in ESTIMATORS)
    if errors:
        most = errors[len(errors) * 9 // 10]
        print(f"\nstandard errors: {errors[len(errors) // 2]:.1%} in the median, below {most:.1%} in nine of ten")


def winner(cell: Line) -> str:
    """Return the estimator of least excess risk with its ratio, "-" where it is not below `shots` by three errors."""
    best = min(ESTIMATORS, key=lambda name: float(cell[name][1]))
    _, ratio, error = cell[best]
    return f"{best} {ratio:.2f}" if math.log(ratio) < -3 * error and ratio < 0.995 else "-"


def worth(cells: Sequence[Line], risk: float) -> str:
    """Return how many examples `shots` needs for an excess risk, between those simulated in log m and log risk."""
    places = [(float(cell["m"]), float(cell["shots"][0])) for cell in cells]
    if risk >= places[0][1]:
        return f"{places[0][0]:.0f}" if risk < 1.02 * places[0][1] else f"< {places[0][0]:.0f}"
    for (m, above), (more, below) in itertools.pairwise(places):
        if risk >= below:
            return f"{m * (more / m) ** (math.log(above / risk) / math.log(above / below)):.0f}"
    return f"> {places[-1][0]:.0f}"


def _share(about: Line, share: float | None) -> str:
    return f"as drawn, {about['span']:.0%}" if share is None else f"{share:.0%}"


def draw(lines: Sequence[Line]) -> str:
    """Return the picture: ratio of excess risk to shots by number of examples, a panel for each kind of task."""
    parts = [element("style", STYLE), element("rect", x=0, y=0, width=WIDTH, height=_height(), fill="#fff"), *_legend()]
    about = {one["name"]: one for one in _about(lines)}
    for number, (setting, share, *titles) in enumerate(PANELS):
        cells = _cells(lines, setting, share)
        if cells:
            left = LEFT + number % 2 * (WIDE + APART)
            top = TOP + number // 2 * (HIGH + BETWEEN)
            parts += _panel(cells, left, top, [title.format(**about[setting]) for title in titles])
    words = "Below 1 an estimator has less excess risk than finetuning on the examples alone; log scales."
    drawn = figure("prior", "When is a pool worth it?", words, _height(), parts)
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _height() -> float:
    return TOP + -(-len(PANELS) // 2) * (HIGH + BETWEEN) - 40


def _legend() -> list[str]:
    parts = [label(4, 16, "When is a pool worth it?", class_="strong")]
    parts.append(label(4, 32, "Excess risk, that of shots alone = 1. Below 1 the pool helps.", class_="tick"))
    entries = [("shots", "shots alone"), ("base", "base, untrained"), *((name, name) for name in MARKS)]
    x, y = 4.0, 54
    for class_, text in entries:
        if x + 23 + breadth(text) * EM > WIDTH:
            x, y = 4.0, y + 18
        way = f"way {class_}" if class_ in MARKS else class_
        parts += [line(x, y - 4, x + 18, y - 4, way), label(x + 23, y, text, class_="tick")]
        parts += [marked(MARKS[class_], x + 9, y - 4, 2.6, f"dot {class_}")] if class_ in MARKS else []
        x += 23 + breadth(text) * EM + 8
    return parts


def _panel(cells: Sequence[Line], left: float, top: float, titles: Sequence[str]) -> list[str]:
    first, last = math.log(cells[0]["m"]), math.log(cells[-1]["m"])

    def place(m: float, ratio: float) -> tuple[float, float]:
        across = (math.log(m) - first) / (last - first)
        return left + across * WIDE, top + HIGH * math.log(UP / ratio) / math.log(UP / LOW)

    parts = [label(left, top - 20, titles[0], class_="strong"), label(left, top - 6, titles[1], class_="tick")]
    for ratio in (0.3, 0.5, 0.7, 1.0, 1.4, 2.0):
        y = place(cells[0]["m"], ratio)[1]
        parts.append(line(left, y, left + WIDE, y, "shots" if ratio == 1 else "grid"))
        parts += [element("text", f"{ratio:g}", x=left - 4, y=y + 4, text_anchor="end", class_="tick")] * (left == LEFT)
    for cell in cells:
        x = place(cell["m"], 1)[0]
        parts.append(element("text", str(cell["m"]), x=x, y=top + HIGH + 14, text_anchor="middle", class_="tick"))
    middle = left + WIDE / 2
    parts.append(element("text", "examples", x=middle, y=top + HIGH + 27, text_anchor="middle", class_="tick"))
    ways = {"base": [1 / cell["shots"][0] for cell in cells]}
    ways |= {name: [cell[name][1] for cell in cells] for name in MARKS}
    for name, ratios in ways.items():
        shown = [(cell["m"], ratio) for cell, ratio in zip(cells, ratios, strict=True)]
        path = polyline((place(*point) for point in within(shown)), f"way {name}" if name in MARKS else name, name)
        parts.append(path)
        for m, ratio in shown if name in MARKS else ():
            if ratio <= UP:
                parts.append(marked(MARKS[name], *place(m, ratio), 2.4, f"dot {name}", escape(f"{name} {ratio:.2f}")))
    return parts


def within(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line up to where it leaves the panel upwards, and where it does."""
    kept: list[tuple[float, float]] = []
    for m, ratio in points:
        if ratio > UP:
            if kept:
                before, from_ = kept[-1]
                share = math.log(UP / from_) / math.log(ratio / from_)
                kept.append((before * (m / before) ** share, UP))
            break
        kept.append((m, ratio))
    return kept
