"""Choosing members and weights: a strategy on the evidence, then one weight rule for all strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.advisor.measuring.deltas import cosine
from merge_advisor.advisor.planning.choosing_losses import ChoosingLosses
from merge_advisor.errors import SpecError
from merge_advisor.merges import WeightedMerge
from merge_advisor.select.evidence import Evidence
from merge_advisor.select.interference import interference
from merge_advisor.select.run_strategy import run_strategy
from merge_advisor.select.weight_rule import line_search, weights_direction
from merge_advisor.types import RESIDUAL, SHOTS_LORA, Candidate, Member, Role, Selection

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.pool_weights import PoolWeights
    from merge_advisor.arrays import Float32Array
    from merge_advisor.select.evidence import Resource

LORA_SHARES = (0.25, 0.5, 0.75)
"""Shares of the direction that `shots_lora` is offered beside the chosen members."""
SEARCH, LORA_SEARCH = 8, 6
"""Losses measured at most for the one global scale, and for that of the members with `shots_lora`."""
LORA_LOSSES = 1 + len(LORA_SHARES) + LORA_SEARCH
"""Losses measured at most to say whether `shots_lora` joins: without it, at each share, at each scale."""


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """How to choose.

    >>> ChoiceRequest("top_k", k=2).composition
    'exact'
    """

    strategy: str
    """Spec of the strategy."""
    k: int
    """Members of the pool at most."""
    composition: str = "exact"
    """Spec of the composition of the merge."""
    anchor: str | None = None
    """Id of the anchor the user demands; it is one of the candidates."""
    seed: int = 0
    """The strategy's randomness."""
    search: int = SEARCH
    """Losses measured at most for the global scale, 2 or more; 0: the scale is 1, and nothing is measured."""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenMerge:
    """What was chosen: how it is reported, and the merge itself.

    >>> ChosenMerge(Selection("random", (), 1.0, "k reached", 0), WeightedMerge(), frozenset({"rng"})).used
    frozenset({'rng'})
    """

    selection: Selection
    merge: WeightedMerge
    """The members and their weights, in the order of the selection."""
    used: frozenset[Resource]
    """What the strategy used, see `Choice.used`."""


@dataclass(frozen=True, slots=True)
class _Weighted:
    """A merge on the way to the choice: a direction whose weights sum to 1, times a scale."""

    candidates: tuple[Candidate, ...]
    direction: tuple[float, ...]
    composition: str
    scale: float = 1.0

    @property
    def merge(self) -> WeightedMerge:
        """The merge at this scale."""
        weights = (self.scale * part for part in self.direction)
        return WeightedMerge(tuple(zip(self.candidates, weights, strict=True)), self.composition)


def choose_merge(
    request: ChoiceRequest,
    candidates: Sequence[Candidate],
    deltas: Float32Array,
    task_delta: Float32Array | Callable[[], Float32Array],
    losses: ChoosingLosses,
    *,
    shots_lora: Candidate | None = None,
    judging: ChoosingLosses | None = None,
) -> ChosenMerge:
    """Return what a strategy chooses, with `shots_lora` where it lowers the loss, and the weights set.

    Args:
        request: strategy, k, composition, anchor, seed.
        candidates: n candidates, sorted by id.
        deltas: (n, d) float32, their deltas.
        task_delta: (d,) float32; or what makes it, called once where the strategy uses it, else never (the members
            then have no similarity).
        losses: loss on the choosing rows.
        shots_lora: the LoRA of the shots, or None to leave it out.
        judging: loss on rows that the LoRA of the shots was not finetuned on, which say whether it joins and at which
            scale; None: `losses` is that.

    Raises:
        SpecError: unknown strategy or parameter, or a strategy that does not say what it used.
        MergeAdvisorError: whatever making the task delta raises.
    """
    # making it may cost a finetune: once, and only if it is looked at
    make_delta = cache(task_delta if callable(task_delta) else lambda: task_delta)
    choice = run_strategy(request.strategy, _evidence(request, candidates, deltas, make_delta, losses), request.k)
    picked = tuple(candidates[pick.position] for pick in choice.picks)
    chosen = _Weighted(picked, weights_direction(choice), request.composition)
    if request.search:
        chosen = _scaled(losses, chosen, request.search)[0]
    stopped, gains = choice.stopped, [pick.gain for pick in choice.picks]
    if shots_lora is not None:
        judging = judging or losses
        alone = judging.of(chosen.merge)  # on the same rows as what it is compared with
        try:
            joined, loss = _with_lora(judging, chosen, shots_lora)
        except SpecError as error:  # another rank than the pool's, under a composition that adds factors
            stopped += f"; {SHOTS_LORA} cannot join: {error}"
        else:
            if loss < alone:
                chosen, gains = joined, [*gains, alone - loss]
                stopped += f"; {SHOTS_LORA} lowers the loss and joins"
    similarity: dict[str, float] = {SHOTS_LORA: 1.0}  # its delta is the task's
    if not callable(task_delta) or "task_delta" in choice.used:
        similarity |= dict(zip([c.id for c in candidates], cosine(deltas, make_delta()).tolist(), strict=True))
    members = members_of(chosen.merge, losses.meter.weights, gains, similarity)
    forwards = losses.forwards + (judging.forwards if judging not in (None, losses) else 0)
    selection = Selection(request.strategy, members, chosen.scale, stopped, forwards)
    return ChosenMerge(selection, chosen.merge, choice.used)


def _evidence(
    request: ChoiceRequest,
    candidates: Sequence[Candidate],
    deltas: Float32Array,
    task_delta: Callable[[], Float32Array],
    losses: ChoosingLosses,
) -> Evidence:
    ids = tuple(c.id for c in candidates)

    def merge(weights: Mapping[int, float]) -> WeightedMerge:
        # "exact" whatever the final composition is: strategies compare selections, and their gains are those of sums
        return WeightedMerge(tuple((candidates[position], weight) for position, weight in weights.items()))

    def shot_loss(weights: Mapping[int, float], share: float = 1.0) -> float:
        return losses.of(merge(weights), share)

    def gradient_gain(weights: Mapping[int, float], share: float = 1.0) -> Float32Array:
        return losses.gains(candidates, merge(weights), share)

    return Evidence(
        ids=ids,
        deltas=deltas,
        task_delta=task_delta,
        texts=tuple(f"{c.id} {c.description}" for c in candidates),
        query="\n".join(f"{row.input} {row.output}" for row in losses.rows),
        rows=len(losses.rows),
        rng=np.random.default_rng(request.seed),
        anchor=None if request.anchor is None else ids.index(request.anchor),
        shot_loss=shot_loss,
        gradient_gain=gradient_gain,
        weights_of=lambda position: losses.meter.weights.of(candidates[position]),
    )


def _scaled(losses: ChoosingLosses, chosen: _Weighted, budget: int) -> tuple[_Weighted, float]:
    """The merge at the best global scale along its direction, by line search on the choosing rows; and its loss."""
    scale, loss, _ = line_search(
        lambda scale: losses.of(replace(chosen, scale=scale).merge), len(chosen.candidates), budget
    )
    return replace(chosen, scale=scale), loss


def _with_lora(losses: ChoosingLosses, chosen: _Weighted, lora: Candidate) -> tuple[_Weighted, float]:
    """The best of a few shares for `shots_lora` beside the members, and its loss.

    The shares are compared at full strength of the pair, the scale is then searched for the best of them alone.
    """

    def mixed(share: float) -> _Weighted:
        direction = (*(part * (1 - share) for part in chosen.direction), share)
        return _Weighted((*chosen.candidates, lora), direction, chosen.composition)

    def loss_of(share: float) -> float:
        return losses.of(replace(mixed(share), scale=2).merge)  # at ½ each, both at full strength

    # the share first and its scale after: a grid of both would cost a loss for each pair
    share = min(LORA_SHARES, key=lambda part: (loss_of(part), part))
    return _scaled(losses, mixed(share), LORA_SEARCH)


def members_of(
    merge: WeightedMerge, weights: PoolWeights, gains: Sequence[float | None], similarity: Mapping[str, float]
) -> tuple[Member, ...]:
    """Return a merge's members as they are reported.

    Args:
        merge: the merge.
        weights: of its candidates.
        gains: (k,) of each member, None where nothing measured it.
        similarity: cosine of each candidate's delta with the task's, by id.
    """
    clashes = interference([weights.of(candidate) for candidate in merge.candidates], merge.weights)
    return tuple(
        Member(
            id=candidate.id,
            fingerprint=candidate.fingerprint,
            kind=candidate.kind,
            source=candidate.source,
            revision=candidate.revision,
            licence=candidate.licence,
            role=_role(number, candidate.id),
            weight=float(weight),
            similarity=similarity.get(candidate.id),
            gain=None if gain is None else float(gain or 0.0),  # no -0.0 in files
            interference=clash,
        )
        for number, ((candidate, weight), gain, clash) in enumerate(zip(merge.members, gains, clashes, strict=True))
    )


def _role(number: int, name: str) -> Role:
    """A LoRA of the shots that joins is a partner, as it always was; what was trained on top is not, nor one alone."""
    if name == RESIDUAL or (name == SHOTS_LORA and number == 0):
        return "trained"
    return "partner" if number else "anchor"
