"""Samplers against each other at equal budget, `auto`'s two switch points, and `delta` as a first stage.

    python scripts/bench/samplers.py --base BASE --pool POOL --tasks DIR --out FILE [--units 6] [--summary]

POOL and DIR as for tuning.py beside it. A unit is a task (one of each family in turn): 8 adapters drawn from other
families, 10 tuning rows and the held-out rows from the last 30% of the file. Every arm begins with the starts of `tune`
around equal weights whose scale was searched as `plan` does it (8 losses at most, not counted: all arms have it),
spends at most 400 forwards (a backward pass is two) and ends in the winner rule.

    delta+gradient    half of the budget on the objective `delta` (cmaes, 5 forwards a trial and no row), then
                      `gradient` with the best three of these as further starts
    auto:steps=S      S gradient trials, then what `auto` asks without a gradient (`cmaes` when it was measured)

Reported: the least tuning loss after 100, 200 and 400 forwards, and the winner's held-out loss, both as the share of
the start's that is left. A line per unit and arm is appended at once, and those that are there are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, options, parsed, read_lines
from tuning import tasks_of

from merge_advisor import registry
from merge_advisor.advisor.measuring.deltas import take_deltas
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.measuring.shots_lora import Shots, finetune_on_shots, target_parameters
from merge_advisor.advisor.searching.problem import RowLossProblem, TaskDelta, make_problem
from merge_advisor.machine_options import Machine
from merge_advisor.options import FinetuneSettings
from merge_advisor.select.weight_rule import line_search
from merge_advisor.tasks import read_rows
from merge_advisor.tuning import Point, SearchSpace, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import MeanGoal
from merge_advisor.tuning.settings import Budget, SearchSettings, start_points
from merge_advisor.tuning.winner import choose_winner

MEMBERS, TUNING, HELDOUT, FORWARDS = 8, 10, 40, 400
LOOKS = (100, 200, 400)
ARMS = (
    "gradient", "auto:steps=4", "auto:steps=8", "auto:steps=16", "cmaes", "tpe", "gp", "random", "delta+gradient",
)  # fmt: skip


def main() -> None:
    """Measure what is missing, print the summary."""
    parser = options(__doc__)
    parser.add_argument("--units", type=int, default=6)
    arguments = parsed(parser)
    done = read_lines(arguments.out)
    if not arguments.summary:
        families = json.loads((arguments.tasks / "families.json").read_text())
        machine = Machine(dtype=arguments.dtype, threads=1)
        with open_session(arguments.base, arguments.pool, template="alpaca", machine=machine) as session:
            for task in tasks_of(session, families, arguments.units):
                unit = Unit(session, arguments.tasks / f"{task}.jsonl", families)
                for arm in ARMS:
                    if not any((line["task"], line["arm"]) == (task, arm) for line in done):
                        found = unit.measure(arm)
                        done.append(found)
                        add_line(arguments.out, found)
    summarise(done)


class Unit:
    """A task with its members and rows."""

    def __init__(self, session: Session, path: Path, families: dict[str, str]) -> None:
        rng = np.random.default_rng([11, *path.stem.encode()])
        others = [c for c in session.pool.candidates if families.get(c.id) != families[path.stem]]
        self.session, self.task = session, path.stem
        self.members = [others[i] for i in sorted(rng.choice(len(others), MEMBERS, replace=False))]
        rows = read_rows(path).rows
        unseen = [rows[i] for i in int(0.7 * len(rows)) + rng.permutation(len(rows) - int(0.7 * len(rows)))]
        self.rows, self.kept = unseen[:TUNING], unseen[TUNING : TUNING + HELDOUT]
        self.problem = RowLossProblem(session.meter, self.members, self.rows, (0,) * TUNING)
        self.start = Point((self._scale() / MEMBERS,) * MEMBERS, "exact")

    def _scale(self) -> float:
        def loss_at(scale: float) -> float:
            return float(np.mean(self.problem.losses(Point((scale / MEMBERS,) * MEMBERS, "exact"), range(TUNING))))

        return line_search(loss_at, MEMBERS, 8)[0]

    def measure(self, arm: str) -> dict[str, Any]:
        """Run an arm."""
        space = SearchSpace(self.start)
        known = list(start_points(space, MEMBERS))
        spent = 0
        if arm == "delta+gradient":
            best, spent = self._by_delta(space)
            known += [(f"delta {number}", point) for number, point in enumerate(best)]
        name = arm.partition("+")[2] or arm
        trials = search(
            self.problem, space, registry.build("sampler", name),
            SearchSettings(MeanGoal(), Budget(forwards=FORWARDS - spent), seed=0, starts=known),
        ).trials  # fmt: skip
        every = range(TUNING)
        won = choose_winner(trials, self.problem.tasks, lambda point: self.problem.losses(point, every), seed=0)
        heldout = RowLossProblem(self.session.meter, self.members, self.kept, (0,) * len(self.kept))
        losses = {name: float(np.mean(heldout.losses(p, range(len(self.kept))))) for name, p in
                  (("start", self.start), ("won", won.point))}  # fmt: skip
        return {
            "task": self.task, "arm": arm, "start": _least(trials[:1], FORWARDS), "heldout": losses,
            "least": {str(look): _least(trials, look - spent) for look in LOOKS}, "trials": len(trials),
        }  # fmt: skip

    def _by_delta(self, space: SearchSpace) -> tuple[list[Point], int]:
        """The three merges whose deltas are nearest to the task's, and what finding them cost without the finetune."""
        session = self.session
        targets = target_parameters(session.local, self.members)
        lora = finetune_on_shots(
            session.model, session.memo, session.cache, Shots(tuple(self.rows)), targets, FinetuneSettings(), 0
        )  # fmt: skip
        delta = take_deltas(session.meter, "delta_activations", [lora.candidate]).deltas.array[0]
        problem = make_problem(session.meter, self.members, self.rows, (0,) * TUNING, "delta", task=TaskDelta(delta))
        found = search(
            problem, replace(space, smooth=False), registry.build("sampler", "cmaes"),
            SearchSettings(
                MeanGoal(), Budget(forwards=FORWARDS // 2), 0, starts=start_points(space, MEMBERS), racing=None
            ),
        ).trials  # fmt: skip
        ranked = sorted(found, key=lambda trial: (trial.values[0], trial.number))
        return [trial.point for trial in ranked[:3]], sum(trial.forwards for trial in found)


def _least(trials: Sequence[Trial], forwards: int) -> float | None:
    """Least mean loss of the trials on all rows that fit into a budget; None where none does."""
    spent, found = 0, []
    for trial in trials:
        spent += trial.forwards
        if spent <= forwards and trial.whole:
            found.append(float(np.mean([loss for loss in trial.losses if loss is not None])))
    return min(found, default=None)


def summarise(lines: list[dict[str, Any]]) -> None:
    """Print the shares of the start's loss that are left, mean over tasks that have all arms."""
    whole = [
        t for t in dict.fromkeys(line["task"] for line in lines) if sum(x["task"] == t for x in lines) == len(ARMS)
    ]
    print(f"{len(whole)} tasks; share of the start's loss that is left, geometric mean over tasks")
    print("arm             " + "".join(f"  {look:>4}" for look in LOOKS) + "  held-out  ahead of gradient on")
    by = {(line["task"], line["arm"]): line for line in lines}
    for arm in ARMS if whole else ():
        shares = []
        for look in LOOKS:
            ratios = [
                (by[task, arm]["least"][str(look)] or by[task, arm]["start"]) / by[task, arm]["start"] for task in whole
            ]
            shares.append(float(np.exp(np.mean(np.log(ratios)))))
        kept = {task: by[task, arm]["heldout"]["won"] / by[task, arm]["heldout"]["start"] for task in whole}
        rival = {task: by[task, "gradient"]["heldout"]["won"] / by[task, arm]["heldout"]["start"] for task in whole}
        ahead = sum(kept[task] < rival[task] - 1e-9 for task in whole)
        print(f"{arm:16}" + "".join(f"  {share:.2f}" for share in shares)
              + f"      {np.exp(np.mean(np.log(list(kept.values())))):.2f}  {ahead} of {len(whole)}")  # fmt: skip


if __name__ == "__main__":
    main()
