"""lm-eval (EleutherAI's harness) on the held-out rows of a task, for a model that is already in memory.

The model runs once, as for `fast` (`responses`); lm-eval's tasks ask what it said, its filters and metrics decide.

Each row becomes a document of a local JSONL task whose fields are named, never templated: lm-eval renders strings as
Jinja and evaluates some as Python literals, but hands a named field on as the text it is. There is no description, no
shot and no delimiter, so a request is the prompt and the answer to the byte. Its cache of responses, keyed by request
alone, would give one model another's answers: it is never used. What is measured, per row:

- accuracy: whether the choice of the highest log-likelihood is a right answer; summed over the choice and the end
  token, without any length normalisation: the most probable of the whole answers. With the end token no choice is a
  mere beginning of another.
- exact_match: greedy text, cut at the end token, against each right answer; both stripped, case counts. Where all of
  these are single lines, the first line that is not blank is the answer.
- loss: -log-likelihood of output and end token, over their number of tokens (nats per token).

Where examples in the prompt show another end (a line break), the end token's likelihood is that of any end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from merge_advisor.evaluators.lm_eval_model import answering_model
from merge_advisor.evaluators.lm_eval_process import contained_lm_eval, lm_eval_version
from merge_advisor.evaluators.metrics import (
    MAX_NEW_TOKENS,
    answer_end,
    answer_pattern,
    backbone_of,
    check_rows,
    check_settings,
    choice_loss,
    likeliest_choice,
    loss_per_token,
    metric_for,
    model_score,
    score_settings,
)
from merge_advisor.evaluators.responses import Responses, respond
from merge_advisor.json_form import digest_of
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row
from merge_advisor.whole_files import scratch_folder

if TYPE_CHECKING:
    from merge_advisor.templates import Template

_KEPT_TASKS = 4
"""Prepared tasks an evaluator keeps: the tasks of one plan are scored model by model."""


@dataclass(frozen=True)
class LmEval:
    """Scores a model in memory through lm-eval: choice likelihood, exact match, mean loss.

    >>> LmEval(max_new_tokens=16).settings
    {'max_new_tokens': 16, 'max_length': 1024, 'rules': 2}
    >>> LmEval(batch_size=0)
    Traceback (most recent call last):
    ValueError: batch_size is at least 1
    """

    name: ClassVar[str] = "lm_eval"

    batch_size: int = 64
    """Rows generated at once at most, fewer where they are long (likelihoods are batched by tokens)."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Tokens generated at most; fewer where all outputs are shorter. A longer output cannot be matched."""
    exact_match: str = "plain"
    """When generated text is the output, one of `metrics.EXACT_MATCH_RULES`."""
    _prepared: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError("batch_size is at least 1")
        check_settings(self.max_new_tokens, self.exact_match)

    @property
    def version(self) -> str:
        """Name and version of what measures, e.g. "lm-eval 0.4.13"."""
        return lm_eval_version()

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
            ExternalError: lm-eval failed.
        """
        metric = metric_for(rows, metric)
        check_rows(rows, metric)
        backbone = backbone_of(model, tokenizer, template)
        with contained_lm_eval(label, trusted=True):  # our own task: its fields are named, no template is rendered
            said = respond(
                backbone, rows, template, metric,
                max_new_tokens=self.max_new_tokens, exact_match=self.exact_match, at_once=self.batch_size,
            )  # fmt: skip
            end = str(backbone.tokenizer.decode(backbone.end_id))
            samples = _evaluate(self._prepare(rows, template, metric, end), _model(rows, template, metric, end, said))
        return _model_score(label, rows, said.tokens, samples)

    def _prepare(self, rows: Sequence[Row], template: Template, metric: str, end: str) -> dict[str, Any]:
        """Return the lm-eval tasks of these rows by what they measure, built once for all models scored on them."""
        key = digest_of([[row.digest for row in rows], template.digest, metric, end, self.exact_match])
        if key not in self._prepared:
            while len(self._prepared) >= _KEPT_TASKS:
                self._prepared.pop(next(iter(self._prepared)))
            self._prepared[key] = _build(rows, template, metric, end, self.exact_match)
        return self._prepared[key]


def _model(rows: Sequence[Row], template: Template, metric: str, end: str, said: Responses) -> Any:
    """Return a model of lm-eval's that says this, asked with the texts of `_document`."""
    prompts = [template.prompt(row.asked) for row in rows]
    totals = {
        (prompt, template.completion(text) + end): total
        for row, prompt, found in zip(rows, prompts, said.totals, strict=True)
        for text, total in zip(_asked(metric, row), found, strict=True)
    }
    return answering_model(totals, dict(zip(prompts, said.texts, strict=bool(said.texts))))


def _asked(metric: str, row: Row) -> tuple[str, ...]:
    """Return the answers of a row whose likelihoods are asked for."""
    return (row.choices or (row.output,)) if metric == "accuracy" else (row.output,)


def _build(rows: Sequence[Row], template: Template, metric: str, end: str, exact_match: str) -> dict[str, Any]:
    """Write the rows as JSONL into a private folder and have lm-eval load the tasks from it; the folder goes again."""
    from lm_eval.tasks import TaskManager

    specs, pattern = [], answer_pattern(answer_end(rows, template))
    with scratch_folder() as folder:
        for name in {"accuracy": ("accuracy",), "exact_match": ("exact_match", "loss")}.get(metric, ("loss",)):
            path = folder / f"{name}.jsonl"
            several = any(row.answers for row in rows)
            lines = [json.dumps(_document(name, row, template, end, several=several)) + "\n" for row in rows]
            path.write_text("".join(lines), encoding="utf-8")
            specs.append({"task": name, "custom_dataset": partial(_read, path), **_config(name, pattern, exact_match)})
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        return dict(manager.load(specs)["tasks"])


def _read(path: Path, **_: Any) -> dict[str, Any]:
    """Read documents for lm-eval. The `json` reader it would use turns a column of dates into timestamps."""
    from datasets import Dataset

    with path.open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def _document(name: str, row: Row, template: Template, end: str, *, several: bool) -> dict[str, Any]:
    """Return one row for one task. A whole answer ends with the end token, whose likelihood is asked for as well.

    With `several` its target is a list of all right answers: lm-eval wants lists of all documents or of none.
    """
    prompt = template.prompt(row.asked)
    if name == "accuracy":
        choices = _asked(name, row)
        wholes = [template.completion(choice) + end for choice in choices]
        golds = [choices.index(answer) for answer in row.right]
        return {"prompt": prompt, "wholes": wholes, "gold": golds if several else golds[0]}
    if name == "exact_match":
        texts = [answer.strip() for answer in row.right]
        return {"prompt": prompt, "answer": texts if several else texts[0]}
    return {"prompt": prompt, "whole": template.completion(row.output) + end}


def _config(name: str, pattern: str, exact_match: str) -> dict[str, Any]:
    """Return the lm-eval configuration of a task; a string that names a field of the documents is never rendered."""
    shared = {
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "description": "",
        "target_delimiter": "",
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    if name == "accuracy":
        output = {"output_type": "multiple_choice", "doc_to_choice": "wholes", "doc_to_target": "gold"}
        return {**shared, **output, "metric_list": [{"metric": "acc", **mean}]}
    if name == "loss":
        # lm-eval's name for the log-likelihood of a row; its own aggregate of them overflows on a broken model
        likelihood = {"metric_list": [{"metric": "perplexity", **mean}]}
        return {**shared, "output_type": "loglikelihood", "doc_to_target": "whole", **likelihood}
    take = {"function": "regex", "regex_pattern": pattern, "fallback": ""}  # it strips what it found
    rule = {"ignore_case": True, "regexes_to_ignore": [r"\."]} if exact_match == "lorahub" else {}
    return {
        **shared,
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"do_sample": False, "until": []},
        "filter_list": [{"name": "stripped", "filter": [take, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", **mean, **rule}],
    }


def _evaluate(tasks: dict[str, Any], model: Any) -> dict[str, list[dict[str, Any]]]:
    """Return lm-eval's samples by task, in the order of the documents."""
    from lm_eval.evaluator import evaluate

    # not simple_evaluate: that seeds every generator, runs git and describes the machine
    result = evaluate(
        model,
        {"tasks": tasks, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
        log_samples=True,
        cache_requests=False,
        apply_chat_template=False,
    )
    return {name: sorted(result["samples"][name], key=lambda sample: int(sample["doc_id"])) for name in tasks}


def _model_score(
    label: str, rows: Sequence[Row], tokens: Sequence[int], samples: dict[str, list[dict[str, Any]]]
) -> ModelScore:
    """Return one model's score from lm-eval's samples."""
    values: dict[str, list[float]] = {}
    outputs: list[str] = []
    if "accuracy" in samples:
        table = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples["accuracy"]]
        outputs = [likeliest_choice(row, totals)[0] for row, totals in zip(rows, table, strict=True)]
        # the argmax of something that is no number says nothing
        values["accuracy"] = [
            float(sample["acc"]) if np.isfinite(totals).all() else 0.0
            for sample, totals in zip(samples["accuracy"], table, strict=True)
        ]
        values["choices"] = [choice_loss(row, totals) for row, totals in zip(rows, table, strict=True)]
        sums = [totals[(row.choices or ()).index(row.output)] for row, totals in zip(rows, table, strict=True)]
    else:
        sums = [float(sample["perplexity"]) for sample in samples["loss"]]  # the log-likelihood, see `_config`
    if "exact_match" in samples:
        values["exact_match"] = [float(sample["exact_match"]) for sample in samples["exact_match"]]
        outputs = [str(sample["filtered_resps"][0]) for sample in samples["exact_match"]]
    values["loss"] = [loss_per_token(total, count) for total, count in zip(sums, tokens, strict=True)]
    return model_score(label, values, outputs)
