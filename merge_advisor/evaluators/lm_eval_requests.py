"""What lm-eval asks about a task, put to models in memory, and their scores.

A model is asked exactly as `lm_eval --model hf` would ask it: lm-eval's own tokens, its few shots (with its own seed),
no template of ours, no end token behind an answer. The values per row come from the samples it logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merge_advisor.errors import TaskError
from merge_advisor.evaluators.lm_eval_process import contained_lm_eval
from merge_advisor.evaluators.lm_eval_samples import (
    check_documents,
    excess_of_texts,
    plain_json,
    prompt_of,
    row_digests,
    row_logs,
    score_from_samples,
)
from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask
from merge_advisor.json_form import digest_of
from merge_advisor.limits import ROW_BYTES
from merge_advisor.scores import ModelScore, RowLog

if TYPE_CHECKING:
    from merge_advisor.backbone.model import Backbone

_FEWSHOT_SEED = 1234
"""lm-eval's own default: the same few shots as on its command line."""
_BATCH_SIZE = 8
"""Requests of one forward at most."""


@dataclass(frozen=True, slots=True, eq=False)
class LmEvalRequests:
    """The requests of a task, before any model is asked.

    >>> loaded = LmEvalTask("lm-eval:arc_easy", None, trusted=False, code="")
    >>> LmEvalRequests(loaded, limit=10, skipped=(), logs=(), row_digests=(), digest="").arguments
    {'limit': 10}
    """

    loaded: LmEvalTask
    """The task."""
    limit: int | None
    """Documents at most, the first of the split; None: all."""
    skipped: tuple[int, ...]
    """Documents left out, by position."""
    logs: tuple[RowLog, ...]
    """What is asked on each document."""
    row_digests: tuple[str, ...]
    """A digest of each row asked, in the same order."""
    digest: str
    """Sha256 over requests, documents, configuration and code: what a stored score belongs to."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The documents to ask about, as arguments of lm-eval's `evaluate`."""
        if not self.skipped:
            return {"limit": self.limit}
        return {"samples": {self.loaded.key: _kept(self.loaded.task, self.skipped, self.limit)}}


def build_requests(loaded: LmEvalTask, *, limit: int | None = None, seen: Sequence[str] = ()) -> LmEvalRequests:
    """Return the requests of a task.

    Args:
        loaded: the task.
        limit: documents at most, the first of the split as with lm-eval's own `--limit`.
        seen: inputs a plan learned from; documents with such a text are left out.

    Raises:
        TaskError: no document is left, or there are too many, or one is too large.
        ExternalError: lm-eval failed.
    """
    task = loaded.task
    with contained_lm_eval(loaded.name, trusted=loaded.trusted):
        task.set_fewshot_seed(_FEWSHOT_SEED)
        check_documents(loaded.name, task.eval_docs)
        known = set(seen)
        skipped = tuple(at for at, doc in enumerate(task.eval_docs) if prompt_of(task, doc) in known) if known else ()
        kept = _kept(task, skipped, limit) if skipped else None
        if kept == [] or len(task.eval_docs) == 0:
            raise TaskError(f"{loaded.name}: every document of it was used in the plan; score another task")
        task.set_fewshot_seed(_FEWSHOT_SEED)  # again: reading prompts above has drawn from it
        task.build_all_requests(limit=None if kept else limit, samples=kept, rank=0, world_size=1)
        groups: dict[int, list[Any]] = {}
        for instance in task.instances:
            groups.setdefault(int(instance.doc_id), []).append(instance)
        requests = [sorted(group, key=lambda one: int(one.idx)) for _, group in sorted(groups.items())]
        _check_sizes(loaded.name, requests)
        logs = row_logs(task, requests)
        digests = row_digests(logs)
        arguments = [[plain_json(one.arguments) for one in group] for group in requests]
        # where the data lies does not change what is asked, and the requests themselves are in the digest
        config = {k: v for k, v in task.dump_config().items() if k != "metadata" and not k.startswith("dataset_")}
        return LmEvalRequests(
            loaded=loaded,
            limit=limit,
            skipped=skipped,
            logs=logs,
            row_digests=digests,
            digest=digest_of([loaded.name, plain_json(config), loaded.code, digests, arguments]),
        )


def _check_sizes(name: str, requests: Sequence[Sequence[Any]]) -> None:
    """Refuse a document whose requests are beyond `ROW_BYTES`: none is left out, lm-eval's own score is of all."""
    large: dict[int, int] = {}
    for group in requests:
        texts = {text for one in group for text in one.arguments if isinstance(text, str)}
        if excess := excess_of_texts(sorted(texts)):
            large[int(group[0].doc_id)] = excess
    if large:
        remedy = f"take another task, or {ROW_BYTES.remedy(max(large.values()))}"
        raise TaskError(f"{name}: document {next(iter(large))} has {ROW_BYTES.over}; {remedy}")


def _kept(task: Any, skipped: Sequence[int], limit: int | None) -> list[int]:
    left_out = set(skipped)
    return [at for at in range(len(task.eval_docs)) if at not in left_out][:limit]


def evaluate_requests(requests: LmEvalRequests, backbone: Backbone, label: str) -> ModelScore:
    """Return the score of one model; values per row are in the order of `requests.row_digests`.

    lm-eval's "acc" has the name "accuracy". The loss (nats per token of the right answer) is there where the task takes
    likelihoods.

    Args:
        requests: of one task.
        backbone: the model.
        label: its name in the score table.

    Raises:
        ExternalError: lm-eval failed.
    """
    import torch

    task = requests.loaded.task
    what = f"{label} on {requests.loaded.name}"
    with contained_lm_eval(what, trusted=requests.loaded.trusted), torch.random.fork_rng(devices=[]):
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        torch.manual_seed(_FEWSHOT_SEED)  # as its command line does; matters to tasks that sample
        model = HFLM(
            pretrained=backbone.model,
            tokenizer=backbone.tokenizer,
            backend="seq2seq" if backbone.encoder_decoder else "causal",
            batch_size=_BATCH_SIZE,
        )
        task.set_fewshot_seed(_FEWSHOT_SEED)
        result = evaluate(
            model,
            {"tasks": {requests.loaded.key: task}, "groups": {}, "group_map": {}},
            bootstrap_iters=0,
            log_samples=True,
            cache_requests=False,
            confirm_run_unsafe_code=requests.loaded.trusted,
            **requests.arguments,
        )
        samples = sorted(result["samples"][requests.loaded.key], key=lambda sample: int(sample["doc_id"]))
        first = samples[0]["filter"]  # of several filters over the same answers, the first counts
        return score_from_samples(label, task, model, [sample for sample in samples if sample["filter"] == first])


def primary_metric(requests: LmEvalRequests, score: ModelScore, metric: str = "auto") -> str:
    """Return the metric a verdict rests on: accuracy, exact_match, another one from 0 to 1 that grows, or the loss.

    Args:
        requests: of the task.
        score: of any model.
        metric: "auto", or a name; "acc" is the same as "accuracy".

    Raises:
        TaskError: the task has no such value per row, or none at all that a verdict can rest on.
    """
    better = requests.loaded.task.higher_is_better()
    grows = [name for name in score.rows if name != "loss" and better.get("acc" if name == "accuracy" else name, True)]
    usable = [name for name in grows if all(0 <= value <= 1 for value in score.rows[name])]
    # stable: the two metrics our own rows have come first, else the task's own order decides
    usable = sorted(usable, key=lambda name: name not in ("accuracy", "exact_match"))
    usable += ["loss"] if "loss" in score.rows else []
    metric = "accuracy" if metric == "acc" else metric
    if metric != "auto" and metric not in usable:
        raise TaskError(
            f"{requests.loaded.name}: no metric '{metric}' per row; choose one of: {', '.join(usable) or 'none'}"
        )
    if not usable:
        metrics = ", ".join(better) or "none"
        raise TaskError(f"{requests.loaded.name}: no metric of it has a value per row from 0 to 1 (it has: {metrics})")
    return usable[0] if metric == "auto" else metric
