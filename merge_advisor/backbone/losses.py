"""Losses of rows and of plain texts: the mean negative log-likelihood of their tokens, in nats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.encoding import IGNORE_INDEX, EncodedRow
from merge_advisor.backbone.forward import all_logits, batch_logits, log_likelihoods

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

_TEXT_TOKENS = 512
"""Tokens of a plain text at most."""


def row_losses(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    """Return the mean loss of each row's completion, its end token included, in nats per token.

    Args:
        backbone: base, with or without a candidate placed.
        rows: the rows, of any lengths.
    """
    import torch

    by_row = [0.0] * len(rows)
    with torch.inference_mode():
        for batch, logits, labels in all_logits(backbone, rows):
            losses = losses_per_token(logits, labels, backbone.closing)
            for position, loss in zip(batch, losses.tolist(), strict=True):
                by_row[position] = loss
    return by_row


def batch_losses(backbone: Backbone, rows: Sequence[EncodedRow]) -> torch.Tensor:
    """Return the mean loss of each row of one batch, (n,) float32, in nats per token.

    Differentiable where parameters require gradients.

    Args:
        backbone: base, with or without a candidate placed.
        rows: n rows, as in `forward.batch_logits`.
    """
    return losses_per_token(*batch_logits(backbone, rows))


def losses_per_token(logits: torch.Tensor, labels: torch.Tensor, closing: Sequence[int] = ()) -> torch.Tensor:
    """Return the mean loss of each row's tokens, (n,) float32, in nats per token.

    Args:
        logits: (n, kept, vocabulary).
        labels: (n, kept) the tokens they should give, `IGNORE_INDEX` where none counts.
        closing: as of `Backbone.closing`.
    """
    return -log_likelihoods(logits, labels, closing) / (labels != IGNORE_INDEX).sum(1)


def text_losses(backbone: Backbone, texts: Sequence[str]) -> list[float]:
    """Return the mean loss of each plain text, in nats per token.

    All its tokens count where the tokenizer puts one of its own before a text, else all but the first. No template and
    no end token: it shows what a merge does to text that no task is about.

    Args:
        backbone: base, with or without a candidate placed. An encoder-decoder reads the first half of a text and
            predicts the second.
        texts: the texts; only the first 512 tokens of each count.
    """
    rows = []
    for text in texts:
        ids = list(backbone.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])[:_TEXT_TOKENS]
        ids = [*backbone.lead, *ids]
        given = max(1, len(ids) // 2) if backbone.encoder_decoder else max(1, len(backbone.lead))
        rows.append(EncodedRow(tuple(ids[:given]), tuple(ids[given:]) or (backbone.end_id,)))
    return row_losses(backbone, rows)
