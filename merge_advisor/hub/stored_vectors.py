"""Vectors of one space in files beside the catalogue: what a search reads, and what can be made anew from it.

    state.json   how many rows count; written last, so that what a killed writer left behind them does not
    sums         CRC-32 of each block of rows, by file
    keys         int64: the row of the catalogue's table of deltas
    rows         int16 (n, d): a delta divided by its length, in steps of the row's own size; zeros for a delta of zero
    scales       float32: these steps
    near, far    codes of the rows (see `codes`), once there are more than `exact_up_to` gives
    terms        float32 (n, 2), with the codes: what a row's cosine is estimated by beside them
    mean         float32 (d,), with the codes: what the codes are taken around

Whole numbers rather than float16: as small, nearer to float32, and numpy turns them into float32 far faster.
Files only grow: a reader maps as many rows as its state says, and a writer cuts off what lies behind before it appends.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.errors import RunError
from merge_advisor.hub.codes import FAR_BYTES, NEAR_BYTES, Coder
from merge_advisor.hub.mapped_rows import MappedRows
from merge_advisor.hub.vector_state import STATE, DamagedVectorsError, VectorState, read_state
from merge_advisor.regular_files import open_regular
from merge_advisor.whole_files import remove_leftovers, whole_file, write_text
from merge_advisor.write_points import write_point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array, Float64Array

EXACT_UP_TO, EXACT_NUMBERS = 100_000, 200_000_000
"""Rows, and numbers in them, up to which a search compares with all of them; see `exact_up_to`."""
BLOCK = 256
"""Rows under one checksum."""
SAMPLE = 8
"""Blocks, or rows, that are looked at where all would take too long."""
_CHECKED_WHOLE = 64 * 2**20
"""Bytes up to which all blocks are compared with their checksums when the vectors are opened; else a sample is."""
_MOST_STEPS = 32767
_CHUNK = 2**17
"""Numbers that are made whole at a time: as many as stay in a core's cache."""


class StoredVectors:
    """The vectors of one space as they lie on the disk: read, compared with their checksums, appended to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = StoredVectors(Path(folder) / "1", "s1", 2)
    ...     stored.append([7, 9], np.array([[3, 4], [0, 2]], np.float32))
    ...     stored.rows(slice(0, 1)).round(3).tolist()
    [[0.6..., 0.8...]]

    Args:
        folder: where the files are.
        space: digest of the space.
        dim: d.

    Raises:
        DamagedVectorsError: they are of another space, cut short, or not what was written.
    """

    def __init__(self, folder: Path, space: str, dim: int) -> None:
        self.folder = folder
        self.state = read_state(folder, space, dim)
        self._maps: dict[str, MappedRows] = {}
        self._coder: Coder | None = None
        self._check_sizes()

    # reading

    def keys(self) -> NDArray[np.int64]:
        """Return the keys of all rows, rising."""
        return np.asarray(self.column("keys"), np.int64)

    def rows(self, places: NDArray[np.int64] | slice) -> Float32Array:
        """Return some rows, float32, of length 1 but for their rounding.

        Args:
            places: of the rows.
        """
        mapped, scales = self.mapped("rows"), self.column("scales")[places][:, None]
        if not isinstance(places, slice):
            return np.asarray(self.picked(places).astype(np.float32) * scales, np.float32)
        found: Float32Array = mapped.array[places].astype(np.float32) * scales
        mapped.touched(len(found))
        return found

    def picked(self, places: NDArray[np.int64]) -> NDArray[np.int16]:
        """Return some rows from everywhere as the whole numbers they are kept as.

        Args:
            places: of the rows, rising.

        Raises:
            RunError: they cannot be read.
        """
        try:
            return self.mapped("rows").pick(places)
        except OSError as error:
            raise RunError(f"{self.folder / 'rows'}: cannot be read ({error.strerror}); check the disk") from error

    def check(self, *, whole: bool = True) -> None:
        """Compare blocks, and the mean, with their checksums.

        Args:
            whole: all of them; else all where that is quick, and a sample where it is not.

        Raises:
            DamagedVectorsError: one differs.
        """
        kept = self._kept_sums()
        blocks = np.arange(len(kept))
        strides = self._strides()
        if not whole and self.state.rows * sum(strides.values()) > _CHECKED_WHOLE:
            blocks = np.unique([*np.random.default_rng(os.getpid()).integers(0, len(kept), SAMPLE), len(kept) - 1])
        for number, name in enumerate(strides):
            for block in blocks.tolist():
                if self._sum_of(name, block) != int(kept[block, number]):
                    raise DamagedVectorsError(f"{self.folder / name}: block {block} is not what was written")
        if self.state.coded:
            self.coder()

    def coder(self) -> Coder:
        """Return what gives codes around the mean that is kept.

        Raises:
            DamagedVectorsError: the mean is not what was written.
        """
        if self._coder is None:
            try:
                mean = np.fromfile(self.folder / "mean", "<f4")
            except OSError as error:
                raise DamagedVectorsError(f"{self.folder / 'mean'}: cannot be read ({error.strerror})") from error
            if zlib.crc32(mean.tobytes()) != self.state.mean:
                raise DamagedVectorsError(f"{self.folder / 'mean'}: is not what was written")
            self._coder = Coder(mean.astype(np.float32))
        return self._coder

    # writing

    def append(self, keys: Sequence[int], deltas: Float32Array) -> None:
        """Append rows; they count once all of them are on the disk.

        Args:
            keys: n keys, rising, above those that are there.
            deltas: (n, d) float32, of any length.

        Raises:
            RunError: no permission, or no room.
        """
        if not len(keys):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._append(np.asarray(keys, "<i8"), deltas)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{self.folder}: cannot be written ({reason}); check permissions and free space") from error

    def remove_old_sums(self) -> None:
        """Remove checksums of states of before, a writer's that was killed among them. For the one writer.

        Raises:
            RunError: they cannot be removed.
        """
        try:
            remove_leftovers(self.folder)
            for path in self.folder.glob("sums-*"):
                if path.name != f"sums-{self.state.sums:08x}":
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be written ({error.strerror}); check permissions") from error

    def _append(self, keys: NDArray[np.int64], deltas: Float32Array) -> None:
        before = self.state
        rows = np.empty(deltas.shape, "<i2")
        scales = np.empty(len(rows), "<f4")
        error = before.error
        for part in in_chunks(len(rows), max(1, _CHUNK // self.state.dim)):
            unit = unit_rows_of(deltas[part])
            rows[part], scales[part] = in_steps(unit)
            unit -= rows[part] * scales[part, None].astype(np.float64)
            error = max(error, float(np.linalg.norm(unit, axis=1).max()))
        state = replace(before, rows=before.rows + len(keys), last=int(keys[-1]), error=error)
        self._write("keys", before.rows, keys)
        self._write("rows", before.rows, rows)
        self._write("scales", before.rows, scales)
        if state.rows > exact_up_to(state.dim):
            state = self._append_codes(state, before.coded)
        self._finish(state, before)

    def _append_codes(self, state: VectorState, coded: int) -> VectorState:
        rows = np.memmap(self.folder / "rows", "<i2", "r", shape=(state.rows, state.dim))
        scales = np.memmap(self.folder / "scales", "<f4", "r", shape=(state.rows,))

        def read(places: NDArray[np.int64] | slice) -> Float32Array:
            found: Float32Array = rows[places].astype(np.float32) * scales[places][:, None]
            return found

        if not coded:
            # around the mean: what all rows share says nothing about which are near
            picked = np.linspace(0, state.rows - 1, min(state.rows, exact_up_to(state.dim))).astype(np.int64)
            mean = np.zeros(state.dim, np.float64)
            for part in in_chunks(len(picked), 4096):
                mean += read(picked[part]).sum(axis=0, dtype=np.float64)
            mean_bytes = (mean / len(picked)).astype("<f4").tobytes()
            self._replace("mean", mean_bytes)
            state = replace(state, mean=zlib.crc32(mean_bytes))
            self._coder = Coder(np.frombuffer(mean_bytes, "<f4").astype(np.float32))
        coder = self.coder()
        for start in range(coded, state.rows, 8192):
            near, far, terms = coder.encode(read(slice(start, min(state.rows, start + 8192))))
            for name, values in (("near", near), ("far", far), ("terms", terms)):
                self._write(name, start, values, sync=start + 8192 >= state.rows)
        return replace(state, coded=state.rows)

    def _finish(self, state: VectorState, before: VectorState) -> None:
        """Checksums of the blocks that changed, then the state, which makes the rows count."""
        strides = self._strides(state)
        first = before.rows // BLOCK if bool(before.coded) == bool(state.coded) else 0
        blocks = -(-state.rows // BLOCK)
        sums = np.zeros((blocks, len(strides)), "<u4")
        if first:
            sums[:first] = self._kept_sums()[:first]
        for number, (name, stride) in enumerate(strides.items()):
            with (self.folder / name).open("rb") as file:
                for block in range(first, blocks):
                    file.seek(block * BLOCK * stride)
                    size = (min(state.rows, (block + 1) * BLOCK) - block * BLOCK) * stride
                    sums[block, number] = zlib.crc32(file.read(size))
        # beside the old ones and named by their own checksum: a reader finds those of its state
        data = sums.tobytes()
        state = replace(state, sums=zlib.crc32(data))
        self._replace(f"sums-{state.sums:08x}", data)
        write_text(self.folder / STATE, json.dumps(asdict(state), sort_keys=True) + "\n")
        self.state = state
        self._maps.clear()
        self.remove_old_sums()

    def _write(self, name: str, row: int, values: NDArray[Any], *, sync: bool = True) -> None:
        path = self.folder / name
        write_point("vectors to be written", name)
        stride = values.itemsize * (values.shape[1] if values.ndim > 1 else 1)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(row * stride)
            file.seek(row * stride)
            file.write(np.ascontiguousarray(values).tobytes())
            if sync:
                file.flush()
                os.fsync(file.fileno())
        write_point("vectors written", name)

    def _replace(self, name: str, data: bytes) -> None:
        with whole_file(self.folder / name) as partial:
            partial.write_bytes(data)

    # what is there

    def _strides(self, state: VectorState | None = None) -> dict[str, int]:
        """Bytes of a row, by file."""
        state = state or self.state
        coded = {"near": NEAR_BYTES, "far": FAR_BYTES, "terms": 8} if state.coded else {}
        return {"keys": 8, "rows": 2 * state.dim, "scales": 4, **coded}

    def _check_sizes(self) -> None:
        for name, stride in self._strides().items() if self.state.rows else ():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size < stride * self.state.rows:
                raise DamagedVectorsError(f"{path}: is cut short")

    def _kept_sums(self) -> NDArray[np.uint32]:
        if not self.state.rows:
            return np.zeros((0, 3), np.uint32)
        path = self.folder / f"sums-{self.state.sums:08x}"
        size = 4 * len(self._strides()) * -(-self.state.rows // BLOCK)
        try:
            with open_regular(path) as stream:
                data = stream.read(size + 1)
        except OSError as error:
            raise DamagedVectorsError(f"{path}: cannot be read ({error.strerror})") from error
        if zlib.crc32(data) != self.state.sums or len(data) != size:
            raise DamagedVectorsError(f"{path}: is not what was written")
        return np.frombuffer(data, "<u4").reshape(-1, len(self._strides()))

    def _sum_of(self, name: str, block: int) -> int:
        mapped = self.mapped(name)
        mapped.touched(BLOCK)
        return zlib.crc32(np.ascontiguousarray(mapped.array[block * BLOCK : (block + 1) * BLOCK]).tobytes())

    def column(self, name: str) -> NDArray[Any]:
        """Return a file as an array that is not read before it is looked at.

        Args:
            name: of the file.
        """
        return self.mapped(name).array

    def mapped(self, name: str) -> MappedRows:
        """Return a file, mapped.

        Args:
            name: of the file.
        """
        if name not in self._maps:
            n, d = self.state.rows, self.state.dim
            kinds: dict[str, tuple[str, tuple[int, ...]]] = {
                "keys": ("<i8", (n,)), "rows": ("<i2", (n, d)), "scales": ("<f4", (n,)), "terms": ("<f4", (n, 2)),
                "near": ("<u8", (n, NEAR_BYTES // 8)), "far": ("<u8", (n, FAR_BYTES // 8)),
            }  # fmt: skip
            self._maps[name] = MappedRows(self.folder / name, *kinds[name])
        return self._maps[name]


def exact_up_to(dim: int) -> int:
    """Return up to how many rows a search compares with all of them; more have codes.

    >>> exact_up_to(576), exact_up_to(4096)
    (100000, 48828)

    Args:
        dim: numbers in a row.
    """
    return min(EXACT_UP_TO, EXACT_NUMBERS // max(1, dim))


def unit_rows_of(deltas: Float32Array) -> Float64Array:
    """Return rows divided by their lengths, (n, d) float64; zeros stay zeros.

    >>> unit_rows_of(np.array([[3, 4], [0, 0]], np.float32)).tolist()
    [[0.6, 0.8], [0.0, 0.0]]

    Args:
        deltas: (n, d) float32.
    """
    wide = deltas.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Float64Array = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return unit


def in_steps(rows: Float64Array) -> tuple[NDArray[np.int16], Float32Array]:
    """Return rows as whole numbers of steps, and of each row the step.

    >>> whole, steps = in_steps(np.array([[0.6, -0.8]]))
    >>> whole.tolist(), (whole * steps[:, None]).round(4).tolist()
    ([[24575, -32767]], [[0.6000000238418579, -0.800000011920929]])

    Args:
        rows: (n, d) float64.
    """
    largest = np.maximum(rows.max(axis=1, initial=0.0), -rows.min(axis=1, initial=0.0))
    steps = (largest / _MOST_STEPS).astype("<f4")
    whole = np.divide(rows, steps[:, None], out=np.zeros_like(rows), where=steps[:, None] > 0)
    np.rint(whole, out=whole)
    # a step that float32 rounded down must not take the largest entry out of range
    return np.clip(whole, -_MOST_STEPS, _MOST_STEPS, out=whole).astype("<i2"), steps


def in_chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover so many rows.

    Args:
        count: how many rows.
        size: of a slice.
    """
    return (slice(start, min(count, start + size)) for start in range(0, count, size))
