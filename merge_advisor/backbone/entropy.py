"""How sure a model is of its answer, whatever the right one is: the entropy of what it says, in nats.

Training by it lowers it on inputs whose outputs are not known (entropy minimisation; of coefficients of a merge:
AdaMerging, arXiv 2310.02575; at test time: Tent, arXiv 2006.10726). It knows nothing of what is right: a model that
always gives the same answer has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from merge_advisor.backbone.encoding import IGNORE_INDEX

if TYPE_CHECKING:
    import torch


def choice_entropy(totals: torch.Tensor) -> torch.Tensor:
    """Return -Σ p log p of one row's choices, p each one's share of the likelihood of all; at most log(choices).

    Args:
        totals: (choices,) log-likelihood of each choice, end token included, as answers are scored.

    Returns:
        A scalar, differentiable.
    """
    return _entropy(totals)


def next_token_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -Σ p log p over the vocabulary at the first position of each row's answer; at most log(vocabulary).

    Args:
        logits: (n, kept, vocabulary), as of `forward.batch_logits`.
        labels: (n, kept) tokens of the answers, `IGNORE_INDEX` where none counts; what they are is not looked at.

    Returns:
        (n,) float32, differentiable.
    """
    import torch

    first = (labels != IGNORE_INDEX).int().argmax(1)
    return _entropy(logits[torch.arange(len(labels), device=labels.device), first])


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    # in float32, and from logarithms: the share of an answer that is ruled out rounds to 0, its logarithm does not
    logs = logits.float().log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
