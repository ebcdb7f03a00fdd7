"""The parts plots are made of: elements, text that fits, axes. All text is escaped, all coordinates are finite.

The SVG is made by hand because a report must open offline, without script or fonts, with every name as escaped text and
the same bytes on every machine; a plotting library is a large dependency that gives none of these.

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
_LARGEST = 1e100

PlotPoint = tuple[float, float]
_TickText = Callable[[float], str]


def coordinate(value: float) -> str:
    """Return a coordinate as text, with at most one decimal.

    Args:
        value: in units.

    Raises:
        ValueError: not a finite number; a browser would drop the whole element without a word.

    >>> coordinate(2.25), coordinate(-0.04)
    ('2.2', '0')
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} is no coordinate")
    text = f"{value:.1f}".removesuffix(".0")  # a tenth of a unit cannot be seen, and pages stay small
    return "0" if text == "-0" else text


def element(name: str, content: str = "", **attributes: str | float) -> str:
    """Return an element as markup.

    Args:
        name: of the element.
        content: markup already.
        attributes: text, which is escaped, or coordinates; `class_` is written `class`, `text_anchor` `text-anchor`;
            one of empty text is left out.

    >>> element("text", "a", x=1.0, text_anchor="end", class_="tick")
    '<text x="1" text-anchor="end" class="tick">a</text>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value) if isinstance(value, str) else coordinate(value)}"'
        for key, value in attributes.items()
        if value != ""  # so that callers can pass an optional class or anchor through
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def tooltip(text: str) -> str:
    """Return a title element, which browsers show where the pointer rests.

    Args:
        text: any text.
    """
    return element("title", escape(printable(text)))


def breadth(text: str) -> float:
    """Return an estimate of a text's width in units of its letters' size; fonts differ, so the estimate is generous.

    Args:
        text: one line.

    >>> breadth("ill") < breadth("mmm")
    True
    """
    return sum(_breadth(letter) for letter in text)


def _breadth(letter: str) -> float:
    if unicodedata.combining(letter):
        return 0.0
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.0 if ord(letter) < 0x1F000 else 1.35  # emoji are drawn wider than ideographs
    # three classes of letters are enough: measuring a font would make the bytes depend on the machine
    if letter in "iljtf.,:;'|!()[]/\\ ":
        return 0.37
    return 0.9 if letter in "mwMW%@+=<>~—…→←" else 0.72 if letter.isupper() else 0.62


def fitted(text: str, room: float) -> str:
    """Return a text made printable and cut in its middle, since names of one hub often differ at their end only.

    Args:
        text: any text.
        room: units there are.

    >>> fitted("owner/flan_t5_large-wiki_qa", 100)
    'owner/f…iki_qa'
    """
    # the middle of a very long text is not needed, and measuring it letter by letter is slow
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

    Args:
        names: the ids.
        room: units there are for each.

    Returns:
        What to write, by id.

    >>> list(brief(["owner/flan_t5_large-anli", "owner/flan_t5_large-wiki"], 60).values())
    ['anli', 'wiki']
    """
    if len(names) < 2 or all(breadth(name) * EM <= room for name in names):
        return {name: name for name in names}
    first, last = min(names), max(names)  # what begins these two alike begins all alike
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    # cut at a separator: "anli_r1" and "arc" after "owner/flan-" read better than what follows their common letters
    start = 1 + max(first[:same].rfind(sign) for sign in "/-_ ")
    return {name: name[start:] or name for name in names}


def _cut(text: str, kept: int) -> str:
    head = (kept + 1) // 2
    return text[:head] + "…" + text[len(text) - (kept - head) :]


def label(x: float, y: float, text: str, *, room: float = WIDTH, anchor: str = "", class_: str = "") -> str:
    """Return a line of text that takes no more than `room`; what was cut is in its tooltip.

    Args:
        x: where its anchor is.
        y: of the line that letters stand on.
        text: any text.
        room: units there are.
        anchor: the end of the text that `x` is at: "" (its start), "middle" or "end".
        class_: "strong" (bold), "tick", "value", …; see the style sheet.
    """
    shown = fitted(text, room / BOLD if class_ == "strong" else room)
    whole = "" if shown == printable(text) else tooltip(text[:300])  # a name may be as long as its author likes
    return element("text", escape(shown) + whole, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Return a straight line.

    Args:
        x1: where it starts.
        y1: where it starts.
        x2: where it ends.
        y2: where it ends.
        class_: see the style sheet.
    """
    return element("path", d=f"M{coordinate(x1)} {coordinate(y1)}L{coordinate(x2)} {coordinate(y2)}", class_=class_)


def polyline(points: Iterable[tuple[float, float]], class_: str, title: str = "") -> str:
    """Return a line through points; empty where there are none.

    Args:
        points: in units.
        class_: see the style sheet.
        title: its tooltip; empty: none.
    """
    path = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in points)
    return element("path", tooltip(title) if title else "", d="M" + path, class_=class_) if path else ""


def dots(points: Iterable[tuple[float, float]], class_: str) -> str:
    """Return many points as one element without tooltips, each place once; empty where there are none.

    Args:
        points: in units.
        class_: see the style sheet.
    """
    # a stroke of no length with round ends is a dot: one path is far smaller than a thousand circles
    places = dict.fromkeys(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in points)
    return element("path", d="".join(places), class_=class_) if places else ""


def figure(key: str, title: str, description: str, height: float, parts: Iterable[str]) -> str:
    """Return a whole plot.

    Args:
        key: makes its ids unique on the page.
        title: read aloud.
        description: read aloud after it.
        height: in units; the width is `WIDTH`.
        parts: markup.
    """
    words = element("title", escape(printable(title)), id=f"{key}-t")
    words += element("desc", escape(printable(description)), id=f"{key}-d")
    size = f"0 0 {WIDTH} {coordinate(height)}"
    return element("svg", words + "".join(parts), role="img", aria_labelledby=f"{key}-t {key}-d", viewBox=size)


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values laid over a range of units; values outside are put on its ends.

    >>> scale = Scale(0.0, 1.0, 0.0, 100.0)
    >>> scale(0.25), scale(7.0), [scale.tick_text(tick) for tick in scale.ticks]
    (25.0, 100.0, ['0.0', '0.2', '0.4', '0.6', '0.8', '1.0'])
    """

    low: float
    high: float
    start: float
    """Where `low` is; it lies after `end` on a vertical axis, as y grows downwards."""
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values within the range, at most seven."""
        step = self.step
        # 1e-9: an end of the range that is a tick but for rounding errors keeps its tick
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]

    @property
    def step(self) -> float:
        """Distance of two ticks: 1, 2 or 5 times a power of ten."""
        least = (self.high - self.low) / 6
        power: float = 10.0 ** math.floor(math.log10(least))
        # 0.999: a range of 6 exactly gets steps of 1 in spite of rounding errors
        return power * next(factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)

    def tick_text(self, value: float) -> str:
        """Return a tick's number, with as many decimals as the ticks need to differ.

        Args:
            value: one of `ticks`.
        """
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        if decimals > 6 or abs(value) >= 1e7:
            return f"{value:.3g}"
        return f"{value + 0.0:,.{decimals}f}"


def finite_numbers(values: Iterable[float | None]) -> list[float]:
    """Return the values that are finite numbers, none beyond 1e100: differences of such values are still finite.

    Args:
        values: any numbers, or None.

    >>> finite_numbers([1.0, None, float("nan")])
    [1.0]
    """
    return [min(max(v, -_LARGEST), _LARGEST) for v in values if v is not None and math.isfinite(v)]


def scale_over(values: Iterable[float | None], start: float, end: float, *, margin: float = 0.0) -> Scale:
    """Return a scale that holds all finite values; where they are equal, or there are none, it has a range still.

    Args:
        values: what must fit.
        start: unit of the least value.
        end: unit of the greatest.
        margin: room left free on both sides, as a share of the range.
    """
    numbers = finite_numbers(values) or [0.0, 1.0]
    low, high = min(numbers), max(numbers)
    largest = max(abs(low), abs(high))
    # the ticks of a narrower range would be lost in the rounding errors of its values
    if high - low <= max(1e-9 * largest, 1e-12):
        around = largest * 0.1 if largest > 1e-9 else 1.0
        low, high = low - around, high + around
    free = (high - low) * margin
    return Scale(low - free, high + free, start, end)


def horizontal_axis(scale: Scale, top: float, bottom: float, *, tick_text: _TickText | None = None) -> list[str]:
    """Return the lines and numbers of a horizontal axis; crowded numbers are left out.

    Args:
        scale: from values to x.
        top: where the lines start.
        bottom: where they end; the numbers stand under it.
        tick_text: a tick's number as text; None: as the scale writes it.
    """
    parts, taken = [], -math.inf
    for value in scale.ticks:
        x, text = scale(value), (tick_text or scale.tick_text)(value)
        half = breadth(text) * EM / 2
        parts.append(line(x, top, x, bottom, "zero" if value == 0 else "grid"))
        middle = min(max(x, half), WIDTH - half)  # the first and last number must not leave the plot
        if middle - half > taken:
            parts.append(element("text", escape(text), x=middle, y=bottom + 14, text_anchor="middle", class_="tick"))
            taken = middle + half + 4
    return parts


def vertical_axis(scale: Scale, left: float, right: float) -> list[str]:
    """Return the lines and numbers of a vertical axis.

    Args:
        scale: from values to y.
        left: where the lines start; the numbers stand left of it.
        right: where they end.
    """
    parts: list[str] = []
    for value in scale.ticks:
        y = scale(value)
        text = escape(scale.tick_text(value))
        parts.append(line(left, y, right, y, "zero" if value == 0 else "grid"))
        parts.append(element("text", text, x=left - 5, y=y + 4, text_anchor="end", class_="tick"))
    return parts


def marked(shape: str, x: float, y: float, size: float, class_: str, title: str = "") -> str:
    """Return a mark.

    Args:
        shape: "circle", "square", "diamond", "cross" or "up" (a triangle).
        x: its middle.
        y: its middle.
        size: units to each side.
        class_: see the style sheet.
        title: its tooltip; empty: none.
    """
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
