"""What is said of rows whose prompts do not fit: a model sees the end of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.meter import MergeMeter

_AT_ONCE = 256
"""Rows tokenised at once."""


def cut_notes(meter: MergeMeter, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return one line about the rows whose prompts are cut, none where all fit.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> with open_session("base", "adapters") as session:
    ...     cut_notes(session.meter, [Row("say 1 twice", "1 1")])
    ()

    Args:
        meter: encodes them, and remembers how long they are.
        rows: of one task.
    """

    def measure() -> list[float]:
        from merge_advisor.backbone.encoding import ROW_TOKENS, context_length

        lengths: list[float] = []
        for first in range(0, len(rows), _AT_ONCE):  # their ids are not kept: a task may have any number of rows
            part = rows[first : first + _AT_ONCE]
            meter.model.encode(part, cut=True, on_cut=lambda row, tokens: lengths.append(tokens))
        return [min(ROW_TOKENS, context_length(meter.model.backbone)), *lengths]

    limit, *lengths = meter.memo.remember(["cut prompts", [row.digest for row in rows]], measure)
    if not lengths:
        return ()
    longest = f"longer than {limit:g} tokens, the longest {max(lengths):g}"
    return (f"{len(lengths)} of {len(rows)} rows are {longest}: the beginnings of their prompts are cut off",)
