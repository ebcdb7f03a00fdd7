"""The command line: parse, call the public API, print. Results go to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 failed, 2 usage or bad input, 3 done but some models of the pool were set aside, 4 `gate` cannot
tell, 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from merge_advisor.cli.parser import Arguments, parse
from merge_advisor.cli.saying import say
from merge_advisor.errors import DamageWarning, ExternalError, MergeAdvisorError

INTERRUPTED = 130
_GOES_ON = frozenset({"plan", "embed", "score", "tune", "bench", "gate"})
"""Commands that keep what they measured, so that the same one goes on; so does `hub add`."""
_LONGEST = 1000
"""Characters of a command that is repeated whole."""
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")
"""What torch says where the machine's memory is full, in a RuntimeError."""
_LESS_MEMORY = (
    "free some, or give less at once: a smaller task, pool or base; `merge-advisor doctor` says how much there is"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the only place that turns errors into lines.

    Args:
        argv: the words after the program's name; None: those of the process.

    Returns:
        the exit code, see above.

    >>> main(["plan", "--task", "examples.jsonl", "--base", "base", "--pool", "adapters", "--k", "2", "--dry-run"])
    base base, template alpaca, pool of 6 candidates, 0 set aside
    ...
    dry run: nothing was written
    0
    """
    _open_closed_streams()
    arguments = parse(argv)
    try:
        from merge_advisor.cli import commands

        with _warnings_as_lines():
            code = commands.run(arguments)
        sys.stdout.flush()
        return code
    except MergeAdvisorError as error:
        if "debug" in arguments.given:
            raise
        return _failed(_message(error, arguments), error.exit_code)
    except KeyboardInterrupt:
        if "debug" in arguments.given:
            raise
        say(_interrupted(arguments, sys.argv[1:] if argv is None else argv))
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) went away: a last message would fail as well
        return 0
    except MemoryError:
        if "debug" in arguments.given:
            raise
        return _failed(f"memory ran out; {_LESS_MEMORY}", 2)
    except RuntimeError as error:
        if "debug" in arguments.given or not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        return _failed(f"memory ran out; {_LESS_MEMORY}", 2)
    except OSError as error:
        if "debug" in arguments.given:
            raise
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        return _failed(f"{where}{reason}; check the path, permissions and free space", 2)


def _open_closed_streams() -> None:
    """Open /dev/null for each stream that the shell closed (`>&-`).

    Python has None for it, and the next file that is opened, be it the store, would take its number.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest number that is free
        continue
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show what this package warns of as a line, each text once; what others warn of stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", DamageWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, DamageWarning):
                others(message, category, *where, **more)
                return
            say(f"warning: {message}")

        warnings.showwarning = show
        yield


def _interrupted(arguments: Arguments, words: Sequence[str]) -> str:
    """What an interrupted command says: of one that keeps what it measured, what to type to go on."""
    hub_add = arguments.command == "hub" and arguments.given.get("what") == "add"
    if not (arguments.command in _GOES_ON or hub_add) or "dry_run" in arguments.given:
        return "interrupted"
    typed = f"merge-advisor {shlex.join(words)}"
    again = f"`{typed}`" if len(typed) <= _LONGEST else "the same command"
    return f"interrupted; all that was measured is stored, and {again} goes on"


def _message(error: MergeAdvisorError, arguments: Arguments) -> str:
    from merge_advisor.cli.messages import with_flags

    # what a tool of others said is cut to one line; where it comes from, its traceback tells
    cut = isinstance(error, ExternalError) and error.__cause__ and "`debug`" not in str(error)
    message = with_flags(str(error), arguments.command)
    return f"{message}; see where with --debug" if cut else message


def _failed(message: str, code: int) -> int:
    say(f"error: {message}")
    return code
