"""A benchmark drawn by chance: results as a run would leave them, with known effects."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from merge_advisor.benchmark.values import Arm, Draws, Question, Result, Setup, Tasks, Tuner, Unit, View

FAMILIES = (
    "facts arithmetic bbq puzzles color algorithms reading sentiment nli generation everyday letters grammar ethics"
    " coreference science text_to_code units"
).split()
GAINS = {
    "default": 6.0, "random": 3.0, "anchor_diverse": 4.4, "anchor_random": 3.6, "top_k": 3.1, "text": 4.0,
    "weight_kinship": 2.6, "gradient then shot loss": 5.5,
    "base": 0.0, "majority": 2.0, "majority-oracle": 5.0, "random-adapters": -0.5, "shots_lora": 5.0,
    "best-single-oracle": 9.0,
}  # fmt: skip
"""Points of accuracy over the base, at k = 4."""
ORACLES = ("majority-oracle", "best-single-oracle")
CONTROLS = ("base", "majority", "majority-oracle", "random-adapters", "shots_lora", "best-single-oracle")
COST = {"default": 900, "random": 900, "gradient then shot loss": 420, "shots_lora": 260, "text": 0, "top_k": 260}
VIEWS: tuple[View, ...] = ("own-in", "own-out", "family-out")
SHIFT: dict[View, float] = {"own-in": 8.0, "own-out": 0.0, "family-out": -1.5}


def a_setup(**changes: Any) -> Setup:
    arms = [Arm(name, name.split()[0]) for name in GAINS if name not in CONTROLS]
    arms[0] = Arm("default", "rerank:by=shot_loss", shots_lora=False)
    arms[1] = Arm("random", "random", match="default")
    arms[2] = Arm("anchor_diverse", "anchor_diverse:metric=cosine", tuner=Tuner("cmaes", 40))
    given: dict[str, Any] = {
        "name": "bench-made-up",
        "base": "../base/small",
        "pool": "../pools/made-up",
        "tasks": Tasks("../data/made-up", families="../data/families.json", seen=0.7),
        "arms": tuple(arms),
        "primary": Question("default", "random"),
        "smallest_gain": 1.0,
        "secondaries": (
            Question("default", "shots_lora"), Question("default", "random", "loss"),
            Question("default", "random", view="family-out"), Question("default", "random", view="own-in"),
            Question("anchor_diverse", "anchor_random"), Question("anchor_diverse", "top_k"),
            Question("default", "random-adapters"),
        ),
        "controls": CONTROLS, "views": VIEWS, "k": (1, 2, 4, 8, 20), "draws": Draws(2, 1),
    }  # fmt: skip
    return Setup(**{**given, **changes})


def some_results(
    *,
    families: Sequence[str] = FAMILIES,
    tasks: int = 30,
    views: Sequence[View] = VIEWS,
    ks: Sequence[int] = (1, 2, 4, 8, 20),
    draws: int = 2,
    arms: Sequence[str] = tuple(GAINS),
    seed: int = 0,
) -> list[Result]:
    """All arms on all units: every k in own-out, k = 4 in the other views."""
    draw = random.Random(seed)
    results = []
    for number in range(tasks):
        family = families[number % len(families)]
        task = f"{family}__a_task_of_some_length_{number}" if number % 3 else f"{family}_{number}"
        level, room = draw.uniform(0.1, 0.6), draw.uniform(0.3, 1.7)
        likes = {arm: draw.gauss(0, 2.0) for arm in arms}
        for shot in range(draws):
            unit = Unit(task, family, shot)
            for view in views:
                for k in ks if view == "own-out" else [k for k in ks if k == 4]:
                    for arm in arms:
                        chance = draw.gauss(0, 2.0)
                        results.append(_result(unit, arm, view, k, level, room * (GAINS[arm] + likes[arm]), chance))
    return results


def _result(unit: Unit, arm: str, view: View, k: int, level: float, gain: float, chance: float) -> Result:
    base = arm == "base"
    fewer = {1: 0.55, 2: 0.85, 4: 1.0, 8: 0.95, 20: 0.7}[k]
    points = 0.0 if base else gain * fewer + SHIFT[view] * (arm not in CONTROLS) + chance
    reached = min(max(level + points / 100, 0.0), 1.0)
    labelled = arm.startswith("majority")
    loss = None if labelled else max(0.05, 3.0 - 0.12 * points - level)
    chosen = arm not in CONTROLS
    members = tuple((f"candidate-{number}", 1 / k) for number in range(k)) if chosen else ()
    return Result(
        unit, arm, view, k,
        oracle=arm in ORACLES, members=members, merge=f"{arm}-{k}" if chosen else "", rows=40,
        accuracy=round(reached * 40) / 40, loss=loss,
        valid=1.0 if labelled else min(1.0, 0.6 + level), accuracy_valid=min(1.0, reached / min(1.0, 0.6 + level)),
        predicted=0.12 * points + chance / 20 if chosen else None,
        forwards=COST.get(arm, 0 if base or labelled else 300), seconds=1.5,
    )  # fmt: skip
