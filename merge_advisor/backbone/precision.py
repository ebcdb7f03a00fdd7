"""Matrix products in bfloat16 where a CPU has units for them: for choosing and training, never for a score.

Weights, what is placed on them, LoRA factors and optimiser stay float32; torch's autocast rounds the two sides of each
product. On a CPU with AVX512-BF16 the losses of rows then take 0.57 and a training step 0.69 of the time; a row's loss
moves by 0.02 to 0.05 nats either way, the mean of 24 rows by 0.006 at most (`eval/speed.md`). Embeddings are
differences of hidden states, smaller than that, and scores are reported: both are computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


@contextmanager
def quick_products(backbone: Backbone) -> Iterator[None]:
    """Take matrix products in the block as fast as the base's dtype allows; losses and gradients come in float32.

    Nothing changes for a base that was not loaded as `machine_options.MIXED`.

    >>> from pathlib import Path
    >>> from merge_advisor.backbone.model import load_backbone
    >>> backbone = load_backbone(Path("base"), dtype="mixed", threads=1)
    >>> with quick_products(backbone):
    ...     backbone.model(**backbone.tokenizer("one", return_tensors="pt")).logits.dtype
    torch.bfloat16

    Args:
        backbone: a base, with or without something placed.

    Yields:
        Nothing: torch has changed.
    """
    if not backbone.mixed:
        yield
        return
    import torch

    # without the cache: a trained factor that was cast once would stay what it was before the optimiser's step
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), casts_again(backbone):
        yield


@contextmanager
def casts_again(backbone: Backbone) -> Iterator[None]:
    """Keep no bfloat16 copy of a weight that is not trained for the way back: it is rounded again when it is due.

    autocast's copies of all weights would be kept from the forward on, half as much as the weights themselves take.
    Where no gradient is asked for, nothing is kept, and nothing changes here. Gradients are the same to the bit.

    Args:
        backbone: a base in float32.

    Yields:
        Nothing: the model's linear layers have changed.
    """
    import torch

    casts: dict[int, torch.Tensor] = {}
    """By where a copy lies, the weight it is of, while its layer runs."""

    def pack(kept: torch.Tensor) -> Any:
        weight = casts.get(kept.untyped_storage().data_ptr()) if casts else None
        return kept if weight is None else (weight, kept.shape, kept.stride())

    def unpack(packed: Any) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        weight, shape, stride = packed
        return weight.to(torch.bfloat16).as_strided(shape, stride)

    with ExitStack() as stack:
        for module in backbone.model.modules():
            if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
                for handle in _hooks(module, casts):
                    stack.callback(handle.remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        yield


def _hooks(module: torch.nn.Module, casts: dict[int, torch.Tensor]) -> tuple[Any, Any]:
    """Give a linear layer a rounded copy of its weight while it runs with a gradient in view; return the handles."""
    import torch

    held: list[tuple[int, torch.nn.Parameter]] = []

    def before(module: torch.nn.Module, inputs: Any) -> None:
        weight = module._parameters["weight"]
        if weight is None or weight.requires_grad or weight.dtype != torch.float32 or not torch.is_grad_enabled():
            return
        cast = weight.to(torch.bfloat16)
        place = cast.untyped_storage().data_ptr()
        held.append((place, weight))
        casts[place] = weight.detach()
        module._parameters["weight"] = cast

    def after(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if held:
            place, module._parameters["weight"] = held.pop()
            del casts[place]

    return module.register_forward_pre_hook(before), module.register_forward_hook(after, always_call=True)
