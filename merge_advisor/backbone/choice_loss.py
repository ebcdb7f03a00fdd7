"""The loss of rows with choices: cross-entropy over the choices.

It is -log of the share that the right choice has of the likelihood of all choices, each the product of its tokens'
likelihoods (end token included), as in scoring. A model may put its probability where no choice is, and so have a high
loss per token, and still know which choice is right; or give every choice the right form and know nothing.
`eval/choosing.md` measures it: over merges, this loss orders the accuracy where the loss per token does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.encoding import EncodedChoices
from merge_advisor.backbone.forward import batch_logits, log_likelihoods
from merge_advisor.backbone.gradients import gradient_of
from merge_advisor.backbone.likelihood import answer_totals

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from merge_advisor.backbone.model import Backbone


def choice_losses(backbone: Backbone, rows: Sequence[EncodedChoices]) -> list[float]:
    """Return -log(p(right choice) / Σ p(choice)) of each row, in nats; guessing has log(number of choices).

    Args:
        backbone: base, with or without a candidate placed.
        rows: the rows.
    """
    totals = iter(answer_totals(backbone, [answer for row in rows for answer in row.answers]))
    return [right_loss([next(totals) for _ in row.answers], row.right) for row in rows]


def right_loss(totals: Sequence[float], right: int) -> float:
    """Return -log of the share that the right choice has of the likelihood of all, in nats.

    Args:
        totals: log-likelihood of each choice, in nats.
        right: position of the right one.
    """
    with np.errstate(invalid="ignore"):  # totals may be NaN where weights overflow; then so is the loss
        return float(np.logaddexp.reduce(totals) - totals[right])


def choice_loss_and_gradient(
    backbone: Backbone, rows: Sequence[EncodedChoices], names: Sequence[str]
) -> tuple[list[float], dict[str, Float32Array]]:
    """Return `choice_losses`, and the gradient of their mean, as `gradients.loss_and_gradient` does.

    Args:
        backbone: base, with or without a candidate placed, in float32.
        rows: the rows.
        names: the parameters, keys of `Backbone.places`.

    Returns:
        The losses; and by name ∂L/∂W in the parameter's layout, float32.
    """
    losses: list[float] = []

    def parts() -> Iterator[torch.Tensor]:
        for row in rows:  # row by row: a row's choices share its prompt, which then runs once
            totals = log_likelihoods(*batch_logits(backbone, row.answers))
            loss = totals.logsumexp(0) - totals[row.right]
            losses.append(float(loss.detach()))
            yield loss / len(rows)

    gradient = gradient_of(backbone, parts(), names)
    return losses, gradient
