"""Greedy generation for one prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone


def generate(backbone: Backbone, prompt: str, *, max_new_tokens: int = 64) -> str:
    """Return the greedy answer to a prompt text, without special tokens, stripped."""
    import torch

    batch = backbone.tokenizer(
        prompt, return_tensors="pt", add_special_tokens=backbone.encoder_decoder or backbone.begins
    )
    ids, mask = batch["input_ids"].to(backbone.device), batch["attention_mask"].to(backbone.device)
    with torch.inference_mode():
        found = backbone.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, temperature=None, top_p=None, top_k=None,
            max_new_tokens=max_new_tokens, eos_token_id=backbone.end_id, pad_token_id=backbone.tokenizer.pad_token_id,
        )  # fmt: skip
    new = found[0] if backbone.encoder_decoder else found[0, ids.shape[1] :]
    return str(backbone.tokenizer.decode(new, skip_special_tokens=True)).strip()
