"""Seconds of our scorer against lm-eval over the same rows, in turns within one run, and whether they agree.

    python scripts/bench/scorer_speed.py --base BASE [--adapter FOLDER] [--task FILE] [--rows 40] [--rounds 3]

Rows are the demo's: with four choices each (outputs of other rows), and free for exact match; with --task those of a
file that have choices, for accuracy alone. Both ways hold the model in memory and run it by `responses`; `LmEval` then
has lm-eval decide. `row_values` is what a tuner asks for: one metric per row, no texts. Prints medians of the ratios by
round, of seconds on the clock and of CPU time, which other work on a machine disturbs less.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from merge_advisor import templates
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.evaluators.fast import Fast, row_values
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.tasks import read_rows
from merge_advisor.types import Row
from merge_advisor.weights.adapter import read_adapter

TASK = Path(__file__).parents[2] / "recipes" / "demo" / "tasks" / "mixed.jsonl"


def rows_of(number: int) -> tuple[list[Row], list[Row]]:
    """The task's rows, and the same with four choices."""
    free = list(read_rows(TASK).rows[:number])
    answers = list(dict.fromkeys(row.output for row in free))
    choices = []
    for row in free:
        at = answers.index(row.output)
        choices.append(Row(row.input, row.output, tuple(answers[(at + step) % len(answers)] for step in range(4))))
    return free, choices


def ways(backbone: Backbone, rows: list[Row], metric: str) -> dict[str, Callable[[], Any]]:
    """What is timed, lm-eval first; its tasks are prepared by the warm-up, as they are in a plan."""
    template, theirs, ours = templates.get("alpaca"), LmEval(), Fast()
    model, tokenizer = backbone.model, backbone.tokenizer
    return {
        "lm-eval": lambda: theirs.score(model, tokenizer, rows, template, label="it", metric=metric),
        "fast": lambda: ours.score(model, tokenizer, rows, template, label="it", metric=metric),
        "row_values": lambda: row_values(backbone, rows, template, metric),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--task", type=Path)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.base, threads=arguments.threads)
    shapes = backbone.shapes
    place = placed(backbone, read_adapter(arguments.adapter, shapes)) if arguments.adapter else nullcontext()
    measured = [("accuracy", rows_of(arguments.rows)[1]), ("exact_match", rows_of(arguments.rows)[0])]
    if arguments.task:
        found = [row for row in read_rows(arguments.task).rows if row.choices]
        measured = [("accuracy", found[: arguments.rows])]
    print(f"{datetime.date.today()}, {platform.machine()}, {arguments.threads} threads, {arguments.rows} rows")
    with place:
        for metric, rows in measured:
            compare(ways(backbone, rows, metric), metric, arguments.rounds)


def compare(timed: dict[str, Callable[[], Any]], metric: str, rounds: int) -> None:
    """Time the ways in turns and print their ratios to the first."""
    theirs, ours, values = (way() for way in timed.values())  # warm-up, and the answers
    same = theirs.outputs == ours.outputs and theirs.rows[metric] == ours.rows[metric] == tuple(values)
    far = max(abs(a - b) / a for a, b in zip(theirs.rows["loss"], ours.rows["loss"], strict=True))
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, way in timed.items():
            wall, work = time.perf_counter(), time.process_time()
            way()
            took[name].append((time.perf_counter() - wall, time.process_time() - work))
    for name, seconds in took.items():
        parts = [f"{metric:12s}{name:11s}{statistics.median(wall for wall, _ in seconds):7.2f} s"]
        for what, at in (("clock", 0), ("CPU", 1)):
            ratios = [a[at] / b[at] for a, b in zip(seconds, took["lm-eval"], strict=True)]
            parts.append(f"{what} {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        print(", ".join(parts), flush=True)
    print(f"{metric:12s}same decisions and outputs: {same}, losses within {far:.1e}", flush=True)


if __name__ == "__main__":
    main()
