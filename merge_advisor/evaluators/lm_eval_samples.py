"""Values per row from what lm-eval logs, and what was asked, for whoever checks a row again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from merge_advisor.errors import TaskError
from merge_advisor.evaluators.metrics import loss_per_token, model_score
from merge_advisor.json_form import digest_of
from merge_advisor.limits import ROW_BYTES, TASK_ROWS
from merge_advisor.scores import ModelScore, RowLog
from merge_advisor.types import Row

_METRIC_ALIASES = {"acc": "accuracy"}
"""Metrics of lm-eval that have another name here."""


def plain_json(value: Any) -> Any:
    """Return a value as JSON has it: functions by their source, what else JSON does not know by its text.

    Args:
        value: of a task's configuration or of a request.
    """

    def as_text(item: Any) -> str:
        try:
            return inspect.getsource(item) if callable(item) else str(item)
        except (OSError, TypeError):
            return str(getattr(item, "__qualname__", type(item).__name__))

    return json.loads(json.dumps(value, default=as_text, sort_keys=True), parse_constant=str)


def prompt_of(task: Any, doc: Any) -> str:
    """Return what a model is asked without few shots.

    Args:
        task: lm-eval's task.
        doc: a document of it.
    """
    return str(task.fewshot_context(doc, 0, gen_prefix=task.doc_to_prefix(doc)))


def check_documents(name: str, documents: Any) -> None:
    """Refuse a split that holds more documents than are read.

    >>> check_documents("lm-eval:t", range(5))

    Args:
        name: of the task.
        documents: of the split, with a length.

    Raises:
        TaskError: more than `TASK_ROWS`.
    """
    if (number := len(documents)) > TASK_ROWS.most:
        remedy = f"take another task, or {TASK_ROWS.remedy(number)}"
        raise TaskError(f"{name}: a split holds {TASK_ROWS.over} documents; {remedy}")


def excess_of_texts(texts: Sequence[str]) -> int:
    """Return how many bytes the texts of a document have where these are more than `ROW_BYTES`; else 0.

    >>> excess_of_texts(["2 + 2 =", "4"])
    0

    Args:
        texts: prompt and answers.
    """
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return size if size > ROW_BYTES.most else 0


def row_digests(logs: Sequence[RowLog]) -> tuple[str, ...]:
    """Return a digest of each row asked; equal rows get different ones, by how often they came before.

    Args:
        logs: what is asked, row by row.
    """
    counts: dict[str, int] = {}
    digests = []
    for log in logs:
        digest = Row(log.prompt, log.wanted, log.choices).digest
        counts[digest] = counts.get(digest, 0) + 1
        digests.append(digest if counts[digest] == 1 else digest_of([digest, counts[digest]]))
    return tuple(digests)


def row_logs(task: Any, requests: Sequence[Sequence[Any]]) -> tuple[RowLog, ...]:
    """Return what is asked on each document: prompt, right answer, answers to choose among.

    Args:
        task: lm-eval's task.
        requests: the requests of each document, in the order of their index.
    """
    logs = []
    for group in requests:
        doc = group[0].doc
        prompts = [str(one.arguments[0]) for one in group]
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            logs.append(RowLog("", prompts[0]))
            continue
        choices = _choices(task, doc)
        gold = _gold(task, doc)
        if getattr(task, "multiple_input", 0):  # the choices are prompts, the answer is the same for all
            texts = tuple(prompt + str(one.arguments[1]) for prompt, one in zip(prompts, group, strict=True))
            logs.append(RowLog("", texts[gold] if isinstance(gold, int) else str(gold), texts[: len(choices)]))
            continue
        wanted = choices[gold] if isinstance(gold, int) and 0 <= gold < len(choices) else gold
        if task.OUTPUT_TYPE == "loglikelihood":
            wanted = group[0].arguments[1]
        logs.append(RowLog(prompts[0], str(wanted), choices or None))
    return tuple(logs)


def score_from_samples(label: str, task: Any, model: Any, samples: Sequence[dict[str, Any]]) -> ModelScore:
    """Return a model's score from the samples of one filter, in the order of the documents.

    Metrics without one number per row (f1 over a corpus, perplexities) are left out; a value that is no number is 0.

    Args:
        label: the model's name in the score table.
        task: lm-eval's task.
        model: lm-eval's model, for the number of tokens of an answer.
        samples: one a document.
    """
    values: dict[str, list[float]] = {}
    for name in samples[0]["metrics"]:
        column = [sample[name] for sample in samples]
        if name != "perplexity" and all(isinstance(value, (bool, int, float, np.number)) for value in column):
            values[_METRIC_ALIASES.get(name, name)] = [float(value) if np.isfinite(value) else 0.0 for value in column]
    losses = [_loss(task, model, sample) for sample in samples]
    if all(loss is not None for loss in losses):
        values["loss"] = [float(loss or 0.0) for loss in losses]
    return model_score(label, values, [_output(task, sample) for sample in samples])


def _choices(task: Any, doc: Any) -> tuple[str, ...]:
    config = getattr(task, "config", None)
    if config is None or getattr(config, "doc_to_choice", None) is None:
        return ()
    return tuple(str(choice) for choice in task.doc_to_choice(doc))


def _gold(task: Any, doc: Any) -> Any:
    """Return the right answer as lm-eval has it: an index, a text, or a list of either."""
    return task.doc_to_text(doc) if getattr(task, "multiple_input", 0) else task.doc_to_target(doc)


def _loss(task: Any, model: Any, sample: dict[str, Any]) -> float | None:
    """Return the nats per token of the right answer, where its likelihood was taken."""
    arguments, responses = sample["arguments"], sample["filtered_resps"]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return loss_per_token(float(responses[0]), max(1, len(model.tok_encode(arguments[0][0]))))
    at: Any = 0
    if task.OUTPUT_TYPE == "multiple_choice":
        choices, at = _choices(task, sample["doc"]), _gold(task, sample["doc"])
        at = choices.index(at) if at in choices else at
        if not isinstance(at, int) or not 0 <= at < len(choices):
            return None
    elif task.OUTPUT_TYPE != "loglikelihood":
        return None
    prompt, answer = arguments[at]
    tokens = model._encode_pair(prompt, answer)[1] if prompt else model.tok_encode(answer)
    return loss_per_token(float(responses[at][0]), max(1, len(tokens)))


def _output(task: Any, sample: dict[str, Any]) -> str:
    """Return the chosen choice, or the text after lm-eval's filter."""
    responses = sample["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = _choices(task, sample["doc"])
        best = int(np.argmax([float(one[0]) for one in responses[: len(choices)]])) if choices else 0
        return choices[best] if choices else ""
    return str(responses[0]) if task.OUTPUT_TYPE == "generate_until" else ""
