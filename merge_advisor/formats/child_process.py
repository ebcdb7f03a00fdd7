"""Other programs in a child process, with a log and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from merge_advisor.errors import ExternalError

_GRACE = 5.0
"""Seconds between asking the child to stop and killing it."""


def run_child(command: list[str], log: Path, *, offline: bool, name: str) -> None:
    """Run a command with its output in `log` until it ends; whatever ends the wait early ends the command too.

    Args:
        command: program and arguments; no shell.
        log: file for its output; it stays where the command fails.
        offline: whether to forbid the hub's client and transformers to fetch.
        name: of the program, for messages.

    Raises:
        ExternalError: it failed; the message holds the last line it wrote.

    >>> import sys, tempfile
    >>> log = Path(tempfile.mkdtemp()) / "log"
    >>> run_child([sys.executable, "-c", "raise SystemExit('no such tensor')"], log, offline=True, name="mergekit")
    Traceback (most recent call last):
    merge_advisor.errors.ExternalError: mergekit failed: no such tensor; its log: ...
    """
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    if offline:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with log.open("wb") as stream:
        # a session of its own: the child leads a process group, so that what it starts can be ended with it
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
        try:
            code = child.wait()
        except BaseException:  # Ctrl-C above all: nothing waits for the child any more
            end_group(child)
            log.unlink(missing_ok=True)
            raise
    if code:
        raise ExternalError(f"{name} failed: {last_line(log)}; its log: {log}")


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a child that leads a process group, and all that it has started: asked first, then made to.

    >>> import sys
    >>> child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    >>> end_group(child)
    >>> child.returncode == -signal.SIGTERM
    True

    Args:
        child: begun with `start_new_session=True`.
    """
    try:
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
        # also where the child itself is gone: what it has started may not have listened
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody is left, or only what is being buried (macOS)
        pass
    with suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE)


def last_line(log: Path) -> str:
    """Return the last line of a log that says something: no blank line, no progress bar; at most 300 characters.

    Args:
        log: a text file; what is not UTF-8 in it is replaced.
    """
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")  # progress bars return, not feed
    lines = [line.strip() for line in text.splitlines()]
    words = [line for line in lines if line and "%|" not in line and "it/s" not in line]
    return words[-1][:300] if words else "it wrote nothing"
