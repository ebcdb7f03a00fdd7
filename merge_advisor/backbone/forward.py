"""Forward passes of rows: the logits of their completions, and the log-likelihoods these give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.closing import closing_likelihoods
from merge_advisor.backbone.encoding import IGNORE_INDEX, TOKENS_PER_BATCH, EncodedRow, batches, padded
from merge_advisor.backbone.long_prefix import read_prefix
from merge_advisor.backbone.packing import PACKED_TOKENS, can_pack, packed_logits
from merge_advisor.backbone.prefix import can_share, continue_from, shared_prefix

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


def all_logits(
    backbone: Backbone, rows: Sequence[EncodedRow]
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield positions of rows with their logits and labels, batch by batch, until all rows were run.

    A long beginning that all prompts share, examples for instance, runs once for all batches.

    Args:
        backbone: base, with or without a candidate placed.
        rows: the rows, of any lengths.

    Yields:
        Positions of n rows; and what `batch_logits` returns for them.
    """
    prefix = read_prefix(backbone, [row.prompt for row in rows])
    if prefix is None:
        for batch in batches(rows, most=backbone.tokens(TOKENS_PER_BATCH)):
            yield batch, *batch_logits(backbone, [rows[position] for position in batch])
        return
    for batch in batches(rows, shared=len(prefix.ids), most=backbone.tokens(PACKED_TOKENS)):
        yield batch, *prefix.row_logits([rows[position] for position in batch])


def batch_logits(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run one batch, differentiable where parameters require gradients.

    Args:
        backbone: base, with or without a candidate placed.
        rows: n rows, of similar length lest most of the batch is padding.

    Returns:
        Logits (n, kept, vocabulary) in the base's dtype; and the tokens they predict, (n, kept) int64, `IGNORE_INDEX`
        where none counts. Only positions that some row's completion needs are kept.
    """
    return _seq2seq_logits(backbone, rows) if backbone.encoder_decoder else _causal_logits(backbone, rows)


def log_likelihoods(logits: torch.Tensor, labels: torch.Tensor, closing: Sequence[int] = ()) -> torch.Tensor:
    """Return Σ log p of each row's tokens, (n,) float32, in nats.

    Args:
        logits: (n, kept, vocabulary).
        labels: (n, kept) the tokens they should give, `IGNORE_INDEX` where none counts.
        closing: as of `Backbone.closing`.
    """
    import torch

    wanted = labels.flatten()
    counted = wanted != IGNORE_INDEX
    # in float32 whatever the base's dtype is: a sum of bfloat16 terms would be rounded past differences that matter.
    # Only of positions that count: rows of one batch end at different places, so most of the kept ones do not
    flat, tokens = logits.flatten(0, 1)[counted].float(), wanted[counted]
    nll = torch.nn.functional.cross_entropy(flat, tokens, reduction="none")
    if closing:
        ends = tokens == closing[0]
        nll[ends] = -closing_likelihoods(flat[ends].log_softmax(-1), closing)
    each = nll.new_zeros(len(wanted))
    each[counted] = nll
    return -each.view_as(labels).sum(1)


def _causal_logits(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a decoder; what all prompts begin with runs once, as the front of one sequence where the rows are short."""
    import torch

    shared = shared_prefix(backbone, [row.prompt for row in rows])
    together = shared + sum(len(row) - shared for row in rows)
    if len(rows) > 1 and together <= PACKED_TOKENS and can_share(backbone) and can_pack(backbone):
        return packed_logits(backbone, rows, shared)
    tails = [(row.prompt + row.completion)[shared:] for row in rows]
    ids, mask = padded(tails, int(backbone.tokenizer.pad_token_id), "cpu")
    labels = torch.full(ids.shape, IGNORE_INDEX)
    for index, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        # the logit at position t predicts token t + 1
        start = len(row.prompt) - shared - 1
        labels[index, start : len(tail) - 1] = torch.tensor(row.completion)
    kept = (labels != IGNORE_INDEX).any(0).nonzero()[:, 0]
    logits, _ = continue_from(backbone, rows[0].prompt[:shared], ids, mask, kept)
    return logits, labels[:, kept].to(logits.device)


def _seq2seq_logits(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = padded([row.prompt for row in rows], int(backbone.tokenizer.pad_token_id), backbone.device)
    labels, _ = padded([row.completion for row in rows], IGNORE_INDEX, backbone.device)
    state = backbone.model(input_ids=ids, attention_mask=mask, labels=labels)
    return state.logits, labels.to(state.logits.device)
