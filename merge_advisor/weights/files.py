"""Files of models: JSON of bounded size, and hashes that are computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import MutableMapping
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    >>> read_json(Path("adapters/a0/adapter_config.json"))["peft_type"]
    'LORA'

    Args:
        path: the file.

    Raises:
        FileError: absent, larger than `JSON_BYTES`, not UTF-8, not JSON, or no object.
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
    return value


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
        key = f"{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        # asked once: a memo in a file is read at each question, and a pool has thousands
        digest = hashes.get(key)
        if digest is None:
            with open_regular(path) as stream:  # in blocks: a file may be larger than memory
                digest = hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{path.name}: cannot be read ({error.strerror}); check its permissions") from error
    return digest
