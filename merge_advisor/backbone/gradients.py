"""Gradients of losses with respect to the base's weights, at the base or at whatever is placed on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.encoding import EncodedRow, batches
from merge_advisor.backbone.losses import batch_losses
from merge_advisor.backbone.packing import PACKED_TOKENS

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


def loss_and_gradient(
    backbone: Backbone, rows: Sequence[EncodedRow], names: Sequence[str]
) -> tuple[list[float], dict[str, Float32Array]]:
    """Return each row's loss, and the gradient of their mean.

    Args:
        backbone: base, with or without a candidate placed, in float32.
        rows: the rows, of any lengths.
        names: the parameters, keys of `Backbone.places`.

    Returns:
        Losses as of `losses.row_losses`; and by name ∂L/∂W in the parameter's layout, float32.
    """
    by_row = [0.0] * len(rows)

    def parts() -> Iterator[torch.Tensor]:
        # a pass keeps its activations for the way back: of batches as large as those of losses they take several times
        # the memory of the weights (eval/memory.md), and save a tenth of the time
        for batch in batches(rows, most=backbone.tokens(PACKED_TOKENS)):
            losses = batch_losses(backbone, [rows[position] for position in batch])
            for position, loss in zip(batch, losses.tolist(), strict=True):
                by_row[position] = loss
            yield losses.sum() / len(rows)

    gradient = gradient_of(backbone, parts(), names)
    return by_row, gradient


def gradient_of(backbone: Backbone, parts: Iterator[torch.Tensor], names: Sequence[str]) -> dict[str, Float32Array]:
    """Return ∂/∂W of the sum of scalars, by name in the parameter's layout, float32.

    Args:
        backbone: base, with or without a candidate placed.
        parts: the scalars; each goes backward as it comes, so that one graph at a time is in memory.
        names: the parameters, keys of `Backbone.places`.
    """
    import torch

    places = {name: backbone.places[name] for name in names}
    wanted = {place.parameter: backbone.memory[place.parameter] for place in places.values()}
    for parameter in wanted.values():
        parameter.requires_grad_(True)
    try:
        for part in parts:
            part.backward()
        return {
            # a parameter that no part used has no gradient: it is zero
            name: np.zeros(place.shape, dtype=np.float32)
            if (gradient := wanted[place.parameter].grad) is None
            else place.view(gradient.detach().contiguous()).to(torch.float32).cpu().numpy()
            for name, place in places.items()
        }
    finally:
        for parameter in wanted.values():
            parameter.requires_grad_(False)
            parameter.grad = None
