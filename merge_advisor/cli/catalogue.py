"""What is registered, in words: the tables of `merge-advisor show` and of docs/catalogue.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from merge_advisor import registry

SHOWN = {
    "strategy": ("centres", "cost"),
    "adaptation": ("trains", "cost"),
    "composition": ("weight_means", "takes", "deterministic", "memory", "formats", "source"),
    "format": ("writes", "runs_with"),
    "embedding": ("pooling", "source"),
    "sampler": ("searches", "cost"),
}
"""Columns of `show` beside name and summary, by kind."""


def catalogue(kind: str, columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the table of what is registered of a kind.

    Args:
        kind: "strategy", "adaptation", "composition", "format", "embedding" or "sampler".
        columns: attributes; "formats" stands for the formats that can carry a composition out.

    Returns:
        headers, and a row for each name.

    >>> headers, rows = catalogue("format", ("writes",))
    >>> headers, rows[0][0], rows[0][2]
    (('name', 'what', 'writes'), 'lorahub', 'lorahub.json')
    """
    rows = []
    for name in registry.names(kind):
        built = registry.build(kind, name)  # not the class: some attributes follow from the parameters
        rows.append((name, registry.summary(kind, name), *(_cell(built, column) for column in columns)))
    return ("name", "what", *(column.replace("_", " ") for column in columns)), tuple(rows)


def _cell(built: Any, column: str) -> str:
    if column == "formats":
        from merge_advisor.formats import formats_of

        return ", ".join(formats_of(built.name)) or "full model only"
    value = getattr(built, column)
    if isinstance(value, frozenset):  # what a sampler can search beside the weights, which all can
        return ", ".join(["weights", *sorted(value)])
    return str(value) if not isinstance(value, bool) else "yes" if value else "no, by seed"
