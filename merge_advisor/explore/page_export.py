"""`explore --export`: the map of a hub as one page that needs no server and fetches nothing, to send to others."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from merge_advisor.errors import InputError
from merge_advisor.explore.binary import pack_arrays
from merge_advisor.explore.clusters import unnamed_clusters
from merge_advisor.explore.layouts import layout_file, made_layout
from merge_advisor.explore.map_points import MapPoints, choose_space, read_points, score_column, texts_of
from merge_advisor.explore.server import WEB
from merge_advisor.explore.serving import cache_of
from merge_advisor.hub import Hub
from merge_advisor.hub.catalogue import in_parts
from merge_advisor.plain_text import shortened
from merge_advisor.pool.licences import is_open_licence
from merge_advisor.progress import quiet_progress
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.explore.layouts import MapLayout
    from merge_advisor.session_options import SessionOptions

MOST_BYTES = 5_000_000
"""Of a page of 10,000 models or fewer; what cards say is cut until it fits."""
_CARD_LENGTHS = (20_000, 600, 300, 160, 80, 0)
_NEIGHBOURS = 8
_MOST_MODELS = 200_000
_MOST_TASKS = 12
_BLOCK = 512


def export_page(folder: Path, out: Path, *, space: int | None = None, **where: Unpack[SessionOptions]) -> list[str]:
    """Return what is to be said of a page that was written: the map, models, true neighbours and scores of a hub.

    Args:
        folder: the hub folder.
        out: a file that ends in .html; one that is there is replaced.
        space: of the hub; None: the one of most models.
        where: see `SessionOptions`.

    Raises:
        InputError: `out` is no .html, or the hub has no such space, or too many models for one page.
        RunError: the hub cannot be read, or the page cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"`export={out}`: a page is written; give a name that ends in .html")
    with closing(Hub.open(folder)) as hub:
        points = read_points(hub, choose_space(hub, space))
        if len(points.entries) > _MOST_MODELS:
            raise InputError(f"`export`: {len(points.entries):,} models do not fit one page; {_MOST_MODELS:,} do")
        every = range(len(points.entries))
        layout = made_layout(
            layout_file(cache_of(where), points), points, lambda: texts_of(hub, points, every),
            where.get("progress", quiet_progress),
        )  # fmt: skip
        cards, page_with = cards_of(hub, points), _page(hub, points, layout)
        for length in _CARD_LENGTHS:
            cut = any(len(card) > length for card in cards)
            page = page_with({
                "cards": [shortened(card, length) if length else "" for card in cards],
                "cards_cut": length if cut else None,
            })  # fmt: skip
            if len(page.encode()) <= MOST_BYTES:
                break
    write_text(out, page)
    size = len(page.encode())
    notes = [f"wrote {out}: {len(points.entries)} models, {size / 1e6:.1f} MB, no server and no network needed"]
    if cut:
        how = f"cut to {length} characters" if length else "left out"
        notes.append(f"cards are {how} so that it stays within {MOST_BYTES / 1e6:.0f} MB")
    if size > MOST_BYTES:
        notes.append(f"it is larger than {MOST_BYTES / 1e6:.0f} MB all the same")
    return notes


def cards_of(hub: Hub, points: MapPoints) -> list[str]:
    """Return the cards of all models, by position.

    Args:
        hub: open.
        points: the models.
    """
    found: dict[int, str] = {}
    for part in in_parts(points.entries.tolist()):
        found |= {number: entry.card for number, entry in hub.catalogue.by_number(part).items()}
    return [found.get(number, "") for number in points.entries.tolist()]


def nearest_table(units: NDArray[Any]) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return the nearest others of each vector, (n, k) positions, and their cosines.

    >>> nearest_table(np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32))[0][:, 0].tolist()
    [1, 0, 1]

    Args:
        units: (n, d) of length 1.
    """
    count = len(units)
    k = min(_NEIGHBOURS, max(0, count - 1))
    places, cosines = np.zeros((count, k), np.uint32), np.zeros((count, k), np.float32)
    whole = units.astype(np.float32)
    for start in range(0, count if k else 0, _BLOCK):
        block = whole[start : start + _BLOCK] @ whole.T
        own = np.arange(len(block))
        block[own, own + start] = -2
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        places[start : start + len(block)] = np.take_along_axis(best, order, axis=1)
        cosines[start : start + len(block)] = np.take_along_axis(values, order, axis=1)
    return places, cosines


def _page(hub: Hub, points: MapPoints, layout: MapLayout) -> Callable[[dict[str, Any]], str]:
    """What gives the page, once cards and how they are cut are told."""
    nearest, cosines = nearest_table(points.units)
    said = {
        "space": points.number, "models": len(points.entries), "dim": points.space.dim, "words": points.words,
        "explained": points.axes.explained, "state": points.state, "neighbours": nearest.shape[1],
        "clusters": layout.clusters, "unnamed": unnamed_clusters(layout.clusters),
        "silhouette": layout.silhouette, "trust_pca": layout.trust_pca, "trust_umap": layout.trust_umap,
        "note": layout.note,
    }  # fmt: skip
    arrays: dict[str, Any] = {
        "x": _sixteen(points.places[:, 0]), "y": _sixteen(points.places[:, 1]), "cluster": layout.cluster,
        "nearest": nearest.ravel(), "cosine": _sixteen(cosines.ravel()), **points.columns,
    }  # fmt: skip
    if layout.umap is not None:
        arrays |= {"umap_x": _sixteen(layout.umap[:, 0]), "umap_y": _sixteen(layout.umap[:, 1])}
    query = "SELECT task, metric, COUNT(DISTINCT entry) AS n FROM scores GROUP BY task, metric ORDER BY n DESC, task"
    scored = []
    for number, (task, metric, models) in enumerate(hub.catalogue.file.rows(query)[:_MOST_TASKS]):
        arrays[f"score_{number}"] = score_column(hub, points, task, metric)
        scored.append({"task": task, "metric": metric, "models": models})
    base = next((item.base.id for item in hub.bases() if item.base.digest == points.space.base), "")
    data = {
        "hub": {
            "name": hub.folder.resolve().name, "folder": "", "scored": scored, "runs": 0,
            "spaces": [{"number": points.number, "base": base, "embedding": points.space.embedding,
                        "dim": points.space.dim, "dtype": points.space.dtype, "models": len(points.entries)}],
        },
        "names": points.names,
        "open": [is_open_licence(word) for word in points.words["licence"]],
        "packed": base64.b64encode(pack_arrays(said, arrays)).decode(),
    }  # fmt: skip
    return lambda cards: _filled(json.dumps(data | cards, ensure_ascii=False, allow_nan=False))


def _sixteen(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Values of -1 to 1 in 16 bits: finer than any screen."""
    found: NDArray[np.uint16] = np.round((np.clip(values, -1, 1) + 1) * 32_767.5).astype(np.uint16)
    return found


def _filled(data: str) -> str:
    """The page with script, style and data in it; a policy that lets it do nothing else."""
    script, style = (WEB / "explore.js").read_text("utf-8"), (WEB / "explore.css").read_text("utf-8")
    if "</script" in script.lower() or "</style" in style.lower():
        raise AssertionError("script or style would end its own element")
    # nothing in the data can end its element: "<" stands in no JSON but inside of texts
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    policy = (
        f"default-src 'none'; script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    page = (WEB / "index.html").read_text("utf-8")
    page = page.replace("<!--policy-->", f'<meta http-equiv="Content-Security-Policy" content="{policy}">')
    page = page.replace('<link rel="stylesheet" href="web/explore.css">', f"<style>{style}</style>")
    embedded = f'<script type="application/json" id="embedded">{data}</script>'
    page = page.replace('<script src="web/explore.js" defer></script>', "")
    # behind what it fills: a script that stands in the page cannot be deferred
    return page.replace("</body>", f"{embedded}<script>{script}</script></body>")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
