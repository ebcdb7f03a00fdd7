"""How likely it is that an answer ends where it should, of a model that was shown how answers end.

The models of a pool are trained to write the end token behind an answer, so its likelihood is a part of the answer. A
base with examples in its prompt has not seen one there: what stands behind their answers is a line break, and scoring
takes that for the end as well. To ask such a model for the end token alone would measure what nobody has told it: on
short answers that term was five times as large as all others (`eval/icl_end.md`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

_BREAKS = ("\n", "\u010a", "<0x0A>")
"""How tokenizers write a line break in the names of their tokens: as it is, as byte-level BPE, as a byte."""
_known: WeakKeyDictionary[Any, tuple[tuple[int, str], ...]] = WeakKeyDictionary()
"""Of each tokenizer that was asked, the tokens that begin with a line break."""


def closing_ids(backbone: Backbone, end: str) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer which a text ends as well as an end token does.

    Args:
        backbone: gives the tokenizer and its end tokens.
        end: what ends an answer, beginning with line breaks: of the tokens those that begin with as many, behind spaces
            or not. A tokenizer that has no such token has the end tokens alone.

    Returns:
        `Backbone.end_ids`, then the others by id.
    """
    tokenizer = backbone.tokenizer
    if tokenizer not in _known:
        names = {id_: name for name, id_ in tokenizer.get_vocab().items() if any(part in name for part in _BREAKS)}
        texts = ((id_, str(tokenizer.decode([id_])).lstrip(" \t")) for id_ in sorted(names))
        _known[tokenizer] = tuple((id_, text) for id_, text in texts if text.startswith("\n"))
    breaks = re.match("\n*", end)
    begin = breaks[0] if breaks else ""
    others = (id_ for id_, text in _known[tokenizer] if begin and text.startswith(begin))
    return tuple(dict.fromkeys((*backbone.end_ids, *others)))


def closing_likelihoods(log_p: torch.Tensor, closing: Sequence[int]) -> torch.Tensor:
    """Return the log-likelihood that any of some tokens comes next, (n,), in nats.

    Args:
        log_p: (n, vocabulary) log-likelihoods of the next token.
        closing: ids, at least one.
    """
    return log_p[:, list(closing)].logsumexp(-1)
