"""Our own scorer: what `lm_eval_harness` measures, by the same rules, for the price of the forward passes.

For tuning, where one task is scored under hundreds of merges; the final score of a run is lm-eval's own, from the same
responses of the model (`responses`). `row_values` asks for less still: where a text first differs from the output, what
there is so far mostly shows that it cannot match, so that it need not be generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from merge_advisor.evaluators.metrics import (
    MAX_NEW_TOKENS,
    answer_end,
    answer_of,
    backbone_of,
    check_rows,
    check_settings,
    choice_loss,
    is_right,
    likeliest_choice,
    loss_per_token,
    metric_for,
    model_score,
    score_settings,
)
from merge_advisor.evaluators.responses import Responses, respond
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone
    from merge_advisor.templates import Template


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
        backbone = backbone_of(model, tokenizer, template)
        said = respond(
            backbone, rows, template, metric, max_new_tokens=self.max_new_tokens, exact_match=self.exact_match
        )
        return _decide(rows, template, metric, said, label, self.exact_match)


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
    # under `plain` a text that has begun otherwise is another: its end is not needed
    said = respond(backbone, rows, template, metric, whole=False)
    return list(_decide(rows, template, metric, said, "", "plain").rows[metric])


def _decide(
    rows: Sequence[Row], template: Template, metric: str, said: Responses, label: str, exact_match: str
) -> ModelScore:
    """Return the score of what a model said."""
    values: dict[str, list[float]] = {}
    outputs: list[str] = []
    totals = [found[0] for found in said.totals]
    if metric == "accuracy":
        picked = [likeliest_choice(row, found) for row, found in zip(rows, said.totals, strict=True)]
        outputs = [choice for choice, _ in picked]
        values["accuracy"] = [hit for _, hit in picked]
        values["choices"] = [choice_loss(row, found) for row, found in zip(rows, said.totals, strict=True)]
        totals = [found[(row.choices or ()).index(row.output)] for row, found in zip(rows, said.totals, strict=True)]
    elif metric == "exact_match":
        end = answer_end(rows, template)
        outputs = [answer_of(text, end) for text in said.texts]
        values["exact_match"] = [
            float(is_right(output, row, exact_match)) for row, output in zip(rows, outputs, strict=True)
        ]
    values["loss"] = [loss_per_token(total, count) for total, count in zip(totals, said.tokens, strict=True)]
    return model_score(label, values, outputs)
