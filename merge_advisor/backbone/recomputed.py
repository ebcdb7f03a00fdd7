"""Blocks that are run again on the way back, instead of keeping all that they computed until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from merge_advisor.backbone.model import release_memory

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone


@contextmanager
def recomputed_blocks(backbone: Backbone) -> Iterator[None]:
    """Keep in the block only what each transformer block is given, and run it again when its gradient is due.

    What a pass keeps for the way back is most of a plan's memory on a CPU: with 512 tokens of a base of 135 M
    parameters more than the weights (eval/memory.md). Losses and gradients are the same to the bit, and take 1.4 times
    as long, since there is a forward more. On an accelerator nothing changes: there `memory.within_memory` takes
    smaller batches where memory runs out.

    >>> from pathlib import Path
    >>> from merge_advisor.backbone.gradients import loss_and_gradient
    >>> from merge_advisor.backbone.encoding import EncodedRow
    >>> from merge_advisor.backbone.model import load_backbone
    >>> backbone, name = load_backbone(Path("base"), threads=1), "model.layers.0.self_attn.q_proj.weight"
    >>> kept = loss_and_gradient(backbone, [EncodedRow((5, 6, 7), (8, 1))], [name])[1][name]
    >>> with recomputed_blocks(backbone):
    ...     again = loss_and_gradient(backbone, [EncodedRow((5, 6, 7), (8, 1))], [name])[1][name]
    >>> bool((kept == again).all())
    True

    Args:
        backbone: a base, with or without something placed.

    Yields:
        Nothing: the model's blocks have changed.
    """
    if backbone.device.type != "cpu" or not getattr(backbone.model, "supports_gradient_checkpointing", False):
        yield
        return
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in backbone.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(_run, block.forward)
    release_memory()  # what losses left free lies in pieces of other sizes
    try:
        yield
    finally:
        release_memory()
        for block, own in zip(blocks, before, strict=True):
            del block.forward  # of the instance: that of its class is back
            if own is not None:
                block.forward = own


def _run(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    # what writes into a cache of keys and values would write into it twice
    if not torch.is_grad_enabled() or any(map(_is_cache, (*given, *named.values()))):
        return forward(*given, **named)
    # nothing is drawn in evaluation mode, so that there is no state of chance to keep
    return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, **named)


def _is_cache(value: Any) -> bool:
    from transformers.cache_utils import Cache

    return isinstance(value, Cache)
