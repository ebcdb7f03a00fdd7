"""Greedy generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.encoding import context_length, encode, padded
from merge_advisor.backbone.long_prefix import LongPrefix, PlacedToken
from merge_advisor.backbone.prefix import PromptCache, read_prompts

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone


def generate(backbone: Backbone, prompt: str, *, max_new_tokens: int = 64) -> str:
    """Return the greedy answer to a prompt text, without special tokens, stripped.

    Args:
        backbone: base, with or without a candidate placed.
        prompt: the text, template included; cut on its left to what the context leaves.
        max_new_tokens: tokens of the answer at most.
    """
    room = max(1, context_length(backbone) - max_new_tokens)
    row = encode(backbone, [(prompt, "")], max_length=room, end=False)[0]
    answer = greedy(backbone, [row.prompt], max_new_tokens=max_new_tokens)[0]
    return str(backbone.tokenizer.decode(answer, skip_special_tokens=True)).strip()


def greedy(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    finished: Callable[[Sequence[int]], bool] | None = None,
    prefix: LongPrefix | None = None,
) -> list[list[int]]:
    """Return greedy answers as token ids: the most likely next token, until the end token (left out).

    Prompts of one batch share what they begin with, as in `losses.row_losses`, and rows that are done leave it; an
    encoder-decoder uses transformers' own `generate`.

    Args:
        backbone: base, with or without a candidate placed.
        prompts: n prompts as token ids.
        max_new_tokens: tokens of an answer at most.
        finished: called with the answer so far after each token; a row for which it returns True is done as well.
        prefix: a long beginning of all prompts that was read before, for them and others.
    """
    if backbone.encoder_decoder:
        return _by_transformers(backbone, prompts, max_new_tokens)
    if prefix is not None:
        return _behind(prefix, prompts, max_new_tokens, finished)
    import torch

    answers: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    with torch.inference_mode():
        read = read_prompts(backbone, prompts)
        for step in range(max_new_tokens):
            tokens = read.last.argmax(-1).tolist()
            left = []
            for place, token in enumerate(tokens):
                row = going[place]
                if row < 0 or token == backbone.end_id:
                    continue
                answers[row].append(token)
                if finished is None or not finished(answers[row]):
                    left.append(place)
            if not left or step == max_new_tokens - 1:
                break
            if 2 * len(left) <= len(going):  # copying keys and values pays where it halves the batch
                read = read.select(left)
                tokens, going = [tokens[place] for place in left], [going[place] for place in left]
            else:
                going = [row if place in left else -1 for place, row in enumerate(going)]
            _advance(backbone, read, tokens)
    return answers


def _behind(
    prefix: LongPrefix,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    finished: Callable[[Sequence[int]], bool] | None,
) -> list[list[int]]:
    """Greedy answers behind a prefix whose keys and values no row copies; a row that is done is not run again."""
    import torch

    answers: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    with torch.inference_mode():
        sequence = prefix.sequence()
        last = prefix.read(sequence, prompts)
        for step in range(max_new_tokens):
            left = []
            for row, token in zip(going, last.argmax(-1).tolist(), strict=True):
                if token == prefix.backbone.end_id:
                    continue
                answers[row].append(token)
                if finished is None or not finished(answers[row]):
                    left.append(row)
            if not left or step == max_new_tokens - 1:
                break
            tokens = [PlacedToken(answers[row][-1], len(prompts[row]) + step, row + 1) for row in left]
            last, going = prefix.append(sequence, tokens, range(len(left))), left
    return answers


def _advance(backbone: Backbone, read: PromptCache, tokens: Sequence[int]) -> None:
    """Append one token to each row."""
    import torch

    read.seen = torch.cat([read.seen, torch.ones_like(read.seen[:, :1])], dim=1)
    state = backbone.model(
        input_ids=torch.tensor(tokens, device=backbone.device)[:, None],
        attention_mask=read.seen,
        position_ids=read.lengths[:, None].to(backbone.device),
        past_key_values=read.cache,
        use_cache=True,
    )
    read.last, read.cache, read.lengths = state.logits[:, -1], state.past_key_values, read.lengths + 1


def _by_transformers(backbone: Backbone, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    import torch

    pad = int(backbone.tokenizer.pad_token_id)
    ids, mask = padded(prompts, pad, backbone.device)
    with torch.inference_mode():
        answers = backbone.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, repetition_penalty=1.0,
            max_new_tokens=max_new_tokens, eos_token_id=backbone.end_id, pad_token_id=pad,
        )  # fmt: skip
    new = [row[1:] for row in answers.tolist()]  # the first is the decoder's start token
    return [row[: row.index(backbone.end_id)] if backbone.end_id in row else row for row in new]
