"""Short rows behind one another in a single sequence: what all prompts begin with runs once, and nothing is padding.

The first tokens that all rows share stand at the front; each row goes on from there. A mask lets a token see that front
and what stands before it in its own row, and its position is the one it would have alone, so the logits are those of
rows run apart. Every pass reads all weights once, and for a few hundred tokens that reading is what it costs: a pass
of its own for the preamble, as `prefix.continue_from` takes, is then half of the work.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.encoding import IGNORE_INDEX, EncodedRow

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

PACKED_TOKENS = 512
"""Tokens of a sequence at most: past about this size attending to other rows, in vain, costs more than it saves."""


def can_pack(backbone: Backbone) -> bool:
    """Return whether the base takes a position for each token and a mask for each pair of tokens.

    Args:
        backbone: a decoder, one of `prefix.can_share`.
    """
    config = backbone.model.config
    # alibi (Bloom, some Falcon) derives positions from the mask; flash attention takes no mask of pairs
    takes = "position_ids" in inspect.signature(backbone.model.forward).parameters and not getattr(
        config, "alibi", False
    )
    return takes and getattr(config, "_attn_implementation", "") in ("sdpa", "eager")


def packed_logits(backbone: Backbone, rows: Sequence[EncodedRow], shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Run rows as one sequence.

    Args:
        backbone: a decoder, one of `can_pack`, with or without a candidate placed.
        rows: n rows.
        shared: how many first tokens all prompts have in common, fewer than any prompt has; they run once.

    Returns:
        Logits (n, longest completion, vocabulary) of each completion's tokens in order, and these tokens, (n, longest
        completion) int64, `IGNORE_INDEX` behind a shorter completion.
    """
    import torch

    tails = [(row.prompt + row.completion)[shared:] for row in rows]
    ids = [*rows[0].prompt[:shared], *(token for tail in tails for token in tail)]
    positions = [*range(shared), *(at for tail in tails for at in range(shared, shared + len(tail)))]
    owner = torch.tensor([0] * shared + [n for n, tail in enumerate(tails, 1) for _ in tail], device=backbone.device)
    order = torch.arange(len(ids), device=backbone.device)
    seen = (order <= order[:, None]) & ((owner == 0) | (owner == owner[:, None]))
    mask = torch.zeros(seen.shape, dtype=backbone.dtype, device=backbone.device)
    mask.masked_fill_(~seen, torch.finfo(backbone.dtype).min)

    kept: list[int] = []  # the position before each token of a completion: its logits predict that token
    where = torch.zeros((len(rows), max(len(row.completion) for row in rows)), dtype=torch.long)
    labels = torch.full_like(where, IGNORE_INDEX)
    end = shared
    for n, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        end += len(tail)
        size = len(row.completion)
        where[n, :size] = torch.arange(len(kept), len(kept) + size)
        labels[n, :size] = torch.tensor(row.completion)
        kept.extend(range(end - size - 1, end - 1))
    state = backbone.model(
        input_ids=torch.tensor([ids], device=backbone.device),
        position_ids=torch.tensor([positions], device=backbone.device),
        attention_mask=mask[None, None],
        logits_to_keep=torch.tensor(kept),
        use_cache=False,
    )
    logits = state.logits[0]
    return logits[where.to(logits.device)], labels.to(logits.device)
