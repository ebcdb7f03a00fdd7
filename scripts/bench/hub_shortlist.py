"""Would a shortlist have held what was chosen with the whole pool open? From a benchmark's results and its cache.

    python scripts/bench/hub_shortlist.py --setup recipes/bench-adaptations.yaml --results RESULTS/results.sqlite \
        --arm merge --base FOLDER --pool FOLDER --tasks FOLDER --cache CACHE --out eval/hub_shortlist.jsonl

Of each task of the arm (view own-out, k=4: `rerank` on a pool without the task's own adapter), the members that it
chose are looked for among the first N by the cosine of their deltas with the task's (as a hub's shortlist goes; also
with the pool's mean taken off both), by text (TF-IDF of names against the choosing rows, as strategy `text`), by delta
with one place in so many for the text, by the gradient of the choosing rows' loss at the base (which opens every
model), and by a sketch of it that an index could hold: of each weight's gradient and update P ΔW Qᵀ, with random P and
Q that make `SKETCH` x `SKETCH` numbers of it, whose inner products are on average those of the whole. What chance holds
is N of the pool. LoRAs of the shots are taken from the cache and trained where they are not there.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, read_lines

from merge_advisor.arrays import Float64Array
from merge_advisor.benchmark.running.context import BenchContext, open_context
from merge_advisor.benchmark.running.rows import BenchTask, read_bench_tasks
from merge_advisor.benchmark.running.task_draw import TaskDraw
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.select.evidence import Evidence
from merge_advisor.select.ranking import ranked
from merge_advisor.select.similarity import cosines
from merge_advisor.select.text import text_similarity
from merge_advisor.weights.updates import along

SIZES = (5, 10, 20, 30, 40, 60)
EVERY = (2, 4, 8)
SKETCH = 16


def gradient_gains(context: BenchContext, drawn: TaskDraw, kept: Sequence[int]) -> tuple[Float64Array, Float64Array]:
    """First-order gains of the kept candidates, exact and by sketches of both sides, (n,) each."""
    deltas = [context.meter.weights.of(context.candidates[place]) for place in kept]
    shapes = {name: update.shape for delta in deltas for name, update in delta.items()}
    gradient = context.meter.gradient(drawn.task.choosing, sorted(shapes))
    rng = np.random.default_rng(0)
    found = np.zeros((2, len(kept)))
    for name in sorted(shapes):
        left, right = (rng.standard_normal((SKETCH, size)) / np.sqrt(SKETCH) for size in shapes[name])
        small = left @ gradient[name] @ right.T
        for place, delta in enumerate(deltas):
            if name in delta:
                found[0, place] -= along(delta[name], gradient[name])
                found[1, place] -= float(np.vdot(small, left @ delta[name].dense() @ right.T))
    return found[0], found[1]


def record_of(context: BenchContext, rows: BenchTask, draw: int, members: list[str]) -> dict[str, Any]:
    """The members that were chosen, and the pool in the order of each rule."""
    drawn = TaskDraw(context, rows, draw)
    kept = [place for place, candidate in enumerate(context.candidates) if candidate.id != rows.name]
    ids = [context.candidates[place].id for place in kept]
    deltas = context.embedded.deltas.array[kept].astype(np.float64)
    task = drawn.task_delta.astype(np.float64)
    mean = deltas.mean(axis=0)
    query = "\n".join(f"{row.input} {row.output}" for row in drawn.task.choosing)
    texts = tuple(f"{name} {context.candidates[place].description}" for name, place in zip(ids, kept, strict=True))
    likeness = text_similarity(Evidence(tuple(ids), deltas, lambda: task, texts=texts, query=query))

    gains, sketched = gradient_gains(context, drawn, kept)

    def order(scores: Float64Array) -> list[str]:
        return [ids[place] for place in ranked(scores)]

    named = [name for name in order(likeness) if likeness[ids.index(name)] > 0]
    return {
        "task": rows.name, "family": rows.family, "draw": draw, "members": members,
        "delta": order(cosines(deltas, task)), "centred": order(cosines(deltas - mean, task - mean)), "text": named,
        "gradient": order(gains), "sketch": order(sketched),
    }  # fmt: skip


def mixed(first: Sequence[str], second: Sequence[str], every: int) -> list[str]:
    """Two rankings in turn, one in `every` places from the second."""
    taken: list[str] = []
    left = [iter(first), iter(second)]
    for turn in range(1, 3 * len(first)):
        which = 1 if turn % every == every // 2 else 0
        name = next((one for one in left[which] if one not in taken), None)
        if name is not None:
            taken.append(name)
    return taken


def summary(records: list[dict[str, Any]]) -> None:
    """Print a line for each rule, for all tasks and for those with and without relatives in the pool."""
    families = [record["family"] for record in records]
    related = [record for record in records if families.count(record["family"]) > 2]
    parts = {"all": records, "families of three or more": related,
             "others": [record for record in records if record not in related]}  # fmt: skip
    for name, part in parts.items():
        wanted = [(record, member) for record in part for member in record["members"]]
        print(f"{name}: {len(part)} tasks, {len(wanted)} members; share of them among the first {SIZES}")
        for rule in ("delta", "centred", "text", *EVERY, "gradient", "sketch"):
            orders = {id(r): mixed(r["delta"], r["text"], rule) if isinstance(rule, int) else r[rule] for r in part}
            shares = [np.mean([m in orders[id(r)][:size] for r, m in wanted]) if wanted else 0 for size in SIZES]
            called = f"one in {rule} by text" if isinstance(rule, int) else rule
            print(f"  {called:18s} {' '.join(f'{share:.2f}' for share in shares)}")
    pool = len(records[0]["delta"])
    print(f"chance               {' '.join(f'{size / pool:.2f}' for size in SIZES)} (of {pool})")


def main() -> None:
    """Record what is not recorded yet, and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of lines; what is there is not measured again")
    for name in ("setup", "results", "cache"):
        parser.add_argument(f"--{name}", type=Path)
    for name in ("base", "pool", "tasks"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--arm", default="merge")
    arguments = parser.parse_args()
    if arguments.setup is not None:
        known = {(line["task"], line["draw"]) for line in read_lines(arguments.out)}
        file = sqlite3.connect(f"{arguments.results.absolute().as_uri()}?mode=ro", uri=True)
        units = file.execute(
            "SELECT task, shot_draw, value FROM results WHERE status = 'done' AND arm = ? AND view = 'own-out' AND "
            "k = 4 AND selection_draw = 0 ORDER BY task, shot_draw",
            [arguments.arm],
        ).fetchall()
        where = {"base": arguments.base, "pool": arguments.pool, "tasks": arguments.tasks}
        setup, places = read_setup(arguments.setup, **where)
        tasks = {task.name: task for task in read_bench_tasks(setup, places)}
        with open_context(setup, places, cache=arguments.cache) as context:
            for task, draw, value in units:
                members = [name for name, _ in json.loads(value)["members"] if name != "shots_lora"]
                if (task, draw) not in known and members:
                    add_line(arguments.out, record_of(context, tasks[task], draw, members))
    summary(read_lines(arguments.out))


if __name__ == "__main__":
    main()
