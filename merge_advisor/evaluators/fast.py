"""Our own scorer: what `lm_eval_harness` measures, by the same rules, for the price of the forward passes.

For tuning, where one task is scored under hundreds of merges; the final score of a run is lm-eval's own. What makes it
cheap: a prompt runs once for all of its choices, rows are batched by length and by tokens, logits are taken only where
an answer is, generation ends where the answer is complete. `row_values` asks for less still: whether a text is matched
is mostly seen from one forward over prompt and output, without generating (greedy decoding gives the output where each
of its tokens is the most likely one; where it first differs, the text so far mostly shows that it cannot match).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from merge_advisor.backbone.encoding import TOKENS_PER_BATCH, EncodedRow, batches, encode
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.likelihood import answer_totals, losses_and_greedy
from merge_advisor.backbone.long_prefix import read_prefix
from merge_advisor.backbone.losses import row_losses
from merge_advisor.evaluators.metrics import (
    MAX_NEW_TOKENS,
    answer_end,
    answer_of,
    backbone_of,
    check_rows,
    check_settings,
    choice_loss,
    encode_other_answers,
    encode_rows,
    generation_budget,
    is_ended,
    is_right,
    likeliest_choice,
    loss_per_token,
    metric_for,
    model_score,
    score_settings,
    token_limit,
)
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone
    from merge_advisor.templates import Template

_UNFINISHED = "\ufffd"
"""What a tokenizer writes for a character whose bytes are not all there yet."""


@dataclass(frozen=True)
class Fast:
    """Scores a model in memory by this package's own forwards; row by row as lm_eval does.

    >>> Fast(exact_match="lorahub").settings
    {'max_new_tokens': 64, 'max_length': 1024, 'rules': 2, 'exact_match': 'lorahub'}
    >>> Fast(exact_match="loose")
    Traceback (most recent call last):
    ValueError: exact_match is one of: plain, lorahub
    """

    name: ClassVar[str] = "fast"
    version: ClassVar[str] = "merge-advisor fast 1"

    max_new_tokens: int = MAX_NEW_TOKENS
    """Tokens generated at most; fewer where all outputs are shorter."""
    exact_match: str = "plain"
    """When generated text is the output, one of `metrics.EXACT_MATCH_RULES`."""

    def __post_init__(self) -> None:
        check_settings(self.max_new_tokens, self.exact_match)

    @property
    def settings(self) -> dict[str, int | str]:
        """What changes a score besides model, rows and template, for the key of a stored one."""
        return score_settings(self.max_new_tokens, self.exact_match)

    def score(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[Row],
        template: Template,
        *,
        label: str,
        metric: str = "auto",
    ) -> ModelScore:
        """Return the score of a transformers model on rows; all values are per row and in the order of the rows.

        Args:
            model: decoder-only or encoder-decoder, on its device, in evaluation mode; left as it is.
            tokenizer: its tokenizer.
            rows: what to measure on.
            template: the prompt around each input.
            label: the model's name in the score table.
            metric: one of `METRICS`, or "auto" for `metric_for(rows)`. The loss is always measured as well.

        Raises:
            TaskError: no rows, an unknown metric, "accuracy" on rows without choices, or an answer longer than the
                model's context.
        """
        metric = metric_for(rows, metric)
        check_rows(rows, metric)
        backbone = backbone_of(model, tokenizer)
        if metric == "accuracy":
            return _by_choices(backbone, rows, template, label)
        answers = encode_rows(backbone, rows, template)
        if metric == "loss":
            return model_score(label, {"loss": [loss_per_token(-loss, 1) for loss in row_losses(backbone, answers)]})
        limit = token_limit(backbone, template)
        wanted = answers + encode_other_answers(backbone, rows)
        budget = generation_budget(limit, wanted, self.max_new_tokens, self.exact_match)
        outputs, losses = _by_text(backbone, rows, template, answers, budget)
        hits = [float(is_right(output, row, self.exact_match)) for row, output in zip(rows, outputs, strict=True)]
        return model_score(label, {"exact_match": hits, "loss": [loss_per_token(-loss, 1) for loss in losses]}, outputs)


def row_values(backbone: Backbone, rows: Sequence[Row], template: Template, metric: str) -> list[float]:
    """Return one metric per row, in the order of the rows; equal to `Fast().score`'s.

    Args:
        backbone: base, with or without a candidate placed.
        rows: what to measure on.
        template: the prompt around each input.
        metric: "accuracy" or "exact_match" (0 or 1 each), or "loss" (nats per token).

    Raises:
        TaskError: no rows, an unknown metric, "accuracy" on rows without choices, or an answer longer than the model's
            context.
    """
    check_rows(rows, metric)
    if metric == "accuracy":
        return list(_by_choices(backbone, rows, template, "").rows[metric])
    answers = encode_rows(backbone, rows, template)
    if metric == "loss":
        return [loss_per_token(-loss, 1) for loss in row_losses(backbone, answers)]
    wanted = answers + encode_other_answers(backbone, rows)
    budget = generation_budget(token_limit(backbone, template), wanted, MAX_NEW_TOKENS, "plain")
    # under `plain` a text that has begun otherwise is another: its end is not needed
    outputs, _ = _by_text(backbone, rows, template, answers, budget, needed=False)
    return [float(is_right(output, row, "plain")) for row, output in zip(rows, outputs, strict=True)]


def _by_choices(backbone: Backbone, rows: Sequence[Row], template: Template, label: str) -> ModelScore:
    wanted = encode_rows(backbone, rows, template)  # refuses answers that are too long, by row
    pairs = [(template.prompt(row.asked), template.completion(text)) for row in rows for text in row.choices or ()]
    names = [row.called for row in rows for _ in row.choices or ()]
    answers = encode(backbone, pairs, max_length=token_limit(backbone, template), names=names)
    sums = iter(answer_totals(backbone, answers))
    outputs, hits, nats, losses = [], [], [], []
    for row, answer in zip(rows, wanted, strict=True):
        choices = row.choices or ()
        totals = [next(sums) for _ in choices]
        output, hit = likeliest_choice(row, totals)
        outputs.append(output)
        hits.append(hit)
        nats.append(choice_loss(row, totals))
        losses.append(loss_per_token(totals[choices.index(row.output)], len(answer.completion)))
    return model_score(label, {"accuracy": hits, "choices": nats, "loss": losses}, outputs)


def _prompts(backbone: Backbone, rows: Sequence[Row], template: Template, budget: int) -> list[EncodedRow]:
    """Return the prompts, cut to leave room for `budget` tokens."""
    room = token_limit(backbone, template) - (0 if backbone.encoder_decoder else budget)
    return encode(backbone, [(template.prompt(row.asked), "") for row in rows], max_length=room, end=False)


def _generated(backbone: Backbone, prompts: Sequence[EncodedRow], end: str, budget: int) -> list[str]:
    """Return the greedy answer to each prompt."""

    def finished(tokens: Sequence[int]) -> bool:
        return is_ended(_text(backbone, tokens), end)

    texts = [""] * len(prompts)
    prefix = read_prefix(backbone, [prompt.prompt for prompt in prompts])
    # behind a prefix, what is generated stays in the sequence of the whole batch
    shared = len(prefix.ids) - budget if prefix else 0
    for batch in batches(prompts, shared=shared, most=backbone.tokens(TOKENS_PER_BATCH)):
        answers = greedy(
            backbone, [prompts[at].prompt for at in batch], max_new_tokens=budget, finished=finished, prefix=prefix
        )
        for at, tokens in zip(batch, answers, strict=True):
            texts[at] = answer_of(_text(backbone, tokens), end)
    return texts


def _text(backbone: Backbone, tokens: Sequence[int]) -> str:
    return str(backbone.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _by_text(
    backbone: Backbone,
    rows: Sequence[Row],
    template: Template,
    answers: Sequence[EncodedRow],
    budget: int,
    *,
    needed: bool = True,
) -> tuple[list[str], list[float]]:
    """Return the greedy answer to each row, and the loss of its output; only what one forward leaves open is generated.

    With `needed` False an answer that is plainly none of the right ones is not generated either: it may be cut short.
    """
    end = answer_end(rows, template)
    prompts = _prompts(backbone, rows, template, budget)
    losses, greedily = losses_and_greedy(backbone, answers)
    foreseen: list[str | None] = []
    for row, prompt, answer, best in zip(rows, prompts, answers, greedily, strict=True):
        uncut = prompt.prompt == answer.prompt  # a long prompt is cut elsewhere where more is to be generated
        wanted = () if needed else tuple(text.strip() for text in row.right)
        foreseen.append(_foreseen(backbone, answer.completion, best, budget, end, wanted) if uncut else None)
    left = [at for at, text in enumerate(foreseen) if text is None]
    late = dict(zip(left, _generated(backbone, [prompts[at] for at in left], end, budget), strict=True))
    return [late[at] if text is None else text for at, text in enumerate(foreseen)], losses


def _foreseen(
    backbone: Backbone, output: Sequence[int], best: Sequence[int], budget: int, end: str, wanted: Sequence[str]
) -> str | None:
    """Return the greedy answer as far as one forward over the output shows it; None where it does not show enough.

    Up to the first token where the most likely one is not the output's, greedy decoding gives the output, and there the
    most likely one. An answer that has not ended there is enough if it already differs from all of `wanted`.
    """
    agreed = next((at for at, (a, b) in enumerate(zip(output, best, strict=True)) if a != b), len(output))
    begun = list(best[: agreed + 1])
    ended = begun[-1] == backbone.end_id
    if ended:
        begun.pop()
    if len(begun) > budget:
        return None
    text = _text(backbone, begun)
    if ended or is_ended(text, end):
        return answer_of(text, end)
    if not wanted or len(end) > 1 or getattr(backbone.tokenizer, "clean_up_tokenization_spaces", False):
        return None  # what comes next may also change what is there, or show that it is not of the answer
    seen = text.strip().rstrip(_UNFINISHED).strip()
    return None if any(text.startswith(seen) for text in wanted) else seen
