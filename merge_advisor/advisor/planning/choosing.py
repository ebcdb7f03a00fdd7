"""Choosing members and weights: a strategy on the evidence, then one weight rule for all strategies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.advisor.measuring.measure import gains_of, loss_kind_of, losses_of
from merge_advisor.advisor.measuring.session import weights_key
from merge_advisor.errors import SpecError
from merge_advisor.select.evidence import Evidence
from merge_advisor.select.interference import interference
from merge_advisor.select.run_strategy import run_strategy
from merge_advisor.select.weight_rule import line_search, weights_direction
from merge_advisor.types import (
    BACKWARD,
    SHOTS_LORA,
    Candidate,
    ChooseBy,
    Interference,
    LossKind,
    Member,
    Row,
    Selection,
    digest_of,
)

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.session import Session
    from merge_advisor.arrays import Float32Array
    from merge_advisor.select.evidence import Resource

LORA_SHARES = (0.25, 0.5, 0.75)
"""Shares of the direction that `shots_lora` is offered beside the chosen members."""
FEWEST_ROWS = 4
"""Choosing rows of a task that are always looked at, however small the share (a loss of fewer is chance)."""
SEARCH, LORA_SEARCH = 8, 6
"""Losses measured at most for the one global scale, and for that of the members with `shots_lora`."""
LORA_LOSSES = 1 + len(LORA_SHARES) + LORA_SEARCH
"""Losses measured at most to say whether `shots_lora` joins: without it, at each share, at each scale."""


@dataclass(eq=False)
class ChoosingLosses:
    """Loss on the choosing rows of every task, with the nominal passes it cost (the choices of a row count as one)."""

    session: Session
    parts: Sequence[Sequence[Row]]
    """The choosing rows, task by task; a task counts as much as another, however many rows it has."""
    composition: str
    by: ChooseBy = "auto"
    """The loss that is meant, for each task by its rows."""
    forwards: int = 0
    _known: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)
    """By merge and row: what is measured once is not paid twice."""

    def __call__(
        self, members: Mapping[str, tuple[Candidate, float]], share: float = 1.0, *, composition: str | None = None
    ) -> float:
        """Mean over tasks of the mean loss over the task's choosing rows, nats per token (or over the choices).

        Args:
            members: by id, the candidate and its weight.
            share: of each task's choosing rows that count, see `first_rows`.
            composition: of the merge, if not the one of these losses.
        """
        composition = composition or self.composition
        weights = weights_key(((c.fingerprint, weight) for c, weight in members.values()), composition)
        means = []
        for rows in self.parts:
            measure = loss_kind_of(rows, self.by)
            known = self._known.setdefault(digest_of([measure, *weights]), {})
            wanted = first_rows(rows, share)
            missing = list({row.digest: row for row in wanted if row.digest not in known}.values())
            if missing:
                self.forwards += len(missing)
                found = losses_of(self.session, missing, members, composition=composition, measure=measure)
                known.update(zip([row.digest for row in missing], found, strict=True))
            means.append(float(np.mean([known[row.digest] for row in wanted])))
        return float(np.mean(means))

    def gains(
        self, candidates: Sequence[Candidate], merge: Mapping[str, tuple[Candidate, float]], share: float = 1.0
    ) -> Float32Array:
        """First-order drop of the mean loss over a share of the choosing rows, (n,), as `measure.gains_of`."""
        parts: dict[LossKind, list[Row]] = {}
        for rows in self.parts:
            parts.setdefault(loss_kind_of(rows, self.by), []).extend(first_rows(rows, share))
        size = sum(map(len, parts.values()))
        self.forwards += BACKWARD * size
        found = np.zeros(len(candidates), np.float32)
        for measure, rows in parts.items():
            part = np.float32(len(rows) / size)
            found += part * gains_of(self.session, rows, candidates, merge, measure=measure)
        return found

    @property
    def rows(self) -> list[Row]:
        """All choosing rows."""
        return [row for part in self.parts for row in part]


def first_rows(rows: Sequence[Row], share: float) -> list[Row]:
    """Return a share of some rows, FEWEST_ROWS at least: those first in the order of their digests, as if shuffled."""
    count = rows_in(share, len(rows))
    return list(rows) if count == len(rows) else sorted(rows, key=lambda row: row.digest)[:count]


def rows_in(share: float, rows: int) -> int:
    """How many of so many rows a share is, rounded up, FEWEST_ROWS at least where there are as many."""
    return min(rows, max(FEWEST_ROWS, math.ceil(share * rows)))


def cosine(deltas: Float32Array, task: Float32Array) -> Float32Array:
    """Cosine of each row of (n, d) with (d,), (n,) float32; 0 where either is zero."""
    scale = np.linalg.norm(deltas, axis=1) * np.linalg.norm(task)
    found = np.zeros(len(deltas), np.float32)
    np.divide(deltas @ task, scale, out=found, where=scale > 0)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class ChosenMerge:
    """What `choose_merge` returns."""

    selection: Selection
    members: dict[str, Candidate]
    """The members' candidates, by id."""
    used: frozenset[Resource]
    """What the strategy used, see `Choice.used`."""


def choose_merge(
    session: Session,
    strategy: str,
    k: int,
    candidates: Sequence[Candidate],
    deltas: Float32Array,
    task: Float32Array | Callable[[], Float32Array],
    losses: ChoosingLosses,
    *,
    anchor: str | None,
    lora: Candidate | None,
    seed: int,
    search: int = SEARCH,
    judging: ChoosingLosses | None = None,
) -> ChosenMerge:
    """Run a strategy, let `shots_lora` join where it lowers the loss, and set the weights.

    Args:
        session: base and store.
        strategy: its spec.
        k: members of the pool at most.
        candidates: n candidates, sorted by id.
        deltas: (n, d) float32, their deltas.
        task: (d,) float32, the task delta; or what makes it, called once where the strategy uses it, else never (the
            members then have no similarity).
        losses: loss on the choosing rows.
        anchor: id of the anchor the user demands; it is one of the candidates.
        lora: the `shots_lora`, or None to leave it out.
        seed: the strategy's randomness.
        search: losses measured at most for the global scale, 2 or more; 0: it is 1, and nothing is measured.
        judging: loss on rows that the LoRA of the shots was not finetuned on, which say whether it joins and at which
            scale; None: `losses` is that.

    Returns:
        The selection, its members' candidates, and what the strategy used.

    Raises:
        SpecError: unknown strategy or parameter, or a strategy that does not say what it used.
        MergeAdvisorError: whatever making the task delta raises.
    """
    task_delta = cache(task if callable(task) else lambda: task)
    choice = run_strategy(strategy, _evidence(session, candidates, deltas, task_delta, losses, anchor, seed), k)
    picked = [candidates[pick.position] for pick in choice.picks]
    direction = list(weights_direction(choice))
    scale = _scale(losses, picked, direction, search)[0] if search else 1.0
    stopped = choice.stopped
    gains = [pick.gain for pick in choice.picks]
    if lora is not None:
        judging = judging or losses
        alone = judging({c.id: (c, scale * part) for c, part in zip(picked, direction, strict=True)})
        try:
            best = _with_lora(judging, picked, direction, lora)
        except SpecError as error:  # another rank than the pool's, under a composition that adds factors
            stopped += f"; {SHOTS_LORA} cannot join: {error}"
        else:
            if best[2] < alone:
                gains = [*gains, alone - best[2]]
                direction, scale, _ = best
                picked = [*picked, lora]
                stopped += f"; {SHOTS_LORA} lowers the loss and joins"
    likeness: dict[str, float] = {SHOTS_LORA: 1.0}
    if not callable(task) or "task_delta" in choice.used:
        similar = cosine(deltas, task_delta())
        likeness |= dict(zip([c.id for c in candidates], similar.tolist(), strict=True))
    members = _members(session, picked, [scale * part for part in direction], gains, likeness)
    forwards = losses.forwards + (judging.forwards if judging not in (None, losses) else 0)
    selection = Selection(strategy, members, scale, stopped, forwards)
    return ChosenMerge(selection, {c.id: c for c in picked}, choice.used)


def _evidence(
    session: Session,
    candidates: Sequence[Candidate],
    deltas: Float32Array,
    task_delta: Callable[[], Float32Array],
    losses: ChoosingLosses,
    anchor: str | None,
    seed: int,
) -> Evidence:
    ids = tuple(c.id for c in candidates)

    def shot_loss(weights: Mapping[int, float], share: float = 1.0) -> float:
        return losses({ids[p]: (candidates[p], w) for p, w in weights.items()}, share, composition="exact")

    def gradient_gain(weights: Mapping[int, float], share: float = 1.0) -> Float32Array:
        return losses.gains(candidates, {ids[p]: (candidates[p], w) for p, w in weights.items()}, share)

    return Evidence(
        ids=ids,
        deltas=deltas,
        task_delta=task_delta,
        texts=tuple(f"{c.id} {c.description}" for c in candidates),
        query="\n".join(f"{row.input} {row.output}" for row in losses.rows),
        rng=np.random.default_rng(seed),
        anchor=None if anchor is None else ids.index(anchor),
        shot_loss=shot_loss,
        gradient_gain=gradient_gain,
        weights_of=lambda position: session.weights(candidates[position]),
    )


def _scale(
    losses: ChoosingLosses, members: Sequence[Candidate], direction: Sequence[float], budget: int
) -> tuple[float, float]:
    """The one global scale along a direction, by line search on the choosing rows; and the loss there."""

    def loss_at(scale: float) -> float:
        return losses({c.id: (c, scale * part) for c, part in zip(members, direction, strict=True)})

    found = line_search(loss_at, len(members), budget)
    return found[0], found[1]


def _with_lora(
    losses: ChoosingLosses, members: Sequence[Candidate], direction: Sequence[float], lora: Candidate
) -> tuple[list[float], float, float]:
    """The best of a few shares for `shots_lora` beside the members: direction, scale, loss.

    The shares are compared at full strength of the pair, the scale is then searched for the best of them alone.
    """

    def mixed(share: float) -> list[float]:
        return [part * (1 - share) for part in direction] + [share]

    together = [*members, lora]

    def loss_of(share: float) -> float:
        return losses({c.id: (c, 2 * part) for c, part in zip(together, mixed(share), strict=True)})

    share = min(LORA_SHARES, key=lambda part: (loss_of(part), part))
    scale, loss = _scale(losses, together, mixed(share), LORA_SEARCH)
    return mixed(share), scale, loss


def _members(
    session: Session,
    picked: Sequence[Candidate],
    weights: Sequence[float],
    gains: Sequence[float | None],
    likeness: Mapping[str, float],
) -> tuple[Member, ...]:
    clashes: list[Interference | None] = interference([session.weights(c) for c in picked], weights)
    return tuple(
        Member(
            id=c.id,
            fingerprint=c.fingerprint,
            kind=c.kind,
            source=c.source,
            revision=c.revision,
            licence=c.licence,
            role="anchor" if number == 0 else "partner",
            weight=float(weights[number]),
            similarity=likeness.get(c.id),
            gain=None if gains[number] is None else float(gains[number] or 0.0),
            interference=clashes[number],
        )
        for number, c in enumerate(picked)
    )
