"""The controls of every table: what a strategy has to beat before it is worth anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from merge_advisor.advisor.planning.choosing import ChoiceRequest, choose_merge
from merge_advisor.advisor.planning.choosing_losses import ChoosingLosses
from merge_advisor.benchmark.running.context import seed_of
from merge_advisor.benchmark.running.task_draw import ResultPlace, TaskDraw, answered
from merge_advisor.benchmark.values import Result
from merge_advisor.evaluators.metrics import majority_score
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.tasks import majority
from merge_advisor.types import ICL, SHOTS_LORA, ChooseBy
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta, digest_of_delta, inner

ControlRunner = Callable[[TaskDraw, ResultPlace], Result]


def run_control(draw: TaskDraw, place: ResultPlace) -> Result:
    """Return the result of a control on one unit; one that depends on neither view nor k is the same in all of them.

    Args:
        draw: the task and its shots.
        place: unit, name of the control, view and k.

    Raises:
        MergeAdvisorError: whatever finetuning, merging or scoring refuses.
    """
    return CONTROL_RUNNERS[place.arm](draw, place)


def _base(draw: TaskDraw, place: ResultPlace) -> Result:
    """The base as it is."""
    return draw.result(place, WeightedMerge(), by=None)


def _icl(draw: TaskDraw, place: ResultPlace) -> Result:
    """The base with the rows learned from in its prompt; nothing is spent on choosing, each answer costs the prompt."""
    shown, score = draw.in_context()
    return replace(draw.scored(place, score, digest_of(shown.model.key)), reason=shown.note)


def _shots_lora(draw: TaskDraw, place: ResultPlace) -> Result:
    """The LoRA finetuned on the shots, alone; on rows it was trained on it would promise too much."""
    by: ChooseBy | None = "auto" if draw.task.tuning else None
    merge = WeightedMerge(((draw.shots_lora.candidate, 1.0),))
    return draw.result(place, merge, forwards=draw.finetune_forwards, by=by)


def _majority(draw: TaskDraw, place: ResultPlace) -> Result:
    """Always the commonest answer: of the rows learned from, or (an oracle) of the held-out ones."""
    oracle = place.arm == "majority-oracle"
    answer = majority(draw.rows.heldout if oracle else (*draw.task.shots, *draw.task.tuning))
    score = majority_score(
        draw.rows.heldout, answer, draw.rows.metric, exact_match=draw.context.setup.exact_match
    )  # fmt: skip
    return Result(
        place.unit, place.arm, place.view, place.k, oracle, reason=f"always {answer!r}"[:80],
        merge=digest_of(["label", answer]), loss=None, **answered(draw.rows, score),
    )  # fmt: skip


def _best_single(draw: TaskDraw, place: ResultPlace) -> Result:
    """The candidate of the best held-out accuracy, of equals the one of least loss."""
    candidates, _ = draw.in_view(place.view)
    scores = draw.singles(candidates)
    best = min(candidates, key=lambda c: (-scores[c.id][0], scores[c.id][1], c.id))
    return draw.result(place, WeightedMerge(((best, 1.0),)), oracle=True)


def _random_adapters(draw: TaskDraw, place: ResultPlace) -> Result:
    """As many random candidates as k, every factor of them redrawn at the size its update had; the one weight rule."""
    meter, unit = draw.context.meter, place.unit
    candidates, deltas = draw.in_view(place.view)
    seed = seed_of(draw.context.setup.seed, draw.task.name, unit.shot_draw, unit.selection_draw, place.arm)
    rng = np.random.default_rng(seed)
    twins, made = [], {}
    for position in rng.permutation(len(candidates))[: place.k]:
        weights = redrawn(meter.weights.of(candidates[position]), rng)
        fingerprint = digest_of_delta(weights)
        made[fingerprint] = weights
        twins.append(replace(candidates[position], id=f"random {candidates[position].id}", fingerprint=fingerprint))
    meter = replace(meter, weights=meter.weights.with_made(made))
    request = ChoiceRequest("random", len(twins), seed=unit.selection_draw)
    nothing = np.zeros_like(deltas[: len(twins)])  # they have no deltas, and random looks at none
    chosen = choose_merge(request, twins, nothing, nothing[0], ChoosingLosses(meter, [draw.task.choosing]))
    # scored through a meter that knows the made weights: they are in no file
    twin_draw = TaskDraw(replace(draw.context, meter=meter), draw.rows, draw.number)
    return twin_draw.result(place, chosen.merge, forwards=chosen.selection.forwards)


def redrawn(delta: WeightDelta, rng: np.random.Generator) -> dict[str, Update]:
    """Return Gaussian weights, factors for factors; of each parameter the update has the shape and norm it had.

    Args:
        delta: the weights to be redrawn.
        rng: draws them.
    """
    twin: dict[str, Update] = {}
    for name in sorted(delta):
        update = delta[name]
        new: Update
        if isinstance(update, LowRankUpdate):
            a, b = (rng.normal(size=factor.shape).astype(np.float32) for factor in (update.a, update.b))
            new = LowRankUpdate(a, b, 1.0, update.transposed)
        else:
            new = DenseUpdate(rng.normal(size=update.array.shape).astype(np.float32))
        twin[name] = new.times(float(np.sqrt(inner(update, update) / inner(new, new))))
    return twin


CONTROL_RUNNERS: dict[str, ControlRunner] = {
    "base": _base,
    "best-single-oracle": _best_single,
    ICL: _icl,
    "majority": _majority,
    "majority-oracle": _majority,
    "random-adapters": _random_adapters,
    SHOTS_LORA: _shots_lora,
}
"""Every control by its name."""
