"""What was measured before: a store, and what every value in it depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple, TypeVar

from merge_advisor.advisor.measuring.peak_memory import peak_memory
from merge_advisor.json_form import digest_of
from merge_advisor.scores import ScoringCost
from merge_advisor.store import Store

_T = TypeVar("_T")


class Timed(NamedTuple):
    """What it took to score one model.

    >>> Timed(1.5, now=False).seconds
    1.5
    """

    seconds: float | None
    """None where it was kept before its seconds were."""
    now: bool
    """Whether it was run in this session; otherwise it was in the store."""


@dataclass(eq=False)
class Memo:
    """Measurements of one base under one prompt template, kept in a store; counts what it found and what it lacked.

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = tempfile.TemporaryDirectory()
    >>> memo = Memo(Store(Path(folder.name) / "store.sqlite"), ("base", "template", "float32"))
    >>> memo.remember(["loss", "rows"], lambda: [0.5]), memo.remember(["loss", "rows"], lambda: [0.7])
    ([0.5], [0.5])
    >>> memo.hits, memo.misses
    (1, 1)
    >>> memo.store.close(); folder.cleanup()
    """

    store: Store
    context: tuple[str, str, str]
    """What every value depends on: digest of the base, digest of the template, dtype."""
    hits: int = 0
    """Measurements found in the store."""
    misses: int = 0
    """Measurements made."""
    timed: list[Timed] = field(default_factory=list)
    """What scoring models took, one by one; see `keep_seconds`."""
    beside: set[str] = field(default_factory=set)
    """Names of what workers measured in this session and nobody has asked for yet."""

    def digest(self, key: Sequence[object]) -> str:
        """Return the name under which the value of `key` is stored: a digest of it and of the context.

        Args:
            key: JSON values; all that the value depends on beside the context.
        """
        return digest_of([list(self.context), list(key)])

    def remember(self, key: Sequence[object], measure: Callable[[], _T]) -> _T:
        """Return the stored value of `key`, or measure and store it.

        Args:
            key: as `digest` takes it.
            measure: gives a JSON value; called only where nothing is stored.
        """
        name = self.digest(key)
        value: _T | None = self.store.measured(name)
        if value is None:
            self.misses += 1
            value = measure()
            self.store.keep_measured(name, value)
        else:
            self.hits += 1
        return value

    def keep_seconds(self, key: Sequence[object], seconds: float | None) -> None:
        """Keep what it took to measure the value of `key`, or where it was not measured now look up what it took then.

        Args:
            key: as `digest` takes it.
            seconds: what it took now; None: it was in the store, perhaps because a worker has just measured it, who
                kept what that took.
        """
        # beside the value and not in it: a value must not depend on the machine
        measured = self.digest(key)
        name = digest_of(["seconds", measured])
        now = seconds is not None or measured in self.beside
        self.beside.discard(measured)
        if seconds is not None:
            self.store.keep_measured(name, seconds)
        self.timed.append(Timed(self.store.measured(name) if seconds is None else seconds, now=now))


def scoring_cost(memo: Memo, first: int, task: str, rows: int) -> ScoringCost:
    """Return what scoring the models of one task took.

    Args:
        memo: it was measured through.
        first: how many models it had timed before.
        task: its name.
        rows: it was scored on.
    """
    timed = memo.timed[first:]
    known = [item.seconds for item in timed if item.seconds is not None]
    return ScoringCost(
        task, rows, len(timed), sum(item.now for item in timed),
        round(sum(item.seconds or 0.0 for item in timed if item.now), 3), median(known) if known else None,
        peak_memory(),
    )  # fmt: skip
