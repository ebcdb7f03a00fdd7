"""What every command that opens a base is told of places and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from merge_advisor.cli.options import COMMANDS, OutputOptions
from merge_advisor.cli.parser import Arguments
from merge_advisor.cli.progress import reporting
from merge_advisor.machine_options import Machine, Workers
from merge_advisor.options import Places
from merge_advisor.session_options import SessionOptions


@contextmanager
def command_session(arguments: Arguments, places: Places) -> Iterator[SessionOptions]:
    """Give what every function of the API that opens a base takes, and report progress as long as the block runs.

    Args:
        arguments: what was given.
        places: where things are.

    Yields:
        The keyword arguments.
    """
    with reporting(arguments.part(OutputOptions)) as progress:
        session = SessionOptions(
            offline=places.offline, follow_links=places.follow_links, cache=places.cache, store=places.store,
            machine=arguments.part(Machine), progress=progress,
        )  # fmt: skip
        if Workers in COMMANDS[arguments.command].parts:
            session["beside"] = arguments.part(Workers)
        yield session
