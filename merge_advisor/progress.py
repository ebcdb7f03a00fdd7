"""How long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) as work goes on; `quiet_progress` reports nothing."""


def quiet_progress(what: str, done: int, total: int) -> None:
    """Report nothing.

    Args:
        what: the step, e.g. "embedding the pool".
        done: how many of its parts are done.
        total: how many it has.
    """
