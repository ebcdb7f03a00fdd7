"""How an option is defined: a dataclass field that carries its help, its flag and where else it may be given.

`option(...)` stands in a dataclass where `dataclasses.field(...)` would. The parser, the keys of `merge-advisor.toml`
and the value itself are made from it (`options_of`, `build_options`), so adding an option means adding one field.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from merge_advisor.errors import InputError
from merge_advisor.natural_numbers import natural_number

_T = TypeVar("_T")
_KEY = "option"
"""Where a field's metadata holds its `OptionText`; one key, because pydantic reads metadata of names it knows."""


@dataclass(frozen=True, slots=True)
class OptionText:
    """What a field says about its option beside name, type and default; see `option` for the parts.

    >>> OptionText("members at most").group
    ''
    """

    help: str
    group: str = ""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    registered: str = ""
    flags: tuple[str, ...] = ()
    settings: bool = False
    place: bool = False
    positional: bool = False


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002 - the name argparse gives it
    group: str = "",
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    registered: str = "",
    flags: tuple[str, ...] = (),
    settings: bool = False,
    place: bool = False,
    positional: bool = False,
) -> Any:
    """Return a dataclass field that is an option. Takes more than eight parameters because each is one of its traits.

    Args:
        default: value where it is not given; without one it must be given.
        help: one sentence; `{default}` and `{names}` stand for the default and for the registered names.
        group: heading it stands under in the help.
        metavar: what stands for its value in the help.
        choices: values allowed, where the type does not say.
        registered: kind of the registry that `{names}` lists.
        flags: how it is spelled on the command line, where that is not `--name`; the first long one names it.
        settings: whether merge-advisor.toml may hold it.
        place: whether its text is a path where there is one of that name, and a hub id otherwise.
        positional: whether it is given by its position.

    Returns:
        the field.

    >>> @dataclass(frozen=True)
    ... class Size:
    ...     k: int = option(4, help="members at most (default {default})", settings=True)
    >>> Size().k, options_of(Size)[0].flags
    (4, ('--k',))
    """
    text = OptionText(help, group, metavar, choices, registered, flags, settings, place, positional)
    return field(default=default, metadata={_KEY: text})


@dataclass(frozen=True, slots=True)
class Option:
    """One option, as the fields of its dataclass define it.

    >>> @dataclass(frozen=True)
    ... class Size:
    ...     scale: tuple[float, float] | None = option(None, help="one factor on all weights")
    >>> options_of(Size)[0].read("0.5:2")
    (0.5, 2.0)
    """

    path: str
    """Name of the field, with those of the fields around it: "k", "finetune.lr"."""
    kind: Any
    """The type of the field without None."""
    default: Any
    """`dataclasses.MISSING` where the option must be given."""
    text: OptionText

    flags: tuple[str, ...] = field(init=False, compare=False)
    """How it is spelled on the command line; empty where it is given by its position."""
    flag: str = field(init=False, compare=False)
    """The spelling that messages use: the first long one, or the metavar where it is given by its position."""
    name: str = field(init=False, compare=False)
    """The name under which its value is kept by argparse and in merge-advisor.toml: the flag's."""

    def __post_init__(self) -> None:
        """Spell it once: every call asks for these hundreds of times."""
        usual = (f"--{self.path.rpartition('.')[2].replace('_', '-')}",)
        flags = () if self.text.positional else self.text.flags or usual
        flag = next((flag for flag in flags if flag.startswith("--")), self.text.metavar or self.path)
        name = self.path if self.text.positional else flag.removeprefix("--").replace("-", "_")
        for field_name, value in (("flags", flags), ("flag", flag), ("name", name)):
            object.__setattr__(self, field_name, value)

    @property
    def repeated(self) -> bool:
        """Whether it may be given several times."""
        return get_origin(self.kind) is tuple and get_args(self.kind)[-1] is Ellipsis

    @property
    def item(self) -> Any:
        """The type of one value."""
        return get_args(self.kind)[0] if self.repeated else self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        """The values allowed; empty where all are."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else self.text.choices

    def read(self, given: Any) -> Any:
        """Return the value that a text of the command line, or a value of merge-advisor.toml, stands for.

        Args:
            given: the text or value; a list of them where the option may be given several times.

        Returns:
            the value, of the field's type.

        Raises:
            InputError: a range that is not two numbers.
        """
        if self.repeated:
            return tuple(_value(self.item, text, self.path) for text in given)
        return _value(self.kind, given, self.path)


def _value(kind: Any, given: Any, path: str) -> Any:
    if not isinstance(given, str) or kind is str:
        return given
    if get_origin(kind) is tuple:
        try:
            low, high = (float(part) for part in given.split(":"))
        except ValueError as error:
            raise InputError(f"`{path}={given}`: is no range; write LOW:HIGH, e.g. 0.2:1") from error
        return low, high
    if _is_union(kind) and int in get_args(kind) and (number := natural_number(given)) is not None:
        return number
    return Path(given) if Path in (kind, *get_args(kind)) else given


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _without_none(hint: Any) -> Any:
    """Return a type without its None."""
    if not _is_union(hint):
        return hint
    rest = tuple(part for part in get_args(hint) if part is not types.NoneType)
    return rest[0] if len(rest) == 1 else Union[rest]  # noqa: UP007 - made from values


_hints = functools.cache(get_type_hints)
"""Reading them takes longer than all else here."""


def options_of(cls: type[Any], prefix: str = "") -> tuple[Option, ...]:
    """Return the options that a dataclass defines, those of dataclasses within it in their place.

    A field without `option(...)` is no option: it can be set from Python alone.

    Args:
        cls: the dataclass.
        prefix: what their paths begin with.

    Returns:
        the options, in the order of the fields.
    """
    return _options(cls, prefix)  # type: ignore[arg-type]  # any class is hashable


@functools.cache
def _options(cls: type[Any], prefix: str) -> tuple[Option, ...]:
    hints = _hints(cls)  # type: ignore[arg-type]  # any class is hashable
    options: list[Option] = []
    for item in dataclasses.fields(cls):
        kind = _without_none(hints[item.name])
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            options += options_of(kind, f"{prefix}{item.name}.")
        elif _KEY in item.metadata:
            options.append(Option(prefix + item.name, kind, item.default, item.metadata[_KEY]))
    return tuple(options)


def build_options(cls: type[_T], given: Mapping[str, Any], prefix: str = "") -> _T:
    """Return a value of an option dataclass; what is not given has the field's default.

    Args:
        cls: the dataclass.
        given: values by `Option.name`; other names are ignored.
        prefix: what the paths of the options begin with.

    Returns:
        the value.

    Raises:
        InputError: a value cannot be read, or the dataclass refuses it.

    >>> @dataclass(frozen=True)
    ... class Size:
    ...     k: int = option(4, help="members at most", flags=("--members",))
    >>> build_options(Size, {"members": 2, "seed": 1})
    Size(k=2)
    """
    values: dict[str, Any] = {}
    for name, within, item in _parts(cls, prefix):  # type: ignore[arg-type]  # any class is hashable
        if within is not None:
            values[name] = build_options(within, given, f"{prefix}{name}.")
        elif item is not None and item.name in given:
            values[name] = item.read(given[item.name])
    return cls(**values)


@functools.cache
def _parts(cls: type[Any], prefix: str) -> tuple[tuple[str, type[Any] | None, Option | None], ...]:
    """The fields of an option dataclass: the name, and the dataclass or the option that it is, if any."""
    by_path = {item.path: item for item in options_of(cls, prefix)}
    hints = _hints(cls)  # type: ignore[arg-type]  # any class is hashable
    parts: list[tuple[str, type[Any] | None, Option | None]] = []
    for item in dataclasses.fields(cls):
        kind = _without_none(hints[item.name])
        within = kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None
        parts.append((item.name, within, by_path.get(prefix + item.name)))
    return tuple(parts)
