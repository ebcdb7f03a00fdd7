"""Long prompts that begin alike, as those with examples do: what they share runs once for all rows, and is held once.

A batch of such rows would be one or two of them, each with its own copy of the keys and values of the shared part. Here
these stand once, and the rest of many rows runs behind them as one sequence (as in `packing`): a token sees the shared
part and what stands before it in its own row, at the position it would have alone. So a row costs the tokens that are
its own, and attending to the shared ones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from merge_advisor.backbone.closing import closing_likelihoods
from merge_advisor.backbone.encoding import IGNORE_INDEX, EncodedRow
from merge_advisor.backbone.packing import PACKED_TOKENS, can_pack
from merge_advisor.backbone.prefix import can_share, shared_prefix

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

LONG_PREFIX = 256
"""Tokens that all prompts must share to be run apart for all batches; fewer run again in each, which costs less than
attending to other rows in vain."""


class PlacedToken(NamedTuple):
    """A token behind a long prefix.

    >>> PlacedToken(id=17, position=1500, row=1).branch
    0
    """

    id: int
    position: int
    """Among the tokens that it follows, as if its row were alone."""
    row: int
    """Number of its row, from 1; it sees no other row."""
    branch: int = 0
    """0 for what all answers of the row go on from; else the number of its answer, from 1, which sees no other one."""


@dataclass(frozen=True, eq=False)
class LongPrefix:
    """What all prompts begin with, read once; it stays as it is, whatever runs behind it.

    >>> from pathlib import Path
    >>> from merge_advisor.backbone.model import load_backbone
    >>> front = tuple(range(5, 300))
    >>> prefix = read_prefix(load_backbone(Path("base"), threads=1), [(*front, 7, 8), (*front, 9)])
    >>> len(prefix.ids), tuple(prefix.append(prefix.sequence(), [PlacedToken(7, 295, 1)], [0]).shape)
    (295, (1, 320))
    """

    backbone: Backbone
    ids: tuple[int, ...]
    cache: Any
    """Keys and values of these tokens, of one row."""

    def sequence(self) -> PackedSequence:
        """Return an empty sequence behind the prefix."""
        import torch

        cache = copy.copy(self.cache)
        # copies of the layers are shallow: appending gives a layer other tensors and leaves the old ones alone
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        nobody = torch.zeros(len(self.ids), dtype=torch.long, device=self.backbone.device)
        return PackedSequence(cache, nobody, nobody)

    def append(self, sequence: PackedSequence, tokens: Sequence[PlacedToken], kept: Sequence[int]) -> torch.Tensor:
        """Return the logits after some of the tokens, (kept, vocabulary); the tokens are part of the sequence then.

        Args:
            sequence: as `sequence` gives it; may have grown.
            tokens: n tokens, those of a row and branch in their order.
            kept: which of them the logits are wanted after.
        """
        import torch

        backbone = self.backbone
        ids, positions, rows, branches = torch.tensor(tokens, device=backbone.device).T
        sequence.rows = torch.cat([sequence.rows, rows])
        sequence.branches = torch.cat([sequence.branches, branches])
        order = torch.arange(len(sequence.rows), device=backbone.device)
        own = sequence.rows == rows[:, None]
        own &= (sequence.branches == 0) | (sequence.branches == branches[:, None])
        seen = ((sequence.rows == 0) | own) & (order <= order[-len(rows) :, None])
        mask = torch.zeros(seen.shape, dtype=backbone.dtype, device=backbone.device)
        mask.masked_fill_(~seen, torch.finfo(backbone.dtype).min)
        state = backbone.model(
            input_ids=ids[None],
            position_ids=positions[None],
            attention_mask=mask[None, None],
            past_key_values=sequence.cache,
            logits_to_keep=torch.tensor(list(kept)),
            use_cache=True,
        )
        sequence.cache = state.past_key_values
        logits: torch.Tensor = state.logits[0]
        return logits

    def row_logits(self, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and labels of rows that begin with the prefix, as `packing.packed_logits` does.

        Args:
            rows: n rows.

        Returns:
            Logits (n, longest completion, vocabulary); the tokens they predict, (n, longest completion) int64,
            `IGNORE_INDEX` behind a shorter completion.
        """
        import torch

        begin = len(self.ids)
        tokens: list[PlacedToken] = []
        kept: list[int] = []  # the position before each token of a completion: its logits predict that token
        where = torch.zeros((len(rows), max(len(row.completion) for row in rows)), dtype=torch.long)
        labels = torch.full_like(where, IGNORE_INDEX)
        for n, row in enumerate(rows):
            size, tail = len(row.completion), (row.prompt + row.completion)[begin:-1]  # nothing follows the last token
            tokens += [PlacedToken(id_, begin + at, n + 1) for at, id_ in enumerate(tail)]
            where[n, :size] = torch.arange(len(kept), len(kept) + size)
            labels[n, :size] = torch.tensor(row.completion)
            kept += range(len(tokens) - size, len(tokens))
        logits = self.append(self.sequence(), tokens, kept)
        return logits[where.to(logits.device)], labels.to(logits.device)

    def read(self, sequence: PackedSequence, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the logits of the token after each prompt, (n, vocabulary); the sequence holds them as rows 1 to n.

        Args:
            sequence: empty.
            prompts: n prompts that begin with the prefix.
        """
        import torch

        begin = len(self.ids)
        last: list[torch.Tensor] = []
        tokens: list[PlacedToken] = []
        ends: list[int] = []
        for n, prompt in enumerate(prompts, 1):
            tokens += [PlacedToken(id_, at, n) for at, id_ in enumerate(prompt[begin:], begin)]
            ends.append(len(tokens) - 1)
            if len(tokens) >= PACKED_TOKENS or n == len(prompts):  # a long piece attends to other rows in vain
                last.append(self.append(sequence, tokens, ends))
                tokens, ends = [], []
        return torch.cat(last)

    def answer_logits(self, sequence: PackedSequence, last: torch.Tensor, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Return the logits of each completion's tokens in order, (n, longest completion, vocabulary).

        Args:
            sequence: holds the prompts as rows 1 to n; the completions become branches of them.
            last: (n, vocabulary) logits of the token after each prompt, as of `read`.
            rows: n rows; behind the end of a shorter completion its logits are void.
        """
        import torch

        after: list[torch.Tensor] = []
        tokens: list[PlacedToken] = []
        where = torch.zeros((len(rows), max(len(row.completion) for row in rows)), dtype=torch.long)
        count = len(rows)  # in the logits found so far, those after the prompts first
        for n, row in enumerate(rows):
            size, start = len(row.completion) - 1, len(row.prompt)  # nothing follows the last token
            where[n, 0] = n
            where[n, 1 : size + 1] = torch.arange(count, count + size)
            count += size
            tokens += [PlacedToken(id_, at, n + 1, 1) for at, id_ in enumerate(row.completion[:-1], start)]
            if tokens and (len(tokens) >= PACKED_TOKENS or n == len(rows) - 1):
                after.append(self.append(sequence, tokens, range(len(tokens))))
                tokens = []
        return torch.cat([last, *after])[where.to(last.device)]

    def answer_sums(
        self, prompts: Sequence[Sequence[int]], which: Sequence[int], answers: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Return Σ log p of answers, (m,) float32; a prompt runs once for all of its answers.

        Args:
            prompts: token ids that begin with the prefix.
            which: the prompt of each answer, in rising order.
            answers: m answers as token ids.
        """
        import torch

        begin = len(self.ids)
        tokens: list[PlacedToken] = []
        ends: list[int] = []  # of each prompt: its logits predict the first token of each of its answers
        for n, prompt in enumerate(prompts, 1):
            tokens += [PlacedToken(id_, at, n) for at, id_ in enumerate(prompt[begin:], begin)]
            ends.append(len(tokens) - 1)
        before: list[int] = []  # the token before each token of an answer, answer by answer
        owner: list[int] = []
        for m, (place, answer) in enumerate(zip(which, answers, strict=True)):
            first = len(tokens)
            start = len(prompts[place])
            tokens += [PlacedToken(id_, at, place + 1, m + 1) for at, id_ in enumerate(answer[:-1], start)]
            before += [ends[place], *range(first, len(tokens))]
            owner += [m] * len(answer)
        kept = sorted(set(before))
        places = {token: place for place, token in enumerate(kept)}
        likelihoods = self.append(self.sequence(), tokens, kept).float().log_softmax(-1)
        device = likelihoods.device
        after = torch.tensor([id_ for answer in answers for id_ in answer], device=device)
        where = torch.tensor([places[token] for token in before], device=device)
        found = likelihoods[where, after]
        if closing := self.backbone.closing:
            ends = after == closing[0]
            found[ends] = closing_likelihoods(likelihoods[where[ends]], closing)
        sums = torch.zeros(len(answers), device=device)
        return sums.index_add(0, torch.tensor(owner, device=device), found)


@dataclass(eq=False)
class PackedSequence:
    """Rows behind a long prefix, in one sequence; `LongPrefix.append` makes it longer: that is why it is mutable.

    >>> sorted(PackedSequence.__annotations__)
    ['branches', 'cache', 'rows']
    """

    cache: Any
    """Keys and values of prefix and rows."""
    rows: torch.Tensor
    """(n,) the row of each token, 0 for the prefix."""
    branches: torch.Tensor
    """(n,) the branch of each token."""


def read_prefix(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> LongPrefix | None:
    """Return what all prompts begin with, as the model reads it; None where that is short or cannot be shared.

    It cannot in an encoder, whose every token sees every other one, nor where a layer does not attend to everything.

    Args:
        backbone: base, with or without a candidate placed; what is returned holds for it as it is now.
        prompts: token ids.
    """
    import torch

    if backbone.encoder_decoder or len(prompts) < 2 or min(map(len, prompts)) <= LONG_PREFIX:
        return None
    shared = shared_prefix(backbone, prompts)
    if shared < LONG_PREFIX or not can_pack(backbone) or not can_share(backbone):
        return None
    ids = tuple(prompts[0][:shared])
    with torch.inference_mode():
        head = torch.tensor([ids], device=backbone.device)
        cache = backbone.model(input_ids=head, logits_to_keep=1, use_cache=True).past_key_values
    return LongPrefix(backbone, ids, cache)
