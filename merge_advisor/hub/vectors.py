"""Searching the vectors of one space: which rows are worth a look, by all of them or by their codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.hub.stored_vectors import SAMPLE, StoredVectors, exact_up_to, in_chunks, unit_rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array

_CHUNK = 2**20
"""Bytes of float32 rows at a time: as many as stay in a core's cache, and few enough for BLAS to keep to one thread.
With twice as many it takes two, which wait for each other at each chunk: 81 ms, not 12, for 100,000 rows of 576."""
_PICKED = 8192
"""Rows from everywhere that are read one by one; of more the file's map is gone through."""
_SUMMING = 1e-5
"""More than the order of summing in float32 changes a cosine."""


class VectorFiles(StoredVectors):
    """The vectors of one space, searched.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = VectorFiles(Path(folder) / "1", "s1", 2)
    ...     files.append([7, 9], np.array([[3, 4], [0, 2]], np.float32))
    ...     files.nearest(np.array([0, 1], np.float32), 1)[0].tolist()
    [9]
    """

    def nearest(
        self, query: Float32Array, most: int, keys: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], bool]:
        """Return the keys that the `most` nearest rows by cosine are among, and whether all rows were compared.

        These are the best by the rows here, and all that might be as good but for their rounding.

        Args:
            query: (d,) float32, of length 1.
            most: how many are looked for.
            keys: only rows of these keys, sorted; None: all.
        """
        places = None if keys is None else self._places(keys)
        if self.state.coded == 0 or (places is not None and len(places) <= exact_up_to(self.state.dim)):
            scores = self._scores(query, places)
            found, exact = self._best(scores, most), True
        else:
            if places is None or len(places):
                places = self.coder().candidates(self._codes(), query, places, most)
            scores = self._scores(query, places)
            found, exact = self._best(scores, most), False
        return self.column("keys")[found if places is None else places[found]].astype(np.int64), exact

    def sample(self, seed: int = 0) -> tuple[NDArray[np.int64], Float32Array]:
        """Return the keys and rows of a few places, to be compared with what they were made from.

        Args:
            seed: of the choice.
        """
        if not self.state.rows:
            return np.zeros(0, np.int64), np.zeros((0, self.state.dim), np.float32)
        places = np.unique(np.random.default_rng(seed).integers(0, self.state.rows, SAMPLE))
        return self.column("keys")[places].astype(np.int64), self.rows(places)

    def is_of(self, row: Float32Array, delta: Float32Array) -> bool:
        """Return whether a row may be that of a delta: no farther from it than rounding takes it.

        Args:
            row: (d,) float32, from here.
            delta: (d,) float32, of any length.
        """
        unit = unit_rows_of(delta[None])[0]
        return bool(np.linalg.norm(row.astype(np.float64) - unit) <= self.state.error + _SUMMING)

    def _scores(self, query: Float32Array, places: NDArray[np.int64] | None) -> Float32Array:
        mapped, scales = self.mapped("rows"), self.column("scales")
        few = places is not None and len(places) <= _PICKED
        rows = self.picked(places) if few and places is not None else mapped.array
        count = len(rows) if places is None else len(places)
        scores = np.empty(count, np.float32)
        step = max(1, _CHUNK // (4 * self.state.dim))
        buffer = np.empty((min(step, count), self.state.dim), np.float32)
        for part in in_chunks(count, step):
            chunk = buffer[: part.stop - part.start]
            chunk[:] = rows[part] if few or places is None else rows[places[part]]
            np.matmul(chunk, query, out=scores[part])
            if not few:
                mapped.touched(len(chunk), apart=places is not None)
        scores *= scales if places is None else scales[places]
        return scores

    def _best(self, scores: Float32Array, most: int) -> NDArray[np.int64]:
        """Places of the best, and of all that are as good but for rounding, the best first."""
        if len(scores) <= most:
            return np.argsort(-scores, kind="stable")
        # each of two rows may be off by the error
        least = np.partition(scores, len(scores) - most)[len(scores) - most] - 2 * self.state.error - _SUMMING
        found = np.flatnonzero(scores >= least)
        return found[np.argsort(-scores[found], kind="stable")]

    def _places(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        own = self.column("keys")
        places = np.searchsorted(own, keys)
        places = places[places < len(own)]
        return places[np.isin(own[places], keys)]

    def _codes(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Float32Array]:
        return self.column("near"), self.column("far"), self.column("terms")
