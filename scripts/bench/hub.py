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
not installed are left out (`pip install faiss-cpu usearch numkong lancedb`; none of them is needed by this package).

`--plan` measures `merge-advisor plan --hub --no-score` instead, as a whole process, on a hub of so many made entries
and a few real ones: it needs `--base`, `--pool` and `--task`, and runs twice, so that all is stored the second time.
`--search 'contracts,legal contracts' --hub DIR` measures whole processes of `hub search` on such a hub, by a model and
by each of these texts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from hub_engines import ENGINES, MODULES, QUERIES, K, World, truth_of
from kept import add_line, read_lines


def child(part: str, name: str, n: int, dim: int, folder: Path) -> None:
    """Build, or open, search and add; print what was measured as one line of JSON."""
    world = World(n, dim)
    found: dict[str, Any] = {}
    if part == "truth":
        truth_of(world, folder)
    elif part == "build":
        world.told = lambda what: print(what, file=sys.stderr, flush=True)
        engine = ENGINES[name](folder, world)
        began, used = time.perf_counter(), time.process_time()
        engine.build(world)
        found["build_s"] = time.perf_counter() - began - world.making_s
        found |= {"build_cpu_s": time.process_time() - used - world.making_cpu_s, "build_peak_mb": memory()}
    else:
        queries, truth = world.queries, truth_of(world, folder)
        forget_files(folder)
        before = memory()
        began = time.perf_counter()
        engine = ENGINES[name](folder, world)
        engine.open()
        engine.search(queries[0])
        found["open_and_first_ms"] = 1000 * (time.perf_counter() - began)
        for round_of in ("cold_ms", "search_ms"):  # the second round is warm
            seconds: list[float] = []
            cpu: list[float] = []
            right = 0
            for query, wanted in zip(queries, truth, strict=True):
                began, used = time.perf_counter(), time.process_time()
                hits = engine.search(query)
                seconds.append(time.perf_counter() - began)
                cpu.append(time.process_time() - used)
                right += len(set(hits.tolist()) & set(wanted.tolist()))
            found[round_of] = 1000 * float(np.median(seconds))
        found |= {
            "fastest_tenth_ms": 1000 * float(np.quantile(seconds, 0.1)),
            "cpu_ms": 1000 * float(np.median(cpu)), "recall": right / (QUERIES * K), "peak_mb": memory(),
            "before_mb": before,
        }  # fmt: skip
        rows = world.added
        began = time.perf_counter()
        engine.add(rows)
        found["add_1000_s"] = time.perf_counter() - began
    print(json.dumps(found))


def memory() -> float:
    """The most memory this process has held, MB: files that are mapped count as far as they were touched.

    The system's own count of a child (`ru_maxrss`) begins with what its parent held.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def forget_files(folder: Path) -> None:
    """Let the system forget what it keeps in memory of the files of a folder, so that the first search reads them."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measured(name: str, n: int, dim: int, folder: Path, limit: int | None) -> dict[str, Any]:
    """One engine at one size, each part in a process of its own, which is ended at a limit of seconds."""
    found: dict[str, Any] = {"engine": name, "n": n, "dim": dim}
    for part in ("build", "search"):
        before = set(folder.iterdir())
        command = [sys.executable, __file__, "--child", part, "--engines", name, "--sizes", str(n), "--dims", str(dim),
                   "--folder", str(folder), "--out", os.devnull]  # fmt: skip
        # processor time: what else a machine does must not decide what is built
        done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: limited(limit))
        if done.returncode:
            empty(folder)
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1][:300]
            ended = f"not done in {limit} s of processor time; last: " if done.returncode == -signal.SIGXCPU else ""
            return found | {"failed": f"{part}: {ended}{said}"}
        found |= json.loads(done.stdout.strip().splitlines()[-1])
        if part == "build":
            made = set(folder.iterdir()) - before
            found["disk_mb"] = sum(size_of(path) for path in made) / 1e6
    empty(folder)
    return found | {
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load": os.getloadavg()[0],
        "when": time.strftime("%Y-%m-%d"),
    }


def limited(seconds: int | None) -> None:
    """Have the system end this process after so many seconds of processor time."""
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))


def empty(folder: Path) -> None:
    """Delete what an engine made: all but what the engines share."""
    for path in folder.iterdir():
        if path.name not in ("half", "truth.npy"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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


MEASURED = """
import sys
from merge_advisor.cli import main
code = main(sys.argv[2:])
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
open(sys.argv[1], "w").write(lines["VmHWM"].split()[0])
sys.exit(code)
"""
"""A command whose most memory is written to a file: what the system tells of a child counts its parent's too."""


def fill(hub: Any, n: int, words: list[str]) -> None:
    """Put so many made entries into a hub, each in the folder of its first; rows as `add` writes them, all at once.

    A card has 20 words of the task's examples, as frequent as there, so that what is looked for is in most of them.
    """
    from merge_advisor.checked_sqlite import checksum
    from merge_advisor.hub.schema import CATALOGUE_COLUMNS

    (number, space), *_ = hub.catalogue.spaces().items()
    world, some = World(n, space.dim), hub.entries()[0]
    first = max(hub.catalogue.numbers()) + 1
    modules, empty, rng = json.dumps(some.modules), "[]", np.random.default_rng(0)
    with closing(sqlite3.connect(hub.catalogue.path, isolation_level=None)) as file:
        for start, rows in world.blocks():
            entries, names, deltas, texts = [], [], [], []
            chosen = rng.choice(words, (len(rows), 20)).tolist()
            for at, row in enumerate(rows, start):
                card = " ".join(chosen[at - start])
                entries.append(
                    (
                        first + at,
                        some.base,
                        f"made {at}",
                        "adapter",
                        8,
                        modules,
                        "mit",
                        some.size,
                        f"m/{at}",
                        None,
                        some.place,
                        card,
                        empty,
                        empty,
                        empty,
                        some.template,
                        empty,
                        some.added,
                    )
                )
                names.append((some.base, f"made-{at}", 1, first + at, some.added, 1))
                deltas.append((number, first + at, row.astype("<f4").tobytes()))
                texts.append((first + at, f"made {at} m {at}", card, ""))
            file.execute("BEGIN")
            for table, made in (("entries", entries), ("names", names), ("deltas", deltas)):
                columns = (*CATALOGUE_COLUMNS[table], "checksum")
                file.executemany(
                    f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                    ((*row, checksum(table, *row)) for row in made),
                )
            file.executemany("INSERT INTO texts (rowid, name, card, tags) VALUES (?, ?, ?, ?)", texts)
            file.execute("UPDATE counters SET last = ?", [first + start + len(rows)])
            file.execute("COMMIT")
    hub.index.bring_up(number, space)


def as_processes(command: list[str], peak: Path, times: int) -> tuple[list[float], list[float], float]:
    """Seconds on the clock and on the processor of whole processes, and the most memory of the last, MB."""
    # an installed package has its bytecode; a checkout on a machine that writes none would be compiled each time
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds, cpu = [], []
    for _ in range(times):
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=surroundings)
        _, status, used = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - began)
        cpu.append(used.ru_utime + used.ru_stime)
        if status not in (0, 3 << 8):
            raise SystemExit(f"{' '.join(command[3:])} failed: {status}")
    return seconds, cpu, int(peak.read_text()) / 1024


def search_seconds(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Whole processes of `hub search` on a hub that `--plan` has filled: by a model, and by each of some texts."""
    from merge_advisor.hub import Hub

    with Hub.open(arguments.hub) as hub:
        models = hub.count()
    for asked in (["--like", "made-5"], *(["--text", text] for text in arguments.search.split(","))):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            peak = Path(name) / "peak"
            command = [sys.executable, "-c", MEASURED, str(peak), "hub", "search", "--hub", str(arguments.hub), *asked]
            seconds, cpu, most = as_processes(command, peak, 6)
        yield {
            "engine": "hub search", "n": models, "dim": 576, "asked": " ".join(asked), "first_s": seconds[0],
            "warm_s": float(np.median(seconds[1:])), "warm_cpu_s": float(np.median(cpu[1:])), "peak_mb": most,
            "load": os.getloadavg()[0], "when": time.strftime("%Y-%m-%d"),
        }  # fmt: skip


def plan_seconds(arguments: argparse.Namespace, n: int) -> dict[str, Any]:
    """Whole processes of `plan --hub --no-score` on a hub of so many entries, the second with everything stored."""
    from merge_advisor.hub import Hub

    words = re.findall(r"[a-z]{2,}", Path(arguments.task).read_text().lower())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, cache = Path(name), arguments.cache or Path(name) / "cache"
        place, filled = arguments.hub or folder / "hub", None
        with Hub.open(place, make=True) as hub:
            if hub.count() < n:
                hub.add(arguments.pool, base=arguments.base, cache=cache)
                began = time.perf_counter()
                fill(hub, n, words)
                filled = time.perf_counter() - began
            (_, space), *_ = hub.catalogue.spaces().items()
        places = ["--hub", str(place), "--cache", str(cache), "--out", str(folder / "run")]
        asked = ["--task", arguments.task, "--base", arguments.base, "--no-score", "--adaptation", "none", "--force"]
        quick = ["--strategy", "gradient", "--shots", "4", "--lora-steps", "1"]  # what is stored costs nothing later
        command = [sys.executable, "-c", MEASURED, str(folder / "peak"), "plan", *places, *asked, *quick]
        seconds, cpu, peak = as_processes(command, folder / "peak", 4)
        return {
            "engine": "plan --hub", "n": n, "dim": space.dim, "fill_s": filled, "first_s": seconds[0],
            "stored_s": float(np.median(seconds[1:])), "stored_cpu_s": float(np.median(cpu[1:])), "peak_mb": peak,
            "disk_mb": size_of(place) / 1e6,
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
    parser.add_argument("--limit-s", type=int, help="of processor time, for a build and for searches")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true", help="measure plan --hub")
    parser.add_argument("--search", metavar="TEXTS", help="measure hub search on --hub: texts, commas between")
    parser.add_argument("--hub", type=Path, help="with --plan: the hub, kept; filled where it has fewer entries")
    parser.add_argument("--cache", type=Path, help="with --plan: cache of the plan (default: a new one)")
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
    for line in search_seconds(arguments) if arguments.search else ():
        add_line(arguments.out, line)
    for n in sizes if not arguments.plan and not arguments.search else ():
        for dim in dims:
            wanted = [name for name in names if installed(name) and (name, n, dim) not in known]
            if not wanted:
                continue
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                child("truth", names[0], n, dim, Path(folder))
                for name in wanted:
                    add_line(arguments.out, measured(name, n, dim, Path(folder), arguments.limit_s))
                    print(read_lines(arguments.out)[-1], flush=True)
    for line in read_lines(arguments.out):
        shown = {key: round(v, 3) if isinstance(v, float) else v for key, v in line.items()}
        print(json.dumps(shown))


if __name__ == "__main__":
    main()
