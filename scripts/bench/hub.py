"""How fast and how right a hub is searched, by size, beside other engines on the same vectors.

    python scripts/bench/hub.py --out eval/hub.jsonl --sizes 1000,10000,100000 --dims 576
    python scripts/bench/hub.py --out eval/hub.jsonl --sizes 1000000 --dims 576 --engines hub,faiss-ivfpq

The vectors are made: each is the sum of a direction that all share (0.5), the centre of its cluster (0.6), a random
mixture of 16 of 256 directions that its cluster varies along (0.5) and noise in all dimensions (0.25), times a length.
Clusters have 1,000 members on average, their sizes are as 1/sqrt(rank). So two vectors of different clusters have a
cosine of about 0.27, two of one cluster of 0.66, and neighbours differ along few directions, as deltas of finetunes of
related data do. Queries are further vectors of the same clusters; what is right is the cosine in float32.

Every engine gets the same rows, in steps of 20,000, and answers with the keys of the 10 nearest; those that compress
give more, and these are compared exactly with the rows in float16 (hub: in whole numbers of 16 bits). A process of its
own builds, another one opens, searches and adds 1,000 rows, so that its memory is that of a search. Engines that are
not installed are left out (`pip install faiss-cpu usearch lancedb`; none of them is needed by this package).

`--plan` measures `merge-advisor plan --hub --no-score` instead, as a whole process, on a hub of so many made entries
and a few real ones: it needs `--base`, `--pool` and `--task`, and runs twice, so that all is stored the second time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from kept import add_line, read_lines

STEP, QUERIES, K, ADDED = 20_000, 100, 10, 1_000
SHARED, CENTRE, VARIED, NOISE = 0.5, 0.6, 0.5, 0.25
DIRECTIONS, PER_CLUSTER = 256, 16
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

    def rows(self, block: int, count: int) -> Array:
        """So many float32 rows of a block."""
        rng = np.random.default_rng([self.n, self.dim, 7, block])
        cluster = rng.choice(len(self.weights), count, p=self.weights)
        mixture = np.zeros((count, DIRECTIONS), np.float32)
        np.put_along_axis(mixture, self.own[cluster], rng.normal(size=(count, PER_CLUSTER)) / 4, axis=1)
        rows = SHARED * self.shared + CENTRE * self.centres[cluster] + VARIED * (mixture @ self.directions)
        rows += np.float32(NOISE / np.sqrt(self.dim)) * rng.standard_normal((count, self.dim), np.float32)
        return (unit(rows) * rng.lognormal(0, 0.5, (count, 1))).astype(np.float32)

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All rows to build from, in steps, each with the number of its first."""
        for start in range(0, self.n, STEP):
            yield start, self.rows(start // STEP, min(STEP, self.n - start))

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

        faiss.omp_set_num_threads(2)
        lists = max(1, min(4096, int(4 * world.n**0.5), world.n // 40))
        codes = f"PQ{world.dim // 8}x4fs" if self.kind == "ivfpq" else "RaBitQ"
        index = faiss.index_factory(world.dim, f"IVF{lists},{codes}", faiss.METRIC_INNER_PRODUCT)
        sample = np.concatenate([unit(rows) for _, rows in zip(range(5), (r for _, r in world.blocks()), strict=False)])
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
            index.add(np.arange(start, start + len(rows)), unit(rows))
        index.save(str(self.path))

    def open(self) -> None:
        """See `Engine.open`."""
        self.index = self._new()
        self.index.view(str(self.path))

    def search(self, query: Array) -> Array:
        """See `Engine.search`."""
        return np.asarray(self.index.search(query, K).keys, np.int64)

    def add(self, rows: Array) -> None:
        """See `Engine.add`."""
        index = self._new()
        index.load(str(self.path))  # what is mapped cannot grow
        index.add(np.arange(self.world.n, self.world.n + len(rows)), unit(rows))
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


def child(part: str, name: str, n: int, dim: int, folder: Path) -> None:
    """Build, or open, search and add; print what was measured as one line of JSON."""
    world = World(n, dim)
    found: dict[str, Any] = {}
    if part == "truth":
        truth_of(world, folder)
    elif part == "build":
        engine = ENGINES[name](folder, world)
        began = time.perf_counter()
        engine.build(world)
        found["build_s"] = time.perf_counter() - began
    else:
        queries, truth = world.queries, truth_of(world, folder)
        before = memory()
        began = time.perf_counter()
        engine = ENGINES[name](folder, world)
        engine.open()
        engine.search(queries[0])
        found["open_and_first_ms"] = 1000 * (time.perf_counter() - began)
        for _ in range(2):  # the second round is warm
            seconds, cpu, right = [], [], 0
            for query, wanted in zip(queries, truth, strict=True):
                began, used = time.perf_counter(), time.process_time()
                hits = engine.search(query)
                seconds.append(time.perf_counter() - began)
                cpu.append(time.process_time() - used)
                right += len(set(hits.tolist()) & set(wanted.tolist()))
        found |= {
            "search_ms": 1000 * float(np.median(seconds)), "fastest_tenth_ms": 1000 * float(np.quantile(seconds, 0.1)),
            "cpu_ms": 1000 * float(np.median(cpu)), "recall": right / (QUERIES * K), "peak_mb": memory(),
            "before_mb": before,
        }  # fmt: skip
        rows = world.added
        began = time.perf_counter()
        engine.add(rows)
        found["add_1000_s"] = time.perf_counter() - began
    print(json.dumps(found))


def memory() -> float:
    """The most memory this process has held, MB: files that are mapped count as far as they were touched."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(name: str, n: int, dim: int, folder: Path) -> dict[str, Any]:
    """One engine at one size, each part in a process of its own."""
    found: dict[str, Any] = {"engine": name, "n": n, "dim": dim}
    for part in ("build", "search"):
        before = set(folder.iterdir())
        command = [sys.executable, __file__, "--child", part, "--engines", name, "--sizes", str(n), "--dims", str(dim),
                   "--folder", str(folder), "--out", os.devnull]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return found | {
                "failed": f"{part}: {done.stderr.strip().splitlines()[-1][:300] if done.stderr else done.returncode}"
            }
        found |= json.loads(done.stdout.strip().splitlines()[-1])
        if part == "build":
            made = set(folder.iterdir()) - before
            found["disk_mb"] = sum(size_of(path) for path in made) / 1e6
    for path in folder.iterdir():
        if path.name not in ("half", "truth.npy"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found | {"load": os.getloadavg()[0], "when": time.strftime("%Y-%m-%d")}


def size_of(path: Path) -> int:
    """Bytes of a file or folder."""
    return (
        sum(part.stat().st_size for part in path.rglob("*") if part.is_file()) if path.is_dir() else path.stat().st_size
    )


def installed(name: str) -> bool:
    """Whether an engine can be imported."""
    from importlib.util import find_spec

    module = MODULES.get(name.partition("-")[0])
    return module is None or find_spec(module) is not None


def plan_seconds(arguments: argparse.Namespace, n: int) -> dict[str, Any]:
    """Whole processes of `plan --hub --no-score` on a hub of so many entries, the second with everything stored."""
    from merge_advisor.hub import Hub
    from merge_advisor.hub.values import HubEntry

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with Hub.open(folder / "hub", make=True) as hub:
            hub.add(arguments.pool, base=arguments.base, cache=folder / "cache")
            (number, space), *_ = hub.catalogue.spaces().items()
            world = World(n, space.dim)
            some = hub.entries()[0]
            began = time.perf_counter()
            for start, rows in world.blocks():
                with hub.catalogue.file.transaction():
                    for offset, row in enumerate(rows):
                        made = HubEntry(
                            0, (), some.base, f"made {start + offset}", "adapter", 8, some.modules, "mit",
                            place=some.place, card=f"made model {start + offset} of words {offset % 97}",
                        )  # fmt: skip
                        entry = hub.catalogue.keep_entry(made)
                        hub.catalogue.keep_name(some.base, f"made-{start + offset}", entry, "2026-01-01")
                        hub.deltas.keep_delta(number, entry, row)
                        hub.texts.keep_text(entry)
            hub.index.bring_up(number, space)
            filled = time.perf_counter() - began
        places = ["--hub", str(folder / "hub"), "--cache", str(folder / "cache"), "--out", str(folder / "run")]
        asked = ["--task", arguments.task, "--base", arguments.base, "--no-score", "--adaptation", "none", "--force"]
        command = [sys.executable, "-m", "merge_advisor", "plan", *places, *asked, "--strategy", "gradient"]
        seconds, peak = [], 0.0
        for _ in range(4):
            began = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds.append(time.perf_counter() - began)
            peak = used.ru_maxrss / 1024
            if status not in (0, 3 << 8):
                raise SystemExit(f"plan failed: {status}")
        return {
            "engine": "plan --hub", "n": n, "dim": space.dim, "fill_s": filled, "first_s": seconds[0],
            "stored_s": float(np.median(seconds[1:])), "peak_mb": peak, "disk_mb": size_of(folder / "hub") / 1e6,
            "load": os.getloadavg()[0], "when": time.strftime("%Y-%m-%d"),
        }  # fmt: skip


def main() -> None:
    """Measure what the file of results lacks, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of lines; what is there is not measured again")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--dims", default="576")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true", help="measure plan --hub")
    for name in ("base", "pool", "task"):
        parser.add_argument(f"--{name}")
    arguments = parser.parse_args()
    sizes, dims = ([int(word) for word in text.split(",")] for text in (arguments.sizes, arguments.dims))
    names = arguments.engines.split(",")
    if arguments.child:
        child(arguments.child, names[0], sizes[0], dims[0], arguments.folder)
        return
    known = {(line["engine"], line["n"], line["dim"]) for line in read_lines(arguments.out)}
    if arguments.plan:
        for n in sizes:
            add_line(arguments.out, plan_seconds(arguments, n))
    for n in sizes if not arguments.plan else ():
        for dim in dims:
            wanted = [name for name in names if installed(name) and (name, n, dim) not in known]
            if not wanted:
                continue
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                child("truth", names[0], n, dim, Path(folder))
                for name in wanted:
                    add_line(arguments.out, measured(name, n, dim, Path(folder)))
                    print(read_lines(arguments.out)[-1], flush=True)
    for line in read_lines(arguments.out):
        shown = {key: round(v, 3) if isinstance(v, float) else v for key, v in line.items()}
        print(json.dumps(shown))


if __name__ == "__main__":
    main()
