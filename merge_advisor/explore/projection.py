"""Two dimensions for vectors of many: PCA at once, UMAP when there is time; and how far each can be trusted.

Vectors are taken at length 1 throughout, as the cosine does. Nothing here knows a hub.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array, FloatingArray

PCA_SAMPLE = 8_000
"""Vectors that the axes of PCA are found from; all are projected on them."""
UMAP_SAMPLE = 50_000
"""Vectors that UMAP lays out; of more, the others are put among their nearest of these."""
FEWEST_FOR_UMAP = 12
NEIGHBOURS = 15
SEED = 0
_TRUST_SAMPLE = 2_000
_PLACED_BY = 5
_BLOCK = 4_096
_PLACED_AT_ONCE = 512
"""Vectors whose cosines with all that UMAP laid out are in memory at once: 4,096 of them took 4 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """The two axes of a PCA.

    >>> axes = fit_axes(np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0]], np.float32))
    >>> axes.place(np.array([[1, 0, 0]], np.float32)).shape
    (1, 2)
    """

    mean: Float32Array
    """(d,)."""
    directions: Float32Array
    """(d, 2)."""
    explained: tuple[float, float]
    """Share of the variance along each."""

    def place(self, vectors: FloatingArray) -> Float32Array:
        """Return where vectors lie, (n, 2) float32.

        Args:
            vectors: (n, d) of length 1.
        """
        placed = np.empty((len(vectors), 2), np.float32)
        shift = self.mean @ self.directions
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            placed[part] = vectors[part].astype(np.float32) @ self.directions - shift
        return placed


def fit_axes(vectors: FloatingArray) -> Axes:
    """Return the axes along which vectors differ most, of a sample where they are many; the same each time.

    Args:
        vectors: (n, d) of length 1.
    """
    sample = vectors[sample_of(len(vectors), PCA_SAMPLE)].astype(np.float32)
    dim = vectors.shape[1]
    if not len(sample):
        return Axes(np.zeros(dim, np.float32), np.zeros((dim, 2), np.float32), (0.0, 0.0))
    mean = sample.mean(axis=0)
    centred = sample - mean
    directions = np.zeros((dim, 2), np.float32)
    explained = [0.0, 0.0]
    # a random subspace, turned towards the largest variance a few times: exact enough for two axes, and quick at any d
    width = min(12, *centred.shape)
    span = np.linalg.qr(centred @ np.random.default_rng(SEED).normal(size=(dim, width)).astype(np.float32))[0]
    for _ in range(4):
        span = np.linalg.qr(centred @ (centred.T @ span))[0]
    _, values, axes = np.linalg.svd(span.T @ centred, full_matrices=False)
    total = float(np.square(centred, dtype=np.float64).sum())
    for number in range(min(2, len(values))):
        axis = axes[number]
        directions[:, number] = axis * np.sign(axis[np.argmax(np.abs(axis))])  # a sign of its own, not of chance
        explained[number] = float(values[number] ** 2 / total) if total > 0 else 0.0
    return Axes(mean, directions, (explained[0], explained[1]))


def sample_of(count: int, most: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return which of some vectors are looked at: all, or `most` of them by chance with a fixed seed, sorted.

    >>> sample_of(3, 5).tolist()
    [0, 1, 2]

    Args:
        count: how many there are.
        most: how many at most.
    """
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def lay_out(vectors: FloatingArray) -> Float32Array:
    """Return where UMAP puts vectors, (n, 2) float32, by their cosines; the same each time.

    Args:
        vectors: (n, d) of length 1, n at least `FEWEST_FOR_UMAP`.

    Raises:
        ImportError: umap-learn is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that TensorFlow is missing, which nothing here needs
        import umap

    sample = sample_of(len(vectors), UMAP_SAMPLE)
    known = vectors[sample].astype(np.float32)
    layout = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(known) - 1), min_dist=0.1, metric="cosine", random_state=SEED, n_jobs=1,
        init="spectral" if len(known) > 4 * NEIGHBOURS else "random",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spectra that are not connected: it goes on from another start
        fitted = layout.fit_transform(known)
    placed = np.empty((len(vectors), 2), np.float32)
    placed[sample] = fitted
    others = np.setdiff1d(np.arange(len(vectors)), sample)
    for start in range(0, len(others), _PLACED_AT_ONCE):
        part = others[start : start + _PLACED_AT_ONCE]
        placed[part] = place_among(vectors[part].astype(np.float32), known, placed[sample])
    return placed


def place_among(vectors: Float32Array, known: FloatingArray, places: Float32Array) -> Float32Array:
    """Return where vectors go among others that have places: the mean of the nearest, by their cosines.

    Args:
        vectors: (n, d) of length 1.
        known: (m, d) of length 1.
        places: (m, 2), of these.
    """
    count = min(_PLACED_BY, len(known))
    cosines = np.concatenate(
        [vectors @ known[start : start + _BLOCK].astype(np.float32).T for start in range(0, len(known), _BLOCK)], axis=1
    )
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    values = np.take_along_axis(cosines, nearest, axis=1)
    # sharply: a vector that equals a known one lies on it
    weights = np.exp((values - values.max(axis=1, keepdims=True)) * 50)
    weights /= weights.sum(axis=1, keepdims=True)
    placed: Float32Array = np.einsum("nk,nkd->nd", weights, places[nearest]).astype(np.float32)
    return placed


def trust_in(vectors: FloatingArray, placed: Float32Array) -> float | None:
    """Return the trustworthiness of a layout, of a sample: 1 where all neighbours on it are neighbours by cosine.

    Args:
        vectors: (n, d) of length 1.
        placed: (n, 2).

    Returns:
        0 to 1, or None where there are too few vectors.
    """
    from sklearn.manifold import trustworthiness

    sample = sample_of(len(vectors), _TRUST_SAMPLE)
    neighbours = min(NEIGHBOURS, (len(sample) - 1) // 2)
    if neighbours < 1 or neighbours >= len(sample) / 2:
        return None
    value = trustworthiness(vectors[sample].astype(np.float32), placed[sample], n_neighbors=neighbours, metric="cosine")
    return round(float(value), 4)


def fitted_square(placed: FloatingArray) -> tuple[Float32Array, float, tuple[float, float]]:
    """Return places moved and scaled alike in both directions into -1 to 1, with the factor and the middle.

    >>> square, factor, middle = fitted_square(np.array([[0, 0], [4, 2]], np.float32))
    >>> square.tolist(), factor, middle
    ([[-1.0, -0.5], [1.0, 0.5]], 0.5, (2.0, 1.0))

    Args:
        placed: (n, 2).
    """
    if not len(placed):
        return np.zeros((0, 2), np.float32), 1.0, (0.0, 0.0)
    low, high = placed.min(axis=0).astype(np.float64), placed.max(axis=0).astype(np.float64)
    middle, reach = (low + high) / 2, float((high - low).max()) / 2
    factor = 1 / reach if reach > 0 else 1.0
    return ((placed - middle) * factor).astype(np.float32), factor, (float(middle[0]), float(middle[1]))
