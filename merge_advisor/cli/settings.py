"""merge-advisor.toml: defaults of a folder, so that `merge-advisor plan --task examples.jsonl` is enough."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

from merge_advisor.cli.options import COMMANDS
from merge_advisor.errors import InputError
from merge_advisor.limits import SETTINGS_BYTES
from merge_advisor.option_fields import Option, options_of
from merge_advisor.regular_files import read_regular_text

SETTINGS_FILE = "merge-advisor.toml"
WRITTEN = ("cache", "store", "hub")
"""Keys of places that are written to: a settings file of someone else must not choose them unseen."""
READ_ELSEWHERE = ("guard",)
"""Keys of files that are read and are no model: what is chosen by them and lies elsewhere is told as well."""


def setting_options(parts: Iterable[type[Any]]) -> dict[str, Option]:
    """Return the options that merge-advisor.toml may hold.

    Args:
        parts: option dataclasses.

    Returns:
        the options by their key.
    """
    return {item.name: item for part in parts for item in options_of(part) if item.text.settings}


def all_parts() -> list[type[Any]]:
    """Return the option dataclasses of all commands."""
    return [part for command in COMMANDS.values() for part in command.parts]


def read_settings(folder: Path, parts: Iterable[type[Any]] | None = None) -> dict[str, Any]:
    """Return what ./merge-advisor.toml holds; an empty mapping where there is none. Relative paths are made absolute.

    A key that the command at hand does not have is no error: one file serves all commands.

    Args:
        folder: where the file is.
        parts: option dataclasses that define the keys; None: those of all commands.

    Returns:
        values by key.

    Raises:
        InputError: too large, not TOML, an unknown key, or a value of another type.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        if (size := path.stat().st_size) > SETTINGS_BYTES.most:
            remedy = f"make it anew with `merge-advisor init`, or {SETTINGS_BYTES.remedy(size)}"
            raise InputError(f"{path}: has {SETTINGS_BYTES.over}, and is no settings file; {remedy}")
        settings = tomllib.loads(read_regular_text(path))
    except (ValueError, RecursionError) as error:  # a number of too many digits, or tables nested too deep
        reason = "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(
            f"{path}: not TOML ({reason}); correct it, or make it anew with `merge-advisor init`"
        ) from error
    known = setting_options(all_parts() if parts is None else parts)
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"{path}: unknown key '{key}'; known: {', '.join(known)}")
        wanted = _type_of(known[key])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise InputError(f"{path}: {key} = {value!r} is no {wanted.__name__}; correct it")
        if known[key].choices and value not in known[key].choices:
            raise InputError(f"{path}: {key} = {value!r} is none of {', '.join(known[key].choices)}; correct it")
        if isinstance(value, str) and "\0" in value:
            raise InputError(f"{path}: {key} = {value!r} holds a zero, which no name has; correct it")
        settings[key] = _absolute(folder, known[key], value)
        if key in WRITTEN and leads_out(folder, settings[key]) and not Path(value).is_absolute():
            raise InputError(f"{path}: {key} = {value!r} leads out of this folder; write it absolute, or give `{key}`")
    return settings


def leads_out(folder: Path, path: str) -> bool:
    """Return whether a path is of something that is not inside a folder, links followed.

    >>> leads_out(Path("base"), "base/config.json"), leads_out(Path("base"), "base/../adapters")
    (False, True)

    Args:
        folder: the folder.
        path: relative to the working folder, or absolute.
    """
    return not Path(path).resolve().is_relative_to(folder.resolve())


def _type_of(item: Option) -> type[Any]:
    """Return the type that a value of this option has in TOML."""
    if item.repeated:
        return list
    return item.kind if item.kind in (bool, int, float) else str


def _absolute(folder: Path, item: Option, value: Any) -> Any:
    if item.text.place:  # a hub id looks like a relative path: it is one where nothing of that name is there
        return str(folder / value) if (folder / value).exists() else value
    if get_origin(item.item) is None and Path in (item.item, *get_args(item.item)):
        return [str(folder / part) for part in value] if item.repeated else str(folder / value)
    return value
