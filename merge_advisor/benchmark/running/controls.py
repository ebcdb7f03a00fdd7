"""The controls of every table: what a strategy has to beat before it is worth anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from merge_advisor.advisor.planning.choosing import ChoosingLosses, choose_merge
from merge_advisor.benchmark.running.arms import TaskDraw, answered, seed_of
from merge_advisor.benchmark.values import Result, Unit, View
from merge_advisor.evaluators.rules import majority_score
from merge_advisor.tasks import majority
from merge_advisor.types import SHOTS_LORA, ChooseBy, digest_of
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, digest_of_delta, inner

ControlRunner = Callable[[TaskDraw, str, Unit, View, int], Result]


def run_control(draw: TaskDraw, name: str, unit: Unit, view: View, k: int) -> Result:
    """Measure a control on one unit; one that depends on neither view nor k is the same in all of them.

    Raises:
        MergeAdvisorError: whatever finetuning, merging or scoring refuses.
    """
    return CONTROL_RUNNERS[name](draw, name, unit, view, k)


def _base(draw: TaskDraw, name: str, unit: Unit, view: View, k: int) -> Result:
    """The base as it is."""
    return draw.result(unit, name, view, k, [], by=None)


def _shots_lora(draw: TaskDraw, name: str, unit: Unit, view: View, k: int) -> Result:
    """The LoRA finetuned on the shots, alone; on rows it was trained on it would promise too much."""
    by: ChooseBy | None = "auto" if draw.task.tuning else None
    return draw.result(unit, name, view, k, [(draw.lora, 1.0)], forwards=draw.finetune_forwards, by=by)


def _majority(draw: TaskDraw, name: str, unit: Unit, view: View, k: int) -> Result:
    """Always the commonest answer: of the rows learned from, or (an oracle) of the held-out ones."""
    oracle = name == "majority-oracle"
    answer = majority(draw.rows.heldout if oracle else (*draw.task.shots, *draw.task.tuning))
    score = majority_score(
        draw.rows.heldout, answer, draw.rows.metric, exact_match=draw.world.setup.exact_match
    )  # fmt: skip
    merge = digest_of(["label", answer])
    found = answered(draw.rows, score)
    return Result(unit, name, view, k, oracle, reason=f"always {answer!r}"[:80], merge=merge, loss=None, **found)


def _best_single(draw: TaskDraw, name: str, unit: Unit, view: View, k: int) -> Result:
    """The candidate of the best held-out accuracy, of equals the one of least loss."""
    candidates, _ = draw.view(view)
    scores = draw.singles(candidates)
    best = min(candidates, key=lambda c: (-scores[c.id][0], scores[c.id][1], c.id))
    return draw.result(unit, name, view, k, [(best, 1.0)], oracle=True)


def _random_adapters(draw: TaskDraw, name: str, unit: Unit, view: View, k: int) -> Result:
    """As many random candidates as k, every factor of them redrawn at the size its update had; the one weight rule."""
    session, setup = draw.world.session, draw.world.setup
    candidates, deltas = draw.view(view)
    rng = np.random.default_rng(seed_of(setup.seed, draw.task.name, unit.shot_draw, unit.selection_draw, name))
    places = rng.permutation(len(candidates))[:k]
    twins = []
    for place in places:
        weights = redrawn(session.weights(candidates[place]), rng)
        twin = replace(candidates[place], id=f"random {candidates[place].id}", fingerprint=digest_of_delta(weights))
        session.made[twin.fingerprint] = weights
        twins.append(twin)
    try:
        losses = ChoosingLosses(session, [draw.task.choosing], "exact")
        nothing = np.zeros_like(deltas[: len(twins)])  # they have no deltas, and random looks at none
        chosen = choose_merge(
            session, "random", len(twins), twins, nothing, nothing[0], losses,
            anchor=None, lora=None, seed=unit.selection_draw,
        )  # fmt: skip
        members = [(chosen.members[member.id], member.weight) for member in chosen.selection.members]
        return draw.result(unit, name, view, k, members, forwards=chosen.selection.forwards)
    finally:
        for twin in twins:
            session.made.pop(twin.fingerprint, None)


def redrawn(delta: WeightDelta, rng: np.random.Generator) -> dict[str, Update]:
    """Gaussian weights, factors for factors; of each parameter the update has the shape and Frobenius norm it had."""
    found: dict[str, Update] = {}
    for name in sorted(delta):
        update = delta[name]
        new: Update
        if isinstance(update, LowRankUpdate):
            a, b = (rng.normal(size=factor.shape).astype(np.float32) for factor in (update.a, update.b))
            new = LowRankUpdate(a, b, 1.0, update.transposed)
        else:
            new = DenseUpdate(rng.normal(size=update.array.shape).astype(np.float32))
        found[name] = new.times(float(np.sqrt(inner(update, update) / inner(new, new))))
    return found


CONTROL_RUNNERS: dict[str, ControlRunner] = {
    "base": _base,
    "best-single-oracle": _best_single,
    "majority": _majority,
    "majority-oracle": _majority,
    "random-adapters": _random_adapters,
    SHOTS_LORA: _shots_lora,
}
"""Every control by its name."""
