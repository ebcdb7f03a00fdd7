"""What are rows and pool worth, used one way or another? On tasks of families that ideas are tried out on only.

    python scripts/bench/adaptations.py --base BASE --pool POOL --tasks DIR --out eval/adaptations_tried.jsonl
    python scripts/bench/adaptations.py --out eval/adaptations_tried.jsonl --summary

Of each task 12 shots, 8 tuning rows that stop the finetune (or `--rows`), and 40 held-out rows from the last 30% of its
file; its own adapter is out of the pool. Each adaptation is one finetune (`folds=0`); `--arms` knows beside the default
ones "shots:folds=2", "icl on half the merge" and "icl on the cross-fitted shots". A line for each task and arm holds
that rows are judged by, row by row, of the held-out and of the tuning rows. `--summary` prints what `auto` believes of
each (`merge_advisor/adapt/experience.py`): gain over `shots`, its spread over tasks without the noise of rows, and by
how much more the tuning rows promised.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, options, parsed, read_lines

from merge_advisor.advisor.measuring.in_context import in_context
from merge_advisor.advisor.measuring.meter import ScoredModel
from merge_advisor.advisor.measuring.model_scores import score_models
from merge_advisor.arrays import Float64Array
from merge_advisor.benchmark.running.arms import adapt_arm, choose_members
from merge_advisor.benchmark.running.context import open_context
from merge_advisor.benchmark.running.rows import read_bench_tasks
from merge_advisor.benchmark.running.task_draw import ResultPlace, TaskDraw
from merge_advisor.benchmark.setup import SetupPlaces
from merge_advisor.benchmark.values import Arm, Question, Setup, Tasks, Unit
from merge_advisor.machine_options import Machine
from merge_advisor.merges import WeightedMerge

TASKS = (
    "cs_algorithms__lcs", "cs_algorithms__valid_parentheses", "operators", "list_functions__03_shot_baseline",
    "bbq_lite_json__ses_ambig", "winowhy", "goal_step_wikihow__goal_inference", "social_iqa", "gem__common_gen",
    "word_unscrambling",
)  # fmt: skip
REFERENCE = "shots:folds=0,scaled=false"
ADAPTATIONS = (
    REFERENCE, "shots:folds=0,scaled=false,choices=0", "shots:folds=0,scaled=false,rate=0.5",
    "shots:folds=0,scaled=false,rate=0.25", "continue:folds=0", "continue:folds=0,rate=0.25", "basis:folds=0,form=core",
    "basis:folds=0,form=prior", "basis:folds=0,form=prior,shrinkage=0.1",
    "basis:folds=0,form=prior,shrinkage=0.5,rate=2", "basis:folds=0,form=prior,start=merge",
)  # fmt: skip
CROSS_FITTED = "shots:folds=2"
ARMS = ("base", "icl", "merge", "icl on the merge", *ADAPTATIONS)


class TaskRows:
    """One task: its draw, the chosen merge, and how a model does on its rows."""

    def __init__(self, draw: TaskDraw) -> None:
        self.draw, self.task = draw, draw.task
        rows = (*self.task.shots, *self.task.tuning, *self.task.heldout)
        self.kind = "choices" if all(row.choices for row in rows) else "loss"
        self._merge: WeightedMerge | None = None

    @property
    def place(self) -> ResultPlace:
        """The one unit."""
        return ResultPlace(Unit(self.task.name, "", self.draw.number), "default", "own-out", 4)

    @property
    def merge(self) -> WeightedMerge:
        """What the default strategy chooses."""
        if self._merge is None:
            self._merge = choose_members(self.draw, Arm("default", "rerank"), self.place).merge
        return self._merge

    def judged(self, model: ScoredModel) -> dict[str, Any]:
        """Losses of held-out and tuning rows, and the share answered rightly."""
        found: dict[str, Any] = {}
        for name, rows in (("heldout", self.task.heldout), ("tuning", self.task.tuning)):
            score = score_models(self.draw.context.meter, [model], rows, self.draw.rows.metric, evaluator="fast")[0]
            found[name] = [round(float(value), 4) for value in score.rows[self.kind]]
            if name == "heldout":
                found["accuracy"] = round(score.metrics[self.draw.rows.metric], 4)
        return found

    def adapted(self, adaptation: str) -> WeightedMerge:
        """What an adaptation makes."""
        return adapt_arm(self.draw, Arm(adaptation, "rerank", adaptation=adaptation), self.place)[0].model.merge

    def measured(self, arm: str) -> dict[str, Any]:
        """What an arm comes to."""
        if arm in (*ADAPTATIONS, CROSS_FITTED):
            return self.judged(ScoredModel(arm, self.adapted(arm)))
        if arm == "icl on the cross-fitted shots":
            merge = self.adapted(CROSS_FITTED)
        elif arm == "icl on half the merge":
            merge = replace(self.merge, members=tuple((one, weight / 2) for one, weight in self.merge.members))
        else:
            merge = WeightedMerge() if arm in ("base", "icl") else self.merge
        model = ScoredModel(arm, merge)
        if arm.startswith("icl"):
            shown = in_context(self.draw.context.meter, self.task, self.task.heldout, self.draw.rows.metric, "fast")
            # the tuning rows are among the examples: what they promise is no promise
            return self.judged(replace(shown.model, merge=merge)) | {"tuning": []}
        return self.judged(model)


def main() -> None:
    """Measure what is missing, or print what is there."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", default=list(TASKS), help="tasks")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), help="arms")
    parser.add_argument("--rows", type=int, nargs=2, default=(12, 8), metavar="N", help="shots and tuning rows")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parsed(parser)
    if not arguments.summary:
        measure(arguments.out, arguments)
    print(summary(read_lines(arguments.out)))


def measure(out: Path, arguments: Any) -> None:
    """Append a line for each task and arm that has none."""
    shots, tuning = arguments.rows
    only = tuple(sorted(arguments.only))
    tasks = Tasks(str(arguments.tasks), only=only, seen=0.7, shots=shots, tuning=tuning, heldout=40)
    arms = (Arm("default", "rerank"), Arm("random", "random", match="default"))
    setup = Setup("adaptations", arguments.base, str(arguments.pool), tasks, arms, Question("default", "random"), 1.0)
    families = arguments.tasks / "families.json"
    places = SetupPlaces(arguments.base, str(arguments.pool), str(arguments.tasks), families)
    done = {(line["task"], line["arm"]) for line in read_lines(out)}
    with open_context(setup, places, machine=Machine(dtype=arguments.dtype, threads=arguments.threads)) as context:
        for task in read_bench_tasks(setup, places):
            rows = TaskRows(TaskDraw(context, task, 0))
            for arm in arguments.arms:
                if (task.name, arm) not in done:
                    begun = time.perf_counter()
                    found = rows.measured(arm)
                    line = {"task": task.name, "family": task.family, "arm": arm, "judged by": rows.kind, **found}
                    add_line(out, line | {"seconds": round(time.perf_counter() - begun, 1)})


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """A table of gains over one LoRA of the shots, arm by arm."""
    by_arm: dict[str, dict[str, dict[str, Any]]] = {}
    for line in lines:
        by_arm.setdefault(line["arm"], {})[line["task"]] = line
    reference = by_arm[REFERENCE]
    text = ["| arm | tasks | gain, nats (se) | spread | promised too much | won |", "|---|---|---|---|---|---|"]
    for arm in [arm for arm in ARMS if arm in by_arm and arm != REFERENCE]:
        pairs = [(by_arm[arm][task], reference[task]) for task in reference if task in by_arm[arm]]
        held = [_differences(one, other, "heldout") for one, other in pairs]
        gains = np.array([differences.mean() for differences in held])
        noise = float(np.mean([differences.var(ddof=1) / len(differences) for differences in held]))
        spread = float(np.sqrt(max(0.0, float(gains.var(ddof=1)) - noise)))
        told = [
            float(_differences(one, other, "tuning").mean()) - gain
            for (one, other), gain in zip(pairs, gains, strict=True)
            if one["tuning"] and other["tuning"]
        ]
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        optimism = f"{np.mean(told):+.3f}" if told else ""
        text.append(
            f"| {arm} | {len(gains)} | {gains.mean():+.3f} ({error:.3f}) | {spread:.3f} | {optimism} |"
            f" {int((gains > 0).sum())} |"
        )
    return "\n".join(text)


def _differences(one: dict[str, Any], other: dict[str, Any], rows: str) -> Float64Array:
    return np.array([theirs - ours for ours, theirs in zip(one[rows], other[rows], strict=True)])


if __name__ == "__main__":
    main()
