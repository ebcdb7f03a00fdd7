"""Progress on stderr: a bar on a terminal, plain lines elsewhere if they are asked for, otherwise silence."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Protocol

from merge_advisor.plain_text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from merge_advisor.cli.options import OutputOptions

Mode = Literal["auto", "always", "never"]
"""Where progress is shown: on a terminal alone, everywhere, nowhere."""
_EVERY = 1.0
"""Seconds between two plain lines of one step: a log stays readable."""


class ProgressReporter(Protocol):
    """Says what is going on and how far it is.

    >>> reporter: ProgressReporter = SilentProgress()
    """

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report a step.

        Args:
            what: the step.
            done: how much of it is done.
            total: how much there is; 1 where it has no parts.
        """

    def announce(self, text: str) -> None:
        """Show what has been found while the rest goes on.

        Args:
            text: lines that are safe to print.
        """

    def finish(self) -> None:
        """End the last step."""


def progress_reporter(mode: Mode) -> ProgressReporter:
    """Return what reports progress on stderr.

    Args:
        mode: where progress is shown.

    Returns:
        a bar on a terminal, lines or silence elsewhere.

    >>> progress_reporter("never")("embedding", 1, 2)
    """
    terminal = sys.stderr.isatty()
    if mode == "never" or (mode == "auto" and not terminal):
        return SilentProgress()
    return BarProgress() if terminal else PlainProgress()


@contextmanager
def reporting(output: OutputOptions) -> Iterator[ProgressReporter]:
    """Report progress on stderr as long as the block runs, as the options want it.

    Args:
        output: what the options say.

    Yields:
        What reports it.
    """
    progress = progress_reporter("never" if output.quiet else "always" if output.verbose else "auto")
    try:
        yield progress
    finally:
        progress.finish()


class SilentProgress:
    """Reports nothing.

    >>> SilentProgress()("embedding", 1, 2)
    """

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `ProgressReporter.__call__`."""

    def announce(self, text: str) -> None:
        """See `ProgressReporter.announce`."""

    def finish(self) -> None:
        """See `ProgressReporter.finish`."""


class PlainProgress:
    """Writes a line a second, and one when a step is done.

    >>> import contextlib
    >>> with contextlib.redirect_stderr(sys.stdout):
    ...     PlainProgress()("embedding", 2, 2)
    embedding 2/2, 0 s
    """

    def __init__(self) -> None:
        self._what = ""
        self._started = self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `ProgressReporter.__call__`."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._started, self._last = what, now, 0.0
        if done < total and now - self._last < _EVERY:
            return
        self._last = now
        spent = now - self._started
        left = f", {spent / done * (total - done):.0f} s left" if 0 < done < total and spent > 2 else ""
        named = printable(what)  # a step may name a model
        text = f"{named} {done}/{total}, {spent:.0f} s{left}" if total > 1 else f"{named}, {spent:.0f} s"
        self.announce(text)

    def announce(self, text: str) -> None:
        """See `ProgressReporter.announce`."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        """See `ProgressReporter.finish`."""


class BarProgress:
    """Draws a bar on a terminal; a new step starts a new one, and the last state of the old one stays.

    >>> bar = BarProgress()
    >>> bar.finish()
    """

    def __init__(self) -> None:
        self._what = ""
        self._bar: Bar | None = None
        self._step: TaskID | None = None

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `ProgressReporter.__call__`."""
        if what != self._what or self._bar is None or self._step is None:
            self.finish()
            self._what, self._bar = what, _new_bar()
            self._step = self._bar.add_task(printable(what), total=None)  # no share is known of a step without parts
            self._bar.start()
        if total > 1 or done >= total:
            self._bar.update(self._step, completed=done, total=total)

    def announce(self, text: str) -> None:
        """See `ProgressReporter.announce`."""
        self.finish()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        """See `ProgressReporter.finish`."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._what = None, ""


def _new_bar() -> Bar:
    """Return a bar that leaves stdout alone: a result may be piped while the progress goes to the terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),  # a step may name a model: its name is no markup
        BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(compact=True),
        console=Console(stderr=True, highlight=False, markup=False, emoji=False), redirect_stdout=False,
    )  # fmt: skip
