"""What a trial of `tune` costs beside its forward passes, against merging to disk and reloading; and how `tune` starts.

    python scripts/bench/trial_overhead.py --base BASE --pool POOL --task FILE --run RUN [--rounds 5]

POOL: 20 adapters or more of one rank; FILE: rows of a task; RUN: a run folder whose plan mergekit can carry out. Prints
Markdown: milliseconds of the bare forwards over the same rows, of a whole trial beside them (round by round in turn, so
that what else the machine does hits both), and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.runs.reopening import find_members, reopen
from merge_advisor.advisor.runs.run_folder import read_run
from merge_advisor.advisor.searching.problem import RowLossProblem
from merge_advisor.backbone.losses import row_losses
from merge_advisor.tasks import read_rows
from merge_advisor.tuning import Point

COMPOSITIONS = (("exact", 4), ("exact", 20), ("lorahub", 20), ("ties", 4), ("della", 4))
"""With their numbers of members."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "pool", "task", "run"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    trials(arguments.base, arguments.pool, Path(arguments.task), arguments.rounds)
    against_disk(arguments.base, Path(arguments.run), arguments.rounds)
    for stored in (True, False):
        start(arguments.base, Path(arguments.run), arguments.rounds, stored=stored)


def trials(base: str, pool: str, task: Path, rounds: int) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    print("| composition | members | rows | bare forwards, ms | trial, ms | ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch, open_session(base, pool, cache=Path(scratch)) as session:
        rows = read_rows(task).rows[:20]
        for composition, k in COMPOSITIONS:
            for count in (5, 20):
                problem = RowLossProblem(session.meter, session.pool.candidates[:k], rows[:count], (0,) * count)
                encoded = session.model.encode(rows[:count])

                def bare(encoded: object = encoded) -> None:
                    row_losses(session.model.backbone, encoded)  # type: ignore[arg-type]

                def whole(
                    problem: RowLossProblem = problem, k: int = k, count: int = count, spec: str = composition
                ) -> None:
                    problem.losses(Point(tuple(rng.uniform(0, 2 / k, k)), spec), range(count))

                forwards, trial = in_turn((bare, whole), rounds)
                print(f"| {composition} | {k} | {count} | {1000 * forwards:.0f} | {1000 * trial:.0f} | "
                      f"{trial / forwards:.3f} |", flush=True)  # fmt: skip


def in_turn(calls: tuple[Callable[[], None], ...], rounds: int) -> list[float]:
    """Median seconds of each call, taken in turn, after one round that does not count."""
    taken: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, times in zip(calls, taken, strict=True):
            begun = time.perf_counter()
            call()
            if number:
                times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in taken]


def against_disk(base: str, run: Path, rounds: int) -> None:
    """Print what one guess on the choosing rows of a run costs: bare forwards, a trial, the loop over the disk."""
    found = read_run(run)
    rows = found.tasks[0].choosing
    rng = np.random.default_rng(0)
    with reopen(run, base=base)[1] as session:
        members = find_members(session.pool, session.local, found.folder, found.recipe)
        candidates = [members[member.id] for member in found.recipe.members]
        problem = RowLossProblem(session.meter, candidates, rows, (0,) * len(rows))
        encoded = session.model.encode(rows)

        def merged() -> None:
            weights = tuple(rng.uniform(0, 1, len(members)))
            problem.losses(Point(weights, found.recipe.composition), range(len(rows)))

        def bare() -> None:
            row_losses(session.model.backbone, encoded)

        forwards, whole = in_turn((bare, merged), 3 * rounds)
    disk = statistics.median(disk_loop(base, run) for _ in range(rounds))
    print(f"\nOne guess on {len(rows)} rows: bare forwards {forwards:.2f} s, a trial {whole:.2f} s;")
    print(f"mergekit to disk, load and lm-eval in processes {disk:.1f} s; the trial is {whole / disk:.3f}x of it.")
    trial, disk = whole - forwards, disk - forwards
    print(f"What is not forwards: {1000 * trial:.0f} ms against {disk:.1f} s, {trial / disk:.4f}x")


def disk_loop(base: str, run: Path) -> float:
    """Seconds of one guess as today's users make it: mergekit to disk, a process that loads the model and scores it."""
    task = read_run(run).tasks[0]
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.jsonl"
        rows.write_text("".join(_line(row.input, row.output) for row in task.choosing))
        begun = time.perf_counter()
        out = str(Path(scratch) / "model")
        _run("merge", str(run), "--out", out, "--with", "mergekit", "--base", base)
        _run("score", out, "--task", str(rows), "--metric", "loss", "--cache", scratch)
        return time.perf_counter() - begun


def start(base: str, run: Path, rounds: int, *, stored: bool) -> None:
    """Print the seconds of `tune` with one trial, the plan's own point, stored or to be measured."""
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            copy = shutil.copytree(run, Path(scratch) / "run")
            for name in ("study.sqlite", "tune.json"):
                (copy / name).unlink(missing_ok=True)
            store = Path(scratch) / "store.sqlite"
            kept = read_run(run).plan.environment.paths["store"]
            with closing(sqlite3.connect(kept)) as source, closing(sqlite3.connect(store)) as target:
                source.backup(target)
                if not stored:
                    target.execute("DELETE FROM measured")
                    target.commit()
            begun = time.perf_counter()
            _run("tune", str(copy), "--trials", "1", "--no-score", "--base", base, "--store", str(store))
            seconds.append(time.perf_counter() - begun)
    what = "stored" if stored else "to be measured"
    print(f"`tune --trials 1`, the whole process, its trial {what}: median {statistics.median(seconds):.1f} s "
          f"({min(seconds):.1f} to {max(seconds):.1f})")  # fmt: skip


def _line(asked: str, wanted: str) -> str:
    import json

    return json.dumps({"input": asked, "output": wanted}) + "\n"


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "merge_advisor", *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    main()
