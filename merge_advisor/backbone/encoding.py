"""Rows as token ids: how texts become them, and which rows run together in one batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from merge_advisor.errors import TaskError

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

ROW_TOKENS = 1024
"""Tokens of a row at most, or the base's context if shorter: prompts are cut on their left to fit."""
EXAMPLE_TOKENS = 2048
"""The same for a row with examples in its prompt, which are as many as fit. More would be dear on a CPU, where a token
costs about the same wherever it stands, and past about this length attending to them costs as much as all else."""
TOKENS_PER_BATCH = 2048
"""Padded tokens in one batch of losses: past about this size two cores gain nothing."""
IGNORE_INDEX = -100
"""Label of a position that does not count: what transformers and torch's cross-entropy take for it."""
UNKNOWN_CONTEXT = 2048
"""Context of a base whose configuration names none."""
_LONG = 2**16
"""Characters of a prompt from which on it is tokenised once, and its end remembered: that of a book takes seconds."""
_TAIL = 4 * EXAMPLE_TOKENS
"""Tokens remembered of the end of such a prompt: more than any row may have."""
_REMEMBERED = 256
"""Long prompts remembered at a time, the first ones going."""


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """A row as token ids; the end token closes the completion.

    >>> len(EncodedRow(prompt=(5, 6, 7), completion=(8, 1)))
    5
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True, slots=True)
class EncodedChoices:
    """A row with choices as token ids.

    >>> yes, no = EncodedRow((5, 6), (8, 1)), EncodedRow((5, 6), (9, 1))
    >>> EncodedChoices((yes, no), right=0).right
    0
    """

    answers: tuple[EncodedRow, ...]
    """One per choice, in the row's order; all have the same prompt, except where a long choice cut it."""
    right: int
    """Position of the right choice; 0 of an unlabelled row, of which nothing asks it."""


def encode(
    backbone: Backbone,
    texts: Sequence[tuple[str, str]],
    *,
    max_length: int,
    names: Sequence[str] | None = None,
    end: bool = True,
    cut: bool = False,
    on_cut: Callable[[int, int], None] = lambda row, tokens: None,
) -> list[EncodedRow]:
    """Turn (prompt, completion) texts into token ids, the prompt cut on its left to `max_length` tokens in all.

    Prompt and completion are tokenised apart, so that the prompt's ids do not depend on the answer. The prompt begins
    with what the tokenizer puts before a text (`Backbone.lead`), which no cut takes away, or with what a chat template
    writes there; that of an encoder-decoder gets all special tokens that its tokenizer adds, as in its pretraining.

    Args:
        backbone: gives the tokenizer.
        texts: (prompt, completion) of each row.
        max_length: tokens of prompt and completion together at most; of each alone for an encoder-decoder.
        names: what to call each row in an error; its number if None.
        end: whether the end token closes the completion.
        cut: whether to cut a completion over three quarters of `max_length` on its right.
        on_cut: called with the position of each row whose prompt is cut, and the tokens it would have.

    Returns:
        The rows, in order.

    Raises:
        TaskError: a completion that alone fills `max_length`; the message names the row.
    """
    tokenizer = backbone.tokenizer
    rows = []
    last, prompt = None, PromptIds((), 0)
    for index, (prompt_text, completion_text) in enumerate(texts):
        if prompt_text != last:  # a prompt comes once for each of its choices, one after the other
            last, prompt = prompt_text, _prompt_ids(backbone, prompt_text, max_length)
        completion = list(tokenizer(completion_text, add_special_tokens=False, verbose=False)["input_ids"])
        if end:
            completion.append(backbone.end_id)
        if cut:
            completion = completion[: max(1, max_length * 3 // 4)]
        room = max_length if backbone.encoder_decoder else max_length - len(completion)
        if room < 1 or len(completion) > max_length:
            name = names[index] if names else f"row {index + 1}"
            raise TaskError(f"{name}: its answer takes {len(completion)} tokens of {max_length}; shorten or drop it")
        if prompt.length > room:
            on_cut(index, prompt.length + (0 if backbone.encoder_decoder else len(completion)))
        rows.append(EncodedRow(_cut(prompt, room, backbone.lead), _shared(completion)))
    return rows


class PromptIds(NamedTuple):
    """A prompt as token ids; of a very long one what it begins with and its end, which is all that a cut leaves.

    >>> PromptIds((5, 6, 7), 3).length
    3
    """

    ids: tuple[int, ...]
    length: int
    """How many there are in all."""


def _prompt_ids(backbone: Backbone, text: str, most: int) -> PromptIds:
    """The ids of a prompt, of which `most` are wanted at most."""
    if len(text) < _LONG or most > _TAIL:
        ids = _all_ids(backbone, text)
        return PromptIds(_shared(ids), len(ids))
    # by digest: the texts themselves may be many megabytes
    key = f"{backbone.lead} {_is_chat(backbone)} {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
    known: dict[str, PromptIds] = backbone.long_prompts
    if key not in known:
        ids = _all_ids(backbone, text)
        begin = max(0, len(ids) - _TAIL)
        led = _led(ids, backbone.lead)
        while not led and begin and _led(ids[begin:], backbone.lead):  # the end is not to look like one that is led
            begin -= 1
        known[key] = PromptIds(_shared((*(backbone.lead if led and begin else ()), *ids[begin:])), len(ids))
        while len(known) > _REMEMBERED:
            del known[next(iter(known))]
    return known[key]


def _all_ids(backbone: Backbone, text: str) -> list[int]:
    # verbose=False: a text longer than the context is cut later, so the tokenizer's warning about it is noise
    prompt = list(backbone.tokenizer(text, add_special_tokens=backbone.encoder_decoder, verbose=False)["input_ids"])
    # those of a chat template have what it writes, as transformers gives them; another prompt may hold it as text
    return prompt if _is_chat(backbone) or _led(prompt, backbone.lead) else [*backbone.lead, *prompt]


_NUMBERS: dict[int, int] = {}
"""Token ids that were given out."""


def _shared(ids: Iterable[int]) -> tuple[int, ...]:
    """The ids, each the one object of its number: a token of many rows then takes 8 bytes and not 36."""
    return tuple(_NUMBERS.setdefault(number, number) for number in ids)


def _is_chat(backbone: Backbone) -> bool:
    return backbone.template is not None and backbone.template.chat_template is not None


def _led(prompt: Sequence[int], lead: Sequence[int]) -> bool:
    return list(prompt[: len(lead)]) == list(lead)


def _cut(prompt: PromptIds, room: int, lead: Sequence[int]) -> tuple[int, ...]:
    """The end of a prompt behind what every prompt begins with: a base is lost without its begin token."""
    ids = prompt.ids
    if prompt.length <= room:
        return ids
    kept = room - len(lead)
    return (*lead, *ids[-kept:]) if kept > 0 and _led(ids, lead) else ids[-room:]


def context_length(backbone: Backbone) -> int:
    """Return the number of tokens the base was made for; 2048 where its configuration names none.

    Args:
        backbone: gives the configuration.
    """
    config = backbone.model.config.get_text_config()
    return context_of(lambda key: getattr(config, key, None)) or UNKNOWN_CONTEXT


def context_of(value_of: Callable[[str], Any]) -> int | None:
    """Return the context that a configuration names, None where it names none.

    >>> context_of({"n_positions": 512}.get), context_of({}.get)
    (512, None)

    Args:
        value_of: gives the configuration's value of a name, None where it has none.
    """
    for key in ("max_position_embeddings", "n_positions"):  # the second is GPT-2's name for it
        value = value_of(key)
        if isinstance(value, int) and value > 0:
            return value
    return None


def batches(rows: Sequence[EncodedRow], *, shared: int = 0, most: int | None = None) -> Iterator[list[int]]:
    """Yield positions of rows of similar length together, at most `TOKENS_PER_BATCH` padded tokens (or one row).

    >>> short, long = EncodedRow((5, 6), (1,)), EncodedRow((5,) * 1500, (1,))
    >>> list(batches([short, long, short]))
    [[0, 2], [1]]

    Args:
        rows: the rows, of any lengths.
        shared: first tokens of each row that do not count, since they run once for all.
        most: padded tokens of a batch at most; None: `TOKENS_PER_BATCH`.
    """
    most = TOKENS_PER_BATCH if most is None else most
    batch: list[int] = []
    # lengths grow, so that the newest row is the widest of its batch; equal lengths keep their order
    for position in sorted(range(len(rows)), key=lambda index: (len(rows[index]), index)):
        if batch and (len(rows[position]) - shared) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids padded on the right, and their mask, 1 where a token is; both (n, longest) int64.

    Args:
        rows: n sequences of token ids.
        pad: id that fills up.
        device: where the tensors go.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
