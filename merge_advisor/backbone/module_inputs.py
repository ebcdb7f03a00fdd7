"""What the modules of a base are given by rows: where their inputs lie."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.forward import batch_logits
from merge_advisor.errors import InputError

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


def input_moments(backbone: Backbone, rows: Sequence[EncodedRow], names: Sequence[str]) -> dict[str, Float32Array]:
    """Return E[x xᵀ] of what each weight's module is given, over the tokens of the rows' prompts.

    Args:
        backbone: base, with or without a candidate placed.
        rows: at least one. Their answers are not looked at, so that rows which judge may be among them.
        names: the weights, keys of `Backbone.places`, each of a linear module.

    Returns:
        By name (in, in) float32. Of an encoder-decoder's decoder over its start token alone.

    Raises:
        InputError: a weight of no linear module.
    """
    import torch

    sums = dict.fromkeys(names, torch.zeros(0))
    counts = dict.fromkeys(names, 0)

    def watch(name: str, stack: ExitStack) -> None:
        def before(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            moment = seen.T @ seen
            sums[name] = sums[name] + moment if counts[name] else moment
            counts[name] += len(seen)

        module = backbone.module(name)
        if module is None:
            raise InputError(f"parameter {name} is no linear layer of its own in memory; its inputs cannot be seen")
        stack.callback(module.register_forward_pre_hook(before).remove)

    with ExitStack() as stack, torch.inference_mode():
        for name in names:
            watch(name, stack)
        for row in rows:  # one by one: padding would count as tokens
            # the last token of the prompt stands for the answer, which nothing is read from
            batch_logits(backbone, [EncodedRow(row.prompt[:-1] or row.prompt, row.prompt[-1:])])
    return {name: _float32(sums[name] / max(counts[name], 1)) for name in names}


def _float32(tensor: torch.Tensor) -> Float32Array:
    return np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float32)
