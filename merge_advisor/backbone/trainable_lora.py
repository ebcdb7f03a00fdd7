"""What a finetune trains of which both factors are free: a LoRA, from nothing, from an update or under a prior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.trainable import Trainable, to_numpy, trained_tensor, turned_of
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


class TrainableLora(Trainable):
    """Both factors of a LoRA (arXiv 2106.09685): A drawn or given, B zero, ΔW = alpha/r · B A.

    >>> from merge_advisor.backbone.model import load_backbone
    >>> from pathlib import Path
    >>> backbone = load_backbone(Path("base"), threads=1)
    >>> import torch
    >>> name = "model.layers.0.self_attn.q_proj.weight"
    >>> lora = TrainableLora(backbone, [name], rank=4, alpha=8, generator=torch.Generator().manual_seed(0))
    >>> lora.size, float(abs(lora.delta()[name].dense()).max())
    (256, 0.0)
    """

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        *,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        given: Mapping[str, Float32Array] | None = None,
    ) -> None:
        """Draw A as PEFT does (uniform ±1/sqrt(in), Kaiming with a = sqrt(5)), or take it.

        Args:
            backbone: a base.
            names: the weights to change.
            rank: r.
            alpha: of the scale alpha / r.
            generator: draws A, in the order of the names.
            given: rows of A by name, (≤ r, in) orthonormal; they replace drawn rows at the length those have.
        """
        import torch

        super().__init__(names, turned_of(backbone, names))
        self.scale = alpha / rank
        for name in self.names:
            rows, columns = backbone.places[name].shape
            out, width = (columns, rows) if name in self.turned else (rows, columns)
            bound = 1 / math.sqrt(width)  # sqrt(6 / ((1 + 5) · width)): Kaiming's bound for a = sqrt(5)
            a = (torch.rand(rank, width, generator=generator) * 2 - 1) * bound
            if given is not None:
                rows = torch.from_numpy(given[name])[:rank]
                # a drawn row has about this length: 1/sqrt(3) of a uniform in ±1/sqrt(in)
                a[: len(rows)] = rows / math.sqrt(3)
            b = torch.zeros(out, rank)
            self.numbers[name] = (trained_tensor(a, backbone, name), trained_tensor(b, backbone, name))

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A and s·B; of a weight stored (in, out) their transposes, the other way round."""
        a, b = self.numbers[name]
        return (b.T * self.scale, a.T) if name in self.turned else (a, b * self.scale)

    def delta(self) -> WeightDelta:
        """Return A, B and the scale apart, as PEFT keeps them."""
        return {
            name: LowRankUpdate(to_numpy(a), to_numpy(b), self.scale, name in self.turned)
            for name, (a, b) in self.numbers.items()
        }


class RefactoredLora(Trainable):
    """A LoRA that begins at an update instead of at nothing: ΔW = s (B A - B₀ A₀), B₀ and A₀ of equal norms.

    What is on the base already holds s B₀ A₀; both factors are trained on from it, and what they move by is the update.
    Where the update has fewer directions than the rank, or changes a weight not at all, the rest begins as a LoRA does.

    >>> from merge_advisor.backbone.model import load_backbone
    >>> from pathlib import Path
    >>> backbone, name = load_backbone(Path("base"), threads=1), "model.layers.0.self_attn.q_proj.weight"
    >>> import numpy as np
    >>> import torch
    >>> ones = np.ones((32, 1), np.float32)
    >>> generator = torch.Generator().manual_seed(0)
    >>> lora = RefactoredLora(backbone, [name], {name: (ones, ones.T)}, rank=4, alpha=8, generator=generator)
    >>> lora.size, float(abs(lora.delta()[name].dense()).max())
    (256, 0.0)
    """

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        halves: Mapping[str, tuple[Float32Array, Float32Array]],
        *,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        """Start at ΔW = 0.

        Args:
            backbone: a base, with the update placed on it.
            names: the weights to change.
            halves: by parameter name U S^½ (rows, ≤ r) and S^½ Vᵀ (≤ r, columns) of the update's leading directions.
            rank: r.
            alpha: of the scale s = alpha / r.
            generator: draws the rows of A that the update does not give.
        """
        import torch

        super().__init__(names, turned_of(backbone, names))
        self._lora = TrainableLora(backbone, self.names, rank=rank, alpha=alpha, generator=generator)
        self.numbers = self._lora.numbers
        self._begun: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name in self.names:
            a, b = self.numbers[name]
            if name in halves:
                left, right = (torch.from_numpy(half / math.sqrt(self._lora.scale)) for half in halves[name])
                if name in self.turned:
                    left, right = right.T, left.T
                with torch.no_grad():
                    a[: len(right)] = right.to(a)
                    b[:, : left.shape[1]] = left.to(b)
            self._begun[name] = a.detach().clone(), b.detach().clone()

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A - A₀ behind A₀, and s·B before s·(B - B₀): B (A - A₀) + (B - B₀) A₀ is exactly 0 at the start."""
        import torch

        a, b = self._lora.numbers[name]
        a0, b0 = self._begun[name]
        scale = self._lora.scale
        down, up = torch.cat([a - a0, a0]), torch.cat([b, b - b0], dim=1) * scale
        return (up.T, down.T) if name in self.turned else (down, up)


class WhitenedLora(Trainable):
    """A LoRA in the coordinates of a Gaussian prior: ΔW = s · Σ_out^½ B A Σ_in^½, both factors trained.

    A step of the optimiser goes further along directions in which the prior has more variance, and the penalty is the
    prior's own quadratic form, so no direction is forbidden and those of the pool are cheap.

    >>> import numpy as np
    >>> from merge_advisor.backbone.model import load_backbone
    >>> from pathlib import Path
    >>> backbone, name = load_backbone(Path("base"), threads=1), "model.layers.0.self_attn.q_proj.weight"
    >>> root = np.eye(32, dtype=np.float32)
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> WhitenedLora(backbone, {name: (root, root)}, rank=4, alpha=8, generator=generator).size
    256
    """

    def __init__(
        self,
        backbone: Backbone,
        roots: Mapping[str, tuple[Float32Array, Float32Array]],
        *,
        rank: int,
        alpha: float,
        generator: torch.Generator,
    ) -> None:
        """Start at ΔW = 0.

        Args:
            backbone: a base.
            roots: by parameter name the square roots of Σ over its rows and over its columns, each of mean squared row
                norm 1.
            rank: r.
            alpha: of the scale alpha / r.
            generator: draws A.
        """
        import torch

        super().__init__(list(roots), turned_of(backbone, roots))
        self._lora = TrainableLora(backbone, self.names, rank=rank, alpha=alpha, generator=generator)
        self.numbers = self._lora.numbers
        self._roots = {
            name: tuple(torch.from_numpy(root).to(backbone.device_of(name)) for root in pair)
            for name, pair in roots.items()
        }

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A Σ_in^½ and s · Σ_out^½ B."""
        a, b = self._lora.factors(name)
        out, width = self._roots[name]
        return a @ width, out @ b

    def distance(self, name: str) -> torch.Tensor:
        """Return tr(Σ_out⁻¹ ΔW Σ_in⁻¹ ΔWᵀ), which is ‖s · B A‖² in these coordinates."""
        return self._lora.distance(name)
