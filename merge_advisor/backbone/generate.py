"""Greedy generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeAlias

from merge_advisor.backbone.encoding import context_length, encode, padded
from merge_advisor.backbone.long_prefix import LongPrefix, PackedSequence, PlacedToken
from merge_advisor.backbone.prefix import PromptCache, can_pad, can_share, read_prompts
from merge_advisor.weights.by_transformers import quiet

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

Finished: TypeAlias = Callable[[Sequence[int]], bool]
"""Called with an answer so far after each token: whether it is whole."""


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
    finished: Finished | None = None,
    prefix: LongPrefix | None = None,
) -> list[list[int]]:
    """Return greedy answers as token ids: the most likely next token, until the end token (left out).

    Prompts of one batch share what they begin with, as in `losses.row_losses`, and rows that are done leave it; an
    encoder-decoder, and a decoder that cannot share, use transformers' own `generate`.

    Args:
        backbone: base, with or without a candidate placed.
        prompts: n prompts as token ids.
        max_new_tokens: tokens of an answer at most.
        finished: called with the answer so far after each token; a row for which it returns True is done as well.
        prefix: a long beginning of all prompts that was read before, for them and others.
    """
    if backbone.encoder_decoder:
        return _by_transformers(backbone, prompts, max_new_tokens)
    if not can_share(backbone):
        return _unshared(backbone, prompts, max_new_tokens, finished)
    import torch

    with torch.inference_mode():
        if prefix is None:
            read = read_prompts(backbone, prompts)
            return greedy_from(backbone, read, max_new_tokens=max_new_tokens, finished=finished)
        sequence = prefix.sequence()
        last = prefix.read(sequence, prompts)
        lengths = {n: len(prompt) for n, prompt in enumerate(prompts, 1)}
        return greedy_behind(prefix, sequence, last, lengths, max_new_tokens=max_new_tokens, finished=finished)


def greedy_from(
    backbone: Backbone, read: PromptCache, *, max_new_tokens: int, finished: Finished | None = None
) -> list[list[int]]:
    """Return greedy answers to prompts that were read, as `greedy` does; to be called without gradients.

    Args:
        backbone: a decoder, with what was placed on it when it read them.
        read: n prompts; used up, so give a copy (`PromptCache.select`) where they are wanted again.
        max_new_tokens: tokens of an answer at most.
        finished: as of `greedy`.
    """
    going = list(range(len(read.lengths)))
    answers: list[list[int]] = [[] for _ in going]
    for step in range(max_new_tokens):
        tokens = read.last.argmax(-1).tolist()
        left = _going_on(backbone, answers, going, tokens, finished)
        if not left or step == max_new_tokens - 1:
            break
        if 2 * len(left) <= len(going):  # copying keys and values pays where it halves the batch
            read = read.select(left)
            tokens, going = [tokens[place] for place in left], [going[place] for place in left]
        else:
            going = [row if place in left else -1 for place, row in enumerate(going)]
        _advance(backbone, read, tokens)
    return answers


def greedy_behind(
    prefix: LongPrefix,
    sequence: PackedSequence,
    last: torch.Tensor,
    lengths: Mapping[int, int],
    *,
    max_new_tokens: int,
    finished: Finished | None = None,
) -> list[list[int]]:
    """Return greedy answers behind a prefix whose keys and values no row copies; to be called without gradients.

    A row that is done is not run again.

    Args:
        prefix: what all prompts begin with.
        sequence: holds the prompts; what is generated becomes part of it.
        last: (n, vocabulary) logits of the token after each of n prompts.
        lengths: tokens of each of these prompts, by its row in the sequence.
        max_new_tokens: tokens of an answer at most.
        finished: as of `greedy`.
    """
    answers: dict[int, list[int]] = {row: [] for row in lengths}
    going = list(lengths)
    for step in range(max_new_tokens):
        tokens = last.argmax(-1).tolist()
        left = [going[place] for place in _going_on(prefix.backbone, answers, going, tokens, finished)]
        if not left or step == max_new_tokens - 1:
            break
        placed = [PlacedToken(answers[row][-1], lengths[row] + step, row) for row in left]
        last, going = prefix.append(sequence, placed, range(len(left))), left
    return list(answers.values())


def _going_on(
    backbone: Backbone,
    answers: list[list[int]] | dict[int, list[int]],
    going: Sequence[int],
    tokens: Sequence[int],
    finished: Finished | None,
) -> list[int]:
    """Append the next token of each place to its row's answer; return the places that go on. A row below 0 is done."""
    left = []
    for place, (row, token) in enumerate(zip(going, tokens, strict=True)):
        if row < 0 or token in backbone.end_ids:
            continue
        answers[row].append(token)
        if finished is None or not finished(answers[row]):
            left.append(place)
    return left


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


def _unshared(
    backbone: Backbone, prompts: Sequence[Sequence[int]], max_new_tokens: int, finished: Finished | None
) -> list[list[int]]:
    """Answers of a decoder that cannot share: padded before the prompts, or only those of one length together."""
    import torch

    padding = can_pad(backbone)
    together: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        together.setdefault(0 if padding else len(prompt), []).append(place)
    answers: list[list[int]] = [[] for _ in prompts]
    for places in together.values():
        part = [prompts[place] for place in places]
        begin = max(map(len, part))

        def whole(ids: torch.Tensor, scores: Any, begin: int = begin, **named: Any) -> torch.Tensor:
            done = [finished is not None and finished(row[begin:]) for row in ids.tolist()]
            return torch.tensor(done, device=ids.device)

        for place, answer in zip(places, _by_transformers(backbone, part, max_new_tokens, begin, whole), strict=True):
            ends = (size for size in range(1, len(answer)) if finished is not None and finished(answer[:size]))
            answers[place] = answer[: next(ends, None)]  # what is done stays in the batch, and gets padding
    return answers


def _by_transformers(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    begin: int = 1,  # what an encoder-decoder's answer begins with is the decoder's start token
    whole: Callable[..., torch.Tensor] | None = None,
) -> list[list[int]]:
    import torch

    pad = int(backbone.tokenizer.pad_token_id)
    ids, mask = padded(prompts if backbone.encoder_decoder else [row[::-1] for row in prompts], pad, backbone.device)
    if not backbone.encoder_decoder:  # answers follow the prompts, so padding is before them
        ids, mask = ids.flip(1), mask.flip(1)
    with quiet(), torch.inference_mode():
        answers = backbone.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, repetition_penalty=1.0,
            stopping_criteria=[whole] if whole else [],
            max_new_tokens=max_new_tokens, eos_token_id=list(backbone.end_ids), pad_token_id=pad,
        )  # fmt: skip
    new = [row[begin:] for row in answers.tolist()]
    return [list(takewhile(lambda token: token not in backbone.end_ids, row)) for row in new]
