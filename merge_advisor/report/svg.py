"""The parts plots are made of: elements, text that fits, axes. All text is escaped, all coordinates are finite.

A plot is 400 units wide whatever it shows, so that its letters stay readable on a telephone and on a wide screen. It
names classes and no colours: the page's style sheet has them, once for light and once for dark.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from merge_advisor.plain_text import printable

WIDTH = 400
"""Units of a plot's width."""
EM = 12
"""Units of a letter's size."""
BOLD = 1.13
"""How much wider bold letters are."""
LARGEST_NUMBER = 1e100
"""Values beyond are drawn there: differences of such values are still finite."""

PlotPoint = tuple[float, float]


def coordinate(value: float) -> str:
    """Return a coordinate with at most one decimal.

    Raises:
        ValueError: not a finite number; a browser would drop the whole element without a word.
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no coordinate")
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Return an element. `content` is markup already; an attribute `class_` is written `class`, `_` as `-`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value) if isinstance(value, str) else coordinate(value)}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def tooltip(text: str) -> str:
    """Return a title, which browsers show where the pointer rests."""
    return element("title", escape(printable(text)))


def breadth(text: str) -> float:
    """Estimate how wide a text is in units of its letters' size; fonts differ, so the estimate is generous."""
    return sum(_breadth(letter) for letter in text)


def _breadth(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0 if ord(letter) < 0x1F000 else 1.35  # emoji are drawn wider than ideographs
    if letter in "iljtf.,:;'|!()[]/\\ ":
        return 0.37
    return 0.9 if letter in "mwMW%@+=<>~—…→←" else 0.72 if letter.isupper() else 0.62


def fitted(text: str, room: float) -> str:
    """Return a text made printable and cut in its middle to what fits into `room` units."""
    text = printable(text if len(text) <= 1000 else text[:500] + text[-500:])
    if breadth(text) * EM <= room:
        return text
    kept = len(text) - 1
    while kept > 2 and breadth(_cut(text, kept)) * EM > room:
        kept -= max(1, int((breadth(_cut(text, kept)) * EM - room) / (1.4 * EM)))  # a letter is no wider than 1.4
    return _cut(text, max(kept, 2))


def brief(names: Sequence[str], room: float) -> dict[str, str]:
    """Return what to write for each of some ids where room is scarce: all of it, or what does not begin alike in all.

    Ids of one hub often differ at their end only ("owner/model-task"); cut in their middle they would all read alike.
    """
    if len(names) < 2 or all(breadth(name) * EM <= room for name in names):
        return {name: name for name in names}
    first, last = min(names), max(names)  # what begins these two alike begins all alike
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    start = 1 + max(first[:same].rfind(sign) for sign in "/-_ ")
    return {name: name[start:] or name for name in names}


def _cut(text: str, kept: int) -> str:
    head = (kept + 1) // 2
    return text[:head] + "…" + text[len(text) - (kept - head) :]


def label(x: float, y: float, text: str, *, room: float = WIDTH, anchor: str = "", class_: str = "") -> str:
    """Return a line of text that takes no more than `room`; what was cut is in its tooltip."""
    shown = fitted(text, room / BOLD if class_ == "strong" else room)
    whole = "" if shown == printable(text) else tooltip(text[:300])
    return element("text", escape(shown) + whole, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line."""
    return element("path", d=f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}", class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str, title: str = "") -> str:
    """Return a line through points; nothing where there are none."""
    path = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points)
    return element("path", tooltip(title) if title else "", d="M" + path, class_=class_) if path else ""


def dots(points: Iterable[tuple[float, float]], class_: str) -> str:
    """Return many points as one element without tooltips, each place once; nothing where there are none."""
    places = dict.fromkeys(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in points)
    return element("path", d="".join(places), class_=class_) if places else ""


def figure(key: str, title: str, description: str, height: float, parts: Iterable[str]) -> str:
    """Return a whole plot; `key` makes its ids unique on the page."""
    words = element("title", escape(printable(title)), id=f"{key}-t")
    words += element("desc", escape(printable(description)), id=f"{key}-d")
    size = f"0 0 {WIDTH} {coordinate(height)}"
    return element("svg", words + "".join(parts), role="img", aria_labelledby=f"{key}-t {key}-d", viewBox=size)


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values laid over a range of units; values outside are put on its ends."""

    low: float
    high: float
    start: float
    """Where `low` is; it may lie after `end`, as it does on an upright axis."""
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values within the range, at most seven."""
        step = self.step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]

    @property
    def step(self) -> float:
        """Distance of two ticks: 1, 2 or 5 times a power of ten."""
        least = (self.high - self.low) / 6
        power: float = 10.0 ** math.floor(math.log10(least))
        return power * next(factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)

    def written(self, value: float) -> str:
        """Return a tick's number, with as many decimals as the ticks need to differ."""
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if decimals > 6 or abs(value) >= 1e7:
            return f"{value:.3g}"
        return f"{value + 0.0:,.{decimals}f}"


def finite_numbers(values: Iterable[float | None]) -> list[float]:
    """Return the values that are finite numbers, none beyond `LARGEST_NUMBER`."""
    return [min(max(v, -LARGEST_NUMBER), LARGEST_NUMBER) for v in values if v is not None and math.isfinite(v)]


def scale_over(values: Iterable[float | None], start: float, end: float, *, margin: float = 0.0) -> Scale:
    """Return a scale that holds all finite values, and is no point where there are none, or equal ones.

    Args:
        values: what must fit.
        start: unit of the least value.
        end: unit of the greatest.
        margin: room left free on both sides, as a share of the range.
    """
    found = finite_numbers(values) or [0.0, 1.0]
    low, high = min(found), max(found)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-12):
        around = largest * 0.1 if largest > 1e-9 else 1.0
        low, high = low - around, high + around
    free = (high - low) * margin
    return Scale(low - free, high + free, start, end)


def across(scale: Scale, top: float, bottom: float, *, written: Callable[[float], str] | None = None) -> list[str]:
    """Return the lines and numbers of a lying axis, numbers under `bottom`; crowded numbers are left out."""
    parts, taken = [], -math.inf
    for value in scale.ticks:
        x, text = scale(value), (written or scale.written)(value)
        half = breadth(text) * EM / 2
        parts.append(line(x, top, x, bottom, "zero" if value == 0 else "grid"))
        middle = min(max(x, half), WIDTH - half)
        if middle - half > taken:
            parts.append(element("text", escape(text), x=middle, y=bottom + 14, text_anchor="middle", class_="tick"))
            taken = middle + half + 4
    return parts


def upright(scale: Scale, left: float, right: float) -> list[str]:
    """Return the lines and numbers of an upright axis, numbers left of `left`."""
    parts: list[str] = []
    for value in scale.ticks:
        y = scale(value)
        text = escape(scale.written(value))
        parts.append(line(left, y, right, y, "zero" if value == 0 else "grid"))
        parts.append(element("text", text, x=left - 5, y=y + 4, text_anchor="end", class_="tick"))
    return parts


def marked(shape: str, x: float, y: float, size: float, class_: str, title: str = "") -> str:
    """Return a mark: "circle", "square", "diamond", "cross" or "up" (a triangle), `size` units to each side."""
    content = tooltip(title) if title else ""
    if shape == "circle":
        return element("circle", content, cx=x, cy=y, r=size, class_=class_)
    outlines: dict[str, Sequence[tuple[float, float]]] = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "cross": ((-1, -1), (1, 1), (0, 0), (-1, 1), (1, -1), (0, 0)),
        "up": ((0, -1), (1, 1), (-1, 1)),
    }
    corners = "L".join(f"{coordinate(x + size * dx)} {coordinate(y + size * dy)}" for dx, dy in outlines[shape])
    return element("path", content, d=f"M{corners}Z", class_=class_)
