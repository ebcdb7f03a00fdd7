"""What the strategies share: cosines of deltas, rankings with ties to the smaller position, the answer's form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.select.evidence import K_REACHED, NOTHING_ADDED, Choice, Pick

if TYPE_CHECKING:
    from merge_advisor.arrays import FloatingArray
    from merge_advisor.select.evidence import Evidence, Resource

from merge_advisor.arrays import Float64Array

_TINY = 1e-6
"""Relative length under which what centring left of a delta is rounding (deltas are float32)."""


def compared(evidence: Evidence, centre: bool) -> tuple[Float64Array, Float64Array]:
    """Return deltas (n, d) and task delta (d,) in float64, less the pool's mean delta where `centre`."""
    deltas = np.asarray(evidence.deltas, np.float64)
    task = np.asarray(evidence.task_delta(), np.float64)
    if not centre:
        return deltas, task
    mean = deltas.mean(axis=0)
    floor = _TINY * max(_lengths(deltas).max(), float(_lengths(task[None])[0]))
    centred, moved = deltas - mean, task - mean
    centred[_lengths(centred) <= floor] = 0
    return centred, moved if _lengths(moved[None])[0] > floor else np.zeros_like(moved)


def unit_rows(rows: Float64Array) -> Float64Array:
    """Divide each row of (n, d) by its length; a zero row stays zero."""
    lengths = _lengths(rows)[:, None]
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def cosines(rows: Float64Array, vector: Float64Array) -> Float64Array:
    """Cosine of each row of (n, d) with (d,): (n,) float64, 0 where either is zero.

    Rounded to nine digits: equal rows must tie, whatever order the machine sums in.
    """
    found: Float64Array = np.round(unit_rows(rows) @ unit_rows(vector[None])[0], 9)
    return found


def likeness(evidence: Evidence, centre: bool = False) -> Float64Array:
    """Cosine of every delta with the task delta, (n,) float64."""
    return cosines(*compared(evidence, centre))


def ranked(scores: FloatingArray) -> list[int]:
    """Positions by falling score; ties to the smaller position, NaN last."""
    clean = np.where(np.isnan(scores), -np.inf, scores)
    return [int(position) for position in np.argsort(-clean, kind="stable")]


def anchored(order: Iterable[int], anchor: int | None) -> list[int]:
    """Move the demanded anchor, if any, to the front."""
    order = list(order)
    return order if anchor is None else [anchor, *(p for p in order if p != anchor)]


def while_positive(order: Sequence[int], scores: FloatingArray, k: int, used: Iterable[Resource] = ()) -> Choice:
    """Take positions in order, the first in any case, the next ones while their score (the gain) is above 0.

    Args:
        order: positions, the best first.
        scores: (n,) by position.
        k: most positions taken.
        used: see `Choice.used`.
    """
    kept = list(order[:1])
    for position in order[1:k]:
        if not scores[position] > 0:
            break
        kept.append(position)
    return make_choice([make_pick(position, scores[position]) for position in kept], k, used=used)


def make_pick(position: int, gain: float) -> Pick:
    """Make a pick; a gain that is no finite number is left out."""
    return Pick(int(position), float(gain) if np.isfinite(gain) else None)


def make_choice(
    picks: Sequence[Pick],
    k: int,
    direction: tuple[float, ...] | None = None,
    used: Iterable[Resource] = (),
) -> Choice:
    """Make the answer: it stopped at k, or before because nothing more was gained.

    Args:
        picks: in the order of choosing, the anchor first.
        k: most picks there could be.
        direction: see `Choice.direction`.
        used: see `Choice.used`.
    """
    return Choice(tuple(picks), K_REACHED if len(picks) >= k else NOTHING_ADDED, direction, frozenset(used))


def _lengths(rows: Float64Array) -> Float64Array:
    found: Float64Array = np.linalg.norm(rows, axis=1)
    return found
