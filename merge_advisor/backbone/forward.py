"""Forward passes: hidden states of probes, losses of rows, the gradient of a loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.backbone.packing import PACKED_TOKENS, can_pack, packed_logits
from merge_advisor.errors import TaskError

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

from merge_advisor.arrays import Float32Array

IGNORED = -100
"""Label of a position that does not count."""
TOKENS_PER_BATCH = 2048
"""Padded tokens in one batch of losses: past about this size two cores gain nothing."""
SHORTEST_PREFIX = 8
"""Tokens that all prompts of a batch must share before running them apart pays."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as token ids; the end token closes the completion."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


def encode(
    backbone: Backbone,
    texts: Sequence[tuple[str, str]],
    *,
    max_length: int,
    names: Sequence[str] | None = None,
    end: bool = True,
    cut: bool = False,
) -> list[EncodedRow]:
    """Turn (prompt, completion) texts into ids, the prompt cut on its left to `max_length` tokens in all.

    Prompt and completion are tokenised apart, without special tokens (FACTS: "no special tokens before it"); the prompt
    of an encoder-decoder gets those its tokenizer adds, as its pretraining had them. The end token closes the
    completion unless `end` is False. With `cut` a completion over three quarters of `max_length` is cut on its right.

    Raises:
        TaskError: a completion that alone fills `max_length`; the message names the row.
    """
    tokenizer = backbone.tokenizer
    found = []
    for index, (prompt_text, completion_text) in enumerate(texts):
        special = backbone.encoder_decoder
        prompt = list(tokenizer(prompt_text, add_special_tokens=special, verbose=False)["input_ids"])
        if backbone.begins and prompt[:1] != [tokenizer.bos_token_id]:  # a chat template writes it itself
            prompt = [tokenizer.bos_token_id, *prompt]
        completion = list(tokenizer(completion_text, add_special_tokens=False, verbose=False)["input_ids"])
        if end:
            completion.append(backbone.end_id)
        if cut:
            completion = completion[: max(1, max_length * 3 // 4)]
        room = max_length if backbone.encoder_decoder else max_length - len(completion)
        if room < 1 or len(completion) > max_length:
            row = names[index] if names else f"row {index + 1}"
            raise TaskError(f"{row}: its answer takes {len(completion)} tokens of {max_length}; shorten or drop it")
        found.append(EncodedRow(tuple(prompt[-room:]), tuple(completion)))
    return found


def context_length(backbone: Backbone) -> int:
    """Tokens the base was made for; 2048 where its configuration does not say."""
    config = backbone.model.config
    for key in ("max_position_embeddings", "n_positions"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2048


def probe_hidden(backbone: Backbone, probes: Sequence[str], *, copies: int = 1, max_length: int = 256) -> Float32Array:
    """Last hidden state (after the final norm) at each probe's last token.

    One right-padded batch: padding behind the last token cannot reach it under causal attention, and rotary or absolute
    positions are those of the text alone, so the vectors equal those of single forwards.

    Args:
        backbone: base, with or without a candidate placed.
        probes: p texts.
        copies: times the batch is repeated, for `placed_together`.
        max_length: tokens of a probe at most.

    Returns:
        (copies, p, d) float32. Of an encoder-decoder the decoder's state at its start token (see `embed.activations`).
    """
    import torch

    batch = backbone.tokenizer(
        list(probes), return_tensors="pt", padding=True, truncation=True, max_length=max_length, padding_side="right"
    )
    ids, mask = (batch[key].to(backbone.device).repeat(copies, 1) for key in ("input_ids", "attention_mask"))
    with torch.inference_mode():
        if backbone.encoder_decoder:
            start = torch.full((len(ids), 1), int(backbone.model.config.decoder_start_token_id), device=backbone.device)
            read = backbone.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            state = backbone.model.get_decoder()(
                input_ids=start, encoder_hidden_states=read, encoder_attention_mask=mask, use_cache=False
            )
            hidden = state.last_hidden_state[:, -1]
        else:
            state = backbone.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            hidden = state.last_hidden_state[torch.arange(len(ids)), mask.sum(1) - 1]
    found: Float32Array = hidden.float().reshape(copies, len(probes), -1).cpu().numpy()
    return found


def encoder_hidden(backbone: Backbone, probes: Sequence[str], *, max_length: int = 256) -> Float32Array:
    """Mean over the tokens of the encoder's last layer, (p, d) float32; encoder-decoders only."""
    import torch

    batch = backbone.tokenizer(
        list(probes), return_tensors="pt", padding=True, truncation=True, max_length=max_length, padding_side="right"
    ).to(backbone.device)
    with torch.inference_mode():
        state = backbone.model.get_encoder()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        weight = batch["attention_mask"].unsqueeze(-1).to(backbone.dtype)
        mean = (state.last_hidden_state * weight).sum(1) / weight.sum(1)
    found: Float32Array = mean.float().cpu().numpy()
    return found


def last_logits(backbone: Backbone, probes: Sequence[str], *, max_length: int = 256) -> Float32Array:
    """Logits of the token after each probe, (p, vocabulary) float32."""
    import torch

    rows = []
    with torch.inference_mode():
        for probe in probes:
            batch = backbone.tokenizer(probe, return_tensors="pt", truncation=True, max_length=max_length)
            batch = {key: value.to(backbone.device) for key, value in batch.items() if key != "token_type_ids"}
            if backbone.encoder_decoder:
                start = torch.full((1, 1), int(backbone.model.config.decoder_start_token_id), device=backbone.device)
                batch["decoder_input_ids"] = start
            rows.append(backbone.model(**batch).logits[0, -1].float())
    found: Float32Array = torch.stack(rows).cpu().numpy()
    return found


def batches(rows: Sequence[EncodedRow], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Yield positions of rows of like length together, at most `tokens` padded tokens a batch (one row at least)."""
    batch: list[int] = []
    for position in sorted(range(len(rows)), key=lambda index: (len(rows[index]), index)):
        if batch and len(rows[position]) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def row_losses(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    """Mean negative log-likelihood of each row's completion, its end token included, in nats per token."""
    import torch

    found = [0.0] * len(rows)
    with torch.inference_mode():
        for batch in batches(rows):
            losses = batch_losses(backbone, [rows[position] for position in batch])
            for position, loss in zip(batch, losses.tolist(), strict=True):
                found[position] = loss
    return found


def batch_losses(backbone: Backbone, rows: Sequence[EncodedRow]) -> torch.Tensor:
    """Mean loss of each row of one batch, (n,) float32, differentiable where parameters require gradients."""
    import torch

    logits, labels = batch_logits(backbone, rows)
    counted = labels != IGNORED
    nll = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    return nll.sum(1) / counted.sum(1)


def batch_logits(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, kept, vocabulary) of one batch, and the tokens they predict, (n, kept), `IGNORED` where none does."""
    return _seq2seq_logits(backbone, rows) if backbone.encoder_decoder else _causal_logits(backbone, rows)


def _causal_logits(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, (n, kept) positions: only those that some row's completion needs.

    What all prompts begin with (a template's preamble) runs once: as the front of one sequence where the rows are
    short, else apart, and its keys and values serve every row.
    """
    import torch

    shared = shared_prefix(backbone, [row.prompt for row in rows])
    together = shared + sum(len(row) - shared for row in rows)
    if len(rows) > 1 and together <= PACKED_TOKENS and attends_to_all(backbone) and can_pack(backbone):
        return packed_logits(backbone, rows, shared, IGNORED)
    width = max(len(row) for row in rows) - shared
    ids = torch.full((len(rows), width), int(backbone.tokenizer.pad_token_id))
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED)
    for index, row in enumerate(rows):
        tokens = torch.tensor((row.prompt + row.completion)[shared:])
        ids[index, : len(tokens)] = tokens
        mask[index, : len(tokens)] = 1
        # the logit at position t predicts token t + 1
        labels[index, len(row.prompt) - shared - 1 : len(tokens) - 1] = tokens[len(row.prompt) - shared :]
    kept = (labels != IGNORED).any(0).nonzero()[:, 0]
    logits, _ = continue_from(backbone, rows[0].prompt[:shared], ids, mask, kept)
    return logits, labels[:, kept].to(backbone.device)


def attends_to_all(backbone: Backbone) -> bool:
    """Whether every layer attends to everything before it: no sliding windows, no recurrent states."""
    config = backbone.model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return kinds == {"full_attention"} and not window and not getattr(backbone.model, "_is_stateful", False)


def shared_prefix(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share, the last token of each left out; 0 where sharing them gains nothing.

    Only bases of `attends_to_all` can share.
    """
    if len(prompts) < 2 or not attends_to_all(backbone):
        return 0
    ordered = sorted(tuple(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # the two that differ earliest
    room = min(map(len, prompts)) - 1
    found = next((i for i in range(room) if first[i] != last[i]), room)
    return found if found >= SHORTEST_PREFIX else 0


def continue_from(
    backbone: Backbone,
    prefix: Sequence[int],
    ids: torch.Tensor,
    mask: torch.Tensor,
    kept: torch.Tensor,
    *,
    cached: bool = False,
) -> tuple[torch.Tensor, Any]:
    """Run (n, w) right-padded ids behind a prefix that all of them share.

    Returns:
        Logits at the kept positions of `ids` (indices), (n, kept, vocabulary); and the cache of keys and values, which
        may be None unless `cached` asks for it.
    """
    import torch

    device = backbone.device
    ids, mask, kept = ids.to(device), mask.to(device), kept.to(device)
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


@dataclass(eq=False)
class PromptCache:
    """Prompts that a decoder has read, n of them, to go on from."""

    last: torch.Tensor
    """(n, vocabulary) logits of the token after each prompt."""
    cache: Any
    """Keys and values, (n, width) positions, those behind a shorter prompt's end not to be seen."""
    seen: torch.Tensor
    """(n, width) 1 where a position holds a token of the prompt."""
    lengths: torch.Tensor
    """(n,) tokens of each prompt, on the CPU."""

    def select(self, rows: Sequence[int]) -> PromptCache:
        """Return these rows, in this order, one maybe several times, to go on from; this one stays as it is."""
        import torch

        index = torch.tensor(list(rows))
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]  # selecting gives a layer other tensors
        there = index.to(self.seen.device)
        cache.batch_select_indices(there)
        return PromptCache(self.last[there], cache, self.seen[there], self.lengths[index])


def read_prompts(backbone: Backbone, prompts: Sequence[Sequence[int]]) -> PromptCache:
    """Run prompts of one batch through a decoder; what all of them begin with runs once."""
    import torch

    shared = shared_prefix(backbone, prompts)
    lengths = torch.tensor([len(prompt) - shared for prompt in prompts])
    ids = torch.full((len(prompts), int(lengths.max())), int(backbone.tokenizer.pad_token_id))
    for index, prompt in enumerate(prompts):
        ids[index, : lengths[index]] = torch.tensor(list(prompt[shared:]))
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    kept = torch.unique(lengths - 1)
    logits, cache = continue_from(backbone, prompts[0][:shared], ids, mask, kept, cached=True)
    last = logits[torch.arange(len(ids)), torch.searchsorted(kept, lengths - 1)]
    seen = torch.cat([torch.ones((len(ids), shared), dtype=torch.long), mask], dim=1).to(backbone.device)
    return PromptCache(last, cache, seen, shared + lengths)


def _seq2seq_logits(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    pad = int(backbone.tokenizer.pad_token_id)
    ids = torch.full((len(rows), max(len(row.prompt) for row in rows)), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(rows), max(len(row.completion) for row in rows)), IGNORED)
    for index, row in enumerate(rows):
        ids[index, : len(row.prompt)] = torch.tensor(row.prompt)
        mask[index, : len(row.prompt)] = 1
        labels[index, : len(row.completion)] = torch.tensor(row.completion)
    device = backbone.device
    state = backbone.model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device))
    return state.logits, labels.to(device)


def weight_gradient(backbone: Backbone, rows: Sequence[EncodedRow], names: Sequence[str]) -> dict[str, Float32Array]:
    """∂L/∂W of the mean of the rows' losses, as `loss_and_gradient` takes it."""
    return loss_and_gradient(backbone, rows, names)[1]


def loss_and_gradient(
    backbone: Backbone, rows: Sequence[EncodedRow], names: Sequence[str]
) -> tuple[list[float], dict[str, Float32Array]]:
    """Each row's loss, and ∂L/∂W of their mean for the named parameters in their layout, float32.

    At the base, or at whatever is placed on it (in float32). One backward pass over the rows: by FLOPs two forwards.
    """
    found = [0.0] * len(rows)

    def parts() -> Iterator[torch.Tensor]:
        for batch in batches(rows):
            losses = batch_losses(backbone, [rows[position] for position in batch])
            for position, loss in zip(batch, losses.tolist(), strict=True):
                found[position] = loss
            yield losses.sum() / len(rows)

    gradient = gradient_of(backbone, parts(), names)
    return found, gradient


def gradient_of(backbone: Backbone, parts: Iterator[torch.Tensor], names: Sequence[str]) -> dict[str, Float32Array]:
    """Return ∂/∂W of the sum of scalars for the named parameters in their layout, float32; each part as it comes."""
    import torch

    wanted = [backbone.parameters[name] for name in names]
    for parameter in wanted:
        parameter.requires_grad_(True)
    try:
        for part in parts:
            part.backward()
        return {
            name: np.zeros(tuple(parameter.shape), dtype=np.float32)
            if parameter.grad is None
            else parameter.grad.detach().to(torch.float32).cpu().numpy()
            for name, parameter in zip(names, wanted, strict=True)
        }
    finally:
        for parameter in wanted:
            parameter.requires_grad_(False)
            parameter.grad = None


def text_losses(backbone: Backbone, texts: Sequence[str], *, max_length: int = 512) -> list[float]:
    """Mean loss of plain texts (all tokens but the first), nats per token; decoders only see the text itself."""
    rows = []
    for text in texts:
        ids: Any = backbone.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_length]
        if backbone.encoder_decoder:  # the first half is read, the second half is predicted
            middle = max(1, len(ids) // 2)
            rows.append(EncodedRow(tuple(ids[:middle]), tuple(ids[middle:]) or (backbone.end_id,)))
        else:
            rows.append(EncodedRow(tuple(ids[:1]), tuple(ids[1:]) or (backbone.end_id,)))
    return row_losses(backbone, rows)
