"""What is computed once for a map and kept: clusters with names, UMAP, and how far both layouts can be trusted."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.explore.clusters import find_clusters, name_clusters
from merge_advisor.explore.map_points import MapPoints
from merge_advisor.explore.projection import (
    FEWEST_FOR_UMAP,
    NEIGHBOURS,
    SEED,
    UMAP_SAMPLE,
    fitted_square,
    lay_out,
    trust_in,
)
from merge_advisor.regular_files import open_regular
from merge_advisor.whole_files import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array
    from merge_advisor.progress import Progress

VERSION_OF_LAYOUTS = 3
_STEPS = 4


@dataclass(frozen=True, slots=True, eq=False)
class MapLayout:
    """What was computed for a map.

    >>> MapLayout(np.zeros(2, np.uint8), ("law",), None, None, None, None, "2 models are too few for UMAP").clusters
    ('law',)
    """

    cluster: NDArray[np.uint8]
    """(n,)."""
    clusters: tuple[str, ...]
    """Their names."""
    silhouette: float | None
    trust_pca: float | None
    trust_umap: float | None
    umap: Float32Array | None
    """(n, 2), within -1 to 1."""
    note: str
    """How UMAP was computed, or why it was not."""
    pending: bool = False
    """Whether UMAP is still to come."""


def layout_file(cache: Path, points: MapPoints) -> Path:
    """Return where the layout of a map is kept.

    Args:
        cache: of all that is computed.
        points: the models.
    """
    return cache / "explore" / f"layout-{VERSION_OF_LAYOUTS}-{points.digest[:32]}.npz"


def find_groups(points: MapPoints, texts: Callable[[], list[str]], progress: Progress) -> MapLayout:
    """Return clusters, their names and the trust in PCA, which take seconds; UMAP is pending. The same each time.

    Args:
        points: the models.
        texts: gives name and card of each.
        progress: called as work goes on.
    """
    progress("finding clusters", 0, _STEPS)
    found = find_clusters(points.units)
    progress("naming clusters", 1, _STEPS)
    names = name_clusters(found.of, found.count, texts()) if found.count else []
    progress("comparing PCA with the true neighbours", 2, _STEPS)
    trust = trust_in(points.units, points.places)
    return MapLayout(found.of, tuple(names), found.silhouette, trust, None, None, "it is being computed", pending=True)


def with_umap(points: MapPoints, layout: MapLayout, progress: Progress) -> MapLayout:
    """Return a layout with UMAP, or with the reason why there is none.

    Args:
        points: the models.
        layout: see `find_groups`.
        progress: called as work goes on.
    """
    progress("laying out by UMAP", 3, _STEPS)
    umap, note = _umap(points)
    trust = None if umap is None else trust_in(points.units, umap)
    progress("laying out by UMAP", _STEPS, _STEPS)
    return replace(layout, umap=umap, trust_umap=trust, note=note, pending=False)


def made_layout(path: Path, points: MapPoints, texts: Callable[[], list[str]], progress: Progress) -> MapLayout:
    """Return the layout of a map, whole: the one that was kept, or made now and kept, clusters first.

    Args:
        path: see `layout_file`.
        points: the models.
        texts: gives name and card of each.
        progress: called as work goes on.

    Raises:
        RunError: it cannot be kept.
    """
    layout = kept_layout(path, len(points.entries))
    if layout is None:
        layout = find_groups(points, texts, progress)
        keep_layout(path, layout)
    if layout.pending:
        layout = with_umap(points, layout, progress)
        keep_layout(path, layout)
    return layout


def _umap(points: MapPoints) -> tuple[Float32Array | None, str]:
    count = len(points.entries)
    if count < FEWEST_FOR_UMAP:
        return None, f"{count} models are too few for UMAP, which needs {FEWEST_FOR_UMAP}"
    try:
        placed = fitted_square(lay_out(points.units))[0]
    except ImportError:
        return None, "umap-learn is not installed; pip install 'merge-advisor[explore]'"
    sampled = f", {UMAP_SAMPLE:,} laid out and the others put among them" if count > UMAP_SAMPLE else ""
    return placed, f"UMAP of cosines, {min(NEIGHBOURS, count - 1)} neighbours, seed {SEED}{sampled}"


def keep_layout(path: Path, layout: MapLayout) -> None:
    """Keep a layout.

    Args:
        path: see `layout_file`.
        layout: the layout.

    Raises:
        RunError: it cannot be written.
    """
    said = {name: value for name, value in asdict(layout).items() if name not in ("cluster", "umap")}
    umap = np.zeros((0, 2), np.float32) if layout.umap is None else layout.umap
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, cluster=layout.cluster, umap=umap, said=np.frombuffer(json.dumps(said).encode(), np.uint8))


def kept_layout(path: Path, count: int) -> MapLayout | None:
    """Return a layout that was kept; None where there is none, or it cannot be read: it is made again.

    Args:
        path: see `layout_file`.
        count: of the models.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as kept:
            said = json.loads(kept["said"].tobytes())
            cluster, umap = kept["cluster"], kept["umap"]
        if len(cluster) != count or len(umap) not in (0, count):
            return None
        said["clusters"] = tuple(said["clusters"])
        return MapLayout(cluster=cluster, umap=umap if len(umap) else None, **said)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
