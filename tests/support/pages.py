"""A page or a plot, parsed and checked: well formed, asking for nothing, every coordinate a number."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple

HOSTILE = (
    "</style></title></svg><script>alert('1')</script>\"'&amp; "
    "\u202eabc\x1b[31m\x00\n<img src=x onerror=y> {{ 7*7 }} 😀"
)
"""Text that must be shown as text: markup, control codes, a direction override, a template's expression."""

_VOID = {"meta", "link", "br"}


class Element(NamedTuple):
    """One element of a page."""

    tag: str
    attributes: dict[str, str]
    text: str


class Page(HTMLParser):
    """The page's elements in their order; an element closed wrongly is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self._made: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.elements = [Element(tag, attributes, "".join(parts)) for tag, attributes, parts in self._made]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in {tag}"
        made: tuple[str, dict[str, str], list[str]] = (tag, {name: value or "" for name, value in attrs}, [])
        self._made.append(made)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self._open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self._open and self._open[-1] is self._made[-1]:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {[made[0] for made in self._open]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)

    def all(self, tag: str) -> list[Element]:
        """The elements of one name."""
        return [element for element in self.elements if element.tag == tag]


def check(text: str) -> Page:
    """What holds for every page and every plot; returns it parsed."""
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert not page.all("script") and not page.all("img") and not page.all("iframe") and not page.all("form")
    for tag, attributes, _ in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                assert value == "data:," or (value[0] == "#" and value[1:] in page.ids), (tag, value)
            if name in ("x", "y", "cx", "cy", "r", "width", "height", "d", "viewbox") and tag != "meta":
                assert re.fullmatch(r"[-0-9. MLhZ]+", value), (tag, name, value)
        assert "url(" not in attributes.get("style", "")
    assert all(c.isprintable() or c in "\n\u3000\xa0" for c in text), "a character a browser acts on unseen"
    for svg in page.all("svg"):
        if "aria-hidden" not in svg.attributes:
            assert svg.attributes["role"] == "img"
            assert all(name in page.ids for name in svg.attributes["aria-labelledby"].split())
    return page


def texts(page: Page) -> str:
    """All text of a page."""
    return " ".join(element.text for element in page.elements)


def plots(page: Page) -> set[str]:
    """Keys of the plots of a page."""
    shown = [svg.attributes for svg in page.all("svg") if "aria-hidden" not in svg.attributes]
    return {attributes["aria-labelledby"].split("-t ")[0] for attributes in shown}
