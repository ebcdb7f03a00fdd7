"""What a model makes of probes: hidden states and logits, the raw material of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merge_advisor.arrays import Float32Array

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

_PROBE_TOKENS = 256
"""Tokens of a probe at most."""


def probe_hidden(backbone: Backbone, probes: Sequence[str], *, copies: int = 1) -> Float32Array:
    """Return the last hidden state (after the final norm) at each probe's last token.

    One batch, padded on the right: padding behind the last token cannot reach it under causal attention, and rotary or
    absolute positions are those of the text alone, so the vectors equal those of single forwards.

    Args:
        backbone: base, with or without a candidate placed.
        probes: p texts.
        copies: times the batch is repeated, for `placed_together`.

    Returns:
        (copies, p, d) float32. Of an encoder-decoder the decoder's state at its start token (see
        `embeddings.activations`).
    """
    import torch

    batch = _tokens_of(backbone, probes)
    ids, mask = (batch[key].repeat(copies, 1) for key in ("input_ids", "attention_mask"))
    with torch.inference_mode():
        if backbone.encoder_decoder:
            read = backbone.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            state = backbone.model.get_decoder()(
                input_ids=_start_tokens(backbone, len(ids)),
                encoder_hidden_states=read,
                encoder_attention_mask=mask,
                use_cache=False,
            )
            hidden = state.last_hidden_state[:, -1]
        else:
            state = backbone.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            last = (mask.sum(1) - 1).to(state.last_hidden_state.device)
            hidden = state.last_hidden_state[torch.arange(len(ids)), last]
    vectors: Float32Array = hidden.float().reshape(copies, len(probes), -1).cpu().numpy()
    return vectors


def encoder_hidden(backbone: Backbone, probes: Sequence[str]) -> Float32Array:
    """Return the mean over each probe's tokens of the encoder's last layer, (p, d) float32.

    Args:
        backbone: an encoder-decoder, with or without a candidate placed.
        probes: p texts.
    """
    import torch

    batch = _tokens_of(backbone, probes)
    with torch.inference_mode():
        state = backbone.model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        hidden = state.last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden)
        mean = (hidden * weight).sum(1) / weight.sum(1)
    vectors: Float32Array = mean.float().cpu().numpy()
    return vectors


def last_logits(backbone: Backbone, probes: Sequence[str]) -> Float32Array:
    """Return the logits of the token after each probe, (p, vocabulary) float32.

    Args:
        backbone: base, with or without a candidate placed.
        probes: p texts.
    """
    import torch

    rows = []
    with torch.inference_mode():
        for probe in probes:  # one by one: a padded batch would hold logits of every position of every probe at once
            batch = backbone.tokenizer(probe, return_tensors="pt", truncation=True, max_length=_PROBE_TOKENS)
            batch = {key: value.to(backbone.device) for key, value in batch.items() if key != "token_type_ids"}
            if backbone.encoder_decoder:
                batch["decoder_input_ids"] = _start_tokens(backbone, 1)
            rows.append(backbone.model(**batch).logits[0, -1].float())
    logits: Float32Array = torch.stack(rows).cpu().numpy()
    return logits


def _tokens_of(backbone: Backbone, probes: Sequence[str]) -> Any:
    return backbone.tokenizer(
        list(probes), return_tensors="pt", padding=True, truncation=True, max_length=_PROBE_TOKENS, padding_side="right"
    ).to(backbone.device)


def _start_tokens(backbone: Backbone, count: int) -> torch.Tensor:
    import torch

    start = int(backbone.model.config.decoder_start_token_id)
    return torch.full((count, 1), start, device=backbone.device)
