"""The argument parser, generated from the definitions of the options, and what was given by all means together."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any, NoReturn, TypeVar

from merge_advisor.cli.options import COMMANDS
from merge_advisor.option_fields import Option, build_options, options_of
from merge_advisor.plain_text import printable
from merge_advisor.registry import BUILTIN
from merge_advisor.version import __version__

_T = TypeVar("_T")
_OPTIONAL = re.compile(r"-[^0-9. ]\S*(=.*)?", re.DOTALL)
"""What argparse takes for an option: no number, and no words of which the first begins so."""
_EPILOG = "Settings may stand in ./merge-advisor.toml (see `merge-advisor init`); options win over it."


@dataclass(frozen=True, slots=True)
class Arguments:
    """What one call was given: options of the command line, and what merge-advisor.toml says.

    >>> from merge_advisor.machine_options import Machine
    >>> Arguments("plan", {"threads": 2}, {"threads": 1, "device": "cuda", "k": 3}).part(Machine)
    Machine(device='cuda', dtype='auto', threads=2)
    """

    command: str
    given: Mapping[str, Any]
    """By `Option.name`, only what stands on the command line."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By `Option.name`."""

    def part(self, cls: type[_T]) -> _T:
        """Return the value of one of the command's classes: an option wins over the settings, these over the default.

        Args:
            cls: an option dataclass.

        Returns:
            its value.

        Raises:
            InputError: a value cannot be read, or the class refuses it.
        """
        known = {item.name for item in options_of(cls) if item.text.settings}
        return build_options(
            cls, {**{name: value for name, value in self.settings.items() if name in known}, **self.given}
        )


def build_parser(wanted: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of all commands.

    Args:
        wanted: the commands whose options are added; adding all takes 20 ms, and one call needs those of one command.

    Returns:
        the parser.
    """
    parser = _Parser(
        prog="merge-advisor",
        description="Which finetuned models to merge for your task, how, and whether it helped.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"merge-advisor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        options = [item for part in command.parts for item in options_of(part)] if name in wanted else []
        epilog = _EPILOG if any(item.text.settings for item in options) else None
        add_options(commands.add_parser(name, help=command.help, epilog=epilog), options)
    return parser


class _Parser(argparse.ArgumentParser):
    """Prints what it cannot use, which may come from anywhere, without what a terminal acts on."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        super().error(printable(message))


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    """Add options to a parser, each under its heading.

    Args:
        parser: parser of a command.
        options: in the order of the help.
    """
    groups: dict[str, Any] = {"": parser}
    for item in options:
        heading = item.text.group
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        traits = _traits(item)
        if item.text.positional:
            if item.default is not MISSING:
                traits |= {"nargs": "?", "default": argparse.SUPPRESS}
            groups[heading].add_argument(item.name, **traits)
        else:
            # an option that was not given leaves no trace: only so can the settings fill it and never overrule one
            groups[heading].add_argument(
                *item.flags, dest=item.name, default=argparse.SUPPRESS, required=item.default is MISSING, **traits
            )


def _traits(item: Option) -> dict[str, Any]:
    """Return what argparse has to know of an option beside its flags."""
    traits: dict[str, Any] = {"help": help_of(item)}
    if item.kind is bool:
        return traits | {"action": "store_false" if item.default is True else "store_true"}
    if item.text.metavar:
        traits["metavar"] = item.text.metavar
    if item.choices:
        traits["choices"] = item.choices
    if item.repeated:
        traits["action"] = "append"
    if item.item in (int, float):
        traits["type"] = item.item
    return traits


def help_of(item: Option) -> str:
    """Return the help of an option with its default and the registered names filled in.

    Args:
        item: the option.

    Returns:
        one sentence.
    """
    default = ":".join(map(str, item.default)) if isinstance(item.default, tuple) else item.default
    names = ", ".join(sorted(BUILTIN[item.text.registered])) if item.text.registered else ""
    return item.text.help.replace("{default}", str(default)).replace("{names}", names).replace("%", "%%")


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Return what a command line gives, without the settings; a usage error ends the process with exit code 2.

    Args:
        argv: the words after the program's name; None: those of the process.

    Returns:
        command and options.

    >>> parse(["plan", "--task", "a.jsonl", "--k", "3"])
    Arguments(command='plan', given={'task': ['a.jsonl'], 'k': 3}, settings={})
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        options = [item for part in COMMANDS[words[0]].parts for item in options_of(part)]
        words = [words[0], *options_first(words[1:], options)]
    given = vars(build_parser([name for name in COMMANDS if name in words]).parse_args(words))
    return Arguments(given.pop("command"), given)


def options_first(words: Sequence[str], options: Sequence[Option]) -> list[str]:
    """Return the words of a command with what is given by its position behind all options, else in their order.

    argparse takes "show" of `hub show --hub DIR ID` for all that stands by its position, and ID for a mistake. Words
    behind `--` stay behind it.

    >>> from merge_advisor.cli.hub_arguments import HubCommand
    >>> options_first(["show", "-k", "3", "--repair", "law", "--", "-x"], options_of(HubCommand))
    ['-k', '3', '--repair', 'show', 'law', '--', '-x']

    Args:
        words: behind the name of the command.
        options: of the command.
    """
    valued = {flag for item in options if item.kind is not bool for flag in item.flags}
    known = {flag for item in options for flag in item.flags}
    end = words.index("--") if "--" in words else len(words)
    optional, placed = list[str](), list[str]()
    rest = iter(words[:end])
    for word in rest:
        if not _OPTIONAL.fullmatch(word):
            placed.append(word)
            continue
        optional.append(word)
        # argparse takes the beginning of a flag for it where no other begins so
        meant = [word] if word in known else [flag for flag in known if word.startswith("--") and flag.startswith(word)]
        if len(meant) == 1 and meant[0] in valued:
            value = next(rest, None)
            if value is None:  # left as they are, so that argparse says what is missing
                return list(words)
            optional.append(value)
    return [*optional, *placed, *words[end:]]
