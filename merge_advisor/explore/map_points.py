"""The models of one space of a hub as the map has them: vectors of length 1, columns, names, by position."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.errors import InputError
from merge_advisor.explore.projection import Axes, fit_axes, fitted_square
from merge_advisor.hub.catalogue import in_parts
from merge_advisor.hub.stored_vectors import unit_rows_of
from merge_advisor.json_form import digest_of
from merge_advisor.spaces import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array, FloatingArray
    from merge_advisor.hub import Hub

UNKNOWN = "unknown"
_MOST_WORDS = 65_000
_BLOCK = 4_096
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, eq=False)
class MapPoints:
    """The models of a space, each at a position from 0 on, in the order they were added.

    >>> from merge_advisor.hub import Hub
    >>> with Hub.open("hub-map-example", make=True) as hub:
    ...     added = hub.add("adapters", base="base")
    ...     points = read_points(hub, 1)
    >>> points.names[:2], points.places.shape
    (('a0', 'a1'), (6, 2))
    """

    number: int
    """Of the space, in the hub."""
    space: Space
    entries: NDArray[np.int64]
    """(n,), the numbers of the entries, rising."""
    names: tuple[str, ...]
    """(n,), the first id of each."""
    units: FloatingArray
    """(n, d) float16, of length 1; zeros of a delta of zero."""
    axes: Axes
    places: Float32Array
    """(n, 2), by PCA, within -1 to 1."""
    scale: tuple[float, float, float]
    """How these were fitted: factor, and the middle that was taken off first."""
    columns: dict[str, NDArray[Any]]
    """(n,) each: `licence` and `kind`, codes into `words`; `rank`, `added` (days since 1970), `size` (kB)."""
    words: dict[str, tuple[str, ...]]
    """What the codes stand for."""
    digest: str
    """Of the space and its entries: what was computed for it can be told from what was not."""
    state: str
    """Of all that stands here by position: what was read at another time may have other models at the same places."""

    def position(self, entry: int) -> int | None:
        """Return the position of an entry; None where it is not in this space.

        Args:
            entry: its number.
        """
        place = int(np.searchsorted(self.entries, entry))
        return place if place < len(self.entries) and int(self.entries[place]) == entry else None

    def place_vector(self, vector: Float32Array) -> tuple[float, float]:
        """Return where PCA puts another vector on the map.

        Args:
            vector: (d,), of any length.
        """
        length = float(np.linalg.norm(vector))
        unit = (vector / (length or 1.0)).astype(np.float32)
        factor, middle_x, middle_y = self.scale
        x, y = self.axes.place(unit[None])[0]
        return float((x - middle_x) * factor), float((y - middle_y) * factor)


def choose_space(hub: Hub, number: int | None = None) -> int:
    """Return the number of a space of a hub: the given one, or that of most models.

    Args:
        hub: open.
        number: as the hub numbers them; None: the one of most models.

    Raises:
        InputError: there is none.
    """
    spaces = hub.catalogue.spaces()
    counts = {item: hub.models_in(item) for item in spaces}
    if number is None:
        filled = [item for item in spaces if counts[item]]
        if not filled:
            raise InputError(f"hub {hub.folder}: holds no models; add some with `merge-advisor hub add POOL`")
        return max(filled, key=lambda item: (counts[item], -item))
    if number not in spaces:
        raise InputError(f"hub {hub.folder}: has no space {number}; it has {', '.join(map(str, spaces)) or 'none'}")
    return number


def read_points(hub: Hub, number: int, before: MapPoints | None = None) -> MapPoints:
    """Return the models of a space of a hub, laid out by PCA.

    Args:
        hub: open.
        number: of the space, see `choose_space`.
        before: of the same space, read when the hub was another: where its vectors are those of now (a run was
            listed, a card changed) they are taken from it and not read again.

    Raises:
        RunError: the catalogue cannot be read, or a delta in it is damaged.
    """
    space = hub.catalogue.spaces()[number]
    with hub.catalogue.file.snapshot():  # columns and names are of the same models
        pairs = sorted(hub.deltas.row_entries(number), key=lambda pair: pair[1])
        of_space = np.array([entry for _, entry in pairs], np.int64)
        (columns, words), names = _columns(hub, space.base, of_space), _names(hub, of_space)
    rows = np.array([row for row, _ in pairs], np.int64)
    # a row of the catalogue's deltas keeps its vector and its model for ever: another one is another row
    digest = digest_of([space.digest, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()])
    state = _state(digest, names, columns, words)
    if before is not None and before.digest == digest:
        return replace(before, names=names, columns=columns, words=words, state=state)
    units = read_units(hub, number, space, rows)
    axes = fit_axes(units)
    places, factor, middle = fitted_square(axes.place(units))
    return MapPoints(
        number, space, of_space, names, units, axes, places, (factor, *middle), columns, words, digest, state
    )  # fmt: skip


def read_units(hub: Hub, number: int, space: Space, rows: NDArray[np.int64]) -> FloatingArray:
    """Return the deltas of some rows at length 1, (n, d) float16: from the vector files, else from the catalogue.

    Args:
        hub: open.
        number: of the space.
        space: the space.
        rows: of the catalogue's table of deltas.

    Raises:
        RunError: the catalogue cannot be read, or a delta in it is damaged.
    """
    units: NDArray[np.float16] = np.zeros((len(rows), space.dim), np.float16)
    here = np.zeros(len(rows), bool)
    files = hub.index.files(number, space)
    if files is not None:
        keys = files.keys()
        places = np.minimum(np.searchsorted(keys, rows), len(keys) - 1)
        here = keys[places] == rows
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            kept = here[part]
            units[part][kept] = files.rows(places[part][kept])
    # the files may be behind the catalogue, which has all
    for behind in in_parts(np.flatnonzero(~here).tolist()):
        wanted = rows[behind].tolist()
        found = {row: delta for row, _, delta in hub.deltas.deltas_of(number, wanted)}
        known = [(place, found[row]) for place, row in zip(behind, wanted, strict=True) if row in found]
        if known:
            units[[place for place, _ in known]] = unit_rows_of(np.stack([delta for _, delta in known]))
    return units


def score_column(hub: Hub, points: MapPoints, task: str, metric: str) -> Float32Array:
    """Return what the models reached on a task, (n,) float32: the mean of several measurements, NaN of none.

    Args:
        hub: open.
        points: the models.
        task: name of the task.
        metric: name of the metric.

    Raises:
        RunError: the catalogue cannot be read.
    """
    sums, counts = np.zeros(len(points.entries)), np.zeros(len(points.entries))
    for entry, score in hub.results.scored(task):
        place = points.position(entry)
        if score.metric == metric and place is not None:
            sums[place] += score.value
            counts[place] += 1
    found: Float32Array = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
    return found


def texts_of(hub: Hub, points: MapPoints, positions: Sequence[int]) -> list[str]:
    """Return name, tags, data sets and card of some models as one text each.

    Args:
        hub: open.
        points: the models.
        positions: which of them.

    Raises:
        RunError: the catalogue cannot be read.
    """
    texts: dict[int, str] = {}
    for part in in_parts([int(points.entries[place]) for place in positions]):
        for number, entry in hub.catalogue.by_number(part).items():
            texts[number] = " ".join([*entry.ids, *entry.tags, *entry.data_sets, entry.card])
    return [texts.get(int(points.entries[place]), "") for place in positions]


def _state(
    digest: str, names: Sequence[str], columns: dict[str, NDArray[Any]], words: dict[str, tuple[str, ...]]
) -> str:
    found = hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass"))
    for name in sorted(columns):
        found.update(np.ascontiguousarray(columns[name]).tobytes())
    return digest_of([digest, words, found.hexdigest()])[:32]


def _names(hub: Hub, entries: NDArray[np.int64]) -> tuple[str, ...]:
    wanted = set(entries.tolist())
    found: dict[int, str] = {}
    for number, name in hub.catalogue.file.rows("SELECT entry, id FROM names WHERE current = 1 ORDER BY added, id"):
        if number in wanted:
            found.setdefault(int(number), str(name))
    return tuple(found.get(number, f"#{number}") for number in entries.tolist())


def _columns(
    hub: Hub, base: str, entries: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], dict[str, tuple[str, ...]]]:
    """Columns by position, and the words of those that are codes."""
    # not as `HubEntry`: a million of them would take minutes, and none of their texts is looked at here
    query = "SELECT number, licence, kind, rank, added, size FROM entries WHERE base = ? ORDER BY number"
    rows = hub.catalogue.file.rows(query, [base])
    numbers = np.array([row[0] for row in rows], np.int64)
    keep = np.flatnonzero(np.isin(numbers, entries))
    kept = [rows[place] for place in keep.tolist()]
    licences, licence_words = _coded([row[1] or UNKNOWN for row in kept])
    kinds, kind_words = _coded([row[2] for row in kept])
    columns: dict[str, NDArray[Any]] = {
        "licence": licences,
        "kind": kinds,
        "rank": np.array([min(row[3], 65_535) for row in kept], np.uint16),
        "added": np.array([_day(row[4]) for row in kept], np.uint16),
        "size": np.array([min(row[5] // 1000, 2**32 - 1) for row in kept], np.uint32),
    }
    return columns, {"licence": licence_words, "kind": kind_words}


def _coded(values: Sequence[str]) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """Codes, 0 for the most frequent word, and the words; what is beyond the codes is "other"."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = tuple(ranked if len(ranked) <= _MOST_WORDS else [*ranked[:_MOST_WORDS], "other"])
    codes = {word: code for code, word in enumerate(words)}
    return np.array([codes.get(value, len(words) - 1) for value in values], np.uint16), words


def _day(added: str) -> int:
    try:
        return max(0, date.fromisoformat(added[:10]).toordinal() - _EPOCH)
    except ValueError:
        return 0
