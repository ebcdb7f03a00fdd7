"""One candidate of each cluster of deltas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from merge_advisor.arrays import Float64Array
from merge_advisor.select.evidence import Choice, Evidence, Resource
from merge_advisor.select.ranking import anchored, ranked, while_positive
from merge_advisor.select.similarity import comparable_deltas, cosines, unit_rows

_METHODS = ("agglomerative", "kmeans")


@dataclass(frozen=True)
class Cluster:
    """Group the deltas into k clusters and take of each the member most similar to the task.

    >>> deltas = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 1]])
    >>> evidence = Evidence(("a", "b", "c", "d"), deltas, lambda: np.array([2, 1]))
    >>> [evidence.ids[pick.position] for pick in Cluster().select(evidence, 2).picks]
    ['b', 'd']
    """

    method: str = "agglomerative"
    """"agglomerative" (average linkage of Euclidean distances) or "kmeans", both on unit rows."""
    centre: bool = False
    """Subtract the pool's mean delta from pool and task first."""

    name: ClassVar[str] = "cluster"
    centres: ClassVar[str] = "option"
    cost: ClassVar[str] = "the deltas"
    stops: ClassVar[str] = "at a cluster with no member of similarity above 0, or where fewer than k deltas differ"

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ValueError(f"method={self.method} is unknown; choose one of: {', '.join(_METHODS)}")

    def select(self, evidence: Evidence, k: int) -> Choice:
        """See `Strategy.select`; the gain of a pick is its cosine with the task delta."""
        deltas, task_delta = comparable_deltas(evidence, self.centre)
        scores = cosines(deltas, task_delta)
        labels = self._labels(unit_rows(deltas), k, evidence.rng)
        first: dict[int, int] = {}
        for position in anchored(ranked(scores), evidence.anchor):
            first.setdefault(int(labels[position]), position)
        used: tuple[Resource, ...] = ("task_delta", "rng") if self.method == "kmeans" else ("task_delta",)
        return while_positive(list(first.values()), scores, k, used)

    def _labels(
        self, rows: Float64Array, k: int, rng: np.random.Generator
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        # no more clusters than rows differ: copies would be split by chance, and k-means warns
        clusters = min(k, len(np.unique(np.round(rows, 6), axis=0)))
        if clusters == 1:  # also what a pool of one needs: clustering asks for two rows
            return np.zeros(len(rows), np.int64)
        if self.method == "kmeans":
            from sklearn.cluster import KMeans

            seed = int(rng.integers(2**31))  # scikit-learn takes no numpy Generator
            return np.asarray(KMeans(clusters, n_init=4, random_state=seed).fit_predict(rows), np.int64)
        from sklearn.cluster import AgglomerativeClustering

        return np.asarray(AgglomerativeClustering(clusters, linkage="average").fit_predict(rows), np.int64)
