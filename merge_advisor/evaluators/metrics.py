"""What is measured on a row, whoever measures it: the metrics, their limits, and what counts as an answer.

Of a row with several right answers (`Row.answers`) any counts as right, in exact match and in accuracy. The losses are
those of the first one alone, `Row.output`: it is what is trained on and what gradients and choosing look at, and it
costs one forward. The least of several would be another answer for each model, and no loss that training lowers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.backbone.choice_loss import right_loss
from merge_advisor.backbone.encoding import EXAMPLE_TOKENS, ROW_TOKENS, EncodedRow, context_length, encode
from merge_advisor.backbone.model import Backbone, input_device
from merge_advisor.errors import TaskError
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.templates import Template

METRICS = ("accuracy", "exact_match", "loss")
_SHORT_ANSWER = 80
"""Characters of an output that a model can be expected to reproduce exactly."""
_SPARE_TOKENS = 4
"""Tokens generated beyond the longest output: a leading blank line, another cut into tokens."""
MAX_NEW_TOKENS = 64
"""Tokens generated at most; fewer where all outputs are shorter. A longer output cannot be matched."""
WORST_LOSS = 1e4
"""Stands for a likelihood that is no number (overflowing weights): finite, and worse than anything real."""
EXACT_MATCH_RULES = ("plain", "lorahub")
"""When generated text is the output: `plain` once both are stripped; `lorahub` once both are also in lower case and
without any full stop, as LoraHub's evaluation has it (arXiv 2307.13269 and its code)."""
_RULES_VERSION = 2
"""Version of what this module says; a score stored under another version is not found."""


def metric_for(rows: Sequence[Row], asked: str = "auto") -> str:
    """Return the metric a verdict on these rows rests on: the one asked for, or for "auto" what suits the rows.

    That is "accuracy" where every row has choices; "exact_match" where nine in ten outputs are one line of at most 80
    characters; else "loss", since a long answer is never given twice in the same words.

    Args:
        rows: of one task.
        asked: one of `METRICS`, or "auto"; see `check_rows` for whether rows can be measured by it.

    >>> metric_for([Row("2+2", "4", ("4", "5"))]), metric_for([Row("2+2", "4")]), metric_for([Row("why?", "x" * 99)])
    ('accuracy', 'exact_match', 'loss')
    """
    if asked != "auto":
        return asked
    if rows and all(row.choices for row in rows):
        return "accuracy"
    long = sum(len(row.output.strip()) > _SHORT_ANSWER or "\n" in row.output.strip() for row in rows)
    return "exact_match" if 10 * long <= len(rows) else "loss"


def majority_score(
    rows: Sequence[Row], answer: str, metric: str, label: str = "majority", *, exact_match: str = "plain"
) -> ModelScore:
    """Return the score of the model that always gives one answer, e.g. the commonest of the shots; it has no loss.

    Args:
        rows: what to measure on.
        answer: what the model always says.
        metric: "accuracy" or "exact_match".
        label: the model's name in the score table.
        exact_match: how generated text is compared, one of `EXACT_MATCH_RULES`.

    Raises:
        TaskError: no rows, or a metric an answer alone cannot be scored by.

    >>> majority_score([Row("2 + 2", "4"), Row("2 + 3", "5")], "4", "exact_match").metrics
    {'exact_match': 0.5}
    """
    if metric not in ("accuracy", "exact_match"):
        raise TaskError(f"metric '{metric}': a fixed answer has none; choose accuracy or exact_match")
    check_rows(rows, metric)
    # a choice is picked as it is written; generated text is compared by its rule
    right = [answer in row.right if metric == "accuracy" else is_right(answer, row, exact_match) for row in rows]
    values = tuple(float(hit) for hit in right)
    return ModelScore(label, {metric: float(np.mean(values))}, {metric: values}, (answer,) * len(rows))


def check_rows(rows: Sequence[Row], metric: str) -> None:
    """Refuse rows that cannot be measured by a metric.

    Args:
        rows: what to measure on.
        metric: one of `METRICS`.

    Raises:
        TaskError: no rows, an unknown metric, or "accuracy" on a row without choices.
    """
    if not rows:
        raise TaskError("no rows to score on; give at least one held-out row")
    if metric not in METRICS:
        raise TaskError(f"metric '{metric}' is unknown; choose one of: auto, {', '.join(METRICS)}")
    if metric == "accuracy":
        for row in rows:
            if not row.choices or not set(row.right) <= set(row.choices):
                what = "its output is none of its choices" if row.choices else "it has no choices"
                raise TaskError(f"{row.called}: {what}; give choices, or use exact_match or loss")


def check_settings(max_new_tokens: int, exact_match: str) -> None:
    """Refuse settings of an evaluator.

    Args:
        max_new_tokens: tokens generated at most.
        exact_match: one of `EXACT_MATCH_RULES`.

    Raises:
        ValueError: no token to generate, or a rule that is none of these.
    """
    if max_new_tokens < 1:
        raise ValueError("max_new_tokens is at least 1")
    if exact_match not in EXACT_MATCH_RULES:
        raise ValueError(f"exact_match is one of: {', '.join(EXACT_MATCH_RULES)}")


def score_settings(max_new_tokens: int, exact_match: str) -> dict[str, int | str]:
    """Return what changes a score besides model, rows and template, for the key of a stored one.

    Args:
        max_new_tokens: of the evaluator.
        exact_match: of the evaluator.
    """
    settings: dict[str, int | str] = {
        "max_new_tokens": max_new_tokens, "max_length": ROW_TOKENS, "rules": _RULES_VERSION
    }  # fmt: skip
    # the plain rule is left out: scores stored before there was another one keep their keys
    return settings if exact_match == "plain" else settings | {"exact_match": exact_match}


def backbone_of(model: Any, tokenizer: Any, template: Template) -> Backbone:
    """Return a transformers model as this package's own functions take it; nothing can be placed on it.

    Args:
        model: decoder-only or encoder-decoder, on its device or devices.
        tokenizer: its tokenizer.
        template: says how prompts begin and answers end.
    """
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
        device=input_device(model),
        dtype=model.dtype,
        places={},
        memory={},
        template=template,
    )


def token_limit(backbone: Backbone, template: Template) -> int:
    """Return how many tokens prompt and answer have together at most.

    Args:
        backbone: the model.
        template: the prompt around each input; with examples in it prompts may be longer.
    """
    return min(EXAMPLE_TOKENS if template.examples else ROW_TOKENS, context_length(backbone))


def encode_rows(backbone: Backbone, rows: Sequence[Row], template: Template) -> list[EncodedRow]:
    """Return rows as token ids of prompt and answer.

    Args:
        backbone: the model.
        rows: what to measure on.
        template: the prompt around each input.

    Raises:
        TaskError: an answer longer than the context; the message names the row.
    """
    texts = [(template.prompt(row.asked), template.completion(row.output)) for row in rows]
    names = [row.called for row in rows]
    return encode(backbone, texts, max_length=token_limit(backbone, template), names=names)


def encode_other_answers(backbone: Backbone, rows: Sequence[Row]) -> list[EncodedRow]:
    """Return the further right answers of rows as token ids without their prompts, for how long they are.

    Args:
        backbone: gives the tokenizer.
        rows: what to measure on.
    """
    texts = [("", answer) for row in rows for answer in row.right[1:]]
    return encode(backbone, texts, max_length=context_length(backbone), cut=True)


def generation_budget(limit: int, answers: Sequence[EncodedRow], most: int, exact_match: str) -> int:
    """Return how many tokens to generate at most: the longest answer's and a few more, `most`, or half the context.

    Args:
        limit: as of `token_limit`.
        answers: the rows, encoded; of rows with several right answers all of these.
        most: the evaluator's `max_new_tokens`.
        exact_match: one of `EXACT_MATCH_RULES`.
    """
    # Under `plain` a text that goes on behind the answer is wrong however it goes on. Where full stops do not count, a
    # text cut there may look like the answer, so by `lorahub` it is `most` or half the context.
    needed = max(len(row.completion) for row in answers) + _SPARE_TOKENS if exact_match == "plain" else most
    return min(most, needed, limit // 2)


def answer_end(rows: Sequence[Row], template: Template) -> str:
    r"""Return what ends an answer in generated text, where no end token does; empty: nothing.

    That is the end of its first line, or where an output of the rows has several lines the beginning of a next example:
    a model that was shown some goes on with more.

    Args:
        rows: what to measure on.
        template: the prompt around each input.

    >>> from merge_advisor.templates import get
    >>> answer_end([Row("2 + 2", "4")], get("plain")), answer_end([Row("two lines", "1\n2")], get("plain"))
    ('\n', '')
    """
    return template.next_example if any("\n" in text.strip() for row in rows for text in row.right) else "\n"


def answer_pattern(end: str) -> str:
    r"""Return the regular expression of an answer in generated text.

    Args:
        end: as of `answer_end`.

    >>> answer_pattern("\n"), answer_pattern("")
    ('\\S[^\\n]*', '\\S[\\s\\S]*')
    """
    if len(end) < 2:
        return r"\S[^\n]*" if end else r"\S[\s\S]*"
    return rf"\S[\s\S]*?(?={re.escape(end)}|\Z)"


def is_ended(text: str, end: str) -> bool:
    """Tell whether generated text holds a whole answer, whatever follows.

    Args:
        text: what was generated so far.
        end: as of `answer_end`.
    """
    return bool(end) and end in text.lstrip()


def answer_of(text: str, end: str) -> str:
    r"""Return the answer in generated text, stripped; empty where there is none.

    Args:
        text: what was generated.
        end: as of `answer_end`.

    >>> answer_of(" four \n because ...", "\n"), answer_of("1\n2\n\n3 + 3\n", "\n\n")
    ('four', '1\n2')
    """
    match = re.search(answer_pattern(end), text)
    return match[0].strip() if match else ""


def matches(text: str, output: str, exact_match: str) -> bool:
    """Tell whether generated text is the output.

    Args:
        text: the answer that was generated.
        output: of the row.
        exact_match: one of `EXACT_MATCH_RULES`.

    >>> matches("Yes.", "yes", "plain"), matches("Yes.", "yes", "lorahub")
    (False, True)
    """
    if exact_match == "lorahub":
        text, output = (part.strip().lower().replace(".", "") for part in (text, output))
        return text == output
    return text.strip() == output.strip()


def is_right(text: str, row: Row, exact_match: str) -> bool:
    """Tell whether generated text is one of a row's right answers.

    Args:
        text: the answer that was generated.
        row: with its output, or several answers that count.
        exact_match: one of `EXACT_MATCH_RULES`.

    >>> is_right("Ada", Row("Who?", "Ada Lovelace", answers=("Ada Lovelace", "Ada")), "plain")
    True
    """
    return any(matches(text, answer, exact_match) for answer in row.right)


def loss_per_token(total: float, tokens: int) -> float:
    """Return the loss of an answer from its log-likelihood; `WORST_LOSS` where that is no number.

    Args:
        total: log-likelihood of the answer, nats.
        tokens: tokens of the answer.

    Returns:
        Nats per token, `WORST_LOSS` at most.
    """
    loss = -total / tokens
    return min(loss, WORST_LOSS) if np.isfinite(loss) else WORST_LOSS


def likeliest_choice(row: Row, totals: Sequence[float]) -> tuple[str, float]:
    """Return the choice of the highest log-likelihood, and whether it is right.

    Args:
        row: with choices.
        totals: log-likelihood of each choice, nats.

    Returns:
        The choice, and 1.0 where it is a right answer. Where one total is no number the argmax says nothing: 0.0.
    """
    choices = row.choices or ()
    best = choices[int(np.argmax(totals))]
    return best, float(best in row.right and bool(np.isfinite(totals).all()))


def choice_loss(row: Row, totals: Sequence[float]) -> float:
    """Return the nats of the right choice among the choices; `WORST_LOSS` where they are no number.

    Args:
        row: with choices.
        totals: log-likelihood of each choice, nats.
    """
    return loss_per_token(-right_loss(totals, (row.choices or ()).index(row.output)), 1)


def model_score(label: str, values: Mapping[str, Sequence[float]], outputs: Sequence[str] = ()) -> ModelScore:
    """Return values per row and their means as one score.

    Args:
        label: the model's name in the score table.
        values: metric -> a value per row.
        outputs: what the model answered, row by row.
    """
    rows = {name: tuple(column) for name, column in values.items()}
    return ModelScore(label, {name: float(np.mean(column)) for name, column in rows.items()}, rows, tuple(outputs))
