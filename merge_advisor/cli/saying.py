"""Lines on stderr: the one place that prints what another file than ours may have written, beside `printing`."""

from __future__ import annotations

import sys
from contextlib import suppress

from merge_advisor.plain_text import printable


def say(text: str) -> None:
    r"""Print one line on stderr, after the program's name.

    >>> import contextlib
    >>> with contextlib.redirect_stderr(sys.stdout):
    ...     say("two\nlines")
    merge-advisor: two\nlines

    Args:
        text: what is said; what a terminal acts on is escaped.
    """
    with suppress(OSError):  # where nothing can be said, the exit code still tells
        print(f"merge-advisor: {printable(text)}", file=sys.stderr, flush=True)
