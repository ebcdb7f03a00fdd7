"""lm-eval's own model, HFLM, on rows of ours: every request a row of its own, nothing shared, nothing foreseen.

Only the tokens are ours: prompt and answer apart, the end token one id, prompts cut on their left.
"""

from collections.abc import Sequence
from typing import Any

from merge_advisor.backbone.encoding import encode, padded
from merge_advisor.backbone.model import Backbone
from merge_advisor.evaluators import lm_eval_harness
from merge_advisor.evaluators.lm_eval_process import contained_lm_eval
from merge_advisor.evaluators.metrics import (
    encode_other_answers,
    encode_rows,
    generation_budget,
    metric_for,
    token_limit,
)
from merge_advisor.scores import ModelScore
from merge_advisor.templates import Template
from merge_advisor.types import Row


def score_by_hflm(
    backbone: Backbone, rows: Sequence[Row], template: Template, metric: str = "auto", *, max_new_tokens: int = 64
) -> ModelScore:
    """Score rows by the tasks of `LmEval`, asked of HFLM."""
    metric = metric_for(rows, metric)
    answers = encode_rows(backbone, rows, template)
    limit = token_limit(backbone, template)
    budget = generation_budget(limit, answers + encode_other_answers(backbone, rows), max_new_tokens, "plain")
    end = str(backbone.tokenizer.decode(backbone.end_id))
    with contained_lm_eval("HFLM", trusted=True):
        tasks = lm_eval_harness._build(rows, template, metric, end, "plain")
        samples = lm_eval_harness._evaluate(tasks, _hflm(backbone, limit, budget, end))
    return lm_eval_harness._model_score("it", rows, [len(answer.completion) for answer in answers], samples)


def _hflm(backbone: Backbone, limit: int, budget: int, end: str) -> Any:
    from lm_eval.models.huggingface import HFLM

    class OwnTokens(HFLM):  # type: ignore[misc]
        max_length = limit
        max_gen_toks = budget

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            rows = encode(backbone, [(p, a.removesuffix(end)) for p, a in (r.args for r in requests)], max_length=limit)
            pairs = [(r.args, list(row.prompt), list(row.completion)) for r, row in zip(requests, rows, strict=True)]
            return self._loglikelihood_tokens(pairs, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

        def tok_batch_encode(self, strings: Any, *_: Any, left_truncate_len: int = limit, **__: Any) -> Any:
            rows = encode(backbone, [(text, "") for text in strings], max_length=left_truncate_len, end=False)
            pad = int(self.tokenizer.pad_token_id)
            if backbone.encoder_decoder:
                return padded([row.prompt for row in rows], pad, backbone.device)
            ids, mask = padded([row.prompt[::-1] for row in rows], pad, backbone.device)
            return ids.flip(1), mask.flip(1)

        def _model_generate(self, context: Any, max_length: int, stop: Any, **settings: Any) -> Any:
            # HFLM counts the encoder's tokens as generated ones
            most = max_length + 1 - context.shape[1] if backbone.encoder_decoder else max_length
            return super()._model_generate(context, most, stop, **settings)

    return OwnTokens(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        backend="seq2seq" if backbone.encoder_decoder else "causal",
        logits_cache=False,
        softmax_dtype="float32",
        batch_size=8,
    )
