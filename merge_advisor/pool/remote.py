"""Pools at an address that fsspec knows (s3://, gs://, hf://, ...), copied into the cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from merge_advisor.errors import ExternalError, OfflineError, PoolError
from merge_advisor.json_form import digest_of
from merge_advisor.whole_files import whole_folder

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.+")
_LOCAL = ("file", "local", "memory")
"""Protocols that ask no network."""
_WANTED = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|json|md|ya?ml|txt|model|jinja|gguf|zip|tar|tgz|tbz2|txz|tar\.(gz|bz2|xz)|bin|npz)"
)
"""Files that may matter to a pool; pickles are copied so that they can be named, and stay unopened."""
_TRAINER = re.compile(r"(optimizer|scheduler|training_args|rng_state|scaler)[^/]*")
"""What trainers leave beside weights."""


def is_address(ref: str) -> bool:
    """Return whether a pool is named by an address with a protocol.

    >>> is_address("s3://bucket/adapters"), is_address("org/name"), is_address("C:/adapters")
    (True, False, False)

    Args:
        ref: what names the pool.
    """
    return bool(_ADDRESS.fullmatch(ref))


def copied_pool(ref: str, cache: Path, *, offline: bool) -> Path:
    """Return a folder in the cache with the files at an address; what is there unchanged is not copied again.

    Args:
        ref: the address of a folder, or of one file.
        cache: folder of what was copied.
        offline: never fetch.

    Raises:
        PoolError: no such address, or nothing of a model there.
        OfflineError: it is elsewhere, and fetching is off.
        ExternalError: a package for this protocol is missing, or the service failed.
    """
    import fsspec

    protocol = ref.partition("://")[0]
    if offline and protocol not in _LOCAL:
        raise OfflineError(f"pool {ref}: would have to be fetched; allow that, or copy it here and name the folder")
    try:
        system, path = fsspec.core.url_to_fs(ref)
        found = _files(system, path)
    except (ImportError, ValueError) as error:  # a missing package, an unknown protocol
        reason = " ".join(str(error).split())[:200]
        raise ExternalError(f"pool {ref}: {protocol}:// cannot be read ({reason}); install its package") from error
    except Exception as error:  # each service has errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ExternalError(f"pool {ref}: cannot be listed ({reason}); check address and credentials") from error
    if not found:
        raise PoolError(f"pool {ref}: nothing of a model is there; check the address")
    state = sorted((name, _state(about)) for name, about in found.items())
    place = cache / digest_of([ref, state]) / (path.rstrip("/").rsplit("/", 1)[-1] or "pool")
    if not place.is_dir():
        _copy(system, found, place, ref)
    return place


def _files(system: Any, path: str) -> dict[str, dict[str, Any]]:
    """Path below the address -> what the service says of the file."""
    if not system.exists(path):
        return {}
    root = path.rstrip("/")
    found = {}
    for full, about in system.find(path, detail=True).items():
        name = full.removeprefix(root).lstrip("/") or full.rsplit("/", 1)[-1]
        if _WANTED.fullmatch(name.lower()) and not _TRAINER.fullmatch(name.rsplit("/", 1)[-1]):
            found[name] = {**about, "name": full}
    return found


def _state(about: dict[str, Any]) -> list[str]:
    """What changes when the file does, as far as the service tells."""
    names = (
        "size",
        "etag",
        "ETag",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
        "created",
        "md5Hash",
        "blob_id",
    )
    return [f"{name}={about[name]}" for name in names if about.get(name) is not None]


def _copy(system: Any, found: dict[str, dict[str, Any]], place: Path, ref: str) -> None:
    with whole_folder(place) as partial:
        for name, about in found.items():
            if ".." in name.split("/"):
                raise PoolError(f"pool {ref}: the name {name[:80]!r} leads out of it; rename it")
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                system.get_file(about["name"], str(target))
            except Exception as error:  # each service has errors of its own
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise ExternalError(f"pool {ref}: {name} cannot be fetched ({reason}); try again") from error
