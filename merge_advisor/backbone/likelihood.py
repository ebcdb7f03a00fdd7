"""Log-likelihoods of answers, each prompt run once for all the answers it has.

A prompt with one answer runs with it in one forward. A prompt with several (choices) runs alone, and its keys and
values (of an encoder-decoder: what the encoder read) serve every answer. The end token is part of an answer, so even
choices of one token take a second forward, of one position each: what follows a choice decides among them as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_advisor.backbone.forward import (
    IGNORED,
    TOKENS_PER_BATCH,
    Encoded,
    attends_to_all,
    batch_logits,
    batches,
    read_prompts,
)

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

HELD_TOKENS = 4 * TOKENS_PER_BATCH
"""Positions of keys and values in one batch at most, those of a prompt counted once for each of its answers."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a model makes of an answer."""

    total: float
    """Σ log p over its tokens, the end token included; may be no number where weights overflow."""
    greedy: tuple[int, ...]
    """At each of its tokens, the most likely one after those before it."""


def answers_told(backbone: Backbone, rows: Sequence[Encoded]) -> list[Told]:
    """Return what the model makes of each answer, in the order of the rows; rows of one prompt share its forward."""
    import torch

    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for position, row in enumerate(rows):
        by_prompt.setdefault(row.prompt, []).append(position)
    sharing = [group for group in by_prompt.values() if len(group) > 1]
    if not (backbone.encoder_decoder or attends_to_all(backbone)):
        sharing = []
    held = {position for group in sharing for position in group}
    alone = [position for position in range(len(rows)) if position not in held]
    found: dict[int, Told] = {}
    with torch.inference_mode():
        for batch in batches([rows[position] for position in alone]):
            positions = [alone[place] for place in batch]
            found |= zip(positions, _apart(backbone, [rows[position] for position in positions]), strict=True)
        for groups in _grouped(rows, sharing):
            positions = [position for group in groups for position in group]
            prompts = [rows[group[0]].prompt for group in groups]
            which = [place for place, group in enumerate(groups) for _ in group]
            answers = [rows[position].completion for position in positions]
            together = _after_encoder if backbone.encoder_decoder else _after_prompts
            found |= zip(positions, together(backbone, prompts, which, answers), strict=True)
    return [found[position] for position in range(len(rows))]


def _grouped(rows: Sequence[Encoded], groups: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    """Yield batches of groups of like length; a group too large for one batch comes in pieces."""
    pieces: list[tuple[int, int, list[int]]] = []
    for group in groups:
        width = max(len(rows[position]) for position in group)
        size = max(1, HELD_TOKENS // width)
        pieces += [(width, group[at], list(group[at : at + size])) for at in range(0, len(group), size)]
    batch: list[list[int]] = []
    held = 0
    for width, _, piece in sorted(pieces):  # widths grow: the newest is the widest of its batch
        count = held + len(piece)
        if batch and (width * count > HELD_TOKENS or width * (len(batch) + 1) > TOKENS_PER_BATCH):
            yield batch
            batch, count = [], len(piece)
        batch.append(piece)
        held = count
    if batch:
        yield batch


def _apart(backbone: Backbone, rows: Sequence[Encoded]) -> Iterator[Told]:
    logits, labels = batch_logits(backbone, rows)
    yield from _read_off(logits, labels)


def _after_prompts(
    backbone: Backbone, prompts: Sequence[Sequence[int]], which: Sequence[int], answers: Sequence[Sequence[int]]
) -> Iterator[Told]:
    """Answers after prompts that a decoder reads first; `which` is the prompt of each answer."""
    import torch

    read = read_prompts(backbone, prompts)
    read.select(which)
    first = torch.tensor([answer[0] for answer in answers], device=backbone.device)
    logits, labels = read.last[:, None], first[:, None]
    width = max(map(len, answers)) - 1
    if width:
        ids, mask = _padded([answer[:-1] for answer in answers], int(backbone.tokenizer.pad_token_id), backbone.device)
        later, _ = _padded([answer[1:] for answer in answers], IGNORED, backbone.device)
        state = backbone.model(
            input_ids=ids,
            attention_mask=torch.cat([read.seen, mask], dim=1),
            position_ids=read.lengths[:, None].to(backbone.device) + torch.arange(width, device=backbone.device),
            past_key_values=read.cache,
            use_cache=True,
        )
        logits, labels = torch.cat([logits, state.logits], dim=1), torch.cat([labels, later], dim=1)
    yield from _read_off(logits, labels)


def _after_encoder(
    backbone: Backbone, prompts: Sequence[Sequence[int]], which: Sequence[int], answers: Sequence[Sequence[int]]
) -> Iterator[Told]:
    """Answers to prompts that an encoder reads first."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    ids, mask = _padded(prompts, int(backbone.tokenizer.pad_token_id), backbone.device)
    state = backbone.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    index = torch.tensor(which, device=backbone.device)
    labels, _ = _padded(answers, IGNORED, backbone.device)
    logits = backbone.model(
        encoder_outputs=BaseModelOutput(last_hidden_state=state[index]), attention_mask=mask[index], labels=labels
    ).logits
    yield from _read_off(logits, labels)


def _padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both (n, longest)."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def _read_off(logits: torch.Tensor, labels: torch.Tensor) -> Iterator[Told]:
    """Sums and most likely tokens from (n, kept, vocabulary) logits and the (n, kept) tokens they should give."""
    import torch

    nll = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    best, counted = logits.argmax(-1).tolist(), (labels != IGNORED).tolist()
    for total, tokens, real in zip(nll.sum(1).tolist(), best, counted, strict=True):
        yield Told(-total, tuple(token for token, is_real in zip(tokens, real, strict=True) if is_real))
