"""Searching a hub by vectors: files that name the rows worth a look, and the catalogue's own deltas, which decide.

Whatever the files hold, the cosines that come back are those of the float32 deltas of the catalogue, and deltas that
the files lack are looked at one by one: files that are behind cost time, files that are damaged are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.checked_sqlite import warn_of_damage
from merge_advisor.errors import RunError
from merge_advisor.hub.deltas import HubDeltas
from merge_advisor.hub.stored_vectors import BLOCK
from merge_advisor.hub.vector_state import STATE, DamagedVectorsError
from merge_advisor.hub.vectors import VectorFiles
from merge_advisor.spaces import Space
from merge_advisor.whole_files import remove_leftovers, replaced_folder, restore

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array, Float64Array

_BATCH = 2048
"""Deltas that are read from the catalogue at a time."""
_MARGIN = 8
"""Rows named beside those that are asked for: some may be of models that were removed or have new versions."""
_TOO_MANY_GONE = 5
"""Files are made anew once one row in so many is of a delta that is no more."""


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """Entries by falling cosine.

    >>> Nearest((3,), np.array([0.5]), exact=True).entries
    (3,)
    """

    entries: tuple[int, ...]
    """Numbers of the entries."""
    cosines: Float64Array
    exact: bool
    """Whether all vectors were compared."""


class HubIndex:
    """The vectors of all spaces of a hub.

    >>> from merge_advisor.hub.catalogue import Catalogue
    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     index = HubIndex(Path("empty-hub/vectors"), HubDeltas(catalogue))
    ...     space = Space("b1", "delta_activations", "p1", "last", "last token", "float32", 2)
    ...     index.nearest((1, space), np.array([1, 0], np.float32), 3, lambda numbers: numbers).entries
    ()

    Args:
        folder: where the files are.
        deltas: what they are made from.
    """

    def __init__(self, folder: Path, deltas: HubDeltas) -> None:
        self.folder, self._deltas = folder, deltas
        self._open: dict[int, tuple[object, VectorFiles]] = {}
        self._said: set[int] = set()

    def close(self) -> None:
        """Let the files go."""
        self._open.clear()

    def nearest(
        self, place: tuple[int, Space], query: Float32Array, k: int,
        alive: Callable[[Sequence[int]], set[int]], chosen: Sequence[tuple[int, int]] | None = None,
    ) -> Nearest:  # fmt: skip
        """Return the entries whose deltas have the largest cosine with a vector; ties go to the smaller number.

        Args:
            place: number of the space, and the space.
            query: (d,) float32.
            k: how many at most.
            alive: gives back those of some entries that may be found, as those with a current id.
            chosen: (row, number of the entry) of the deltas that are looked at, sorted; None: all.

        Raises:
            RunError: the catalogue cannot be read, or a delta in it is damaged.
        """
        number, space = place
        unit = unit_query(query)
        files = self.files(number, space)
        keys = None if chosen is None else np.array([row for row, _ in chosen], np.int64)
        last, most = (0 if files is None else files.state.last), k + _MARGIN
        behind = self._behind(number, last, query, None if keys is None else set(keys.tolist()), alive, k)
        while True:
            named, exact = (np.zeros(0, np.int64), True) if files is None else files.nearest(unit, most, keys)
            found = {entry: delta for _, entry, delta in self._deltas.deltas_of(number, named.tolist())}
            living = alive(list(found))
            scored = {entry: cosine_of(delta, query) for entry, delta in found.items() if entry in living}
            # too few left of those that were named: others may be nearer than what is behind the files
            if files is None or len(scored) >= k or len(named) >= (files.state.rows if keys is None else len(keys)):
                break
            if len(named) < most:
                break
            most *= 4
        scored |= behind
        best = sorted(scored, key=lambda entry: (-scored[entry], entry))[:k]
        return Nearest(tuple(best), np.array([scored[entry] for entry in best], np.float64), exact)

    def _behind(
        self, number: int, last: int, query: Float32Array, keys: set[int] | None,
        alive: Callable[[Sequence[int]], set[int]], k: int,
    ) -> dict[int, float]:  # fmt: skip
        """The best of the deltas that the files do not have."""
        best: dict[int, float] = {}
        while rows := self._deltas.delta_rows(number, last, _BATCH):
            last = rows[-1][0]
            living = alive([entry for row, entry, _ in rows if keys is None or row in keys])
            best |= {entry: cosine_of(delta, query) for _, entry, delta in rows if entry in living}
            best = {entry: best[entry] for entry in sorted(best, key=lambda entry: (-best[entry], entry))[:k]}
        return best

    def files(self, number: int, space: Space) -> VectorFiles | None:
        """Return the files of a space, looked at; None where there are none, or they are damaged, which is said once.

        Args:
            number: of the space.
            space: the space.

        Raises:
            RunError: the catalogue cannot be read.
        """
        # another process may have appended, or made them anew
        stamp = _stamp(self._place(number) / STATE)
        kept = self._open.pop(number, None)
        if kept is not None and kept[0] == stamp:
            self._open[number] = kept
            return kept[1]
        try:
            files = self._opened(number, space)
        except DamagedVectorsError as error:
            if number not in self._said:
                self._said.add(number)
                warn_of_damage(
                    f"hub {self.folder.parent}: its vectors were damaged ({error}); all deltas are read instead, and "
                    "`merge-advisor hub check --repair` makes the vectors anew"
                )
            return None
        if files.state.rows:
            self._open[number] = stamp, files
            return files
        return None

    def _opened(self, number: int, space: Space) -> VectorFiles:
        for attempt in range(3):
            try:
                files = VectorFiles(self._place(number), space.digest, space.dim)
                files.check(whole=False)
                self._compare(files, number)
            except DamagedVectorsError:
                # a writer may have put new files in place between two looks
                if attempt == 2:
                    raise
            else:
                return files
        raise AssertionError

    def _compare(self, files: VectorFiles, number: int) -> None:
        """Refuse files whose rows are not those of the catalogue: counts, and a sample of vectors."""
        if not files.state.rows:
            return
        kept, gone, _ = self._deltas.delta_counts(number, files.state.last)
        if kept + gone != files.state.rows:
            raise DamagedVectorsError(f"{files.folder}: {files.state.rows} rows, where the catalogue has {kept + gone}")
        keys, rows = files.sample()
        own = {row: delta for row, _, delta in self._deltas.deltas_of(number, keys.tolist())}
        for key, row in zip(keys.tolist(), rows, strict=True):
            if key in own and not files.is_of(row, own[key]):
                raise DamagedVectorsError(f"{files.folder}: row {key} is not the catalogue's")

    def bring_up(self, number: int, space: Space) -> int:
        """Return how many deltas the files of a space were given; damaged files are made anew. For the one writer.

        Args:
            number: of the space.
            space: the space.

        Raises:
            RunError: they cannot be written.
        """
        self.tidy(number)
        try:
            files = self._opened(number, space)
        except DamagedVectorsError as error:
            warn_of_damage(f"hub {self.folder.parent}: its vectors were damaged ({error}); they are made anew")
            return self.rebuild(number, space)
        _, gone, _ = self._deltas.delta_counts(number, files.state.last)
        if gone * _TOO_MANY_GONE > files.state.rows:
            return self.rebuild(number, space)
        self._open.pop(number, None)
        files.remove_old_sums()
        return self._append_to(files, number)

    def tidy(self, number: int) -> None:
        """Put back or remove what a writer that was killed left of the files of a space. For the one writer.

        Args:
            number: of the space.
        """
        restore(self._place(number))
        remove_leftovers(self.folder)

    def rebuild(self, number: int, space: Space) -> int:
        """Return how many deltas the files of a space have, made anew from the catalogue. For the one writer.

        Args:
            number: of the space.
            space: the space.

        Raises:
            RunError: they cannot be written.
        """
        self._open.pop(number, None)
        self._said.discard(number)
        with replaced_folder(self._place(number)) as partial:
            files = VectorFiles(partial, space.digest, space.dim)
            count = self._append_to(files, number)
        self._deltas.forget_removed(number, files.state.last)
        return count

    def check(self, number: int, space: Space) -> list[str]:
        """Return what is wrong with the files of a space, a line each: every row is compared with the catalogue's.

        Args:
            number: of the space.
            space: the space.

        Raises:
            RunError: the catalogue cannot be read, or a delta in it is damaged.
        """
        try:
            files = self._opened(number, space)
            files.check()
        except DamagedVectorsError as error:
            return [str(error)]
        wrong, places = [], {key: place for place, key in enumerate(files.keys().tolist())}
        last, behind = 0, 0
        while rows := self._deltas.delta_rows(number, last, _BATCH):
            last = rows[-1][0]
            for row, _, delta in rows:
                place = places.get(row)
                if place is None and row <= files.state.last:
                    wrong.append(f"{files.folder}: lacks row {row}")
                elif place is None:
                    behind += 1
                elif not files.is_of(files.rows(slice(place, place + 1))[0], delta):
                    wrong.append(f"{files.folder}: row {row} is not the catalogue's")
        return wrong + ([f"{files.folder}: lacks the newest {behind} deltas"] if behind else [])

    def _append_to(self, files: VectorFiles, number: int) -> int:
        done = 0
        size = max(BLOCK, 2**26 // (4 * files.state.dim) // BLOCK * BLOCK)
        while rows := self._deltas.delta_rows(number, files.state.last, size):
            files.append([row for row, _, _ in rows], np.stack([delta for _, _, delta in rows]))
            done += len(rows)
        return done

    def _place(self, number: int) -> Path:
        return self.folder / str(number)


def _stamp(state: Path) -> object:
    try:
        found = state.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def unit_query(query: Float32Array) -> Float32Array:
    """Return a vector divided by its length, float32; one of zeros as it is.

    >>> unit_query(np.array([3, 4], np.float32)).tolist()
    [0.6000000238418579, 0.800000011920929]

    Args:
        query: (d,) float32.
    """
    length = float(np.linalg.norm(query.astype(np.float64)))
    return (query.astype(np.float64) / (length or 1.0)).astype(np.float32)


def cosine_of(delta: Float32Array, query: Float32Array) -> float:
    """Return the cosine of two vectors, in float64, nine digits so that equal ones tie; 0 where one is zero.

    >>> cosine_of(np.array([3, 4], np.float32), np.array([1, 0], np.float32))
    0.6

    Args:
        delta: (d,) float32.
        query: (d,) float32.
    """
    wide, own = delta.astype(np.float64), query.astype(np.float64)
    scale = float(np.linalg.norm(wide) * np.linalg.norm(own))
    return round(float(wide @ own) / scale, 9) + 0.0 if scale > 0 else 0.0


def refuse_space(folder: Path, spaces: Sequence[Space]) -> RunError:
    """Return the error of a hub that has no deltas in a space, with the spaces it has.

    >>> str(refuse_space(Path("hub"), ()))
    'hub hub: has no deltas of that base, embedding and dtype (it has none); add its pool, with the `embedding` wanted'

    Args:
        folder: the hub folder.
        spaces: that it has deltas in.
    """
    known = ", ".join(sorted({f"{space.embedding} in {space.dtype}" for space in spaces})) or "none"
    return RunError(
        f"hub {folder}: has no deltas of that base, embedding and dtype (it has {known}); add its pool, with the "
        "`embedding` wanted"
    )
