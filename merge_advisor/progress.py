"""How long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) as work goes on; `quiet_progress` reports nothing. One that is `Announcing` is also
told what is known before the work is done."""


@runtime_checkable
class Announcing(Protocol):
    """Progress that can show what has been found while the rest goes on.

    >>> isinstance(quiet_progress, Announcing)
    False
    """

    def announce(self, text: str) -> None:
        """Show a text.

        Args:
            text: lines that are safe to print.
        """


def announce(progress: Progress | Announcing, text: str) -> None:
    """Show what has been found, where the progress can.

    Args:
        progress: of the work.
        text: lines that are safe to print.

    >>> announce(quiet_progress, "role    member")
    """
    if isinstance(progress, Announcing):
        progress.announce(text)


def quiet_progress(what: str, done: int, total: int) -> None:
    """Report nothing.

    Args:
        what: the step, e.g. "embedding the pool".
        done: how many of its parts are done.
        total: how many it has.
    """
