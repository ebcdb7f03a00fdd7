"""How work that takes long says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) as work goes on; silence is `quiet_progress`."""


def quiet_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""
