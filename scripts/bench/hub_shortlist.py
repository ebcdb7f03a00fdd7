"""Would a shortlist by delta and text have held what the whole pool was chosen from? From results that are kept.

    python scripts/bench/hub_shortlist.py --results eval/bigbench/results.sqlite --tasks ../shared/data/bigbench \
        --pool ../shared/pool-bigbench

Of each task and draw of a benchmark, the members that `default` (rerank) chose with the whole pool open are looked for
among the first N by the task's delta (the arm `top_k` with the largest k), by text (TF-IDF of names against 40 rows of
the task, as strategy `text`), and by both in turn, as a hub's shortlist takes them. Random is N of the pool.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from merge_advisor.select.evidence import Evidence
from merge_advisor.select.ranking import ranked
from merge_advisor.select.text import text_similarity

SIZES = (5, 10, 15, 20)
EVERY = (2, 3, 4, 8, 0)
"""One place in so many goes to the text; 0: none."""


def members(value: dict[str, Any]) -> list[str]:
    """Ids of the pool's members, in the order they were chosen."""
    return [name for name, _ in value.get("members", []) if name != "shots_lora"]


def by_text(task: str, ids: list[str], tasks: Path) -> list[str]:
    """All candidates by how like their names are to the task's first rows."""
    lines = (tasks / f"{task}.jsonl").read_text().splitlines()[:40]
    rows = [json.loads(line) for line in lines]
    query = "\n".join(f"{row['input']} {row['output']}" for row in rows)
    none = np.zeros((len(ids), 0))
    scores = text_similarity(Evidence(tuple(ids), none, lambda: np.zeros(0), texts=tuple(ids), query=query))
    return [ids[position] for position in ranked(scores) if scores[position] > 0]


def mixed(first: list[str], second: list[str], every: int, size: int) -> set[str]:
    """So many names from two rankings, one in `every` from the second."""
    taken: list[str] = []
    left = [iter(first), iter(second)]
    turn = 0
    while len(taken) < size and turn < 4 * size:
        turn += 1
        which = 1 if every and turn % every == every // 2 else 0
        name = next((one for one in left[which] if one not in taken), None)
        if name is not None:
            taken.append(name)
    return set(taken)


def main() -> None:
    """Print a line for each rule and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results.sqlite of a benchmark")
    parser.add_argument("--tasks", type=Path, required=True, help="folder of its task files")
    parser.add_argument("--pool", type=Path, required=True, help="folder of its adapters")
    parser.add_argument("--view", default="own-out", help="view of the units that are looked at")
    arguments = parser.parse_args()
    file = sqlite3.connect(f"file:{arguments.results}?mode=ro", uri=True)
    found: dict[tuple[str, int, int, int, str], dict[str, Any]] = {}
    for task, shots, selection, k, arm, value in file.execute(
        "SELECT task, shot_draw, selection_draw, k, arm, value FROM results WHERE status = 'done' AND view = ?",
        [arguments.view],
    ):
        found[task, shots, selection, k, arm] = json.loads(value)
    ids = sorted(path.name for path in arguments.pool.iterdir() if path.is_dir())
    largest = max(key[3] for key in found if key[4] == "top_k")
    units = [key for key in found if key[4] == "default" and key[3] == 4 and (*key[:3], largest, "top_k") in found]
    texts = {task: by_text(task, [name for name in ids if name != task], arguments.tasks) for task, *_ in units}
    chosen = {unit: members(found[unit]) for unit in units}
    total = sum(map(len, chosen.values()))
    print(
        f"{len(units)} units of {len(texts)} tasks, {total} members, pool of {len(ids) - 1}, first {largest} by delta"
    )
    for size in (size for size in SIZES if size <= largest):
        for every in EVERY:
            held = anchors = 0
            for unit in units:
                delta = members(found[*unit[:3], largest, "top_k"])
                named = mixed(delta, texts[unit[0]], every, size)
                held += len(set(chosen[unit]) & named)
                anchors += chosen[unit][0] in named if chosen[unit] else 0
            rule = f"one in {every} by text" if every else "delta alone"
            print(f"{size:3d} {rule:20s} members {held / total:.2f}, anchors {anchors / len(units):.2f}, "
                  f"random {size / (len(ids) - 1):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
