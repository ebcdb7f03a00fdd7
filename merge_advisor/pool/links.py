"""Links of a pool that lead out of it: what is outside is read only where the user asks for it.

A pool may be anyone's, and a link in it may name any file of this machine: read as weights or as a card, that would
stand in a merge that is then shared.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from merge_advisor.plain_text import short_name

CACHED_MODEL = re.compile(r"models--(?P<org>[^/]+?)--(?P<name>[^/]+)")
"""Name of a model's folder in the hub's cache, whose files are in `snapshots/COMMIT` as links to its `blobs`."""
_REMEDY = "copy it in, name its own place in a manifest, or give `follow_links=True` if you trust the pool"


def way_out(place: Path, roots: tuple[Path, ...]) -> str:
    """Return the reason why a model is not read: it, or a file in its folder, is a link out of the pool; else "".

    A snapshot of the hub's cache is links to the blobs of its own model, which are part of it.

    >>> way_out(Path("adapters/a0"), (Path("adapters").resolve(),))
    ''

    Args:
        place: folder or file of the model.
        roots: folders that it may lie in, resolved.
    """
    real = place.resolve()
    if not _inside(real, roots):
        return f"is a link that leads out of the pool; {_REMEDY}"
    if not place.is_dir():
        return ""
    with os.scandir(place) as files:
        links = sorted(file.name for file in files if file.is_symlink() and file.is_file())
    if links:
        roots = (*roots, *(folder for folder in (real, *real.parents) if _is_cached(folder)))
    out = next((name for name in links if not _inside((place / name).resolve(), roots)), None)
    return "" if out is None else f"{short_name(out)} is a link that leads out of the pool; {_REMEDY}"


def leaves_pool(place: Path, root: Path) -> bool:
    """Return whether a place, links followed, lies outside a folder.

    >>> leaves_pool(Path("adapters/a0"), Path("adapters").resolve())
    False

    Args:
        place: any.
        root: the folder, resolved.
    """
    return not _inside(place.resolve(), (root,))


def _inside(real: Path, roots: tuple[Path, ...]) -> bool:
    return any(real.is_relative_to(root) for root in roots)


def _is_cached(folder: Path) -> bool:
    return CACHED_MODEL.fullmatch(folder.name) is not None and (folder / "snapshots").is_dir()
