"""Lines on stderr: the one place that prints what another file than ours may have written, beside `printing`."""

from __future__ import annotations

import sys
from contextlib import suppress

from merge_advisor.plain_text import printable, without_middle

_LONGEST = 3000
"""Characters of a line: what is longer holds a value or name that is."""


def say(text: str) -> None:
    r"""Print one line on stderr, after the program's name.

    >>> import contextlib
    >>> with contextlib.redirect_stderr(sys.stdout):
    ...     say("two\nlines")
    merge-advisor: two\nlines

    Args:
        text: what is said; what a terminal acts on is escaped, and of a line longer than 3000 characters the middle is
            left out.
    """
    with suppress(OSError):  # where nothing can be said, the exit code still tells
        print(f"merge-advisor: {without_middle(printable(text), _LONGEST)}", file=sys.stderr, flush=True)
