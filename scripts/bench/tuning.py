"""Our search against LoraHub's: forwards to the same value of its objective, and held-out rows at equal budget.

    python scripts/bench/tuning.py --base BASE --pool POOL --tasks DIR --out FILE [--seeds 6] [--first 0] [--summary]

POOL holds one adapter a task, named like the task's file in DIR; families.json there names each task's family. A unit
is a task and a seed: 20 adapters drawn from other families, 5 shots and the held-out rows from the last 30% of the file
(the adapters saw the first 70%). Arms, all over the same 20 adapters and 5 shots:

    lorahub   its composition, objective (as its code has it) and search: 40 steps from weights 0, 200 forwards
    same      its composition and objective, searched by `gradient` from equal weights, until it is at lorahub's value;
              1/sqrt(k) each: factors are summed before they are multiplied, so 1/k each would nearly be the base
    ours      composition exact, the loss, as `plan` and `tune` go about it: the scale of equal weights by line search
              (8 losses), then `gradient` from there, then the winner rule; 200 forwards in all
    choices   ours where every row has choices: the same by the error over the choices, which plan and tune go by there

"start" and "trial" are the best start and the best trial of ours, between which the winner rule chooses; "share" is how
far it went. A line per unit is kept at once, and arms that are there are skipped. Losses are nats per token; right
answers are those of the likeliest choice, or of greedy text where there are no choices.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept import options, parsed, read_lines

from merge_advisor import registry
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.searching.problem import ChoiceLossProblem, ErrorProblem, RowLossProblem
from merge_advisor.evaluators.metrics import metric_for
from merge_advisor.machine_options import Machine
from merge_advisor.select.weight_rule import line_search
from merge_advisor.statistics import paired_interval
from merge_advisor.tasks import read_rows
from merge_advisor.tuning import Point, SearchSpace, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import LoraHubGoal, MeanGoal
from merge_advisor.tuning.settings import Budget, SearchSettings
from merge_advisor.tuning.winner import Winner, choose_winner

MEMBERS, SHOTS, STEPS, SCALES = 20, 5, 40, 8


def main() -> None:
    """Measure what is missing, print the summary."""
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=10, help="tasks, the first of each family in turn")
    parser.add_argument("--heldout", type=int, default=40)
    arguments = parsed(parser)
    done = read_lines(arguments.out)
    if not arguments.summary:
        families = json.loads((arguments.tasks / "families.json").read_text())
        machine = Machine(dtype=arguments.dtype)
        with open_session(arguments.base, arguments.pool, template="alpaca", machine=machine) as session:
            tasks = tasks_of(session, families, arguments.count)
            for seed in range(arguments.first, arguments.first + arguments.seeds):
                for task in tasks:
                    unit = Unit(session, arguments.tasks / f"{task}.jsonl", families, seed, arguments.heldout)
                    known = next((found for found in done if (found["task"], found["seed"]) == (task, seed)), None)
                    if known is None:
                        done.append(known := unit.measure())
                    elif not unit.choices or "choices" in known["loss"]:
                        continue
                    if unit.choices:
                        unit.add_choices(known)
                    arguments.out.write_text("".join(json.dumps(found) + "\n" for found in done))
    summarise(done)


def tasks_of(session: Session, families: dict[str, str], count: int) -> list[str]:
    """Tasks with an adapter of their own, family after family in turn."""
    own = [candidate.id for candidate in session.pool.candidates if candidate.id in families]
    turns: list[tuple[int, str]] = []
    for name in sorted(own):
        turns.append((sum(families[other] == families[name] for other in own if other < name), name))
    return [name for _, name in sorted(turns)][:count]


class Unit:
    """A task with a seed: its members, shots and held-out rows."""

    def __init__(self, session: Session, path: Path, families: dict[str, str], seed: int, heldout: int) -> None:
        rng = np.random.default_rng([seed, *path.stem.encode()])
        others = [c for c in session.pool.candidates if families.get(c.id) != families[path.stem]]
        self.session, self.task, self.family, self.seed = session, path.stem, families[path.stem], seed
        self.members = [others[i] for i in sorted(rng.choice(len(others), MEMBERS, replace=False))]
        rows = read_rows(path).rows
        unseen = rows[int(0.7 * len(rows)) :]
        order = rng.permutation(len(unseen))
        self.shots = [unseen[i] for i in order[:SHOTS]]
        self.kept = [unseen[i] for i in order[SHOTS : SHOTS + heldout]]
        self.choices = all(row.choices for row in rows)

    def measure(self) -> dict[str, Any]:
        """Run all arms but `choices`."""
        start, k = time.perf_counter(), MEMBERS
        problem = RowLossProblem(self.session.meter, self.members, self.shots, (0,) * SHOTS)
        zero = SearchSpace(Point((0.0,) * k, "lorahub"))
        theirs = search(
            problem, zero, registry.build("sampler", "lorahub"),
            SearchSettings(LoraHubGoal(SHOTS), Budget(trials=STEPS), self.seed, racing=None),
        ).trials  # fmt: skip
        best = min(theirs, key=lambda trial: trial.values[0])
        spent, reached = forwards_to(problem, best.values[0], k, self.seed)
        winner, trials = tuned(problem, k, self.seed)
        points = {
            "base": zero.start, "uniform": Point((1 / k,) * k, "exact"), "lorahub": best.point,
            "start": next(trial.point for trial in trials if trial.label == winner.reference),
            "trial": min(trials, key=lambda trial: trial.values[0]).point, "ours": winner.point,
        }  # fmt: skip
        return {
            "task": self.task, "family": self.family, "seed": self.seed, "lorahub_value": best.values[0],
            "lorahub_forwards": sum(trial.forwards for trial in theirs), "same_value": reached, "same_forwards": spent,
            "share": winner.share, "seconds": round(time.perf_counter() - start, 1), "heldout": len(self.kept),
            "loss": {name: self._mean(RowLossProblem, point) for name, point in points.items()},
            "accuracy": {name: 1 - self._mean(ErrorProblem, point) for name, point in points.items()},
        }  # fmt: skip

    def add_choices(self, found: dict[str, Any]) -> None:
        """Run `choices`, and add it to what the other arms came to."""
        problem = ChoiceLossProblem(self.session.meter, self.members, self.shots, (0,) * SHOTS)
        point = tuned(problem, MEMBERS, self.seed)[0].point
        found["loss"]["choices"] = self._mean(RowLossProblem, point)
        found["accuracy"]["choices"] = 1 - self._mean(ErrorProblem, point)

    def _mean(self, kind: Any, point: Point) -> float:
        """Mean of a problem's losses over the held-out rows; NaN where only the loss can be measured."""
        asked = {"metric": "accuracy" if self.choices else "exact_match"} if kind is ErrorProblem else {}
        if asked and metric_for(self.kept) == "loss":
            return float("nan")
        problem = kind(self.session, self.members, self.kept, (0,) * len(self.kept), **asked)
        return float(np.mean(problem.losses(point, range(len(self.kept)))))


def forwards_to(problem: RowLossProblem, value: float, k: int, seed: int) -> tuple[int, float]:
    """Forwards that `gradient` needs to reach a value of LoraHub's objective, within LoraHub's budget; and its own."""
    sampler, spent = registry.build("sampler", "gradient"), 0
    history: tuple[Trial, ...] = ()
    space = SearchSpace(Point((k**-0.5,) * k, "lorahub"))
    least = float("inf")
    while spent < STEPS * SHOTS:
        trials: Sequence[Trial] = search(
            problem, space, sampler,
            SearchSettings(LoraHubGoal(SHOTS), Budget(trials=len(history) + 1), seed, racing=None),
        ).trials  # fmt: skip
        history = tuple(trials)
        spent = sum(trial.forwards for trial in history)
        least = min(least, history[-1].values[0])
        if least <= value:
            break
    return spent, least


def tuned(problem: RowLossProblem, k: int, seed: int) -> tuple[Winner, Sequence[Trial]]:
    """What plan and tune make of equal weights over the same adapters and rows, for at most LoraHub's forwards."""
    every = range(SHOTS)

    def at(scale: float) -> Point:
        return Point((scale / k,) * k, "exact")

    scale, _, looked = line_search(lambda scale: float(np.mean(problem.losses(at(scale), every))), k, SCALES)
    known = [("plan", at(scale)), ("uniform", at(1.0)), ("base", at(0.0))]  # the line search looked at all of them
    before = len({point for _, point in known})
    budget = Budget(forwards=(STEPS - looked + before - 1) * SHOTS)  # and one point may be measured in the end
    trials = search(
        problem, SearchSpace(at(scale)), registry.build("sampler", "gradient"),
        SearchSettings(MeanGoal(), budget, seed, starts=known, racing=None),
    ).trials  # fmt: skip
    return choose_winner(trials, problem.tasks, lambda point: problem.losses(point, every), seed=seed), trials


def summarise(units: list[dict[str, Any]]) -> None:
    """Print both tables; intervals over tasks, seeds averaged within."""
    tasks = sorted({unit["task"] for unit in units})
    print(f"{len(units)} units, {len(tasks)} tasks, {sum(u['seconds'] for u in units):.0f} s in all")
    shares = np.array([unit["same_forwards"] / unit["lorahub_forwards"] for unit in units])
    reached = np.array([unit["same_value"] <= unit["lorahub_value"] for unit in units])
    print(f"forwards to LoraHub's value: mean {shares.mean():.3f}x, median {np.median(shares):.3f}x, "
          f"90% {np.quantile(shares, 0.9):.3f}x; reached in {reached.mean():.0%}")  # fmt: skip
    ours = {"loss": "ours", "accuracy": "choices"}  # the arm that made the measure small, where there is one
    for measure, sign in (("loss", -1), ("accuracy", 1)):
        values = [{"choices": unit[measure]["ours"], **unit[measure]} for unit in units]
        for arm in dict.fromkeys(("ours", ours[measure])):
            for rival in ("lorahub", "uniform", "base"):
                gains = []
                for task in tasks:
                    own = [value for unit, value in zip(units, values, strict=True) if unit["task"] == task]
                    found = [sign * (value[arm] - value[rival]) for value in own]
                    gains.append(float(np.nanmean(found)) if np.isfinite(found).any() else float("nan"))
                told = [gain for gain in gains if np.isfinite(gain)]
                if len(told) > 1:
                    mean, low, high = paired_interval(told, counts=False)
                    print(f"{measure}: {arm} better than {rival} by {mean:+.3f} ({low:+.3f} to {high:+.3f}), "
                          f"ahead on {sum(gain > 0 for gain in told)} of {len(told)} tasks")  # fmt: skip
        means = {
            name: np.nanmean([value[name] for value in values])
            for name in ("base", "uniform", "lorahub", "start", "trial", "ours", "choices")
        }
        print(f"{measure}: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))


if __name__ == "__main__":
    main()
