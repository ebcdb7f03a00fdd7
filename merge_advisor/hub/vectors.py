"""Vectors of one space in files beside the catalogue: what a search reads, and what can be made anew from it.

    state.json   how many rows count; written last, so that what a killed writer left behind them does not
    sums         CRC-32 of each block of rows, by file
    keys         int64: the row of the catalogue's table of deltas
    rows         int16 (n, d): a delta divided by its length, in steps of the row's own size; zeros for a delta of zero
    scales       float32: these steps
    near, far    codes of the rows (see `codes`), once there are more than `EXACT_UP_TO` of them
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.errors import RunError
from merge_advisor.hub.codes import FAR_BYTES, NEAR_BYTES, Coder
from merge_advisor.whole_files import write_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.arrays import Float32Array, Float64Array

VERSION_OF_VECTORS = 1
EXACT_UP_TO = 100_000
"""Rows up to which a search compares with all of them."""
BLOCK = 256
"""Rows under one checksum."""
_CHECKED_WHOLE = 64 * 2**20
"""Bytes up to which all blocks are compared with their checksums when the vectors are opened; else a sample is."""
_SAMPLE = 8
_CHUNK = 2**21
"""Bytes of rows turned to float32 at a time: they stay in the processor's cache."""
_MOST_STEPS = 32767
_SUMMING = 1e-5
"""More than the order of summing in float32 changes a cosine."""


class DamagedVectorsError(Exception):
    """The files are not what was written; never leaves the room: they are not used, and made anew.

    >>> issubclass(DamagedVectorsError, OSError)
    False
    """


@dataclass(frozen=True, slots=True)
class VectorState:
    """What counts of the files; state.json.

    >>> VectorState("s1", 576).rows
    0
    """

    space: str
    """Digest of the space."""
    dim: int
    rows: int = 0
    last: int = 0
    """Largest key; rows of the catalogue behind it are not here yet."""
    coded: int = 0
    """Rows that have codes: none, or all."""
    error: float = 0.0
    """The longest difference between a row here and the delta divided by its length."""
    sums: int = 0
    """CRC-32 of the checksums of the blocks."""
    mean: int = 0
    """CRC-32 of the mean."""
    version: int = VERSION_OF_VECTORS


class VectorFiles:
    """The vectors of one space.

    Args:
        folder: where the files are.
        space: digest of the space.
        dim: d.

    Raises:
        DamagedVectorsError: they are of another space, cut short, or not what was written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = VectorFiles(Path(folder) / "1", "s1", 2)
    ...     files.append([7, 9], np.array([[3, 4], [0, 2]], np.float32))
    ...     files.nearest(np.array([0, 1], np.float32), 1)[0].tolist()
    [9]
    """

    def __init__(self, folder: Path, space: str, dim: int) -> None:
        self.folder = folder
        self.state = self._read_state(space, dim)
        self._maps: dict[str, NDArray[Any]] = {}
        self._coder: Coder | None = None
        self._check_sizes()

    # reading

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
        if self.state.coded == 0 or (places is not None and len(places) <= EXACT_UP_TO):
            scores = self._scores(query, places)
            found, exact = self._best(scores, most), True
        else:
            if places is None or len(places):
                places = self._code().candidates(self._codes(), query, places, most)
            scores = self._scores(query, places)
            found, exact = self._best(scores, most), False
        return self._map("keys")[found if places is None else places[found]].astype(np.int64), exact

    def sample(self, seed: int = 0) -> tuple[NDArray[np.int64], Float32Array]:
        """Return the keys and rows of a few places, to be compared with what they were made from.

        Args:
            seed: of the choice.
        """
        if not self.state.rows:
            return np.zeros(0, np.int64), np.zeros((0, self.state.dim), np.float32)
        places = np.unique(np.random.default_rng(seed).integers(0, self.state.rows, _SAMPLE))
        return self._map("keys")[places].astype(np.int64), self.rows(places)

    def keys(self) -> NDArray[np.int64]:
        """Return the keys of all rows, rising."""
        return np.asarray(self._map("keys"), np.int64)

    def rows(self, places: NDArray[np.int64] | slice) -> Float32Array:
        """Return some rows, float32, of length 1 but for their rounding.

        Args:
            places: of the rows.
        """
        found: Float32Array = self._map("rows")[places].astype(np.float32) * self._map("scales")[places][:, None]
        return found

    def is_of(self, row: Float32Array, delta: Float32Array) -> bool:
        """Return whether a row may be that of a delta: no farther from it than rounding takes it.

        Args:
            row: (d,) float32, from here.
            delta: (d,) float32, of any length.
        """
        unit = unit_rows_of(delta[None])[0]
        return bool(np.linalg.norm(row.astype(np.float64) - unit) <= self.state.error + _SUMMING)

    def check(self, *, whole: bool = True) -> None:
        """Compare blocks with their checksums.

        Args:
            whole: all of them; else all where that is quick, and a sample where it is not.

        Raises:
            DamagedVectorsError: one differs.
        """
        kept = self._kept_sums()
        blocks = np.arange(len(kept))
        strides = self._strides()
        if not whole and self.state.rows * sum(strides.values()) > _CHECKED_WHOLE:
            blocks = np.unique([*np.random.default_rng(os.getpid()).integers(0, len(kept), _SAMPLE), len(kept) - 1])
        for number, name in enumerate(strides):
            for block in blocks.tolist():
                if self._sum_of(name, block) != int(kept[block, number]):
                    raise DamagedVectorsError(f"{self.folder / name}: block {block} is not what was written")

    def _scores(self, query: Float32Array, places: NDArray[np.int64] | None) -> Float32Array:
        rows, scales = self._map("rows"), self._map("scales")
        count = len(rows) if places is None else len(places)
        scores = np.empty(count, np.float32)
        step = max(1, _CHUNK // (4 * self.state.dim))
        buffer = np.empty((min(step, count), self.state.dim), np.float32)
        for part in in_chunks(count, step):
            chunk = buffer[: part.stop - part.start]
            chunk[:] = rows[part] if places is None else rows[places[part]]
            np.matmul(chunk, query, out=scores[part])
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
        own = self._map("keys")
        places = np.searchsorted(own, keys)
        places = places[places < len(own)]
        return places[np.isin(own[places], keys)]

    def _codes(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], Float32Array]:
        return self._map("near"), self._map("far"), self._map("terms")

    def _code(self) -> Coder:
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
            self._append(np.asarray(keys, "<i8"), unit_rows_of(deltas))
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"{self.folder}: cannot be written ({reason}); check permissions and free space") from error

    def _append(self, keys: NDArray[np.int64], unit: Float64Array) -> None:
        before = self.state
        rows, scales = in_steps(unit)
        error = float(np.linalg.norm(rows * scales[:, None].astype(np.float64) - unit, axis=1).max())
        state = replace(before, rows=before.rows + len(keys), last=int(keys[-1]), error=max(before.error, error))
        self._write("keys", before.rows, keys)
        self._write("rows", before.rows, rows)
        self._write("scales", before.rows, scales)
        if state.rows > EXACT_UP_TO:
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
            picked = np.linspace(0, state.rows - 1, min(state.rows, EXACT_UP_TO)).astype(np.int64)
            mean = np.zeros(state.dim, np.float64)
            for part in in_chunks(len(picked), 4096):
                mean += read(picked[part]).sum(axis=0, dtype=np.float64)
            mean_bytes = (mean / len(picked)).astype("<f4").tobytes()
            self._replace("mean", mean_bytes)
            state = replace(state, mean=zlib.crc32(mean_bytes))
            self._coder = Coder(np.frombuffer(mean_bytes, "<f4").astype(np.float32))
        coder = self._code()
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
        write_text(self.folder / "state.json", json.dumps(asdict(state), sort_keys=True) + "\n")
        if before.rows and before.sums != state.sums:
            (self.folder / f"sums-{before.sums:08x}").unlink(missing_ok=True)
        self.state = state
        self._maps.clear()

    def _write(self, name: str, row: int, values: NDArray[Any], *, sync: bool = True) -> None:
        path = self.folder / name
        stride = values.itemsize * (values.shape[1] if values.ndim > 1 else 1)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(row * stride)
            file.seek(row * stride)
            file.write(np.ascontiguousarray(values).tobytes())
            if sync:
                file.flush()
                os.fsync(file.fileno())

    def _replace(self, name: str, data: bytes) -> None:
        from merge_advisor.whole_files import whole_file

        with whole_file(self.folder / name) as partial:
            partial.write_bytes(data)

    # what is there

    def _strides(self, state: VectorState | None = None) -> dict[str, int]:
        """Bytes of a row, by file."""
        state = state or self.state
        coded = {"near": NEAR_BYTES, "far": FAR_BYTES, "terms": 8} if state.coded else {}
        return {"keys": 8, "rows": 2 * state.dim, "scales": 4, **coded}

    def _read_state(self, space: str, dim: int) -> VectorState:
        path = self.folder / "state.json"
        if not path.exists():
            return VectorState(space, dim)
        try:
            state = VectorState(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DamagedVectorsError(f"{path}: cannot be read") from error
        if state.version != VERSION_OF_VECTORS or (state.space, state.dim) != (space, dim):
            raise DamagedVectorsError(f"{path}: is of another space or version")
        return state

    def _check_sizes(self) -> None:
        for name, stride in self._strides().items() if self.state.rows else ():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size < stride * self.state.rows:
                raise DamagedVectorsError(f"{path}: is cut short")

    def _kept_sums(self) -> NDArray[np.uint32]:
        if not self.state.rows:
            return np.zeros((0, 3), np.uint32)
        path = self.folder / f"sums-{self.state.sums:08x}"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DamagedVectorsError(f"{path}: cannot be read ({error.strerror})") from error
        if zlib.crc32(data) != self.state.sums or len(data) != 4 * len(self._strides()) * -(-self.state.rows // BLOCK):
            raise DamagedVectorsError(f"{path}: is not what was written")
        return np.frombuffer(data, "<u4").reshape(-1, len(self._strides()))

    def _sum_of(self, name: str, block: int) -> int:
        return zlib.crc32(np.ascontiguousarray(self._map(name)[block * BLOCK : (block + 1) * BLOCK]).tobytes())

    def _map(self, name: str) -> NDArray[Any]:
        if name not in self._maps:
            n, d = self.state.rows, self.state.dim
            kinds: dict[str, tuple[str, tuple[int, ...]]] = {
                "keys": ("<i8", (n,)), "rows": ("<i2", (n, d)), "scales": ("<f4", (n,)), "terms": ("<f4", (n, 2)),
                "near": ("<u8", (n, NEAR_BYTES // 8)), "far": ("<u8", (n, FAR_BYTES // 8)),
            }  # fmt: skip
            dtype, shape = kinds[name]
            self._maps[name] = np.memmap(self.folder / name, dtype, "r", shape=shape) if n else np.zeros(shape, dtype)
        return self._maps[name]


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
    steps = (np.abs(rows).max(axis=1, initial=0.0) / _MOST_STEPS).astype("<f4")
    # a step that float32 rounded down must not take the largest entry out of range
    whole = np.divide(rows, steps[:, None], out=np.zeros_like(rows), where=steps[:, None] > 0)
    return np.clip(np.rint(whole), -_MOST_STEPS, _MOST_STEPS).astype("<i2"), steps


def in_chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover so many rows.

    Args:
        count: how many rows.
        size: of a slice.
    """
    return (slice(start, min(count, start + size)) for start in range(0, count, size))
