"""Files of models: JSON of bounded size, and hashes that are computed once."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from merge_advisor.limits import JSON_BYTES
from merge_advisor.regular_files import open_regular, read_regular

Hashes = MutableMapping[str, str]
"""A memo of what is slow to learn about a file; keep it between runs to open a known pool without reading weights."""


class FileError(ValueError):
    """A file of a model cannot be used; the message is one line, names the file and says what to do.

    It is not one of the package's errors (`errors`): here a file does not know whether it belongs to the base or to a
    candidate. Whoever does raises a `BaseModelError` or a `PoolError` with this message in it.

    >>> read_json(Path("examples.jsonl"))
    Traceback (most recent call last):
    merge_advisor.weights.files.FileError: examples.jsonl: not JSON; it was altered or cut short, fetch it again
    """


_DEEPEST = 100
"""Levels of nesting that are read; no configuration has more than a few."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    >>> read_json(Path("adapters/a0/adapter_config.json"))["peft_type"]
    'LORA'

    Args:
        path: the file.

    Raises:
        FileError: absent, larger than `JSON_BYTES`, not UTF-8, not JSON, no object, or one nested more than 100 levels
            deep.
    """
    try:
        if (size := path.stat().st_size) > JSON_BYTES.most:
            remedy = f"this is no configuration file; if it is one, {JSON_BYTES.remedy(size)}"
            raise FileError(f"{path.name}: has {JSON_BYTES.over}; {remedy}")
        value = json.loads(read_regular(path))
    except OSError as error:
        raise FileError(f"{path.name}: cannot be read ({error.strerror}); check the folder") from error
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path.name}: not JSON; it was altered or cut short, fetch it again") from error
    if not isinstance(value, dict):
        raise FileError(f"{path.name}: holds no JSON object; fetch it again")
    if _is_deep(value):
        raise FileError(f"{path.name}: nested too deep; it was altered, fetch it again")
    return value


def finite(value: Any) -> Any:
    """Return a value of a configuration with text in place of NaN and infinity, for which JSON has no form.

    Python's `json` reads and writes both, and some models have them (`time_step_limit` of Mamba); a digest does not.

    >>> finite({"limit": [0.0, float("inf")]})
    {'limit': [0.0, 'inf']}

    Args:
        value: of `read_json`.
    """
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_deep(value: Any) -> bool:
    """Whether something is nested so deep that functions that go down into it could not return."""
    level = [value]
    for _ in range(_DEEPEST):
        inside = (part.values() if isinstance(part, dict) else part for part in level)
        level = [part for parts in inside for part in parts if isinstance(part, (dict, list))]
        if not level:
            return False
    return True


def file_digest(path: Path, hashes: Hashes) -> str:
    """Return the sha256 (hex) of a file's bytes, from `hashes` where path, size and times are unchanged.

    Args:
        path: the file.
        hashes: the memo; the digest is added to it.

    Raises:
        FileError: the file cannot be read.
    """
    try:
        stat = path.stat()
        # ctime as well: tools that copy a file over another one may carry size and mtime along
        key = f"{_as_text(path.absolute())}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        return remembered(hashes, key, lambda: _digest_of_file(path))
    except OSError as error:
        raise FileError(f"{path.name}: cannot be read ({error.strerror}); check its permissions") from error


def _as_text(path: Path) -> str:
    """A path as a store can keep it: one that is no UTF-8 as its bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return f"bytes {os.fsencode(path).hex()}"
    return str(path)


def _digest_of_file(path: Path) -> str:
    with open_regular(path) as stream:  # in blocks: a file may be larger than memory
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered(hashes: Hashes, key: str, learn: Callable[[], str]) -> str:
    """Return what a memo has under a key; what it lacks is learnt and added.

    It is not read back: a memo in a damaged file need not give what was just put into it.

    >>> remembered({}, "one", lambda: "1")
    '1'

    Args:
        hashes: the memo.
        key: what it is kept under.
        learn: gives it.
    """
    found = hashes.get(key)
    if found is None:
        found = hashes[key] = learn()
    return found
