"""Parameters and calls that a message of the library names, as a user of the command line writes them.

The library has parameters, no flags, and writes them in backticks: "lower `lr`", "`k=0`: give 1 or more", "see
`merge(run, adapter=True)`". `with_flags` writes the flag of the command at hand, or the command to type, instead.
"""

from __future__ import annotations

import functools
import re

from merge_advisor.cli.options import COMMANDS
from merge_advisor.option_fields import Option, options_of

_NAME = r"[a-z][a-z0-9_.]*"
_PARAMETER = re.compile(rf"`(?P<name>{_NAME})(?:=(?P<value>[^`]*))?`")
_CALL = re.compile(rf"`(?P<command>{'|'.join(COMMANDS)})\((?P<arguments>[^`()]*)\)`")


def with_flags(text: str, command: str) -> str:
    """Return a message with the parameters and calls it names in backticks written as a command line has them.

    Args:
        text: message of the library.
        command: the command that was called; a parameter it lacks is looked up among those of the other commands.

    Returns:
        the message; what stands in backticks and is no parameter or call stays as it is.

    >>> with_flags("the loss is nan; lower `lr`, or give `force=True`", "plan")
    'the loss is nan; lower --lora-lr, or give --force'
    >>> with_flags("`k=0`: give 1 or more, see `merge-advisor plan`", "plan")
    '--k 0: give 1 or more, see `merge-advisor plan`'
    >>> with_flags("`merge(run, adapter=True)` writes an approximation", "plan")
    '`merge-advisor merge RUN --adapter` writes an approximation'
    """
    text = _CALL.sub(lambda match: f"`{_typed(match['command'], match['arguments'])}`", text)
    known = _parameters(command)
    return _PARAMETER.sub(lambda match: _flag(known, match["name"], match["value"]) or match[0], text)


def _typed(command: str, arguments: str) -> str:
    """Return the command line of a call: `merge(run, rank=8)` is `merge-advisor merge RUN --rank 8`."""
    known = _parameters(command)
    words = ["merge-advisor", command]
    for part in filter(None, arguments.replace(" ", "").split(",")):
        name, _, value = part.partition("=")
        words.append(_flag(known, name, value or None) or part)
    return " ".join(words)


def _flag(known: dict[str, Option], name: str, value: str | None) -> str | None:
    """Return a parameter as an option with its value; None where there is no such option."""
    item = known.get(name)
    if item is None:
        return None
    if value is None or item.kind is bool:
        return item.flag
    return f"{item.flag} {value.strip(chr(34) + chr(39))}"


@functools.cache
def _parameters(command: str) -> dict[str, Option]:
    """Return options by the name of their parameter, those of the command at hand first: `rank` is several."""
    known: dict[str, Option] = {}
    for name in (command, *COMMANDS):
        for item in (item for part in COMMANDS[name].parts for item in options_of(part)):
            known.setdefault(item.path, item)
            known.setdefault(item.path.rpartition(".")[2], item)
    return known
