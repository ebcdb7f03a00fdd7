"""The loss that members and weights are chosen by, with what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.advisor.measuring.meter import MergeMeter, loss_kind_of
from merge_advisor.json_form import digest_of
from merge_advisor.types import BACKWARD, Candidate, ChooseBy, LossKind, Row

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array
    from merge_advisor.merges import WeightedMerge

_STEP = "choosing"
"""What its progress is told as."""
FEWEST_ROWS = 4
"""Choosing rows of a task that are always looked at, however small the share (a loss of fewer is chance)."""


@dataclass(eq=False)
class ChoosingLosses:
    """Mean loss of merges on the choosing rows of every task, and the nominal forward passes spent on it.

    The choices of a row count as one pass, and a row measured before under the same merge costs nothing again.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> from merge_advisor.merges import WeightedMerge
    >>> with open_session("base", "adapters") as session:
    ...     losses = ChoosingLosses(session.meter, [[Row("say 1 twice", "1 1"), Row("say 2 twice", "2 2")]])
    ...     value = losses.of(WeightedMerge(((session.pool.candidates[0], 1.0),)))
    >>> value > 0, losses.forwards
    (True, 2)
    """

    meter: MergeMeter
    parts: Sequence[Sequence[Row]]
    """The choosing rows, task by task; a task counts as much as another, however many rows it has."""
    by: ChooseBy = "auto"
    """The kind of loss, for each task by its rows."""
    expected: Callable[[], int] | None = None
    """Gives the forward passes that they are asked for at most, by which progress is told; None: none is."""
    forwards: int = 0
    """Forward passes over one row so far; a backward pass counts as two."""
    _known: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)
    """By merge and row: what is measured once is not paid twice."""
    _most: int = 0
    _misses: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._misses = self.meter.memo.misses

    def of(self, merge: WeightedMerge, share: float = 1.0) -> float:
        """Return the mean over tasks of the mean loss over a task's choosing rows.

        Args:
            merge: the merge.
            share: of each task's choosing rows that count, see `first_rows`.

        Returns:
            Nats per token, or nats over the choices.
        """
        means = []
        for rows in self.parts:
            kind = loss_kind_of(rows, self.by)
            known = self._known.setdefault(digest_of([kind, *merge.key]), {})
            wanted = first_rows(rows, share)
            # equal rows are measured once; what a smaller share measured counts for a larger one
            missing = list({row.digest: row for row in wanted if row.digest not in known}.values())
            if missing:
                self.forwards += len(missing)
                losses = self.meter.losses(merge, missing, kind)
                self._report()
                known.update(zip([row.digest for row in missing], losses, strict=True))
            means.append(float(np.mean([known[row.digest] for row in wanted])))
        return float(np.mean(means))

    def gains(self, candidates: Sequence[Candidate], merge: WeightedMerge, share: float = 1.0) -> Float32Array:
        """Return the first-order drop of the mean loss for each candidate beside a merge, as `MergeMeter.gains`.

        Args:
            candidates: n candidates.
            merge: where the gradient is taken.
            share: of each task's choosing rows that count.

        Returns:
            (n,) float32.
        """
        parts: dict[tuple[LossKind, int], list[Row]] = {}
        for rows in self.parts:
            first = first_rows(rows, share)
            # rows of one kind go into one backward pass where their tasks have as many, so that they count the same
            parts.setdefault((loss_kind_of(rows, self.by), len(first)), []).extend(first)
        self.forwards += BACKWARD * sum(map(len, parts.values()))
        gains = np.zeros(len(candidates), np.float32)
        for (kind, count), rows in parts.items():
            tasks = len(rows) // count
            gains += np.float32(tasks / len(self.parts)) * self.meter.gains(candidates, rows, merge, kind)
        self._report()
        return gains

    def end(self) -> None:
        """Say that no more is asked, where progress was told."""
        if self._most:
            self.meter.model.progress(_STEP, self._most, self._most)

    def _report(self) -> None:
        # what is stored takes no time, so nobody waits for it, nor for how much of it there is
        if self.expected is None or self.meter.memo.misses == self._misses:
            return
        self._most = self._most or self.expected()
        self.meter.model.progress(_STEP, min(self.forwards, self._most), self._most)

    @property
    def rows(self) -> list[Row]:
        """All choosing rows."""
        return [row for part in self.parts for row in part]


def first_rows(rows: Sequence[Row], share: float) -> list[Row]:
    """Return a share of some rows, FEWEST_ROWS at least: those first in the order of their digests, as if shuffled.

    Args:
        rows: n rows.
        share: above 0, at most 1.
    """
    count = rows_in(share, len(rows))
    # by digest: the same rows in another order, or in another file, give the same share
    return list(rows) if count == len(rows) else sorted(rows, key=lambda row: row.digest)[:count]


def rows_in(share: float, rows: int) -> int:
    """Return how many of so many rows a share is, rounded up, FEWEST_ROWS at least where there are as many.

    >>> rows_in(0.5, 20), rows_in(0.1, 20), rows_in(0.5, 3)
    (10, 4, 3)

    Args:
        share: above 0, at most 1.
        rows: how many there are.
    """
    return min(rows, max(FEWEST_ROWS, math.ceil(share * rows)))
