"""Which examples fit into a prompt beside the rows that are to be scored: whole ones, as many as there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from merge_advisor.backbone.encoding import EXAMPLE_TOKENS, EncodedRow, context_length, encode
from merge_advisor.evaluators.metrics import MAX_NEW_TOKENS, encode_other_answers, encode_rows, generation_budget

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone
    from merge_advisor.evaluators.fast import Fast
    from merge_advisor.evaluators.lm_eval_harness import LmEval
    from merge_advisor.templates import Template
    from merge_advisor.types import Row

_UNCUT = 2**40
"""Tokens of a row where only its length is asked for."""
_AT_ONCE = 64
"""Rows that are tokenised at once there: of long ones the ids take more than their texts."""


def fitting_examples(
    backbone: Backbone,
    examples: Sequence[Row],
    rows: Sequence[Row],
    template: Template,
    metric: str,
    scorer: Fast | LmEval,
) -> tuple[int, ...]:
    """Return the positions of the examples that fit, taken in their order; one that does not fit is passed over.

    With them no row is cut: the longest one (with its output, its longest choice, or what may be generated) has room
    within the base's context, and within `EXAMPLE_TOKENS`.

    Args:
        backbone: gives tokenizer and context.
        examples: rows to show.
        rows: what will be measured on.
        template: the prompt around each input, without examples.
        metric: "accuracy", "exact_match" or "loss".
        scorer: what will measure.

    Raises:
        SpecError: the base's chat template takes no earlier turns.
    """
    limit = min(EXAMPLE_TOKENS, context_length(backbone))
    if max(_lengths(backbone, rows, template, metric, 0)) > limit:
        return ()  # not even without examples, and perhaps an answer alone is too long
    answers = encode_rows(backbone, rows, template)
    budget = 0
    if metric == "exact_match":
        answers += encode_other_answers(backbone, rows)
        budget = generation_budget(limit, answers, getattr(scorer, "max_new_tokens", MAX_NEW_TOKENS), _rule(scorer))
    lengths = _lengths(backbone, rows, template, metric, budget)
    longest = rows[lengths.index(max(lengths))]

    def shown(chosen: Sequence[int]) -> Template:
        return template.with_examples((examples[at].asked, examples[at].output) for at in chosen)

    def fits(chosen: Sequence[int], asked: Sequence[Row]) -> bool:
        return max(_lengths(backbone, asked, shown(chosen), metric, budget)) <= limit

    chosen: list[int] = []
    for at in range(len(examples)):
        if fits([*chosen, at], [longest]):
            chosen.append(at)
    # where texts join they may be cut into tokens otherwise, so that another row is the longest one by a few
    while chosen and not fits(chosen, rows):
        chosen.pop()
    return tuple(chosen)


def _rule(scorer: Fast | LmEval) -> str:
    return str(getattr(scorer, "exact_match", "plain"))


def _lengths(
    backbone: Backbone, rows: Sequence[Row], template: Template, metric: str, budget: int
) -> list[int]:  # fmt: skip
    """Return the tokens that each row takes of the context."""
    parts = (rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE))
    return [length for part in parts for length in _lengths_of(backbone, part, template, metric, budget)]


def _lengths_of(
    backbone: Backbone, rows: Sequence[Row], template: Template, metric: str, budget: int
) -> list[int]:  # fmt: skip
    texts = [
        (template.prompt(row.asked), template.completion(text))
        for row in rows
        for text in (row.choices or (row.output,) if metric == "accuracy" else (row.output,))
    ]
    encoded = iter(encode(backbone, texts, max_length=_UNCUT))

    def needed(row: EncodedRow) -> int:
        # an encoder has its context for itself
        return len(row.prompt) + (0 if backbone.encoder_decoder else max(len(row.completion), budget))

    counts = [len(row.choices) if metric == "accuracy" and row.choices else 1 for row in rows]
    return [max(needed(next(encoded)) for _ in range(count)) for count in counts]
