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

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.errors import PoolError
from merge_advisor.json_form import VERSION
from merge_advisor.limits import MANIFEST_BYTES
from merge_advisor.plain_text import printable
from merge_advisor.plain_yaml import read_mapping

# keys of the file and of each of its models: any other is an error, so that a misspelt one is not ignored
_TOP = {"version", "base", "template", "models", "descriptions"}
_MODEL = {"id", "path", "hub", "revision", "description"}


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One model of a manifest, as written; see `Manifest` for an example.

    >>> ManifestEntry(None, None, hub="org/name", revision="v1", description="").hub
    'org/name'
    """

    id: str | None
    path: str | None
    hub: str | None
    revision: str | None
    description: str


@dataclass(frozen=True, slots=True)
class Manifest:
    r"""What a manifest says.

    >>> lines = ["version: 1", "models:", "- path: adapters/a0", "  description: Writes rhymes."]
    >>> _ = Path("pool.yaml").write_text("\n".join(lines))
    >>> manifest = read_manifest(Path("pool.yaml"))
    >>> [(entry.path, entry.description) for entry in manifest.models]
    [('adapters/a0', 'Writes rhymes.')]
    """

    base: str | None
    """What the pool was trained on."""
    template: str | None
    """The prompt template it was trained under."""
    models: tuple[ManifestEntry, ...] | None
    """None where it lists none: the folders beside it are the models."""
    descriptions: dict[str, str]
    """By id."""


def read_manifest(path: Path) -> Manifest:
    """Return what a pool manifest says.

    Args:
        path: the YAML file.

    Raises:
        PoolError: unreadable, not YAML, another version, an unknown key, or a value of another type.
    """
    content = read_mapping(
        path, "manifest", needs=f"`version: {VERSION}` and `models:`", remedy="check the path", limit=MANIFEST_BYTES,
        error=PoolError,
    )  # fmt: skip
    _check_keys(content, _TOP, f"{path}")
    if content.get("version") != VERSION:
        raise PoolError(f"{path}: version is {content.get('version')!r}, not {VERSION}; write `version: {VERSION}`")
    models = content.get("models")
    if models is not None and not isinstance(models, list):
        raise PoolError(f"{path}: models is no list; write one `- path:` or `- hub:` for each")
    listed = None if models is None else tuple(_model(item, f"{path}: model {n}") for n, item in enumerate(models, 1))
    descriptions = content.get("descriptions") or {}
    if not isinstance(descriptions, dict):
        raise PoolError(f"{path}: descriptions is no mapping of ids to texts; correct it")
    return Manifest(
        base=_text(content, "base", f"{path}"),
        template=_text(content, "template", f"{path}"),
        models=listed,
        descriptions={str(key): _text(descriptions, key, f"{path}: descriptions") or "" for key in descriptions},
    )


def manifest_text(base: str, models: Sequence[tuple[str, str, str]], comments: Sequence[str] = ()) -> str:
    """Return a manifest of hub models, each pinned to a commit.

    >>> print(manifest_text("org/base", [("org/name", "8f3c0d1", "8 MB")], ["one was left out"]), end="")
    # one was left out
    version: 1
    base: "org/base"
    models:
    - hub: "org/name"  # 8 MB
      revision: "8f3c0d1"

    Args:
        base: what the models were finetuned from.
        models: hub id, commit, and what is said of it in a comment.
        comments: lines at the head.
    """
    lines = [f"# {printable(comment)}" for comment in comments]
    # quoted: some commits would be read as numbers
    lines += [f"version: {VERSION}", f"base: {json.dumps(base)}", "models:"]
    for hub, revision, said in models:
        lines += [f"- hub: {json.dumps(hub)}  # {printable(said)}", f"  revision: {json.dumps(revision)}"]
    return "\n".join(lines) + "\n"


def _model(item: Any, where: str) -> ManifestEntry:
    if not isinstance(item, dict):
        raise PoolError(f"{where}: is no mapping; write `path: folder` or `hub: org/name`")
    _check_keys(item, _MODEL, where)
    fields = {key: _text(item, key, where) for key in _MODEL}
    if (fields["path"] is None) == (fields["hub"] is None):
        raise PoolError(f"{where}: needs either path or hub; write one of them")
    if fields["revision"] is not None and fields["hub"] is None:
        raise PoolError(f"{where}: revision belongs to hub; leave it out beside path")
    return ManifestEntry(fields["id"], fields["path"], fields["hub"], fields["revision"], fields["description"] or "")


def _check_keys(content: dict[Any, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise PoolError(f"{where}: unknown key {str(key)[:60]!r}; known are {', '.join(sorted(known))}")


def _text(content: dict[Any, Any], key: Any, where: str) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise PoolError(f"{where}: {key} is {str(value)[:60]!r}, not text; put it in quotes")
    return value
