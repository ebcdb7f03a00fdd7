"""What a finetune lowers on each row: the loss of the right answer, and beside it losses over the row's choices.

Or the entropy of what the model says, which asks for no right answer (`entropy`).

The terms are those of T-Few (arXiv 2205.05638, section 3.2): the likelihood of the right choice among the choices, and
the unlikelihood of the wrong ones (arXiv 1908.04319). Their cross-entropy is taken over length-normalised
log-likelihoods; ours also over plain sums, as answers are scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_advisor.backbone.choice_loss import choice_losses
from merge_advisor.backbone.encoding import IGNORE_INDEX, TOKENS_PER_BATCH, EncodedChoices, EncodedRow, batches
from merge_advisor.backbone.entropy import choice_entropy, next_token_entropies
from merge_advisor.backbone.forward import batch_logits, log_likelihoods
from merge_advisor.backbone.losses import batch_losses, losses_per_token, row_losses

if TYPE_CHECKING:
    import torch

    from merge_advisor.backbone.model import Backbone

Example = EncodedRow | EncodedChoices
"""A row to train on or to watch."""


@dataclass(frozen=True, slots=True)
class TrainingLoss:
    """Weights of the terms of a row's training loss; those over choices count where rows have some.

    >>> TrainingLoss(choices=1.0).answer
    1.0
    """

    answer: float = 1.0
    """Of the mean loss of the right answer's tokens."""
    choices: float = 0.0
    """Of -log of the right choice's share of the likelihood of all choices."""
    normalised: float = 0.0
    """Of the same over likelihoods to the power of 1 / tokens."""
    unlikelihood: float = 0.0
    """Of the mean of -log(1 - p) over the tokens of the wrong choices."""
    entropy: float = 0.0
    """Of the entropy over the row's choices; of the next token at the answer's first position where it has none."""

    @property
    def needs_choices(self) -> bool:
        """Whether wrong choices have to be run."""
        return bool(self.choices or self.normalised or self.unlikelihood or self.entropy)

    @property
    def needs_outputs(self) -> bool:
        """Whether the right answer is looked at."""
        return bool(self.answer or self.choices or self.normalised or self.unlikelihood)

    @property
    def key(self) -> list[float]:
        """The weights as JSON values; the entropy's only where it has one, so that older keys stay what they are."""
        weights = [self.answer, self.choices, self.normalised, self.unlikelihood]
        return [*weights, *([self.entropy] if self.entropy else [])]


ANSWER_ALONE = TrainingLoss()
"""The loss of language modelling."""
ENTROPY_ALONE = TrainingLoss(answer=0.0, entropy=1.0)
"""What can be lowered on unlabelled rows."""


def backward(backbone: Backbone, examples: Sequence[Example], terms: TrainingLoss = ANSWER_ALONE) -> float:
    """Return the mean training loss of some rows; its gradient is accumulated.

    Args:
        backbone: base, with something trainable attached.
        examples: n rows, with choices or without; choices are looked at only where a term needs them.
        terms: weights of the terms.
    """
    value = 0.0
    with_choices = [row for row in examples if isinstance(row, EncodedChoices) and terms.needs_choices]
    for choices in with_choices:  # row by row: a row's choices share its prompt, which then runs once
        loss = _choice_terms(backbone, choices, terms) / len(examples)
        loss.backward()
        value += float(loss.detach())
    rows = [_answer(row) for row in examples if not (isinstance(row, EncodedChoices) and terms.needs_choices)]
    for batch in batches(rows, most=backbone.tokens(TOKENS_PER_BATCH)):
        # an answer's weight counts here too, so that rows of both kinds stay in proportion
        loss = _plain_terms(backbone, [rows[index] for index in batch], terms) / len(examples)
        loss.backward()
        value += float(loss.detach())
    return value


def watched_losses(backbone: Backbone, examples: Sequence[Example]) -> list[float]:
    """Return what each row is judged by: its choice loss where it has choices, else its loss per token.

    Args:
        backbone: base, with or without something placed or attached.
        examples: rows, with choices or without.
    """
    choices = iter(choice_losses(backbone, [row for row in examples if isinstance(row, EncodedChoices)]))
    plain = iter(row_losses(backbone, [row for row in examples if isinstance(row, EncodedRow)]))
    return [next(choices) if isinstance(row, EncodedChoices) else next(plain) for row in examples]


def _answer(row: Example) -> EncodedRow:
    return row.answers[row.right] if isinstance(row, EncodedChoices) else row


def _plain_terms(backbone: Backbone, rows: Sequence[EncodedRow], terms: TrainingLoss) -> torch.Tensor:
    """The sum over rows without choices."""
    if not terms.entropy:
        return terms.answer * batch_losses(backbone, rows).sum()
    logits, labels = batch_logits(backbone, rows)
    entropy = terms.entropy * next_token_entropies(logits, labels).sum()
    return entropy + terms.answer * losses_per_token(logits, labels).sum() if terms.answer else entropy


def _choice_terms(backbone: Backbone, row: EncodedChoices, terms: TrainingLoss) -> torch.Tensor:
    import torch

    logits, labels = batch_logits(backbone, row.answers)
    totals = log_likelihoods(logits, labels)
    kept = labels != IGNORE_INDEX
    means = totals / kept.sum(1)
    loss = -terms.answer * means[row.right]
    if terms.choices:
        loss = loss + terms.choices * (totals.logsumexp(0) - totals[row.right])
    if terms.entropy:
        loss = loss + terms.entropy * choice_entropy(totals)
    if terms.normalised:
        loss = loss + terms.normalised * (means.logsumexp(0) - means[row.right])
    wrong = [place for place in range(len(row.answers)) if place != row.right]
    if terms.unlikelihood and wrong:
        flat = torch.nn.functional.cross_entropy(
            logits[wrong].float().flatten(0, 1), labels[wrong].flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        # p = 1 would be a loss of infinity
        unlikely = -torch.log1p(-torch.exp(-flat).clamp(max=1 - 1e-6))
        loss = loss + terms.unlikelihood * unlikely[kept[wrong].flatten()].mean()
    return loss
