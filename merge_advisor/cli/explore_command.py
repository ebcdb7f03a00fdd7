"""`merge-advisor explore`: a hub folder in a browser, or as one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from merge_advisor.cli.exit_codes import OK
from merge_advisor.cli.hub_arguments import ExploreCommand
from merge_advisor.cli.options import OutputOptions
from merge_advisor.cli.parser import Arguments
from merge_advisor.cli.printing import print_result
from merge_advisor.cli.saying import say
from merge_advisor.errors import InputError
from merge_advisor.hub_options import HubPlace
from merge_advisor.report.document import Paragraph

if TYPE_CHECKING:
    from merge_advisor.session_options import SessionOptions


def explore_hub(arguments: Arguments, session: SessionOptions) -> int:
    """Return the exit code of `merge-advisor explore`, run.

    Args:
        arguments: what was given.
        session: where things are, and how to compute.

    Raises:
        InputError: no hub folder is named, or two, or something that a hub does not need.
        MergeAdvisorError: the hub or the port cannot be opened.
    """
    from merge_advisor.explore import explore, export_page

    command, named = arguments.part(ExploreCommand), arguments.part(HubPlace).hub
    if command.folder is not None and "hub" in arguments.given and Path(command.folder) != named:
        raise InputError(f"explore: {command.folder} and {named} are two hub folders; name one")
    folder = command.folder or named
    if folder is None:
        raise InputError(
            "no hub folder named: `merge-advisor explore DIR`, or write `hub` into merge-advisor.toml; "
            "`merge-advisor hub add POOL` makes one"
        )
    for name in ("pool", "base"):
        if name in arguments.given:
            raise InputError(f"explore: `{name}` is not needed, the hub knows it; leave it out")
    if command.export is not None:
        for name in ("logs", "token_file", "new_token"):
            if getattr(command, name):
                raise InputError(f"`{name}`: goes with the page that is served; leave it out with `export`")
        notes = export_page(folder, command.export, space=command.space, **session)
        print_result(arguments.part(OutputOptions), {"page": str(command.export), "notes": notes},
                     [Paragraph("\n".join(notes))])  # fmt: skip
        return OK
    if command.space is not None:
        raise InputError("`space`: goes with `export`; the page itself lets you choose")
    token = _token(command)

    def ready(address: str) -> None:
        said = f"hub {folder}: open {address}\nCtrl-C ends it; the address holds a secret, keep it to yourself"
        print_result(arguments.part(OutputOptions), {"address": address}, [Paragraph(said)])
        if command.browser:
            _open(address)

    explore(folder, port=command.port, runs=command.runs, logs=command.logs, token=token, on_ready=ready, **session)
    return OK


def _token(command: ExploreCommand) -> str | None:
    from merge_advisor.explore.tokens import kept_token

    if command.token_file is None:
        if command.new_token:
            raise InputError("`new_token`: goes with `token_file`; without it every start has a new one")
        return None
    if not command.port:
        raise InputError("`token_file`: goes with `port`: at any that is free, the next address would be another one")
    return kept_token(command.token_file, anew=command.new_token)


def _open(address: str) -> None:
    """Open a browser where there is one that is not a terminal's own."""
    import threading
    import webbrowser

    def show() -> None:
        try:
            browser = webbrowser.get()
            if not isinstance(browser, webbrowser.GenericBrowser) or isinstance(browser, webbrowser.BackgroundBrowser):
                browser.open(address)
        except (webbrowser.Error, OSError):
            say("no browser was found; open the address yourself")

    # beside the server: some browsers return only once they have the page
    threading.Thread(target=show, daemon=True).start()
