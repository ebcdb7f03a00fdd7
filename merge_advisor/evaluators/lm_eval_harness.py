"""lm-eval (EleutherAI's harness) on the held-out rows of a task, for a model that is already in memory.

Each row becomes a document of a local JSONL task whose fields are named, never templated: lm-eval renders strings as
Jinja and evaluates some as Python literals, but hands a named field on as the text it is. There is no description, no
shot and no delimiter, so a request is the prompt and the answer to the byte. Its cache of responses, keyed by request
alone, would give one model another's answers: it is never used. What is measured, per row:

- accuracy: the choice of the highest log-likelihood, summed over the choice and the end token, without any length
  normalisation: the most probable of the whole answers. With the end token no choice is a mere beginning of another.
- exact_match: greedy text, cut at the end token, against the output; both stripped, case counts. Where all outputs
  are single lines, the first line that is not blank is the answer.
- loss: -log-likelihood of output and end token, over their number of tokens (nats per token).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from merge_advisor.backbone.forward import Encoded, batches, context_length, continue_from, encode, shared_prefix
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.model import Backbone
from merge_advisor.errors import ExternalError, MergeAdvisorError, TaskError
from merge_advisor.types import ModelScore, Row, digest_of

if TYPE_CHECKING:
    from merge_advisor.templates import Template

METRICS = ("accuracy", "exact_match", "loss")
SHORT_ANSWER = 80
"""Characters of an output that a model can be expected to reproduce exactly."""
SPARE_TOKENS = 4
"""Tokens generated beyond the longest output: a leading blank line, another cut into tokens."""
MAX_LENGTH = 1024
"""Tokens of prompt and answer at most (or the model's context, if shorter); prompts are cut on their left."""
WORST_LOSS = 1e4
"""Stands for a likelihood that is no number (overflowing weights): finite, and worse than anything real."""
KEPT_TASKS = 4
"""Prepared tasks an evaluator keeps: the tasks of one plan are scored model by model."""


@dataclass(frozen=True)
class LmEval:
    """Scores a model in memory through lm-eval: choice likelihood, exact match, mean loss."""

    batch_size: int = 16
    """Rows generated at once (likelihoods are batched by tokens)."""
    max_new_tokens: int = 64
    """Tokens generated at most; fewer where all outputs are shorter. A longer output cannot be matched."""
    _prepared: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError("batch_size and max_new_tokens are at least 1")

    @property
    def version(self) -> str:
        """Name and version of what measures, e.g. "lm-eval 0.4.13"."""
        return f"lm-eval {metadata.version('lm_eval')}"

    @property
    def settings(self) -> dict[str, int]:
        """What changes a score besides model, rows and template, for the key of a stored one."""
        return {"max_new_tokens": self.max_new_tokens, "max_length": MAX_LENGTH, "rules": 1}

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
        """Score a transformers model on rows; all values are per row and in the order of the rows.

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
        metric = metric_for(rows) if metric == "auto" else metric
        _check(rows, metric)
        backbone = Backbone(
            model=model,
            tokenizer=tokenizer,
            encoder_decoder=bool(getattr(model.config, "is_encoder_decoder", False)),
            device=model.device,
            dtype=model.dtype,
            parameters={},
            modules={},
        )
        try:
            with _undisturbed():
                tokens = _answer_lengths(backbone, rows, template)
                tasks = self._prepare(backbone, rows, template, metric, max(tokens))
                samples = _evaluate(backbone, tasks, self.batch_size)
        except (MergeAdvisorError, MemoryError):
            raise
        except Exception as error:  # lm-eval asserts, and raises whatever it meets
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ExternalError(f"{label}: {self.version} failed ({reason}); see where with --debug") from error
        return _model_score(label, rows, tokens, samples)

    def _prepare(
        self, backbone: Backbone, rows: Sequence[Row], template: Template, metric: str, longest: int
    ) -> dict[str, Any]:
        """Return the lm-eval tasks of these rows by what they measure, built once for all models scored on them."""
        end = str(backbone.tokenizer.decode(backbone.end_id))
        budget = min(self.max_new_tokens, longest + SPARE_TOKENS, _longest(backbone) // 2)
        key = digest_of([[row.digest for row in rows], template.digest, metric, end, budget])
        if key not in self._prepared:
            while len(self._prepared) >= KEPT_TASKS:
                self._prepared.pop(next(iter(self._prepared)))
            self._prepared[key] = _build(rows, template, metric, end, budget)
        return self._prepared[key]


def metric_for(rows: Sequence[Row]) -> str:
    """Choose the metric a verdict on these rows rests on.

    "accuracy" where every row has choices; "exact_match" where nine in ten outputs are one line of at most
    `SHORT_ANSWER` characters; else "loss", since nobody writes a long answer twice in the same words.
    """
    if rows and all(row.choices for row in rows):
        return "accuracy"
    long = sum(len(row.output.strip()) > SHORT_ANSWER or "\n" in row.output.strip() for row in rows)
    return "exact_match" if 10 * long <= len(rows) else "loss"


def majority_score(rows: Sequence[Row], answer: str, metric: str, label: str = "majority") -> ModelScore:
    """Score the model that always gives one answer, e.g. the commonest of the shots; it has no loss.

    Raises:
        TaskError: no rows, or a metric an answer alone cannot be scored by.
    """
    if metric not in ("accuracy", "exact_match"):
        raise TaskError(f"metric '{metric}': a fixed answer has none; choose accuracy or exact_match")
    _check(rows, metric)
    # a choice is picked as it is written; generated text is compared without the blanks around it
    right = [row.output == answer if metric == "accuracy" else row.output.strip() == answer.strip() for row in rows]
    values = tuple(float(hit) for hit in right)
    return ModelScore(label, {metric: float(np.mean(values))}, {metric: values}, (answer,) * len(rows))


def _check(rows: Sequence[Row], metric: str) -> None:
    if not rows:
        raise TaskError("no rows to score on; give at least one held-out row")
    if metric not in METRICS:
        raise TaskError(f"metric '{metric}' is unknown; choose one of: auto, {', '.join(METRICS)}")
    if metric == "accuracy":
        for row in rows:
            if not row.choices or row.output not in row.choices:
                what = "its output is none of its choices" if row.choices else "it has no choices"
                raise TaskError(f"row {row.digest[:8]}: {what}; give choices, or use exact_match or loss")


def _longest(backbone: Backbone) -> int:
    return min(MAX_LENGTH, context_length(backbone))


def _answer_lengths(backbone: Backbone, rows: Sequence[Row], template: Template) -> list[int]:
    """Tokens of each row's output and end token; an answer longer than the context is refused by row."""
    texts = [(template.prompt(row.input), template.completion(row.output)) for row in rows]
    names = [f"row {row.digest[:8]}" for row in rows]
    return [len(row.completion) for row in encode(backbone, texts, max_length=_longest(backbone), names=names)]


def _build(rows: Sequence[Row], template: Template, metric: str, end: str, budget: int) -> dict[str, Any]:
    """Write the rows as JSONL into a private folder and have lm-eval load the tasks from it; the folder goes again."""
    from lm_eval.tasks import TaskManager

    specs = []
    with tempfile.TemporaryDirectory(prefix="merge-advisor-") as folder:
        for name in {"accuracy": ("accuracy",), "exact_match": ("exact_match", "loss")}.get(metric, ("loss",)):
            path = Path(folder, f"{name}.jsonl")
            lines = [json.dumps(_document(name, row, template, end)) + "\n" for row in rows]
            path.write_text("".join(lines), encoding="utf-8")
            specs.append({"task": name, "custom_dataset": partial(_read, path), **_config(name, rows, budget)})
        manager = TaskManager(include_path=folder, include_defaults=False)
        return dict(manager.load(specs)["tasks"])


def _read(path: Path, **_: Any) -> dict[str, Any]:
    """Read documents for lm-eval. The `json` reader it would use turns a column of dates into timestamps."""
    from datasets import Dataset

    with path.open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def _document(name: str, row: Row, template: Template, end: str) -> dict[str, Any]:
    """One row for one task. A full answer carries the end token as text, `_in_memory` makes it the one id it is."""
    prompt = template.prompt(row.input)
    if name == "accuracy":
        choices = row.choices or (row.output,)
        wholes = [template.completion(choice) + end for choice in choices]
        return {"prompt": prompt, "wholes": wholes, "gold": choices.index(row.output)}
    if name == "exact_match":
        return {"prompt": prompt, "answer": row.output.strip()}
    return {"prompt": prompt, "whole": template.completion(row.output) + end}


def _config(name: str, rows: Sequence[Row], budget: int) -> dict[str, Any]:
    """The lm-eval configuration of a task; a string that names a field of the documents is never rendered."""
    shared = {
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "prompt",
        "description": "",
        "target_delimiter": "",
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    accuracy = {"metric_list": [{"metric": "acc", **mean}]}
    if name == "accuracy":
        output = {"output_type": "multiple_choice", "doc_to_choice": "wholes", "doc_to_target": "gold"}
        return {**shared, **output, **accuracy}
    if name == "loss":
        return {**shared, "output_type": "loglikelihood", "doc_to_target": "whole", **accuracy}
    single = not any("\n" in row.output.strip() for row in rows)
    pattern = r"\S[^\n]*" if single else r"\S[\s\S]*"
    take = {"function": "regex", "regex_pattern": pattern, "fallback": ""}  # it strips what it found
    greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "until": [], "max_gen_toks": budget}
    return {
        **shared,
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": greedy,
        "filter_list": [{"name": "stripped", "filter": [take, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", **mean}],
    }


def _evaluate(backbone: Backbone, tasks: dict[str, Any], batch_size: int) -> dict[str, list[dict[str, Any]]]:
    """Run lm-eval; returns its samples by task, in the order of the documents."""
    from lm_eval.evaluator import evaluate

    # not simple_evaluate: that seeds every generator, runs git and describes the machine
    found = evaluate(
        _in_memory(backbone, batch_size),
        {"tasks": tasks, "groups": {}, "group_map": {}},
        bootstrap_iters=0,
        log_samples=True,
        cache_requests=False,
        apply_chat_template=False,
    )
    return {name: sorted(found["samples"][name], key=lambda sample: int(sample["doc_id"])) for name in tasks}


def _in_memory(backbone: Backbone, batch_size: int) -> Any:
    """lm-eval's HFLM over the model, with tokens as everywhere else in this package.

    HFLM tokenises prompt and answer as one text and moves blanks from the prompt's end to the answer; adapters were
    trained on the two apart. It also takes logits at every position of a batch: here only where there is an answer.
    """
    import torch
    from lm_eval.models.huggingface import HFLM

    limit = _longest(backbone)
    end = str(backbone.tokenizer.decode(backbone.end_id))

    class InMemory(HFLM):  # type: ignore[misc]
        kept = 0  # positions, counted from the end of a batch, that hold answers

        @property
        def max_length(self) -> int:
            return limit

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            rows = encode(backbone, [(p, a.removesuffix(end)) for p, a in (r.args for r in requests)], max_length=limit)
            found: list[Any] = [None] * len(rows)
            for batch in batches(rows):
                width = max(map(len, (rows[i] for i in batch)))
                self.kept = max(width - len(rows[i].prompt) for i in batch)
                self.batch_size_per_gpu = len(batch)
                pairs = [(requests[i].args, list(rows[i].prompt), list(rows[i].completion)) for i in batch]
                for i, answer in zip(batch, self._loglikelihood_tokens(pairs, disable_tqdm=True), strict=True):
                    found[i] = answer
            return found

        def _model_call(self, inps: Any, attn_mask: Any = None, labels: Any = None) -> Any:
            if labels is not None:
                return super()._model_call(inps, attn_mask, labels)
            with torch.inference_mode():
                shared = shared_prefix(backbone, [row[: inps.shape[1] - self.kept + 1] for row in inps.tolist()])
                tail = inps[:, shared:]
                kept = torch.arange(tail.shape[1] - self.kept, tail.shape[1])
                # right-padded and causal: what stands behind an answer cannot reach it, so nothing is masked
                return continue_from(backbone, inps[0, :shared].tolist(), tail, torch.ones_like(tail), kept)[0]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.batch_size_per_gpu = batch_size
            return super().generate_until(requests, disable_tqdm=True)

        def tok_batch_encode(self, strings: Any, *_: Any, left_truncate_len: int = limit, **__: Any) -> Any:
            rows = encode(backbone, [(s, "") for s in strings], max_length=left_truncate_len, end=False)
            return _padded(rows, self.tokenizer.pad_token_id, left=not backbone.encoder_decoder)

        def _model_generate(self, context: Any, max_length: int, stop: Any, **settings: Any) -> Any:
            if backbone.encoder_decoder:  # HFLM counts the encoder's tokens as generated ones
                return super()._model_generate(context, max_length + 1 - context.shape[1], stop, **settings)
            real = settings["attention_mask"].bool()
            prompts = [row[mask].tolist() for row, mask in zip(context, real, strict=True)]
            # the only stop is the end token (see _config), and the same greedy choice shares the template's preamble
            answers = greedy(backbone, prompts, max_new_tokens=max_length - context.shape[1])
            longest = max(map(len, answers))
            ends = [[*answer, *[backbone.end_id] * (longest - len(answer))] for answer in answers]
            return torch.cat([context, torch.tensor(ends, dtype=context.dtype, device=context.device)], dim=1)

    return InMemory(
        pretrained=backbone.model,
        tokenizer=backbone.tokenizer,
        backend="seq2seq" if backbone.encoder_decoder else "causal",
        logits_cache=False,
        softmax_dtype="float32",
        batch_size=batch_size,
    )


def _padded(rows: Sequence[Encoded], pad: int, *, left: bool) -> tuple[Any, Any]:
    """Prompts as a padded batch: ids and mask, both (n, longest)."""
    import torch

    ids = torch.full((len(rows), max(len(row.prompt) for row in rows)), pad)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        where = slice(ids.shape[1] - len(row.prompt), None) if left else slice(len(row.prompt))
        ids[at, where] = torch.tensor(row.prompt)
        mask[at, where] = 1
    return ids, mask


def _model_score(
    label: str, rows: Sequence[Row], tokens: Sequence[int], samples: dict[str, list[dict[str, Any]]]
) -> ModelScore:
    """Read one model's score off lm-eval's samples."""
    values: dict[str, tuple[float, ...]] = {}
    outputs: tuple[str, ...] = ()
    if "accuracy" in samples:
        table = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples["accuracy"]]
        right = [float(sample["acc"]) for sample in samples["accuracy"]]
        # the argmax of something that is no number says nothing
        values["accuracy"] = tuple(
            hit if np.isfinite(all_).all() else 0.0 for hit, all_ in zip(right, table, strict=True)
        )
        outputs = tuple((row.choices or ())[int(np.argmax(all_))] for row, all_ in zip(rows, table, strict=True))
        sums = [all_[sample["doc"]["gold"]] for all_, sample in zip(table, samples["accuracy"], strict=True)]
    else:
        sums = [float(sample["filtered_resps"][0][0]) for sample in samples["loss"]]
    if "exact_match" in samples:
        values["exact_match"] = tuple(float(sample["exact_match"]) for sample in samples["exact_match"])
        outputs = tuple(str(sample["filtered_resps"][0]) for sample in samples["exact_match"])
    losses = [-total / count for total, count in zip(sums, tokens, strict=True)]
    values["loss"] = tuple(min(loss, WORST_LOSS) if np.isfinite(loss) else WORST_LOSS for loss in losses)
    return ModelScore(label, {name: float(np.mean(found)) for name, found in values.items()}, values, outputs)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep lm-eval and what it imports from printing, logging and warning, and undo what it does to the process.

    It sets variables of the environment when imported, and draws a random name for each task, used or not.
    """
    environment, level, state = dict(os.environ), logging.root.manager.disable, random.getstate()
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        random.setstate(state)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
