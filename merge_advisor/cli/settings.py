"""merge-advisor.toml: defaults of a folder, so that `merge-advisor plan --task examples.jsonl` is enough."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

from merge_advisor.errors import InputError

SETTINGS_FILE = "merge-advisor.toml"
KEYS = {
    "base": str, "pool": str, "template": str, "cache": str, "store": str, "offline": bool, "device": str, "dtype": str,
    "threads": int, "strategy": str, "k": int, "shots": int, "composition": str, "rank": int, "seed": int,
    "embedding": str, "guard": str, "choose_by": str,
}  # fmt: skip
PATHS = ("cache", "store", "guard")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read ./merge-advisor.toml; an empty mapping where there is none. Relative paths are made absolute.

    Raises:
        InputError: not TOML, an unknown key, or a value of another type.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not TOML ({error}); correct it, or make it anew with `merge-advisor init`"
        ) from error
    for key, value in found.items():
        if key not in KEYS:
            raise InputError(f"{path}: unknown key '{key}'; known: {', '.join(KEYS)}")
        if type(value) is not KEYS[key]:
            raise InputError(f"{path}: {key} = {value!r} is no {KEYS[key].__name__}; correct it")
    for key in ("base", "pool", *PATHS):
        if key in found and (key in PATHS or (folder / found[key]).exists()):
            found[key] = str(folder / found[key])
    return found


def fill(arguments: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """Fill options that were not given from merge-advisor.toml (an option given always wins).

    Raises:
        InputError: the file is wrong, or neither it nor the options name a base and a pool.
    """
    settings = read_settings(folder)
    defaults = {"device": "cpu", "dtype": "float32", "offline": False}
    for key, value in settings.items():
        if hasattr(arguments, key) and getattr(arguments, key) == defaults.get(key):
            setattr(arguments, key, value)
    return arguments


def need(arguments: argparse.Namespace, *names: str) -> None:
    """Refuse a command whose base or pool is named nowhere.

    Raises:
        InputError: with the option to give.
    """
    for name in names:
        if getattr(arguments, name) is None:
            raise InputError(
                f"no {name} named: give --{name}, or write one into {SETTINGS_FILE} (`merge-advisor init`)"
            )
