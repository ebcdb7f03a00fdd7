"""Going on where an accelerator's memory runs out: with smaller batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from merge_advisor.errors import BaseModelError

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone

_T = TypeVar("_T")

_LEAST_SHARE = 1 / 64
"""Of the usual tokens in a batch: below it a single row is all there is to halve."""


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
