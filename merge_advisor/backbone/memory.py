"""How much memory a base takes, and going on where an accelerator's runs out: with smaller batches."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from merge_advisor.backbone.devices import BYTES
from merge_advisor.backbone.encoding import TOKENS_PER_BATCH
from merge_advisor.errors import BaseModelError

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone

_T = TypeVar("_T")

_LEAST_SHARE = 1 / 64
"""Of the usual tokens in a batch: below it a single row is all there is to halve."""


def memory_needed(shapes: Mapping[str, tuple[int, ...]], dtype: str, *, changed: int, vocabulary: int) -> int:
    """Return about how many bytes choosing and training take: weights, what is placed on them, gradients, logits.

    Args:
        shapes: the base's parameters.
        dtype: of its weights in memory.
        changed: entries of the weights that candidates change.
        vocabulary: tokens the base knows.
    """
    weights = sum(math.prod(shape) for shape in shapes.values()) * BYTES[dtype]
    # in float32 base + update lies beside the weights; the gradient of choosing has as many entries
    beside = changed * (8 if dtype == "float32" else 4)
    # logits, their softmax and its gradient are what a batch holds most of
    return weights + beside + 3 * TOKENS_PER_BATCH * vocabulary * 4


def memory_free(device: str) -> int | None:
    """Return the bytes a device has free; None where that cannot be told.

    Args:
        device: "cpu", "cuda", "cuda:N", "mps" or "xpu".
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device == "cpu" else None
    except (ValueError, OSError, AttributeError):  # another system
        return None


def within_memory(backbone: Backbone, run: Callable[[], _T], again: Callable[[], None] = lambda: None) -> _T:
    """Return what `run` gives; where an accelerator's memory does not do, with half as many tokens in each batch.

    Args:
        backbone: the model; its share of tokens stays halved.
        run: measures something, from the beginning each time.
        again: called before another try, to undo what a broken one left.

    Raises:
        BaseModelError: a single row does not fit.
    """
    while True:
        try:
            return run()
        except RuntimeError as error:
            if not _is_full(error):
                raise
            backbone.batch_share /= 2
            if backbone.batch_share < _LEAST_SHARE:
                raise BaseModelError(
                    f"memory of {backbone.device} is too small even for batches of one row; give `device=cpu`, or "
                    "`dtype=bfloat16`"
                ) from error
        again()
        _release(backbone)


def _is_full(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "backend out of memory" in str(error)


def _release(backbone: Backbone) -> None:
    import torch

    kind = backbone.device.type
    if kind in ("cuda", "mps", "xpu"):
        getattr(torch, kind).empty_cache()
