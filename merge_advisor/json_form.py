"""The JSON form of values: canonical for digests, indented for files, strict when it is read."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from merge_advisor.errors import InputError, RunError
from merge_advisor.limits import RUN_BYTES
from merge_advisor.regular_files import open_regular

VERSION = 1
"""Version written into every file of a run folder; a file of another version is refused."""

CHECKSUM = "checksum"
"""Key of what tells that nothing in a file was changed."""
_ENVIRONMENT = "environment"

_T = TypeVar("_T")

_HALVES = re.compile("[\ud800-\udfff]")
_MAY_HOLD_HALVES = re.compile(r"[\ud800-\udfff]|\\u[dD][89a-fA-F]")
_MARK = "\U0010fffe"
"""Begins what stands for half a character, and for itself, while pydantic looks at a text: a code point of no one's."""
_MARKED = re.compile(f"[\ud800-\udfff{_MARK}]"), re.compile(f"{_MARK}([0-9a-f]{{6}})")


# pydantic reads this from a dataclass when (and only when) a file is parsed: unknown keys and wrong types are errors
STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


_PLAIN = frozenset((str, int, float, bool, type(None)))


def digest_of(value: Any) -> str:
    """Return the sha256 (hex) of a value as canonical JSON: sorted keys, no spaces, UTF-8.

    >>> digest_of({"b": 1, "a": (2, 3)}) == digest_of({"a": [2, 3], "b": 1})
    True

    Args:
        value: JSON values, dataclasses, tuples and enums.

    Raises:
        ValueError: NaN or infinity in it.
    """
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def to_plain(value: Any) -> Any:
    """Return what `json` writes of dataclasses, tuples and enums.

    A field of metadata `json=False` is left out; one of `json="if set"` where it is None.

    >>> from merge_advisor.types import Row
    >>> to_plain(Row("2 + 2", "4"))
    {'input': '2 + 2', 'output': '4', 'choices': None}

    Args:
        value: any of these, nested.
    """
    if type(value) in _PLAIN:  # most are: of a pool they are hundreds of thousands
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = (item for item in dataclasses.fields(value) if item.metadata.get("json", True))
        values = ((item, getattr(value, item.name)) for item in kept)
        return {
            item.name: to_plain(found)
            for item, found in values
            if found is not None or item.metadata.get("json") != "if set"
        }
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def to_json(value: Any) -> str:
    r"""Return a value as indented JSON with sorted keys and a final newline.

    Characters stand as they are, but for halves of them (lone surrogates, which names of files and of tensors may
    hold): UTF-8 has none, so these are written as JSON's escapes.

    >>> to_json("ä \ud800")
    '"ä \\ud800"\n'

    Args:
        value: as `to_plain` takes it.

    Raises:
        ValueError: NaN or infinity in it.
    """
    text = json.dumps(to_plain(value), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    # they can stand inside strings only, where an escape means the same
    return _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def to_checked_json(value: Any) -> str:
    """Return the same of a value that is an object, with a checksum of all that stands in it.

    It stands in the block `environment` where there is one: what it is of may differ between machines.

    >>> from merge_advisor.types import Row
    >>> '"checksum": "' in to_checked_json(Row("2 + 2", "4"))
    True

    Args:
        value: a dataclass, as `to_plain` takes it.

    Raises:
        ValueError: NaN or infinity in it.
    """
    plain = to_plain(value)
    plain.get(_ENVIRONMENT, plain)[CHECKSUM] = digest_of(plain)
    return to_json(plain)


def from_json(cls: type[_T], text: str, where: str) -> _T:
    """Return the value that a strict JSON form stands for.

    >>> from merge_advisor.types import Row
    >>> from_json(Row, to_json(Row("2 + 2", "4")), "row.json")
    Row(input='2 + 2', output='4', choices=None, turns=None, answers=None)

    Args:
        cls: the class of the value, a dataclass.
        text: what `to_json` wrote.
        where: names the file in messages.

    Raises:
        InputError: not JSON, another version, an unknown key, a missing key, or a value of another type.
    """
    from pydantic import ValidationError

    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); it was altered or cut short, make it anew") from error
    version = plain.get("version", VERSION) if isinstance(plain, dict) else VERSION
    if version != VERSION:
        raise InputError(f"{where}: version {version} is not {VERSION}; use the merge-advisor release that wrote it")
    halves = _MAY_HOLD_HALVES.search(text) is not None
    try:
        form = json.dumps(_marked(plain)) if halves else text
    except RecursionError as error:  # reading goes deeper than writing
        raise InputError(f"{where}: nested too deep; it was altered, make it anew") from error
    try:
        parsed: _T = _parser(cls).validate_json(form)  # type: ignore[arg-type]  # any class is hashable
        return _unmarked(parsed) if halves else parsed
    except ValidationError as error:
        # an unknown key first: where a name is misspelt, the key that is missing for it says less
        unknown = "unexpected_keyword_argument"
        first = min(error.errors(), key=lambda item: item["type"] != unknown)
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        what = "unknown key" if first["type"] == unknown else first["msg"]
        raise InputError(f"{where}: {place}: {what}; correct it or make the file anew") from error


_WHOLE = "copy the whole run folder, or make it anew"


def read_value(cls: type[_T], path: Path, *, anew: str = _WHOLE) -> _T:
    """Return the value in a JSON file of a run folder, or in one that is kept beside a trained model.

    A checksum in it is compared; files of before there were any have none.

    >>> from merge_advisor.types import Recipe
    >>> read_value(Recipe, Path("run/recipe.json")).composition
    'exact'

    Args:
        cls: the class of the value, a dataclass.
        path: the file.
        anew: what makes the file anew, as the end of a message.

    Raises:
        RunError: it cannot be read, is no regular file, has more than `RUN_BYTES`, or was changed after it was written.
        InputError: as `from_json`.
    """
    return read_checked_value(cls, path, anew=anew)[0]


def read_checked_value(cls: type[_T], path: Path, *, anew: str = _WHOLE) -> tuple[_T, bool]:
    """Return what `read_value` does, and whether there was a checksum to compare it with.

    >>> from merge_advisor.types import Recipe
    >>> read_checked_value(Recipe, Path("run/recipe.json"))[1]
    False

    Args:
        cls: as of `read_value`.
        path: the file.
        anew: as of `read_value`.

    Raises:
        RunError: as `read_value`.
        InputError: as `read_value`.
    """
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > RUN_BYTES.most:
                raise RunError(
                    f"{path}: has {RUN_BYTES.over}; make the run anew; if it is right, {RUN_BYTES.remedy(size)}"
                )
            text = stream.read().decode("utf-8", errors="surrogatepass")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); copy the whole run folder") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 (byte {error.start}); it was altered, copy the whole run folder") from error
    plain, compared = _unchanged(text, str(path), anew)
    return from_json(cls, plain, str(path)), compared


def _unchanged(text: str, where: str, anew: str) -> tuple[str, bool]:
    """The text of a value without its checksum, which fits, and True; a text that has none as it is."""
    if f'"{CHECKSUM}"' not in text:
        return text, False
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):  # told where it is parsed
        return text, False
    inside = plain.get(_ENVIRONMENT, plain) if isinstance(plain, dict) else None
    if not isinstance(inside, dict) or CHECKSUM not in inside:
        return text, False
    kept = inside.pop(CHECKSUM)
    try:
        same = kept == digest_of(plain)
    except (ValueError, RecursionError):  # of NaN, which nothing that was written holds
        same = False
    if not same:
        raise RunError(f"{where}: was changed after it was written, or damaged; {anew}")
    return json.dumps(plain), True


def _marked(plain: Any) -> Any:
    """JSON values with a mark in place of each half of a character, which pydantic takes for damage."""
    if isinstance(plain, str):
        return _MARKED[0].sub(lambda half: f"{_MARK}{ord(half[0]):06x}", plain)
    if isinstance(plain, dict):
        return {_marked(key): _marked(value) for key, value in plain.items()}
    return [_marked(value) for value in plain] if isinstance(plain, list) else plain


def _unmarked(value: Any) -> Any:
    """A parsed value with halves of characters where they were marked."""
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return _MARKED[1].sub(lambda mark: chr(int(mark[1], 16)), value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in dataclasses.fields(value) if field.init)
        return dataclasses.replace(value, **{name: _unmarked(getattr(value, name)) for name in names})
    if isinstance(value, dict):
        return {_unmarked(key): _unmarked(item) for key, item in value.items()}
    return type(value)(_unmarked(item) for item in value) if isinstance(value, (list, tuple)) else value


@functools.cache
def _parser(cls: type[Any]) -> Any:
    """The strict parser of a class; to make one takes milliseconds, and a benchmark reads thousands of values."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)
