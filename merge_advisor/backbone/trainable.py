"""What a finetune trains: a rule from a few numbers to the update of each weight it changes.

Each is a pair of factors a module, ΔW = B A, of which both (`trainable_lora`), a small core between fixed ones, or a
number for each of several is trained. A finetune sees the factors only (`Trainable.factors`), so that all of them
train, stop and are written alike. They are those of the weight as it is stored: its rows are the outputs of a linear
layer, and the inputs of GPT-2's `Conv1D`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.errors import InputError
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


class Trainable:
    """Numbers that are trained, and the factors of each changed weight that follow from them.

    >>> trainable = Trainable(["model.layers.0.self_attn.q_proj.weight"])
    >>> trainable.names, trainable.size
    (('model.layers.0.self_attn.q_proj.weight',), 0)
    """

    def __init__(self, names: Sequence[str], turned: Collection[str] = ()) -> None:
        """Note the weights.

        Args:
            names: the weights to change.
            turned: those of them that are stored (in, out).
        """
        self.names = tuple(sorted(names))
        self.turned = frozenset(turned)
        self.numbers: dict[str, tuple[torch.Tensor, ...]] = {}
        """By parameter name, the tensors that are trained."""

    @property
    def size(self) -> int:
        """How many numbers are trained."""
        return sum(tensor.numel() for tensors in self.numbers.values() for tensor in tensors)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The tensors that are trained, in the order of the names."""
        return [tensor for name in self.names for tensor in self.numbers[name]]

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A (r, columns) and B (rows, r) of one weight as it is stored, differentiable: ΔW = B A.

        Raises:
            NotImplementedError: this class trains nothing; its subclasses do.
        """
        raise NotImplementedError

    def distance(self, name: str) -> torch.Tensor:
        """Return what a penalty takes the square norm of, as a scalar: ‖ΔW‖² (Frobenius) unless a prior says otherwise.

        tr(AᵀBᵀBA) = Σ (BᵀB) ∘ (AAᵀ), without the dense matrix.
        """
        a, b = self.factors(name)
        return ((b.T @ b) * (a @ a.T)).sum()

    def delta(self) -> WeightDelta:
        """Return the trained update, in numpy."""
        import torch

        with torch.no_grad():
            found = {name: self.factors(name) for name in self.names}
            return {
                name: LowRankUpdate(to_numpy(b.T), to_numpy(a.T), transposed=True)
                if name in self.turned
                else LowRankUpdate(to_numpy(a), to_numpy(b))
                for name, (a, b) in found.items()
            }

    def attach(self, backbone: Backbone) -> list[torch.utils.hooks.RemovableHandle]:
        """Return handles; until they are removed the base runs with the update beside each weight."""
        return [self._hook(backbone, name) for name in self.names]

    def _hook(self, backbone: Backbone, name: str) -> torch.utils.hooks.RemovableHandle:
        import torch

        linear = torch.nn.functional.linear
        turned = name in self.turned

        def forward(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            a, b = self.factors(name)
            if turned:
                a, b = b.T, a.T
            return output + linear(linear(inputs[0].to(device=a.device, dtype=a.dtype), a), b).to(output.dtype)

        module = backbone.module(name)
        if module is None:
            raise InputError(f"parameter {name} is no linear layer of its own in memory; a finetune cannot change it")
        return module.register_forward_hook(forward)


class TrainableCore(Trainable):
    """A core between fixed directions: ΔW = U C V (K² numbers), or ΔW = U C with V left out (K · in numbers).

    >>> import numpy as np
    >>> from merge_advisor.backbone.model import load_backbone
    >>> from pathlib import Path
    >>> backbone, name = load_backbone(Path("base"), threads=1), "model.layers.0.self_attn.q_proj.weight"
    >>> eye = np.eye(32, dtype=np.float32)
    >>> TrainableCore(backbone, {name: (eye[:, :4], eye[:4])}, unit=0.1).size
    16
    """

    def __init__(
        self,
        backbone: Backbone,
        directions: Mapping[str, tuple[Float32Array, Float32Array | None]],
        *,
        unit: float,
    ) -> None:
        """Start at ΔW = 0.

        Args:
            backbone: a base.
            directions: by parameter name U (rows, K) with orthonormal columns, and V (K, columns) with orthonormal rows
                or None for any.
            unit: the size of ΔW's entries in these directions that a trained number of 1 stands for.
        """
        import torch

        super().__init__(list(directions), turned_of(backbone, directions))
        self._fixed: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
        for name in self.names:
            u, v = directions[name]
            rows = torch.from_numpy(u * unit).to(backbone.device_of(name))
            columns = None if v is None else torch.from_numpy(v).to(backbone.device_of(name))
            self._fixed[name] = rows, columns
            wide = u.shape[1] if v is None else v.shape[0]
            core = torch.zeros(u.shape[1], backbone.places[name].shape[1] if v is None else wide)
            self.numbers[name] = (trained_tensor(core, backbone, name),)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return C V and U."""
        (core,) = self.numbers[name]
        rows, columns = self._fixed[name]
        return (core if columns is None else core @ columns), rows


class TrainableCoefficients(Trainable):
    """One number for each (adapter, module): ΔW = Σ_j c_j ΔW_j, beginning at zero.

    Task vectors scaled block by block, as in aTLAS (arXiv 2407.02880).

    >>> import numpy as np
    >>> from merge_advisor.backbone.model import load_backbone
    >>> from pathlib import Path
    >>> backbone, name = load_backbone(Path("base"), threads=1), "model.layers.0.self_attn.q_proj.weight"
    >>> update = LowRankUpdate(np.ones((1, 32), np.float32), np.ones((32, 1), np.float32))
    >>> TrainableCoefficients(backbone, {name: [update, update]}, unit=0.5).size
    2
    """

    def __init__(self, backbone: Backbone, terms: Mapping[str, Sequence[LowRankUpdate]], *, unit: float) -> None:
        """Start at ΔW = 0.

        Args:
            backbone: a base.
            terms: by parameter name the updates of that weight.
            unit: the coefficient that a trained number of 1 stands for; the rate of a finetune is made for small ones.
        """
        import torch

        super().__init__(list(terms), turned_of(backbone, terms))
        self._unit = unit
        self._fixed: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
        for name in self.names:
            updates = [update.as_stored() for update in terms[name]]
            a = torch.from_numpy(_stacked([update.a for update in updates]))
            b = torch.from_numpy(_stacked([update.b.T * np.float32(update.scale) for update in updates])).T.contiguous()
            which = torch.tensor([place for place, update in enumerate(updates) for _ in range(update.rank)])
            device = backbone.device_of(name)
            self._fixed[name] = a.to(device), b.to(device), which.to(device)
            self.numbers[name] = (trained_tensor(torch.zeros(len(updates)), backbone, name),)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all A behind one another, and each B times its coefficient."""
        (numbers,) = self.numbers[name]
        a, b, which = self._fixed[name]
        return a, b * (self._unit * numbers)[which]

    def distance(self, name: str) -> torch.Tensor:
        """Return Σ_j c_j², the square distance from where it began."""
        (numbers,) = self.numbers[name]
        return (self._unit * numbers).square().sum()


def turned_of(backbone: Backbone, names: Iterable[str]) -> list[str]:
    """Return those of the weights that are stored (in, out).

    Args:
        backbone: a base.
        names: keys of its `places`.
    """
    return [name for name in names if backbone.turned(name)]


def _stacked(parts: Sequence[Float32Array]) -> Float32Array:
    stacked: Float32Array = np.ascontiguousarray(np.concatenate(parts, axis=0), dtype=np.float32)
    return stacked


def trained_tensor(tensor: torch.Tensor, backbone: Backbone, name: str) -> torch.Tensor:
    """Return a tensor as one that is trained, on the device of the weight that it changes.

    Args:
        tensor: its numbers.
        backbone: a base.
        name: of the weight.
    """
    import torch

    return torch.nn.Parameter(tensor.to(backbone.device_of(name)))


def to_numpy(tensor: torch.Tensor) -> Float32Array:
    """Return a tensor's numbers, apart from what is trained on.

    Args:
        tensor: of any dtype, on any device.
    """
    array: Float32Array = tensor.detach().float().cpu().numpy().copy()
    return array
