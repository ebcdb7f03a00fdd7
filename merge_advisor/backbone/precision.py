"""Matrix products in bfloat16 where a CPU has units for them: for choosing and training, never for a score.

Weights, what is placed on them, LoRA factors and optimiser stay float32; torch's autocast rounds the two sides of each
product. On a CPU with AVX512-BF16 the losses of rows then take 0.57 and a training step 0.69 of the time; a row's loss
moves by 0.02 to 0.05 nats either way, the mean of 24 rows by 0.006 at most (`eval/speed.md`). Embeddings are
differences of hidden states, smaller than that, and scores are reported: both are computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        yield
