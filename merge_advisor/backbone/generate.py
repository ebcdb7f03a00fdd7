"""Greedy generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.forward import context_length, continue_from, encode, shared_prefix

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone


def generate(backbone: Backbone, prompt: str, *, max_new_tokens: int = 64) -> str:
    """Return the greedy answer to a prompt text, without special tokens, stripped."""
    room = max(1, context_length(backbone) - max_new_tokens)
    row = encode(backbone, [(prompt, "")], max_length=room, end=False)[0]
    found = greedy(backbone, [row.prompt], max_new_tokens=max_new_tokens)[0]
    return str(backbone.tokenizer.decode(found, skip_special_tokens=True)).strip()


def greedy(backbone: Backbone, prompts: Sequence[Sequence[int]], *, max_new_tokens: int) -> list[list[int]]:
    """Return the most likely next token again and again, until the end token (left out) or `max_new_tokens`.

    Prompts of one batch share what they begin with, as in `forward.row_losses`; an encoder-decoder goes through
    transformers' own `generate`.
    """
    if backbone.encoder_decoder:
        return _by_transformers(backbone, prompts, max_new_tokens)
    import torch

    shared = shared_prefix(backbone, prompts)
    lengths = torch.tensor([len(prompt) - shared for prompt in prompts])
    ids = torch.full((len(prompts), int(lengths.max())), int(backbone.tokenizer.pad_token_id))
    for index, prompt in enumerate(prompts):
        ids[index, : lengths[index]] = torch.tensor(list(prompt[shared:]))
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    found: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    with torch.inference_mode():
        kept = torch.unique(lengths - 1)
        logits, cache = continue_from(backbone, prompts[0][:shared], ids, mask, kept, cached=True)
        last = logits[torch.arange(len(ids)), torch.searchsorted(kept, lengths - 1)]
        seen = torch.cat([torch.ones((len(ids), shared), dtype=torch.long), mask], dim=1).to(backbone.device)
        for step in range(max_new_tokens):
            tokens = last.argmax(-1).cpu()
            for index in sorted(open_rows):
                token = int(tokens[index])
                if token == backbone.end_id:
                    open_rows.discard(index)
                else:
                    found[index].append(token)
            if not open_rows or step == max_new_tokens - 1:
                break
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
            state = backbone.model(
                input_ids=tokens[:, None].to(backbone.device),
                attention_mask=seen,
                position_ids=(shared + lengths + step)[:, None].to(backbone.device),
                past_key_values=cache,
                use_cache=True,
            )
            last, cache = state.logits[:, -1], state.past_key_values
    return found


def _by_transformers(backbone: Backbone, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    import torch

    found = []
    for prompt in prompts:
        with torch.inference_mode():
            ids = backbone.model.generate(
                input_ids=torch.tensor([list(prompt)], device=backbone.device), do_sample=False, num_beams=1,
                max_new_tokens=max_new_tokens, eos_token_id=backbone.end_id,
                pad_token_id=backbone.tokenizer.pad_token_id,
            )  # fmt: skip
        new = ids[0, 1:].tolist()  # the first is the decoder's start token
        found.append(new[: new.index(backbone.end_id)] if backbone.end_id in new else new)
    return found
