"""Progress on stderr: one line a step, rewritten in place on a terminal, silent elsewhere unless asked for."""

from __future__ import annotations

import sys
import time


class ProgressLine:
    """Say what is going on and how far it is; a new step starts a new line.

    Args:
        mode: "auto" (only where stderr is a terminal), "always" (a line a second where it is none) or "never".
    """

    def __init__(self, mode: str = "auto") -> None:
        self.terminal = sys.stderr.isatty()
        self.on = mode == "always" or (mode == "auto" and self.terminal)
        self._what = ""
        self._started = self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report `done` of `total` of a step."""
        if not self.on:
            return
        now = time.monotonic()
        if what != self._what:
            self.finish()
            self._what, self._started, self._last = what, now, 0.0
        if done < total and now - self._last < (0.1 if self.terminal else 1.0):
            return
        self._last = now
        spent = now - self._started
        left = f", {spent / done * (total - done):.0f} s left" if 0 < done < total and spent > 2 else ""
        text = f"{what} {done}/{total}, {spent:.0f} s{left}" if total > 1 else f"{what}, {spent:.0f} s"
        sys.stderr.write(f"\r\x1b[K{text}" if self.terminal else f"{text}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        """End the line of the last step."""
        if self.on and self._what and self.terminal:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self._what = ""
