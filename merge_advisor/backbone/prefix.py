"""Prompts that begin alike: what all of them share runs once, and its keys and values serve every row.

A template's preamble is often longer than the row behind it, so that without this most of a pass is the same tokens
again.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_advisor.backbone.encoding import padded

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

SHORTEST_PREFIX = 8
"""Tokens that all prompts of a batch must share before running them apart pays."""
_WHOLE = frozenset({"full_attention", "global"})
"""Kinds of layers that attend to everything before a token; the second is GPT-Neo's name."""
_ATTENTION = _WHOLE | {"sliding_attention", "chunked_attention", "local"}
"""Kinds of layers that a mask keeps from padding."""


@dataclass(eq=False)
class PromptCache:
    """Prompts that a decoder has read, n of them, to go on from.

    Generation appends to it token by token: that is why it is mutable, and why `select` copies.

    >>> from pathlib import Path
    >>> from merge_advisor.backbone.model import load_backbone
    >>> read = read_prompts(load_backbone(Path("base"), threads=1), [(5, 6, 7), (8, 9)])
    >>> read.lengths.tolist(), read.select([1]).lengths.tolist()
    ([3, 2], [2])
    """

    last: torch.Tensor
    """(n, vocabulary) logits of the token after each prompt."""
    cache: Any
    """Keys and values, (n, width) positions, those behind a shorter prompt's end not to be seen."""
    seen: torch.Tensor
    """(n, width) 1 where a position holds a token of the prompt."""
    lengths: torch.Tensor
    """(n,) tokens of each prompt, on the CPU."""

    def select(self, rows: Sequence[int]) -> PromptCache:
        """Return a cache of some rows; this one stays as it is.

        Args:
            rows: positions in the order wanted; one may come several times.
        """
        import torch

        index = torch.tensor(list(rows))
        cache = copy.copy(self.cache)
        # copies of the layers are shallow: selecting gives a layer other tensors and leaves the old ones alone
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        there = index.to(self.seen.device)
        for layer in cache.layers:  # each on the device of its layer
            keys = getattr(layer, "keys", None)
            layer.batch_select_indices(index if keys is None else index.to(keys.device))
        return PromptCache(self.last[there], cache, self.seen[there], self.lengths[index])


def can_share(backbone: Backbone) -> bool:
    """Return whether rows can go on from what was read once, behind the padding of others.

    Every layer has to attend to everything before it (no sliding windows, no recurrent states), to give out keys and
    values, and to take each token at the position it is said to have.

    Args:
        backbone: a decoder.
    """
    config = backbone.model.config.get_text_config(decoder=True)
    # Qwen's configurations name a window and, apart from it, whether it is used
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return _kinds(backbone) <= _WHOLE and not window and _goes_by_position(backbone)


def can_pad(backbone: Backbone) -> bool:
    """Return whether padding before a prompt leaves what is generated behind it as it is.

    It does not where it runs through a state, or moves tokens that are counted from the batch's first.

    Args:
        backbone: a decoder.
    """
    return _kinds(backbone) <= _ATTENTION and _goes_by_position(backbone)


def _kinds(backbone: Backbone) -> set[str]:
    config = backbone.model.config.get_text_config(decoder=True)
    named = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)  # GPT-Neo's name
    return set(named or ["full_attention"])


def _goes_by_position(backbone: Backbone) -> bool:
    """Whether all that is kept of a token are keys and values, and its distance to others is that of positions."""
    takes = inspect.signature(backbone.model.forward).parameters
    # Bloom counts positions in the mask; MPT, which takes none either, counts tokens, padding among them
    placed = "position_ids" in takes or backbone.model.config.model_type == "bloom"
    return placed and "past_key_values" in takes and not getattr(backbone.model, "_is_stateful", False)


def shared_prefix(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> int:
    """Count the first tokens that all prompts share, the last token of each left out.

    Args:
        backbone: a decoder; only those of `can_share` do.
        prompts: token ids.

    Returns:
        The number of tokens; 0 where sharing them gains nothing.
    """
    if len(prompts) < 2 or not can_share(backbone):
        return 0
    ordered = sorted(tuple(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # the two that differ earliest
    room = min(map(len, prompts)) - 1  # the last token runs with the rest: its logits are the first that count
    shared = next((i for i in range(room) if first[i] != last[i]), room)
    return shared if shared >= SHORTEST_PREFIX else 0


def continue_from(
    backbone: Backbone,
    prefix: Sequence[int],
    ids: torch.Tensor,
    mask: torch.Tensor,
    kept: torch.Tensor,
    *,
    cached: bool = False,
) -> tuple[torch.Tensor, Any]:
    """Run n rows behind a prefix that all of them share.

    Args:
        backbone: a decoder.
        prefix: token ids of the prefix; may be empty.
        ids: (n, w) token ids, padded on the right.
        mask: (n, w) 1 where a token is.
        kept: positions of `ids` whose logits are wanted, int64, on the CPU.
        cached: whether the keys and values are wanted.

    Returns:
        Logits at the kept positions, (n, kept, vocabulary); and the cache of keys and values, which may be None unless
        `cached` asks for it.
    """
    import torch

    device = backbone.device
    ids, mask = ids.to(device), mask.to(device)
    if not prefix:
        state = backbone.model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=cached)
        return state.logits, state.past_key_values if cached else None
    head = torch.tensor([list(prefix)], device=device)
    cache = backbone.model(input_ids=head, logits_to_keep=1, use_cache=True).past_key_values
    cache.batch_repeat_interleave(len(ids))
    seen = torch.ones((len(ids), len(prefix)), dtype=mask.dtype, device=device)
    state = backbone.model(
        input_ids=ids,
        attention_mask=torch.cat([seen, mask], dim=1),
        position_ids=torch.arange(len(prefix), len(prefix) + ids.shape[1], device=device).expand(len(ids), -1),
        past_key_values=cache,
        logits_to_keep=kept,
        use_cache=True,
    )
    return state.logits, state.past_key_values


def read_prompts(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> PromptCache:
    """Return prompts as a decoder has read them, in one batch, to go on from.

    Args:
        backbone: one of `can_share`, with or without a candidate placed.
        prompts: n prompts as token ids.
    """
    import torch

    shared = shared_prefix(backbone, prompts)
    ids, mask = padded([prompt[shared:] for prompt in prompts], int(backbone.tokenizer.pad_token_id), "cpu")
    lengths = mask.sum(1)
    kept = torch.unique(lengths - 1)
    logits, cache = continue_from(backbone, prompts[0][:shared], ids, mask, kept, cached=True)
    last = logits[torch.arange(len(ids)), torch.searchsorted(kept, lengths - 1)]
    seen = torch.cat([torch.ones((len(ids), shared), dtype=torch.long), mask], dim=1).to(backbone.device)
    return PromptCache(last, cache, seen, shared + lengths)
