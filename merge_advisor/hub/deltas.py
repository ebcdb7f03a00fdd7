"""Deltas of a hub folder: rows of its catalogue, float32, byte for byte what was embedded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.checked_sqlite import checksum
from merge_advisor.errors import RunError
from merge_advisor.hub.catalogue import Catalogue, entries_where, in_parts
from merge_advisor.hub.filters import EntryFilter

if TYPE_CHECKING:
    from merge_advisor.arrays import Float32Array


class HubDeltas:
    """The deltas of a catalogue.

    >>> from pathlib import Path
    >>> with Catalogue(Path("empty-hub")) as catalogue:
    ...     HubDeltas(catalogue).delta_counts(1)
    (0, 0, 0)

    Args:
        catalogue: open.

    Raises:
        RunError: of every method, that the catalogue cannot be read or written.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue, self._file = catalogue, catalogue.file

    def has_delta(self, space: int, entry: int) -> bool:
        """Return whether there is a delta of an entry in a space.

        Args:
            space: number of the space.
            entry: number of the entry.
        """
        return bool(self._file.rows("SELECT 1 FROM deltas WHERE space = ? AND entry = ?", [space, entry]))

    def keep_delta(self, space: int, entry: int, delta: Float32Array) -> None:
        """Keep a delta, byte for byte; one that is there is replaced, by a new row.

        Args:
            space: number of the space.
            entry: number of the entry.
            delta: (d,) float32.
        """
        self._file.run(
            "INSERT OR REPLACE INTO removed SELECT row, space FROM deltas WHERE space = ? AND entry = ?", [space, entry]
        )
        self._file.keep("deltas", space, entry, delta.astype("<f4").tobytes())

    def delta_rows(self, space: int, after: int = 0, most: int = 4096) -> list[tuple[int, int, Float32Array]]:
        """Return deltas as (row, number of the entry, (d,) float32), in the order of the rows.

        Args:
            space: number of the space.
            after: the row after which they begin.
            most: how many at most.

        Raises:
            RunError: one is damaged.
        """
        rows = self._file.rows(
            "SELECT row, entry, delta, checksum FROM deltas WHERE space = ? AND row > ? ORDER BY row LIMIT ?",
            [space, after, most],
        )
        return [self._whole(space, *row) for row in rows]

    def deltas_of(self, space: int, rows: Iterable[int]) -> list[tuple[int, int, Float32Array]]:
        """Return the deltas of some rows, as `delta_rows`; rows that are no more are left out.

        Args:
            space: number of the space.
            rows: the rows.

        Raises:
            RunError: one is damaged.
        """
        found = []
        for part in in_parts(list(rows)):
            marks = ", ".join("?" * len(part))
            found += self._file.rows(
                f"SELECT row, entry, delta, checksum FROM deltas WHERE space = ? AND row IN ({marks})", [space, *part]
            )
        return [self._whole(space, *row) for row in found]

    def delta(self, space: int, entry: int) -> Float32Array | None:
        """Return the (d,) float32 delta of an entry in a space, or None.

        Args:
            space: number of the space.
            entry: number of the entry.

        Raises:
            RunError: it is damaged.
        """
        rows = self._file.rows(
            "SELECT row, entry, delta, checksum FROM deltas WHERE space = ? AND entry = ?", [space, entry]
        )
        return self._whole(space, *rows[0])[2] if rows else None

    def row_entries(self, space: int, chosen: EntryFilter | None = None) -> list[tuple[int, int]]:
        """Return (row, number of the entry) of the deltas in a space whose entries have a current id.

        Args:
            space: number of the space.
            chosen: which entries; None: all.
        """
        where, values = entries_where(chosen)
        return self._file.rows(
            f"SELECT d.row, d.entry FROM entries e JOIN deltas d ON d.entry = e.number AND d.space = ? WHERE {where} "
            "ORDER BY d.row",
            [space, *values],
        )

    def models_in(self, space: int) -> int:
        """Return how many entries with a current id have a delta in a space.

        Args:
            space: number of the space.
        """
        query = (
            "SELECT COUNT(*) FROM deltas d WHERE d.space = ? AND EXISTS "
            "(SELECT 1 FROM names n WHERE n.entry = d.entry AND n.current = 1)"
        )
        return int(self._file.rows(query, [space])[0][0])

    def delta_counts(self, space: int, up_to: int | None = None) -> tuple[int, int, int]:
        """Return how many deltas a space has, how many were removed from it, and its last row.

        Args:
            space: number of the space.
            up_to: only rows up to this one are counted; None: all.
        """
        most = 2**62 if up_to is None else up_to
        kept = self._file.rows("SELECT COUNT(*) FROM deltas WHERE space = ? AND row <= ?", [space, most])[0][0]
        gone = self._file.rows("SELECT COUNT(*) FROM removed WHERE space = ? AND row <= ?", [space, most])[0][0]
        last = self._file.rows("SELECT MAX(row) FROM deltas WHERE space = ?", [space])[0][0]
        return int(kept), int(gone), int(last or 0)

    def forget_removed(self, space: int, up_to: int) -> None:
        """Forget rows that were removed: the vectors were made anew without them.

        Args:
            space: number of the space.
            up_to: the last row that the new vectors know of.
        """
        self._file.run("DELETE FROM removed WHERE space = ? AND row <= ?", [space, up_to])

    def _whole(self, space: int, row: int, entry: int, data: bytes, kept: bytes) -> tuple[int, int, Float32Array]:
        if not isinstance(data, bytes) or checksum("deltas", space, entry, data) != kept:
            names = self._catalogue.by_number([entry])
            name = names[entry].id if entry in names else f"#{entry}"
            raise RunError(
                f"hub catalogue {self._catalogue.path}: the delta of {name} was damaged; "
                "`merge-advisor hub check --repair` drops it, then add its pool again"
            )
        return row, entry, np.frombuffer(data, "<f4").astype(np.float32)
