"""What is to be trained, as values: each says which numbers a finetune may change, and makes them on a base.

Values, so that a finetune can be asked for (and remembered) before torch is imported and a base is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.json_form import digest_of
from merge_advisor.weights.updates import LowRankUpdate

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone
    from merge_advisor.backbone.trainable import Trainable


class Shape(Protocol):
    """What all of them have.

    >>> shape: Shape = LoraShape(("q.weight",), rank=8, alpha=16.0)
    >>> len(shape.digest)
    64
    """

    @property
    def digest(self) -> str:
        """Sha256 over all that the trained numbers depend on."""
        ...

    def build(self, backbone: Backbone, generator: torch.Generator) -> Trainable:
        """Return the numbers, ready to be trained on a base.

        Args:
            backbone: the base.
            generator: draws what begins at random.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoraShape:
    """Both factors of a LoRA; see `trainable_lora.TrainableLora`.

    >>> LoraShape(("q.weight",), rank=8, alpha=16.0).first is None
    True
    """

    names: tuple[str, ...]
    rank: int
    alpha: float
    first: Mapping[str, Float32Array] | None = None
    """First rows of A by name, (≤ r, in) orthonormal; the others are drawn."""

    @property
    def digest(self) -> str:
        """See `Shape.digest`."""
        first = [] if self.first is None else [self.first[name] for name in sorted(self.first)]
        return _digest(["lora", sorted(self.names), self.rank, self.alpha, self.first is not None], first)

    def build(self, backbone: Backbone, generator: torch.Generator) -> Trainable:
        """See `Shape.build`."""
        from merge_advisor.backbone.trainable_lora import TrainableLora

        return TrainableLora(
            backbone, self.names, rank=self.rank, alpha=self.alpha, generator=generator, given=self.first
        )


@dataclass(frozen=True, slots=True, eq=False)
class RefactoredShape:
    """A LoRA that begins at what is on the base already; see `trainable_lora.RefactoredLora`.

    >>> ones = np.ones((4, 1), dtype=np.float32)
    >>> RefactoredShape(("q.weight",), {"q.weight": (ones, ones.T)}, rank=8, alpha=16.0).rank
    8
    """

    names: tuple[str, ...]
    halves: Mapping[str, tuple[Float32Array, Float32Array]]
    """By name U S^½ (out, ≤ r) and S^½ Vᵀ (≤ r, in) of the update it begins at."""
    rank: int
    alpha: float

    @property
    def digest(self) -> str:
        """See `Shape.digest`."""
        begun = sorted(self.halves)
        arrays = [half for name in begun for half in self.halves[name]]
        return _digest(["refactored", sorted(self.names), begun, self.rank, self.alpha], arrays)

    def build(self, backbone: Backbone, generator: torch.Generator) -> Trainable:
        """See `Shape.build`."""
        from merge_advisor.backbone.trainable_lora import RefactoredLora

        return RefactoredLora(backbone, self.names, self.halves, rank=self.rank, alpha=self.alpha, generator=generator)


@dataclass(frozen=True, slots=True, eq=False)
class BasisShape:
    """A core between fixed directions; see `trainable.TrainableCore`.

    >>> eye = np.eye(4, dtype=np.float32)
    >>> BasisShape({"q.weight": (eye, None)}, unit=2.0).unit
    2.0
    """

    directions: Mapping[str, tuple[Float32Array, Float32Array | None]]
    """By name U (out, K), and V (K, in) or None."""
    unit: float

    @property
    def digest(self) -> str:
        """See `Shape.digest`."""
        names = sorted(self.directions)
        arrays = [part for name in names for part in self.directions[name] if part is not None]
        return _digest(["basis", names, self.unit], arrays)

    def build(self, backbone: Backbone, generator: torch.Generator) -> Trainable:
        """See `Shape.build`; nothing is drawn, it begins at zero."""
        from merge_advisor.backbone.trainable import TrainableCore

        return TrainableCore(backbone, self.directions, unit=self.unit)


@dataclass(frozen=True, slots=True, eq=False)
class PriorShape:
    """A LoRA in the coordinates of a Gaussian prior; see `trainable_lora.WhitenedLora`.

    >>> eye = np.eye(4, dtype=np.float32)
    >>> PriorShape({"q.weight": (eye, eye)}, rank=8, alpha=16.0).rank
    8
    """

    roots: Mapping[str, tuple[Float32Array, Float32Array]]
    """By name Σ_out^½ (out, out) and Σ_in^½ (in, in)."""
    rank: int
    alpha: float

    @property
    def digest(self) -> str:
        """See `Shape.digest`."""
        names = sorted(self.roots)
        return _digest(["prior", names, self.rank, self.alpha], [part for name in names for part in self.roots[name]])

    def build(self, backbone: Backbone, generator: torch.Generator) -> Trainable:
        """See `Shape.build`."""
        from merge_advisor.backbone.trainable_lora import WhitenedLora

        return WhitenedLora(backbone, self.roots, rank=self.rank, alpha=self.alpha, generator=generator)


@dataclass(frozen=True, slots=True, eq=False)
class CoefficientShape:
    """One number for each (adapter, module), beginning at no change; see `trainable.TrainableCoefficients`.

    >>> update = LowRankUpdate(np.ones((1, 4), np.float32), np.ones((4, 1), np.float32))
    >>> CoefficientShape({"q.weight": (update,)}, unit=10.0).unit
    10.0
    """

    terms: Mapping[str, Sequence[LowRankUpdate]]
    """By name, the updates of that weight."""
    unit: float

    @property
    def digest(self) -> str:
        """See `Shape.digest`."""
        names = sorted(self.terms)
        updates = [update for name in names for update in self.terms[name]]
        scales = [update.scale for update in updates]
        arrays = [part for update in updates for part in (update.a, update.b)]
        return _digest(["coefficients", names, self.unit, [len(self.terms[name]) for name in names], scales], arrays)

    def build(self, backbone: Backbone, generator: torch.Generator) -> Trainable:
        """See `Shape.build`; nothing is drawn."""
        from merge_advisor.backbone.trainable import TrainableCoefficients

        return TrainableCoefficients(backbone, self.terms, unit=self.unit)


def _digest(parts: Sequence[object], arrays: Iterable[Float32Array]) -> str:
    state = hashlib.sha256(digest_of(list(parts)).encode())
    for array in arrays:
        state.update(repr(array.shape).encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
