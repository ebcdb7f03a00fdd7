"""What a model says to rows, before anything is decided: the one computation of both evaluators of our rows.

`fast` decides by `metrics`, `lm_eval_harness` has lm-eval decide. What makes it cheap: a prompt runs once for all of
its choices, rows are batched by length and by tokens, logits are taken only where an answer is, generation ends where
the answer is complete, and a text that one forward over prompt and output already shows is not generated (greedy
decoding gives the output where each of its tokens is the most likely one); one that has to be goes on from the same
reading of the prompt. Keys and values are held for one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merge_advisor.backbone.answers import ReadRows, can_go_on, read_answers
from merge_advisor.backbone.closing import closing_ids
from merge_advisor.backbone.encoding import TOKENS_PER_BATCH, EncodedRow, batches, encode
from merge_advisor.backbone.generate import Finished, greedy
from merge_advisor.backbone.likelihood import answer_totals, losses_and_greedy
from merge_advisor.backbone.long_prefix import read_prefix
from merge_advisor.backbone.losses import row_losses
from merge_advisor.evaluators.metrics import (
    MAX_NEW_TOKENS,
    answer_end,
    encode_other_answers,
    encode_rows,
    generation_budget,
    is_ended,
    token_limit,
)
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone
    from merge_advisor.templates import Template

_UNFINISHED = "\ufffd"
"""What a tokenizer writes for a character whose bytes are not all there yet."""


@dataclass(frozen=True, slots=True)
class Responses:
    """What a model says to rows, in their order.

    >>> said = Responses(totals=((-6.0, -9.0),), tokens=(3,))
    >>> said.texts
    ()
    """

    totals: tuple[tuple[float, ...], ...]
    """Log-likelihoods in nats, the end's included: of each choice of a row, or of its output alone where the metric
    asks for no choices. The end is the end token, or where examples in the prompt show another, either."""
    tokens: tuple[int, ...]
    """Tokens of each row's output, the end token included."""
    texts: tuple[str, ...] = ()
    """What is generated for each row, at least until its answer is whole; none where the metric asks for none."""


def respond(
    backbone: Backbone,
    rows: Sequence[Row],
    template: Template,
    metric: str,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    exact_match: str = "plain",
    at_once: int | None = None,
    whole: bool = True,
) -> Responses:
    """Return what a metric needs of a model's answers to rows.

    Args:
        backbone: the model.
        rows: those of `metrics.check_rows`.
        template: the prompt around each input.
        metric: "accuracy", "exact_match" or "loss".
        max_new_tokens: tokens generated at most; fewer where all outputs are shorter.
        exact_match: one of `metrics.EXACT_MATCH_RULES`.
        at_once: rows generated at once at most; None: as many as a batch has tokens for.
        whole: whether texts that plainly match no right answer are wanted whole; else they may be cut short.

    Raises:
        TaskError: an answer longer than the model's context.
    """
    if template.next_example:  # the examples show what ends an answer, and no end token
        backbone = replace(backbone, closing=closing_ids(backbone, answer_end(rows, template)))
    answers = encode_rows(backbone, rows, template)  # refuses answers that are too long, by row
    tokens = tuple(len(answer.completion) for answer in answers)
    if metric == "accuracy":
        return Responses(_choice_totals(backbone, rows, template), tokens)
    if metric == "loss":
        return Responses(_totals(row_losses(backbone, answers), tokens), tokens)
    limit = token_limit(backbone, template)
    wanted = answers + encode_other_answers(backbone, rows)
    budget = generation_budget(limit, wanted, max_new_tokens, exact_match)
    end = answer_end(rows, template)
    prompts = _prompts(backbone, rows, template, budget)
    losses = [0.0] * len(rows)
    texts: list[str | None] = [None] * len(rows)

    def finished(tokens: Sequence[int]) -> bool:
        return is_ended(_text(backbone, tokens), end)

    # where most texts are wanted whole, most are generated; else most rows are decided by one forward over all of them
    holds = whole and can_go_on(backbone)
    for read in read_answers(backbone, answers, room=budget) if holds else _told(backbone, answers):
        left = []
        for place, at in enumerate(read.positions):
            losses[at] = read.losses[place]
            if prompts[at].prompt != answers[at].prompt:
                continue  # a long prompt is cut elsewhere where more is to be generated
            right = () if whole else tuple(text.strip() for text in rows[at].right)
            texts[at] = _foreseen(backbone, answers[at].completion, read.likeliest[place], budget, end, right)
            if texts[at] is None:
                left.append(place)
        if read.decode is not None:
            for part in _parts(left, at_once):
                said = read.go_on(part, max_new_tokens=budget, finished=finished)
                for place, answer in zip(part, said, strict=True):
                    texts[read.positions[place]] = _text(backbone, answer)
    late = [at for at, text in enumerate(texts) if text is None]
    generated = iter(_generated(backbone, [prompts[at] for at in late], budget, at_once, finished))
    return Responses(
        _totals(losses, tokens), tokens, tuple(next(generated) if text is None else text for text in texts)
    )


def _told(backbone: Backbone, answers: Sequence[EncodedRow]) -> Iterator[ReadRows]:
    """All rows at once, in forwards that hold nothing to go on from."""
    losses, likeliest = losses_and_greedy(backbone, answers)
    yield ReadRows(tuple(range(len(answers))), tuple(losses), tuple(likeliest))


def _parts(places: Sequence[int], at_once: int | None) -> Iterator[Sequence[int]]:
    """Some places at a time, `at_once` of them at most; None: all."""
    size = at_once or max(1, len(places))
    yield from (places[first : first + size] for first in range(0, len(places), size))


def _totals(losses: Sequence[float], tokens: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    return tuple((-loss * count,) for loss, count in zip(losses, tokens, strict=True))


def _choice_totals(backbone: Backbone, rows: Sequence[Row], template: Template) -> tuple[tuple[float, ...], ...]:
    pairs = [(template.prompt(row.asked), template.completion(text)) for row in rows for text in row.choices or ()]
    names = [row.called for row in rows for _ in row.choices or ()]
    answers = encode(backbone, pairs, max_length=token_limit(backbone, template), names=names)
    sums = iter(answer_totals(backbone, answers))
    return tuple(tuple(next(sums) for _ in row.choices or ()) for row in rows)


def _prompts(backbone: Backbone, rows: Sequence[Row], template: Template, budget: int) -> list[EncodedRow]:
    """Return the prompts, cut to leave room for `budget` tokens."""
    room = token_limit(backbone, template) - (0 if backbone.encoder_decoder else budget)
    return encode(backbone, [(template.prompt(row.asked), "") for row in rows], max_length=room, end=False)


def _generated(
    backbone: Backbone, prompts: Sequence[EncodedRow], budget: int, at_once: int | None, finished: Finished
) -> list[str]:
    """Return the greedy text after each prompt, until it holds a whole answer."""
    texts = [""] * len(prompts)
    prefix = read_prefix(backbone, [prompt.prompt for prompt in prompts])
    # behind a prefix, what is generated stays in the sequence of the whole batch
    shared = len(prefix.ids) - budget if prefix else 0
    for batch in batches(prompts, shared=shared, most=backbone.tokens(TOKENS_PER_BATCH)):
        for part in _parts(batch, at_once):
            ids = [prompts[at].prompt for at in part]
            answers = greedy(backbone, ids, max_new_tokens=budget, finished=finished, prefix=prefix)
            for at, tokens in zip(part, answers, strict=True):
                texts[at] = _text(backbone, tokens)
    return texts


def _text(backbone: Backbone, tokens: Sequence[int]) -> str:
    return str(backbone.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _foreseen(
    backbone: Backbone, output: Sequence[int], best: Sequence[int], budget: int, end: str, wanted: Sequence[str]
) -> str | None:
    """Return the greedy text as far as one forward over the output shows it; None where it does not show enough.

    Up to the first token where the most likely one is not the output's, greedy decoding gives the output, and there the
    most likely one. A text that has not ended there is enough if it already differs from all of `wanted`.
    """
    agreed = next((at for at, (a, b) in enumerate(zip(output, best, strict=True)) if a != b), len(output))
    begun = list(best[: agreed + 1])
    ended = begun[-1] in backbone.end_ids
    if ended:
        begun.pop()
    if len(begun) > budget:
        return None
    text = _text(backbone, begun)
    if ended or is_ended(text, end):
        return text
    if not wanted or len(end) > 1 or getattr(backbone.tokenizer, "clean_up_tokenization_spaces", False):
        return None  # what comes next may also change what is there, or show that it is not of the answer
    seen = text.strip().rstrip(_UNFINISHED).strip()
    return None if any(text.startswith(seen) for text in wanted) else seen
