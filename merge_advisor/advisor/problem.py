"""What `tune` makes small: the losses of merges of a run's members, measured in memory.

A trial costs its forward passes and little more: the members stay in memory as factors, rows are encoded once, the
merge is written into the base's buffers and taken off again. What was measured is stored, like everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from merge_advisor import registry
from merge_advisor.advisor.session import Session, weights_key
from merge_advisor.backbone.naming import count_blocks
from merge_advisor.backbone.weights import WeightDelta
from merge_advisor.compose.layers import compose_layers, factor_of
from merge_advisor.errors import SpecError
from merge_advisor.types import Candidate, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from merge_advisor.backbone.forward import Encoded
    from merge_advisor.tune import Point

OVERFLOWED = 1e9
"""Stands for a loss that is no number (weights far too large): finite, and worse than anything real."""


def merge_of(session: Session, members: Sequence[Candidate], point: Point) -> WeightDelta:
    """The weight delta of a point; members of weight 0 are left out."""
    composition = registry.build("composition", point.composition)
    weights = [session.weights(candidate) for candidate in members]
    return compose_layers(composition, weights, point.weights, point.layers, count_blocks(session.local.shapes))


def key_of(members: Sequence[Candidate], point: Point) -> list[object]:
    """What a point is, for a store key."""
    weights = {c.fingerprint: w for c, w in zip(members, point.weights, strict=True)}
    return weights_key(weights, point.composition, layers=point.layers)


@dataclass(eq=False)
class RowLoss:
    """Mean loss of each row's answer, nats per token: the problem most searches work on (`tune.Problem`)."""

    session: Session
    candidates: Sequence[Candidate]
    """The k members, the anchor first."""
    rows: Sequence[Row]
    tasks: tuple[int, ...]
    guard_texts: Sequence[str] = ()
    allowed: float = 0.0
    """Nats per token that the loss on the guard's texts may be above the base's."""
    forwards: int = 1
    _guards: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def members(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(candidate.id for candidate in self.candidates)

    @cached_property
    def _encoded(self) -> list[Encoded]:
        return self.session.encode(self.rows)

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        """Loss of the merge on each of the rows."""

        def measure() -> list[float]:
            from merge_advisor.backbone.forward import row_losses
            from merge_advisor.backbone.place import placed

            encoded = [self._encoded[row] for row in rows]
            with placed(self.session.backbone, merge_of(self.session, self.candidates, point)):
                return _finite(row_losses(self.session.backbone, encoded))

        key = ["losses", [self.rows[row].digest for row in rows], *key_of(self.candidates, point)]
        return cast("list[float]", self.session.remember(key, measure))

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], NDArray[np.float64]]:
        """Loss on each of the rows, and ∂ mean loss / ∂ weights, (k,) float64.

        ∂L/∂W from one backward pass, then the composition's own derivative.

        Raises:
            SpecError: the composition has no gradient.
        """
        composition = registry.build("composition", point.composition)
        if not hasattr(composition, "slopes"):
            raise SpecError(f"composition {point.composition} has no gradient in the weights; take another --sampler")

        def measure() -> list[list[float]]:
            from merge_advisor.backbone.forward import loss_and_gradient
            from merge_advisor.backbone.place import placed

            weights = [self.session.weights(candidate) for candidate in self.candidates]
            names = sorted({name for delta in weights for name in delta})
            blocks = count_blocks(self.session.local.shapes)
            encoded = [self._encoded[row] for row in rows]
            with placed(self.session.backbone, merge_of(self.session, self.candidates, point)):
                losses, slopes = loss_and_gradient(self.session.backbone, encoded, names)
            total = np.zeros(len(weights))
            for name in names:
                updates = [delta.get(name) for delta in weights]
                factor = factor_of(name, point.layers, blocks)
                scaled = [weight * factor for weight in point.weights]
                total += factor * np.asarray(composition.slopes(updates, scaled, slopes[name]))
            return [_finite(losses), total.tolist()]

        digests = [self.rows[row].digest for row in rows]
        key = ["losses and slopes", digests, *key_of(self.candidates, point)]
        losses, slopes = cast("list[list[float]]", self.session.remember(key, measure))
        return losses, np.asarray(slopes, dtype=np.float64)

    def guard(self, point: Point) -> float:
        """By how much the loss on the guard's texts is above what is allowed, nats per token; 0 without a guard."""
        if not self.guard_texts:
            return 0.0
        return self._guard_loss(point) - self._guard_loss(None) - self.allowed

    def _guard_loss(self, point: Point | None) -> float:
        def measure() -> list[float]:
            from merge_advisor.backbone.forward import text_losses
            from merge_advisor.backbone.place import placed

            delta: Mapping[str, Any] = {} if point is None else merge_of(self.session, self.candidates, point)
            with placed(self.session.backbone, delta):
                return _finite(text_losses(self.session.backbone, self.guard_texts))

        merge = weights_key({}) if point is None else key_of(self.candidates, point)
        found = self.session.remember(["guard", list(self.guard_texts), *merge], measure)
        return float(np.mean(cast("list[float]", found)))


def _finite(losses: Sequence[float]) -> list[float]:
    """The losses, those that are no number replaced: a store holds JSON."""
    return [float(loss) if np.isfinite(loss) else OVERFLOWED for loss in losses]
