"""What `pool find` found, as a table, as JSON, and as a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from merge_advisor.advisor.pool_search import PoolSearch
from merge_advisor.errors import PoolError, RunError
from merge_advisor.json_form import to_plain
from merge_advisor.pool.hub_models import HubModel
from merge_advisor.pool.manifest import manifest_text
from merge_advisor.report.document import Table
from merge_advisor.whole_files import write_text

_KINDS = {"adapter": "adapter", "checkpoint": "full finetune"}
_HEADERS = ("model", "kind", "size", "licence", "downloads", "like the task", "")
_RIGHT = (2, 4, 5)
"""Columns aligned on the right."""


def size_text(size: int) -> str:
    """Return a number of bytes in the unit it is read in.

    >>> size_text(83_945_296), size_text(16_060_522_240), size_text(900)
    ('84 MB', '16.1 GB', '1 KB')

    Args:
        size: bytes.
    """
    if size >= 10**9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10**6 else f"{max(1, round(size / 1000))} KB"


def download_text(search: PoolSearch) -> str:
    """Return how much `plan` would fetch of a pool, in gigabytes, by kind; what the cache holds is counted too.

    >>> download_text(PoolSearch("org/base", "", (HubModel("org/a", "1", "adapter", "org/base", size=10**9),), "x"))
    'to download, where the cache holds none of it: 1.00 GB (1.00 GB of 1 adapter)'

    Args:
        search: what was found.
    """
    counts = {kind: sum(model.kind == kind for model in search.usable) for kind in search.download}
    parts = [
        f"{_gigabytes(size)} of {counts[kind]} {_KINDS[kind]}{'s' if counts[kind] > 1 else ''}"
        for kind, size in sorted(search.download.items())
    ]
    total = _gigabytes(sum(search.download.values()))
    return f"to download, where the cache holds none of it: {total} ({', '.join(parts) or 'nothing can be used'})"


def _gigabytes(size: int) -> str:
    number = size / 1e9
    return f"{number:.1f} GB" if number >= 10 else f"{number:.2f} GB" if number >= 0.1 else f"{number:.4f} GB"


def check_manifest_place(out: Path, *, force: bool) -> None:
    """Refuse early what could not be written in the end.

    Args:
        out: the manifest to write.
        force: whether one that is there is replaced.

    Raises:
        RunError: it is there already, or its name does not end in .yaml.
    """
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise RunError(f"{out}: a manifest ends in .yaml; give another `out`")
    if out.exists() and not force:
        raise RunError(f"{out}: is there already; give another `out`, or `force=True` to replace it")


def write_pool(search: PoolSearch, out: Path, *, force: bool = False) -> None:
    """Write what was found as a manifest of hub ids, each at its commit; what cannot be used stands in comments.

    Args:
        search: what was found.
        out: a file that ends in .yaml.
        force: replace one that is there.

    Raises:
        PoolError: none of the models can be used.
        RunError: it is there already, or cannot be written.
    """
    check_manifest_place(out, force=force)
    if not search.usable:
        first = search.left_out[0]
        raise PoolError(f"{search.base}: none of {len(search.models)} models can be used; {first.id}: {first.reason}")
    models = [(model.id, model.revision, _said_of(model)) for model in search.usable]
    comments = [f"finetunes of {search.base} on the hub, by {search.ranked}", download_text(search), *search.notes]
    comments += [f"left out: {item.id}: {item.reason}" for item in (*search.left_out, *search.refused)]
    base = f"{search.base}@{search.revision}" if search.revision else search.base
    write_text(out, manifest_text(base, models, comments))


def _said_of(model: HubModel) -> str:
    parts = [model.kind, size_text(model.size), model.licence or "licence unknown", f"{model.downloads} downloads"]
    return ", ".join([*parts, *model.marks])


def found_table(search: PoolSearch) -> Table:
    """Return the table of what was found, in the order of the ranking.

    Args:
        search: what was found.
    """
    rows = tuple(
        (
            model.id, model.kind, size_text(model.size) if model.size else "?", model.licence or "unknown",
            str(model.downloads), "" if model.similarity is None else f"{model.similarity:.3f}",
            ", ".join(model.marks),
        )
        for model in search.models
    )  # fmt: skip
    return Table("", _HEADERS, rows, _RIGHT)


def found_json(search: PoolSearch) -> dict[str, Any]:
    """Return what was found as JSON values: every model with its marks, and the totals.

    Args:
        search: what was found.
    """
    models = [to_plain(model) | {"marks": list(model.marks), "usable": model.usable} for model in search.models]
    return {
        "base": search.base, "revision": search.revision, "ranked_by": search.ranked, "models": models,
        "download": search.download, "left_out": to_plain(search.left_out), "refused": to_plain(search.refused),
        "notes": list(search.notes),
    }  # fmt: skip
