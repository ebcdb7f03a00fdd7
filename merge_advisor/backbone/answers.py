"""From one reading of each prompt: how likely a row's output is, and after that what the model says itself.

Exact match asks both of every row. The keys and values of the prompts of one batch are held between the two: the
outputs run behind them, and greedy decoding goes on from the same place for those rows whose text that did not show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor.backbone.encoding import IGNORE_INDEX, TOKENS_PER_BATCH, EncodedRow, batches, padded
from merge_advisor.backbone.forward import log_likelihoods
from merge_advisor.backbone.generate import Finished, greedy_behind, greedy_from
from merge_advisor.backbone.likelihood import continued
from merge_advisor.backbone.long_prefix import LongPrefix, read_prefix
from merge_advisor.backbone.prefix import can_share, read_prompts

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone


@dataclass(frozen=True, eq=False)
class ReadRows:
    """A batch of rows that a decoder has read.

    >>> read = ReadRows((0, 1), (0.5, 2.0), ((7, 2), (9, 2)), lambda places, most, finished: [[7] for _ in places])
    >>> read.go_on([1], max_new_tokens=1)
    [[7]]
    """

    positions: tuple[int, ...]
    """Of its n rows, among all."""
    losses: tuple[float, ...]
    """(n,) of each row's completion, nats per token, as of `losses.row_losses`."""
    likeliest: tuple[tuple[int, ...], ...]
    """(n,) at each of the completion's tokens the one that is most likely, after the completion's tokens before it."""
    decode: Callable[[Sequence[int], int, Finished | None], list[list[int]]] | None = None
    """What `go_on` calls; None where nothing was held to go on from."""

    def go_on(self, places: Sequence[int], *, max_new_tokens: int, finished: Finished | None = None) -> list[list[int]]:
        """Return the greedy answers to some of the prompts, as `generate.greedy` does.

        Args:
            places: which of the n rows.
            max_new_tokens: tokens of an answer at most.
            finished: as of `generate.greedy`.
        """
        assert self.decode is not None
        return self.decode(places, max_new_tokens, finished)


def can_go_on(backbone: Backbone) -> bool:
    """Return whether a base can be asked by `read_answers`: a decoder, one of `prefix.can_share`.

    Args:
        backbone: a base.
    """
    return not backbone.encoder_decoder and can_share(backbone)


def read_answers(backbone: Backbone, rows: Sequence[EncodedRow], *, room: int) -> Iterator[ReadRows]:
    """Yield rows in batches of similar length; keys and values are held as long as a batch is.

    Args:
        backbone: one of `can_go_on`, with or without a candidate placed; to be left as it is between batches.
        rows: n rows.
        room: tokens that may be generated for a row; behind a long prefix they stay in the batch's sequence.
    """
    prefix = read_prefix(backbone, [row.prompt for row in rows])
    shared = len(prefix.ids) - room if prefix else 0
    for batch in batches(rows, shared=shared, most=backbone.tokens(TOKENS_PER_BATCH)):
        part = [rows[position] for position in batch]
        yield _behind(prefix, batch, part) if prefix else _apart(backbone, batch, part)


def _apart(backbone: Backbone, positions: Sequence[int], rows: Sequence[EncodedRow]) -> ReadRows:
    import torch

    with torch.inference_mode():
        read = read_prompts(backbone, [row.prompt for row in rows])
        logits = read.last[:, None]
        if any(len(row.completion) > 1 for row in rows):
            after = continued(backbone, read.select(range(len(rows))), [row.completion[:-1] for row in rows])
            logits = torch.cat([logits, after.to(logits.device)], dim=1)

    def decode(places: Sequence[int], most: int, finished: Finished | None) -> list[list[int]]:
        with torch.inference_mode():
            return greedy_from(backbone, read.select(places), max_new_tokens=most, finished=finished)

    return ReadRows(tuple(positions), *_told(logits, rows, backbone.closing), decode)


def _behind(prefix: LongPrefix, positions: Sequence[int], rows: Sequence[EncodedRow]) -> ReadRows:
    import torch

    with torch.inference_mode():
        sequence = prefix.sequence()
        last = prefix.read(sequence, [row.prompt for row in rows])
        logits = prefix.answer_logits(sequence, last, rows)

    def decode(places: Sequence[int], most: int, finished: Finished | None) -> list[list[int]]:
        lengths = {place + 1: len(rows[place].prompt) for place in places}
        with torch.inference_mode():
            return greedy_behind(prefix, sequence, last[list(places)], lengths, max_new_tokens=most, finished=finished)

    return ReadRows(tuple(positions), *_told(logits, rows, prefix.backbone.closing), decode)


def _told(
    logits: torch.Tensor, rows: Sequence[EncodedRow], closing: Sequence[int]
) -> tuple[tuple[float, ...], tuple[tuple[int, ...], ...]]:
    """Losses and most likely tokens, from the logits of each completion's tokens in order, (n, longest, vocabulary)."""
    labels, _ = padded([row.completion for row in rows], IGNORE_INDEX, logits.device)
    totals = log_likelihoods(logits, labels, closing).tolist()
    best = logits.argmax(-1).tolist()
    sizes = [len(row.completion) for row in rows]
    losses = tuple(-total / size for total, size in zip(totals, sizes, strict=True))
    return losses, tuple(tuple(tokens[:size]) for tokens, size in zip(best, sizes, strict=True))
