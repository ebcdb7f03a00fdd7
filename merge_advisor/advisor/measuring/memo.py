"""What was measured before: a store, and what every value in it depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from merge_advisor.json_form import digest_of
from merge_advisor.store import Store

_T = TypeVar("_T")


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
