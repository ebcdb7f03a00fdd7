"""Log-likelihoods of answers; a prompt with several answers runs once for all of them.

A prompt with one answer runs with it in one forward. A prompt with several (choices) runs alone, and its keys and
values (of an encoder-decoder: what the encoder read) serve every answer. The end token is part of an answer, so even
choices of one token take a second forward, of one position each: what follows a choice decides among them as well.
Where all prompts share a long beginning (`long_prefix`), prompt and answers run in one forward behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.closing import closing_likelihoods
from merge_advisor.backbone.encoding import IGNORE_INDEX, TOKENS_PER_BATCH, EncodedRow, padded
from merge_advisor.backbone.forward import all_logits, log_likelihoods
from merge_advisor.backbone.long_prefix import read_prefix
from merge_advisor.backbone.packing import PACKED_TOKENS
from merge_advisor.backbone.prefix import PromptCache, can_share, read_prompts

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

HELD_TOKENS = 4 * TOKENS_PER_BATCH
"""Positions of keys and values in one batch at most; those of a prompt count once for each of its answers."""
_ENOUGH_TOKENS = 64
"""Tokens that are worth a forward of their own, without padding: about as much as reading the weights costs."""


def answer_totals(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    """Return Σ log p over each answer's tokens, the end token included, in nats; rows of one prompt share its forward.

    Args:
        backbone: base, with or without a candidate placed.
        rows: prompts with answers.

    Returns:
        The sums in the order of the rows; NaN or infinite where weights overflow.
    """
    import torch

    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        by_prompt.setdefault(row.prompt, []).append(position)
    shares = backbone.encoder_decoder or can_share(backbone)
    sharing = [group for group in by_prompt.values() if len(group) > 1 and shares]
    held = {position for group in sharing for position in group}
    alone = [position for position in range(len(rows)) if position not in held]
    sums = [0.0] * len(rows)
    with torch.inference_mode():
        for batch, logits, labels in all_logits(backbone, [rows[position] for position in alone]):
            for place, total in zip(batch, log_likelihoods(logits, labels, backbone.closing).tolist(), strict=True):
                sums[alone[place]] = total
        prefix = read_prefix(backbone, [rows[group[0]].prompt for group in sharing])
        batched = (
            _grouped(backbone, rows, sharing) if prefix is None else _packed(backbone, rows, sharing, len(prefix.ids))
        )
        for groups in batched:
            positions = [position for group in groups for position in group]
            prompts = [rows[group[0]].prompt for group in groups]
            which = [place for place, group in enumerate(groups) for _ in group]
            answers = [rows[position].completion for position in positions]
            if prefix is not None:
                totals = prefix.answer_sums(prompts, which, answers)
            else:
                together = _after_encoder if backbone.encoder_decoder else _after_prompts
                totals = together(backbone, prompts, which, answers)
            for position, total in zip(positions, totals.tolist(), strict=True):
                sums[position] = total
    return sums


def losses_and_greedy(backbone: Backbone, rows: Sequence[EncodedRow]) -> tuple[list[float], list[tuple[int, ...]]]:
    """Return each row's loss, and from the same forward what greedy decoding would say along its answer.

    Args:
        backbone: base, with or without a candidate placed.
        rows: prompts with answers.

    Returns:
        Losses as of `losses.row_losses`; and at each of the answer's tokens the id of the token that is most likely
        after the prompt and the answer's tokens before it.
    """
    import torch

    losses = [0.0] * len(rows)
    likeliest: list[tuple[int, ...]] = [()] * len(rows)
    with torch.inference_mode():
        for batch, logits, labels in all_logits(backbone, rows):
            totals = log_likelihoods(logits, labels, backbone.closing).tolist()
            best = logits.argmax(-1).tolist()
            counted = (labels != IGNORE_INDEX).tolist()
            for position, total, tokens, counts in zip(batch, totals, best, counted, strict=True):
                likeliest[position] = tuple(token for token, one in zip(tokens, counts, strict=True) if one)
                losses[position] = -total / len(likeliest[position])
    return losses, likeliest


def _grouped(
    backbone: Backbone, rows: Sequence[EncodedRow], groups: Sequence[Sequence[int]]
) -> Iterator[list[list[int]]]:
    """Yield batches of groups of similar length; a group too large for one batch comes in pieces."""
    most, most_held = backbone.tokens(TOKENS_PER_BATCH), backbone.tokens(HELD_TOKENS)
    pieces: list[tuple[int, int, list[int]]] = []
    for group in groups:
        width = max(len(rows[position]) for position in group)
        size = max(1, most_held // width)
        pieces += [(width, group[at], list(group[at : at + size])) for at in range(0, len(group), size)]
    batch: list[list[int]] = []
    held = 0
    for width, _, piece in sorted(pieces):  # widths grow: the newest is the widest of its batch
        count = held + len(piece)
        if batch and (width * count > most_held or width * (len(batch) + 1) > most):
            yield batch
            batch, count = [], len(piece)
        batch.append(piece)
        held = count
    if batch:
        yield batch


def _packed(
    backbone: Backbone, rows: Sequence[EncodedRow], groups: Sequence[Sequence[int]], shared: int
) -> Iterator[list[list[int]]]:
    """Yield batches of groups that run as one sequence behind a prefix; a group too large for one comes in pieces."""
    batch: list[list[int]] = []
    most = backbone.tokens(PACKED_TOKENS)
    room = most
    for group in groups:
        prompt = len(rows[group[0]].prompt) - shared
        piece: list[int] = []
        for position in group:
            needed = len(rows[position].completion) - 1 + (0 if piece else prompt)
            if needed > room and (batch or piece):
                yield [*batch, piece] if piece else batch
                batch, piece, room = [], [], most
                needed = len(rows[position].completion) - 1 + prompt
            piece.append(position)
            room -= needed
        batch.append(piece)
    if batch:
        yield batch


def _after_prompts(
    backbone: Backbone, prompts: Sequence[Sequence[int]], which: Sequence[int], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Sums of answers after prompts that a decoder reads first, (n,); `which` is the prompt of each answer."""
    read = read_prompts(backbone, prompts)
    first = read.last.float().log_softmax(-1)
    sums = first[list(which), [answer[0] for answer in answers]]
    if backbone.closing:  # of answers without a token
        empty = [place for place, answer in enumerate(answers) if answer[0] == backbone.closing[0]]
        sums[empty] = closing_likelihoods(first[[which[place] for place in empty]], backbone.closing)
    read.last = read.last[:, :0]  # used; without it, `select` copies less
    for places in _by_length(answers):
        width = max(len(answers[place]) for place in places) - 1
        if not width:
            continue
        after = read.select([which[place] for place in places])
        logits = continued(backbone, after, [answers[place][:-1] for place in places])
        later, _ = padded([answers[place][1:] for place in places], IGNORE_INDEX, logits.device)
        sums[places] += log_likelihoods(logits, later, backbone.closing).to(sums.device)
    return sums


def continued(backbone: Backbone, read: PromptCache, answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logits after each token of answers, (n, longest answer, vocabulary); void behind an answer's end.

    Args:
        backbone: a decoder, one of `prefix.can_share`.
        read: n prompts; used up, so give a copy (`PromptCache.select`) where they are wanted again.
        answers: n answers as token ids, not all of them empty.
    """
    import torch

    ids, mask = padded(answers, int(backbone.tokenizer.pad_token_id), backbone.device)
    there = torch.arange(ids.shape[1], device=backbone.device)
    state = backbone.model(
        input_ids=ids,
        attention_mask=torch.cat([read.seen, mask], dim=1),
        position_ids=read.lengths[:, None].to(backbone.device) + there,
        past_key_values=read.cache,
        use_cache=True,
    )
    logits: torch.Tensor = state.logits
    return logits


def _by_length(answers: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield places of answers of one length together, of several where they are few."""
    chunk: list[int] = []
    for place in sorted(range(len(answers)), key=lambda place: (len(answers[place]), place)):
        longest = len(answers[chunk[-1]]) if chunk else 0
        if len(answers[place]) > longest and longest * len(chunk) >= _ENOUGH_TOKENS:
            yield chunk
            chunk = []
        chunk.append(place)
    yield chunk


def _after_encoder(
    backbone: Backbone, prompts: Sequence[Sequence[int]], which: Sequence[int], answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Sums of answers to prompts that an encoder reads first, (n,)."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    ids, mask = padded(prompts, int(backbone.tokenizer.pad_token_id), backbone.device)
    state = backbone.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    index = torch.tensor(which, device=backbone.device)
    labels, _ = padded(answers, IGNORE_INDEX, backbone.device)
    # the encoder may end on another device than it began on
    read = BaseModelOutput(last_hidden_state=state.to(backbone.device)[index])
    logits = backbone.model(encoder_outputs=read, attention_mask=mask[index], labels=labels).logits
    return log_likelihoods(logits, labels.to(logits.device), backbone.closing)
