"""What the sections of a benchmark's report are made of: tables of text, pictures with legends, headings."""

from __future__ import annotations

from dataclasses import dataclass

from merge_advisor.benchmark.analysis.findings import Findings

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
    """Whether a reader of the page opens it."""


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


def arm_label(arm: str, found: Findings) -> str:
    """Return an arm's name, an oracle marked as one."""
    return f"{arm} (oracle)" if arm in found.oracles else arm


def family_label(family: str, found: Findings) -> str:
    """Return a family's name, one that ideas were tried out on marked as such."""
    return f"{family} (tried)" if family in found.setup.tasks.tried else family
