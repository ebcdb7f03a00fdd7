"""Placing candidates on the base, and taking them off again without a trace.

In float32 base + ΔW is written into a buffer and the parameter's storage is swapped for it; taking the candidate off
puts the untouched original back, so that embedding A, B, A gives bit-equal A. In half precision a rounding of the
weight is as large as the delta itself: there the factors of an adapter run beside it, y = Wx + s·B(Ax), as LoRA is
trained. Several adapters at once (one forward for many candidates, worth it on a GPU) always run beside the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import PoolError
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, Update, WeightDelta

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


@contextmanager
def placed(backbone: Backbone, delta: WeightDelta) -> Iterator[None]:
    """Run the block with base + delta; the bare base is back afterwards, whatever happens inside.

    >>> from pathlib import Path
    >>> from merge_advisor.backbone.model import load_backbone
    >>> from merge_advisor.weights.updates import DenseUpdate
    >>> import numpy as np
    >>> backbone = load_backbone(Path("base"), threads=1)
    >>> name, norm = "model.norm.weight", backbone.memory["model.norm.weight"]
    >>> with placed(backbone, {name: DenseUpdate(np.ones(32, np.float32))}):
    ...     norm[:2].tolist()
    [2.0, 2.0]
    >>> norm[:2].tolist()
    [1.0, 1.0]

    Args:
        backbone: a bare base.
        delta: parameter name -> update; empty for the base itself.

    Yields:
        Nothing: the backbone itself has changed.

    Raises:
        PoolError: a parameter the base does not have, or an update of another shape.
    """
    import torch

    for name in delta:
        if name not in backbone.places:
            raise PoolError(f"parameter {name} is not in the base; this candidate belongs to another base")
    beside = backbone.dtype != torch.float32  # half precision would round the update away
    with ExitStack() as stack:
        inside: dict[str, list[str]] = {}
        for name in delta:
            place = backbone.places[name]
            if not place.whole:
                inside.setdefault(place.parameter, []).append(name)
                continue
            update = _fitting(backbone, delta, name)
            if beside and isinstance(update, LowRankUpdate) and backbone.module(name) is not None:
                stack.callback(_hook(backbone, name, _beside(backbone, name, [update])).remove)
            else:
                stack.callback(_swap(backbone, name, update))
        for parameter, names in inside.items():
            stack.callback(_swap_parts(backbone, parameter, delta, names))
        yield


def _fitting(backbone: Backbone, delta: WeightDelta, name: str) -> Update:
    """One update of a delta, read once: it may lie on disk."""
    update = delta[name]
    wanted, given = backbone.places[name].shape, tuple(update.shape)
    if given != wanted:
        raise PoolError(f"parameter {name}: update is {given}, base is {wanted}; another base or size")
    return update


@contextmanager
def placed_together(backbone: Backbone, deltas: Sequence[WeightDelta]) -> Iterator[None]:
    """Run the block with n adapters at once: row i·m + j of a batch of n·m rows sees adapter i.

    Args:
        backbone: a bare base.
        deltas: parameter name -> update of each adapter.

    Yields:
        Nothing: the backbone itself has changed.

    Raises:
        PoolError: an update that is no `LowRankUpdate`, or a parameter that the base does not have.
    """
    with ExitStack() as stack:
        for name in sorted({name for delta in deltas for name in delta}):
            if name not in backbone.places:
                raise PoolError(f"parameter {name} is not in the base; this candidate belongs to another base")
            updates: list[LowRankUpdate | None] = []
            for delta in deltas:
                update = delta.get(name)
                if isinstance(update, DenseUpdate):
                    raise PoolError(f"parameter {name}: only adapters run together in one forward, not checkpoints")
                updates.append(update)
            stack.callback(_hook(backbone, name, _beside(backbone, name, updates)).remove)
        yield


def _swap(backbone: Backbone, name: str, update: Update) -> Callable[[], None]:
    """Point the parameter at base + update; return a function that points it back."""
    import torch

    parameter, original, buffer = _buffer(backbone, backbone.places[name].parameter)
    if isinstance(update, LowRankUpdate):
        left, right = _factors(update, original)
        torch.addmm(original, left, right, alpha=update.scale, out=buffer)
    else:
        change = torch.from_numpy(update.dense()).to(device=original.device)
        buffer.copy_(original.to(torch.float32) + change)
    return _pointed(parameter, original, buffer)


def _swap_parts(backbone: Backbone, parameter: str, delta: WeightDelta, names: Sequence[str]) -> Callable[[], None]:
    """The same of one parameter in memory that several of the files lie in, as the experts of a mixture do."""
    import torch

    there, original, buffer = _buffer(backbone, parameter)
    buffer.copy_(original)
    for name in names:
        update = _fitting(backbone, delta, name)
        part = backbone.places[name].view(buffer)
        if isinstance(update, LowRankUpdate):
            left, right = _factors(update, original.float())
            part.copy_(torch.addmm(part.float(), left, right, alpha=update.scale))
        else:
            part.copy_(part.to(torch.float32) + torch.from_numpy(update.dense()).to(device=original.device))
    return _pointed(there, original, buffer)


def _buffer(backbone: Backbone, parameter: str) -> tuple[torch.nn.Parameter, torch.Tensor, torch.Tensor]:
    """A parameter in memory, its storage, and as much to write base + update into."""
    import torch

    there = backbone.memory[parameter]
    original = there.data
    if parameter not in backbone.scratch:
        backbone.scratch[parameter] = torch.empty_like(original)
    return there, original, backbone.scratch[parameter]


def _pointed(parameter: torch.nn.Parameter, original: torch.Tensor, buffer: torch.Tensor) -> Callable[[], None]:
    parameter.data = buffer

    def restore() -> None:
        parameter.data = original

    return restore


def _factors(update: LowRankUpdate, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = _tensor(update.a, like), _tensor(update.b, like)
    return (a.T, b.T) if update.transposed else (b, a)


def _tensor(array: Any, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.from_numpy(array).to(device=like.device, dtype=like.dtype)


def _hook(backbone: Backbone, name: str, add: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    module = backbone.module(name)
    if module is None:
        raise PoolError(f"parameter {name} belongs to no module; an adapter cannot run beside it")

    def forward(module: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output + add(inputs[0].to(output.device))  # it may come from another device than the weight is on

    return module.register_forward_hook(forward)


def _beside(
    backbone: Backbone, name: str, updates: Sequence[LowRankUpdate | None]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return x -> s·B(Ax), row block i of x through update i (None adds nothing)."""
    import torch

    present = [update for update in updates if update is not None]
    rank = max(update.rank for update in present)
    a = torch.zeros(len(updates), rank, present[0].a.shape[1])
    b = torch.zeros(len(updates), present[0].b.shape[0], rank)
    for index, update in enumerate(updates):
        if update is not None:
            a[index, : update.rank] = torch.from_numpy(update.a)
            b[index, :, : update.rank] = torch.from_numpy(update.b) * update.scale
    device = backbone.device_of(name)
    down = a.transpose(1, 2).to(device=device, dtype=backbone.dtype)  # (n, in, r)
    up = b.transpose(1, 2).to(device=device, dtype=backbone.dtype)  # (n, r, out)

    def add(x: torch.Tensor) -> torch.Tensor:
        blocks = x.reshape(len(updates), -1, x.shape[-1])  # (n, rows·tokens, in)
        return torch.bmm(torch.bmm(blocks, down), up).reshape(*x.shape[:-1], up.shape[-1])

    return add
