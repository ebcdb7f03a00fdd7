"""What is measured on a row, whoever measures it: the metrics, their limits, and what counts as an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.backbone.choice_loss import right_loss
from merge_advisor.backbone.encoding import ROW_TOKENS, EncodedRow, context_length, encode
from merge_advisor.backbone.model import Backbone
from merge_advisor.errors import TaskError
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.templates import Template

METRICS = ("accuracy", "exact_match", "loss")
SHORT_ANSWER = 80
"""Characters of an output that a model can be expected to reproduce exactly."""
SPARE_TOKENS = 4
"""Tokens generated beyond the longest output: a leading blank line, another cut into tokens."""
MAX_NEW_TOKENS = 64
"""Tokens generated at most; fewer where all outputs are shorter. A longer output cannot be matched."""
WORST_LOSS = 1e4
"""Stands for a likelihood that is no number (overflowing weights): finite, and worse than anything real."""
ONE_LINE, ALL_LINES = r"\S[^\n]*", r"\S[\s\S]*"
"""Regular expressions of an answer in generated text: its first line that is not blank, or all of it."""
MATCHES = ("plain", "lorahub")
"""When generated text is the output: `plain` once both are stripped; `lorahub` once both are also in lower case and
without any full stop, as LoraHub's evaluation has it (arXiv 2307.13269 and its code)."""
RULES = 2
"""Number of these rules; a stored score of other rules is not found."""


def metric_for(rows: Sequence[Row]) -> str:
    """Choose the metric a verdict on these rows rests on.

    "accuracy" where every row has choices; "exact_match" where nine in ten outputs are one line of at most
    `SHORT_ANSWER` characters; else "loss", since nobody writes a long answer twice in the same words.
    """
    if rows and all(row.choices for row in rows):
        return "accuracy"
    long = sum(len(row.output.strip()) > SHORT_ANSWER or "\n" in row.output.strip() for row in rows)
    return "exact_match" if 10 * long <= len(rows) else "loss"


def majority_score(
    rows: Sequence[Row], answer: str, metric: str, label: str = "majority", *, exact_match: str = "plain"
) -> ModelScore:
    """Score the model that always gives one answer, e.g. the commonest of the shots; it has no loss.

    Generated text is compared by `exact_match`, one of `MATCHES`.

    Raises:
        TaskError: no rows, or a metric an answer alone cannot be scored by.
    """
    if metric not in ("accuracy", "exact_match"):
        raise TaskError(f"metric '{metric}': a fixed answer has none; choose accuracy or exact_match")
    check_rows(rows, metric)
    # a choice is picked as it is written; generated text is compared by its rule
    right = [row.output == answer if metric == "accuracy" else same(answer, row.output, exact_match) for row in rows]
    values = tuple(float(hit) for hit in right)
    return ModelScore(label, {metric: float(np.mean(values))}, {metric: values}, (answer,) * len(rows))


def check_rows(rows: Sequence[Row], metric: str) -> None:
    """Refuse rows that cannot be measured by a metric.

    Raises:
        TaskError: no rows, an unknown metric, or "accuracy" on a row without choices.
    """
    if not rows:
        raise TaskError("no rows to score on; give at least one held-out row")
    if metric not in METRICS:
        raise TaskError(f"metric '{metric}' is unknown; choose one of: auto, {', '.join(METRICS)}")
    if metric == "accuracy":
        for row in rows:
            if not row.choices or row.output not in row.choices:
                what = "its output is none of its choices" if row.choices else "it has no choices"
                raise TaskError(f"row {row.digest[:8]}: {what}; give choices, or use exact_match or loss")


def check_settings(max_new_tokens: int, exact_match: str) -> None:
    """Refuse settings of an evaluator.

    Raises:
        ValueError: no token to generate, or a rule of matching that is none of `MATCHES`.
    """
    if max_new_tokens < 1:
        raise ValueError("max_new_tokens is at least 1")
    if exact_match not in MATCHES:
        raise ValueError(f"exact_match is one of: {', '.join(MATCHES)}")


def settings_of(max_new_tokens: int, exact_match: str = "plain") -> dict[str, int | str]:
    """What changes a score besides model, rows and template, for the key of a stored one."""
    found: dict[str, int | str] = {"max_new_tokens": max_new_tokens, "max_length": ROW_TOKENS, "rules": RULES}
    return found if exact_match == "plain" else found | {"exact_match": exact_match}


def backbone_of(model: Any, tokenizer: Any) -> Backbone:
    """A transformers model as this package's own functions take it; nothing can be placed on it."""
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
        device=model.device,
        dtype=model.dtype,
        parameters={},
        modules={},
    )


def longest(backbone: Backbone) -> int:
    """Tokens of prompt and answer together, at most."""
    return min(ROW_TOKENS, context_length(backbone))


def encode_rows(backbone: Backbone, rows: Sequence[Row], template: Template) -> list[EncodedRow]:
    """Turn rows into prompt and answer.

    Raises:
        TaskError: an answer longer than the context; the message names the row.
    """
    texts = [(template.prompt(row.input), template.completion(row.output)) for row in rows]
    names = [f"row {row.digest[:8]}" for row in rows]
    return encode(backbone, texts, max_length=longest(backbone), names=names)


def generated_tokens(backbone: Backbone, answers: Sequence[EncodedRow], most: int, exact_match: str = "plain") -> int:
    """Tokens to generate at most: what the longest answer takes and a few more, `most`, or half the context.

    A text that goes on behind the answer is none; where full stops do not count it may look like one when cut there, so
    by `lorahub` it is `most` or half the context.
    """
    needed = max(len(row.completion) for row in answers) + SPARE_TOKENS if exact_match == "plain" else most
    return min(most, needed, longest(backbone) // 2)


def answer_pattern(rows: Sequence[Row]) -> str:
    """What an answer in generated text is: `ONE_LINE`, or `ALL_LINES` where an output of the rows has several."""
    return ALL_LINES if any("\n" in row.output.strip() for row in rows) else ONE_LINE


def answer_of(text: str, pattern: str) -> str:
    """Return the answer in generated text, stripped; empty where there is none."""
    found = re.search(pattern, text)
    return found[0].strip() if found else ""


def same(said: str, wanted: str, exact_match: str = "plain") -> bool:
    """Tell whether generated text is the output, by one of `MATCHES`."""
    if exact_match == "lorahub":
        said, wanted = (text.strip().lower().replace(".", "") for text in (said, wanted))
        return said == wanted
    return said.strip() == wanted.strip()


def loss_per_token(total: float, tokens: int) -> float:
    """Nats per token of an answer's log-likelihood; `WORST_LOSS` where it is no number."""
    loss = -total / tokens
    return min(loss, WORST_LOSS) if np.isfinite(loss) else WORST_LOSS


def likeliest_choice(row: Row, totals: Sequence[float]) -> tuple[str, float]:
    """The choice of the highest log-likelihood, and whether it is right; never, where one is no number."""
    choices = row.choices or ()
    best = choices[int(np.argmax(totals))]
    return best, float(best == row.output and bool(np.isfinite(totals).all()))


def choice_loss(row: Row, totals: Sequence[float]) -> float:
    """Nats of the right choice among the choices; `WORST_LOSS` where they are no number."""
    return loss_per_token(-right_loss(totals, (row.choices or ()).index(row.output)), 1)


def model_score(label: str, values: Mapping[str, Sequence[float]], outputs: Sequence[str] = ()) -> ModelScore:
    """Put values per row and their means together."""
    rows = {name: tuple(found) for name, found in values.items()}
    return ModelScore(label, {name: float(np.mean(found)) for name, found in rows.items()}, rows, tuple(outputs))
