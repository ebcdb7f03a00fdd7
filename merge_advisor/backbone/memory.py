"""How much memory a base takes, and going on where an accelerator's runs out: with smaller batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from merge_advisor.backbone.device_map import DeviceMap, base_pieces, beside_bytes, choose_devices, spread_pieces
from merge_advisor.backbone.devices import BYTES, check_devices, cuda_devices, memory_free, remedy
from merge_advisor.backbone.encoding import TOKENS_PER_BATCH
from merge_advisor.errors import BaseModelError
from merge_advisor.machine_options import AUTO, Machine

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone

_T = TypeVar("_T")

_OPEN = (AUTO, "cuda")
"""Asked for and decided, where any CUDA device may be taken."""

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
    # logits, their softmax and its gradient are what a batch holds most of
    return weights + changed * beside_bytes(dtype) + 3 * _logits_bytes(vocabulary)


def _logits_bytes(vocabulary: int) -> int:
    return TOKENS_PER_BATCH * vocabulary * 4


def vocabulary_of(config: Mapping[str, Any]) -> int:
    """Return how many tokens a base knows; 0 where its configuration does not say.

    >>> vocabulary_of({"text_config": {"vocab_size": 320}})
    320

    Args:
        config: its config.json.
    """
    return int((config.get("text_config") or config).get("vocab_size") or 0)


def devices_for(
    asked: str,
    machine: Machine,
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    config: Mapping[str, Any],
    changed: Callable[[], Collection[str]],
) -> DeviceMap | None:
    """Return which devices a base goes on and what of it on which; None where there is only one to choose.

    Args:
        asked: the device as it was asked for: "auto", one, or several between commas.
        machine: with device and dtype decided, as of `devices.settle`.
        folder: of the base.
        shapes: of its parameters.
        config: its config.json.
        changed: gives the names of the weights that candidates change; called only where it matters.

    Raises:
        BaseModelError: one of several devices is not there, or the base cannot be built.
    """
    there = check_devices(asked) if "," in asked else cuda_devices() if (asked, machine.device) == _OPEN else ()
    if len(there) < 2:
        return None
    free = {device: memory_free(device) or 0 for device in there}
    vocabulary = vocabulary_of(config)
    if asked == AUTO:
        every = sum(math.prod(shape) for shape in shapes.values())
        if memory_needed(shapes, machine.dtype, changed=every, vocabulary=vocabulary) <= free[there[0]]:
            return None  # whatever is placed on it: no header of a candidate has to be read
    pieces = base_pieces(folder, shapes, machine.dtype, changed())
    decide = choose_devices if asked == AUTO else spread_pieces
    return decide(pieces, free, _logits_bytes(vocabulary))


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
                device = ",".join(str(device) for device in backbone.devices)
                dtype = str(backbone.dtype).removeprefix("torch.")
                raise BaseModelError(
                    f"memory of {device} is too small even for batches of one row; {remedy(device, dtype)}"
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
        getattr(torch, kind).empty_cache()  # of all devices of the kind
