"""The vectors that `hub.py` measures on, and the engines it measures: see there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

STEP, QUERIES, K, ADDED = 20_000, 100, 10, 1_000
SHARED, CENTRE, VARIED, NOISE = 0.5, 0.6, 0.5, 0.25
DIRECTIONS, PER_CLUSTER = 256, 16
THREADS = int(os.environ.get("OMP_NUM_THREADS", "0"))
"""Of engines that have to be told; 0: as many as there are cores. LanceDB takes LANCE_CPU_THREADS."""
Array = Any


class World:
    """Vectors in clusters, the same for the same size and dimension; rows from `n` on are for adding and asking."""

    def __init__(self, n: int, dim: int) -> None:
        self.n, self.dim = n, dim
        rng = np.random.default_rng([n, dim])
        clusters = max(1, n // 1000)
        self.shared = unit(rng.normal(size=(1, dim)))
        self.centres = unit(rng.normal(size=(clusters, dim)))
        self.directions = unit(rng.normal(size=(DIRECTIONS, dim)))
        self.own = np.stack([rng.choice(DIRECTIONS, PER_CLUSTER, replace=False) for _ in range(clusters)])
        weights = 1 / np.sqrt(np.arange(1, clusters + 1))
        self.weights = weights / weights.sum()
        self.making_s = self.making_cpu_s = 0.0
        """What making the blocks took, on the clock and on the processor: no engine's time."""
        self.told: Callable[[str], None] = lambda what: None
        """Called with how far a build has got."""

    def rows(self, block: int, count: int) -> Array:
        """So many float32 rows of a block."""
        rng = np.random.default_rng([self.n, self.dim, 7, block])
        cluster = rng.choice(len(self.weights), count, p=self.weights)
        mixture = np.zeros((count, DIRECTIONS), np.float32)
        np.put_along_axis(mixture, self.own[cluster], rng.normal(size=(count, PER_CLUSTER)) / 4, axis=1)
        noise = rng.standard_normal((count, self.dim), np.float32)
        lengths = rng.lognormal(0, 0.5, (count, 1)).astype(np.float32)
        for start in range(0, count, 512):  # as many as a core's cache holds
            part = slice(start, start + 512)
            noise[part] *= np.float32(NOISE / np.sqrt(self.dim))
            noise[part] += np.float32(SHARED) * self.shared + np.float32(CENTRE) * self.centres[cluster[part]]
            noise[part] += np.float32(VARIED) * (mixture[part] @ self.directions)
            noise[part] = unit(noise[part]) * lengths[part]
        return noise

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All rows to build from, in steps, each with the number of its first."""
        for start in range(0, self.n, STEP):
            began, used = time.perf_counter(), time.process_time()
            rows = self.rows(start // STEP, min(STEP, self.n - start))
            self.making_s += time.perf_counter() - began
            self.making_cpu_s += time.process_time() - used
            self.told(f"{start:,} rows taken")
            yield start, rows
        self.told(f"{self.n:,} rows taken")

    @property
    def queries(self) -> Array:
        """Vectors to ask for, of length 1."""
        return unit(self.rows(10**6, QUERIES))

    @property
    def added(self) -> Array:
        """Rows to add."""
        return self.rows(10**6 + 1, ADDED)


def unit(rows: Array) -> Array:
    """Rows of length 1, float32."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def truth_of(world: World, folder: Path) -> Array:
    """(queries, 10) numbers of the nearest rows, kept in a file; the rows' float16 copy is written beside it."""
    path = folder / "truth.npy"
    if path.exists():
        return np.load(path)
    queries = world.queries
    best = np.full((QUERIES, K), -2.0, np.float32)
    numbers = np.zeros((QUERIES, K), np.int64)
    with (folder / "half").open("wb") as half:
        for start, rows in world.blocks():
            own = unit(rows)
            half.write(own.astype(np.float16).tobytes())
            scores = np.concatenate([best, queries @ own.T], axis=1)
            names = np.concatenate(
                [numbers, np.broadcast_to(np.arange(start, start + len(rows)), (QUERIES, len(rows)))], 1
            )
            top = np.argsort(-scores, axis=1)[:, :K]
            best, numbers = np.take_along_axis(scores, top, 1), np.take_along_axis(names, top, 1)
    np.save(path, numbers)
    return numbers


class Reranked:
    """Compares what an engine names exactly, with the rows in float16."""

    def __init__(self, folder: Path, world: World) -> None:
        self.half = np.memmap(folder / "half", np.float16, "r", shape=(world.n, world.dim))

    def best(self, query: Array, named: Array) -> Array:
        """The 10 nearest of the rows named."""
        named = np.sort(named[(named >= 0) & (named < len(self.half))])
        return named[np.argsort(-(self.half[named].astype(np.float32) @ query))[:K]]


class Engine(Protocol):
    """What is measured."""

    def build(self, world: World) -> None:
        """Make the files of all rows."""

    def open(self) -> None:
        """Open them."""

    def search(self, query: Array) -> Array:
        """Return the numbers of the 10 nearest rows."""

    def add(self, rows: Array) -> None:
        """Append rows to the files."""


class HubEngine:
    """This package's own files."""

    def __init__(self, folder: Path, world: World) -> None:
        from merge_advisor.hub.vectors import VectorFiles

        self.files = VectorFiles(folder / "hub", "bench", world.dim)

    def build(self, world: World) -> None:
        """See `Engine.build`."""
        for start, rows in world.blocks():
            self.files.append(range(start + 1, start + 1 + len(rows)), rows)

    def open(self) -> None:
        """See `Engine.open`."""
        self.files.check(whole=False)

    def search(self, query: Array) -> Array:
        """See `Engine.search`."""
        return self.files.nearest(query, K)[0][:K] - 1

    def add(self, rows: Array) -> None:
        """See `Engine.add`."""
        self.files.append(range(self.files.state.last + 1, self.files.state.last + 1 + len(rows)), rows)


class NumpyEngine:
    """Every row in float32, multiplied with the query."""

    def __init__(self, folder: Path, world: World) -> None:
        self.path, self.dim = folder / "numpy.f4", world.dim

    def build(self, world: World) -> None:
        """See `Engine.build`."""
        with self.path.open("wb") as file:
            for _, rows in world.blocks():
                file.write(unit(rows).tobytes())

    def open(self) -> None:
        """See `Engine.open`."""
        self.rows = np.memmap(self.path, np.float32, "r").reshape(-1, self.dim)

    def search(self, query: Array) -> Array:
        """See `Engine.search`."""
        scores = self.rows @ query
        top = np.argpartition(-scores, K)[:K]
        return top[np.argsort(-scores[top])]

    def add(self, rows: Array) -> None:
        """See `Engine.add`."""
        with self.path.open("ab") as file:
            file.write(unit(rows).tobytes())
            os.fsync(file.fileno())


class FaissEngine:
    """An inverted file of FAISS whose codes are compressed; read whole, as FAISS reads them."""

    probes, named = 32, 400

    def __init__(self, folder: Path, world: World, kind: str) -> None:
        self.path, self.world, self.kind = folder / f"faiss-{kind}", world, kind
        self.folder = folder

    def build(self, world: World) -> None:
        """See `Engine.build`."""
        import faiss

        lists = max(1, min(4096, int(4 * world.n**0.5), world.n // 40))
        codes = f"PQ{world.dim // 8}x4fs" if self.kind == "ivfpq" else "RaBitQ"
        index = faiss.index_factory(world.dim, f"IVF{lists},{codes}", faiss.METRIC_INNER_PRODUCT)
        sample = np.concatenate([unit(rows) for _, rows in zip(range(5), (r for _, r in world.blocks()), strict=False)])
        world.told("training")
        index.train(sample[: 64 * lists])
        for _, rows in world.blocks():
            index.add(unit(rows))
        faiss.write_index(index, str(self.path))

    def open(self) -> None:
        """See `Engine.open`."""
        import faiss

        self.index = faiss.read_index(str(self.path))
        self.index.nprobe = self.probes
        self.reranked = Reranked(self.folder, self.world)

    def search(self, query: Array) -> Array:
        """See `Engine.search`."""
        return self.reranked.best(query, self.index.search(query[None], self.named)[1][0])

    def add(self, rows: Array) -> None:
        """See `Engine.add`."""
        import faiss

        self.index.add(unit(rows))
        faiss.write_index(self.index, str(self.path))


class UsearchEngine:
    """usearch's graph, in float16, mapped from the disk."""

    def __init__(self, folder: Path, world: World) -> None:
        self.path, self.world, self.folder = folder / "usearch", world, folder

    def _new(self) -> Any:
        from usearch.index import Index

        return Index(ndim=self.world.dim, metric="ip", dtype="f16", expansion_search=256)

    def build(self, world: World) -> None:
        """See `Engine.build`."""
        index = self._new()
        for start, rows in world.blocks():
            index.add(np.arange(start, start + len(rows)), unit(rows), threads=THREADS)
        index.save(str(self.path))

    def open(self) -> None:
        """See `Engine.open`."""
        self.index = self._new()
        self.index.view(str(self.path))

    def search(self, query: Array) -> Array:
        """See `Engine.search`."""
        return np.asarray(self.index.search(query, K, threads=1).keys, np.int64)

    def add(self, rows: Array) -> None:
        """See `Engine.add`."""
        index = self._new()
        index.load(str(self.path))  # what is mapped cannot grow
        index.add(np.arange(self.world.n, self.world.n + len(rows)), unit(rows), threads=THREADS)
        index.save(str(self.path))


class LanceEngine:
    """A table of LanceDB, float16 rows, with an index from 10,000 rows on."""

    def __init__(self, folder: Path, world: World, kind: str) -> None:
        self.path, self.world, self.kind = folder / f"lance-{kind}", world, kind

    def _batches(self, world: World) -> Iterator[Any]:
        import pyarrow as pa

        for start, rows in world.blocks():
            yield self._batch(np.arange(start, start + len(rows)), rows, pa)

    def _batch(self, keys: Array, rows: Array, pa: Any) -> Any:
        flat = pa.array(unit(rows).astype(np.float16).ravel())
        return pa.RecordBatch.from_arrays(
            [pa.array(keys), pa.FixedSizeListArray.from_arrays(flat, self.world.dim)], names=["key", "vector"]
        )

    def build(self, world: World) -> None:
        """See `Engine.build`."""
        import lancedb
        import pyarrow as pa

        schema = pa.schema([("key", pa.int64()), ("vector", pa.list_(pa.float16(), world.dim))])
        table = lancedb.connect(str(self.path)).create_table("v", self._batches(world), schema=schema)
        if world.n >= 10_000:
            more = {"num_sub_vectors": world.dim // 16} if self.kind == "ivfpq" else {}
            world.told("making the index")
            kind = "IVF_PQ" if self.kind == "ivfpq" else "IVF_RQ"
            table.create_index("dot", vector_column_name="vector", index_type=kind, **more)

    def open(self) -> None:
        """See `Engine.open`."""
        import lancedb

        self.table = lancedb.connect(str(self.path)).open_table("v")

    def search(self, query: Array) -> Array:
        """See `Engine.search`."""
        asked = self.table.search(query.astype(np.float16), vector_column_name="vector").distance_type("dot")
        return np.asarray(asked.nprobes(32).refine_factor(20).limit(K).select(["key"]).to_arrow()["key"])

    def add(self, rows: Array) -> None:
        """See `Engine.add`."""
        import pyarrow as pa

        keys = np.arange(self.world.n, self.world.n + len(rows))
        self.table.add(pa.Table.from_batches([self._batch(keys, rows, pa)]))


ENGINES: dict[str, Callable[[Path, World], Any]] = {
    "hub": HubEngine,
    "numpy": NumpyEngine,
    "faiss-ivfpq": lambda folder, world: FaissEngine(folder, world, "ivfpq"),
    "faiss-rabitq": lambda folder, world: FaissEngine(folder, world, "rabitq"),
    "usearch": UsearchEngine,
    "lancedb-ivfpq": lambda folder, world: LanceEngine(folder, world, "ivfpq"),
    "lancedb-rq": lambda folder, world: LanceEngine(folder, world, "rq"),
}
MODULES = {"faiss": "faiss", "usearch": "usearch", "lancedb": "lancedb"}
