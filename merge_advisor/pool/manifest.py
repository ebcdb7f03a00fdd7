"""Pool manifests: a YAML file that lists models, or `pool.yaml` in a folder of models.

version: 1
base: org/name@revision        # optional: what the pool was trained on
template: alpaca               # optional: the prompt template it was trained under
models:                        # left out in a pool.yaml that speaks of the folders beside it
- path: adapters/rhymes      # relative to this file, or absolute; or `hub: org/name`
id: rhymes                 # optional: the folder's name or the hub id
revision: 8f3c…            # hub only: pins a commit
description: Writes rhymes.
descriptions: {rhymes: Writes rhymes.}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import PoolError
from merge_advisor.plain_yaml import read_mapping
from merge_advisor.types import VERSION

_SIZE_LIMIT = 4 * 2**20
"""Largest manifest read, in bytes."""

_TOP = {"version", "base", "template", "models", "descriptions"}
_MODEL = {"id", "path", "hub", "revision", "description"}


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One model of a manifest, as written."""

    id: str | None
    path: str | None
    hub: str | None
    revision: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says."""

    base: str | None
    template: str | None
    models: tuple[ManifestEntry, ...] | None
    """None where it lists none: the folders beside it are the models."""
    descriptions: dict[str, str]


def read_manifest(path: Path) -> Manifest:
    """Read a pool manifest.

    Raises:
        PoolError: unreadable, not YAML, another version, an unknown key, or a value of another type.
    """
    found = read_mapping(
        path, "manifest", needs=f"`version: {VERSION}` and `models:`", remedy="check the path", limit=_SIZE_LIMIT,
        error=PoolError,
    )  # fmt: skip
    _check_keys(found, _TOP, f"{path}")
    if found.get("version") != VERSION:
        raise PoolError(f"{path}: version is {found.get('version')!r}, not {VERSION}; write `version: {VERSION}`")
    models = found.get("models")
    if models is not None and not isinstance(models, list):
        raise PoolError(f"{path}: models is no list; write one `- path:` or `- hub:` for each")
    listed = None if models is None else tuple(_model(item, f"{path}: model {n}") for n, item in enumerate(models, 1))
    descriptions = found.get("descriptions") or {}
    if not isinstance(descriptions, dict):
        raise PoolError(f"{path}: descriptions is no mapping of ids to texts; correct it")
    return Manifest(
        base=_text(found, "base", f"{path}"),
        template=_text(found, "template", f"{path}"),
        models=listed,
        descriptions={str(key): _text(descriptions, key, f"{path}: descriptions") or "" for key in descriptions},
    )


def _model(item: Any, where: str) -> ManifestEntry:
    if not isinstance(item, dict):
        raise PoolError(f"{where}: is no mapping; write `path: folder` or `hub: org/name`")
    _check_keys(item, _MODEL, where)
    found = {key: _text(item, key, where) for key in _MODEL}
    if (found["path"] is None) == (found["hub"] is None):
        raise PoolError(f"{where}: needs either path or hub; write one of them")
    if found["revision"] is not None and found["hub"] is None:
        raise PoolError(f"{where}: revision belongs to hub; leave it out beside path")
    return ManifestEntry(found["id"], found["path"], found["hub"], found["revision"], found["description"] or "")


def _check_keys(found: dict[Any, Any], known: set[str], where: str) -> None:
    for key in found:
        if key not in known:
            raise PoolError(f"{where}: unknown key {str(key)[:60]!r}; known are {', '.join(sorted(known))}")


def _text(found: dict[Any, Any], key: Any, where: str) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise PoolError(f"{where}: {key} is {str(value)[:60]!r}, not text; put it in quotes")
    return value
