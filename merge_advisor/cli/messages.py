"""Parameters that a message of the library names, as the flags of the command line.

The library writes a parameter in backticks, alone or with a value: "lower `lr`", "`k=0`: give 1 or more". It never
spells a flag, because from Python there is none; `with_flags` writes the flag of the command at hand instead.
"""

from __future__ import annotations

import re

from merge_advisor.cli.options import COMMANDS
from merge_advisor.option_fields import Option, options_of

_NAMED = re.compile(r"`(?P<name>[a-z][a-z0-9_.]*)(?:=(?P<value>[^`]*))?`")


def with_flags(text: str, command: str) -> str:
    """Return a message with the parameters it names in backticks written as options of the command line.

    Args:
        text: message of the library.
        command: the command that was called; a parameter it lacks is looked up among those of the other commands.

    Returns:
        the message; what is in backticks and no parameter stays as it is.

    >>> with_flags("the loss is nan; lower `lr`, or give `force=True`", "plan")
    'the loss is nan; lower --lora-lr, or give --force'
    >>> with_flags("`k=0`: give 1 or more, see `merge-advisor plan`", "plan")
    '--k 0: give 1 or more, see `merge-advisor plan`'
    """
    known = _parameters(command)

    def flag(match: re.Match[str]) -> str:
        item = known.get(match["name"])
        if item is None:
            return match[0]
        if match["value"] is None or item.kind is bool:
            return item.flag
        return f"{item.flag} {match['value'].strip(chr(34) + chr(39))}"

    return _NAMED.sub(flag, text)


def _parameters(command: str) -> dict[str, Option]:
    """Return options by the name of their parameter, those of the command at hand first: `rank` is several."""
    known: dict[str, Option] = {}
    for name in (command, *COMMANDS):
        for item in (item for part in COMMANDS[name].parts for item in options_of(part)):
            known.setdefault(item.path, item)
            known.setdefault(item.path.rpartition(".")[2], item)
    return known
