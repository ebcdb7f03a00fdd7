"""Cross-entropy over the choices of a row: what the loss of the right answer's tokens is to text, this is to choices.

-log of the share that the right choice has of the likelihood of all choices, each the product of its tokens' (end token
included), as choices are scored. A model may put its probability where no choice is, and so have a high loss per token,
and still know which choice is right; or give every choice the right form and know nothing. Measured in
`eval/choosing.md`: of merges, this orders the accuracy where the loss per token does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.forward import EncodedRow, batch_logits, gradient_of
from merge_advisor.backbone.likelihood import answer_totals, log_likelihoods

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from merge_advisor.backbone.model import Backbone


@dataclass(frozen=True, slots=True)
class EncodedChoices:
    """A row with choices as token ids."""

    answers: tuple[EncodedRow, ...]
    """One a choice, in the row's order; the prompt is the same but where a long choice cut it."""
    right: int
    """Position of the right one."""


def choice_losses(backbone: Backbone, rows: Sequence[EncodedChoices]) -> list[float]:
    """Return -log(p(right choice) / Σ p(choice)) of each row, in nats; log(choices) is what guessing has."""
    totals = iter(answer_totals(backbone, [answer for row in rows for answer in row.answers]))
    found = []
    for row in rows:
        found.append(right_loss([next(totals) for _ in row.answers], row.right))
    return found


def right_loss(totals: Sequence[float], right: int) -> float:
    """-log of the share that one choice has of the likelihood of all, nats, from the log-likelihoods of the choices."""
    with np.errstate(invalid="ignore"):  # totals may be no numbers; then so is this
        return float(np.logaddexp.reduce(totals) - totals[right])


def choice_loss_and_gradient(
    backbone: Backbone, rows: Sequence[EncodedChoices], names: Sequence[str]
) -> tuple[list[float], dict[str, Float32Array]]:
    """Return `choice_losses`, and ∂L/∂W of their mean for the named parameters, as `forward.loss_and_gradient` does.

    Row by row: what the choices of a row share, its prompt, runs once.
    """
    found: list[float] = []

    def parts() -> Iterator[torch.Tensor]:
        for row in rows:
            totals = log_likelihoods(*batch_logits(backbone, row.answers))
            loss = totals.logsumexp(0) - totals[row.right]
            found.append(float(loss.detach()))
            yield loss / len(rows)

    gradient = gradient_of(backbone, parts(), names)
    return found, gradient
