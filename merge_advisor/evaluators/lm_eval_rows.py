"""Documents of lm-eval's tasks as rows of ours, for a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from merge_advisor.errors import TaskError
from merge_advisor.evaluators.lm_eval_process import contained_lm_eval
from merge_advisor.evaluators.lm_eval_samples import check_documents, excess_of_texts, prompt_of
from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask
from merge_advisor.limits import ROW_BYTES
from merge_advisor.types import Row

_LEARNING_DOCUMENTS = 1000
"""Documents that shots and tuning rows are drawn from at most, spread evenly over the split."""
_HELDOUT_DOCUMENTS = 200
"""Documents held out at most where no number is given."""


@dataclass(frozen=True, slots=True)
class LmEvalRows:
    """Documents of a task as rows of ours.

    >>> rows = LmEvalRows("lm-eval:t", (Row("2 + 2 =", "4"),), (Row("3 + 4 =", "7"),), notes=())
    >>> rows.heldout[0].output
    '7'
    """

    name: str
    """"lm-eval:" and lm-eval's name of the task."""
    learning: tuple[Row, ...]
    """Rows to draw shots and tuning rows from."""
    heldout: tuple[Row, ...]
    notes: tuple[str, ...]
    """What was left out, a sentence each."""


def lm_eval_rows(loaded: LmEvalTask, *, heldout: int | None = None) -> LmEvalRows:
    """Return a task's documents as rows: prompt, right answer, choices where it has them.

    What lm-eval scores on (the test split, or validation where there is none) is held out; its training, validation or
    few-shot documents are learned from, where they are another split.

    Args:
        loaded: the task.
        heldout: documents to hold out; None: at most 200, spread evenly.

    Raises:
        TaskError: the task has no prompt and answer, no split beside the one it is scored on, or too large a split.
        ExternalError: lm-eval failed.
    """
    from lm_eval.api.task import ConfigurableTask

    task = loaded.task
    if not isinstance(task, ConfigurableTask) or task.OUTPUT_TYPE == "loglikelihood_rolling" or task.multiple_input:
        kind = (
            "perplexity of whole texts" if task.OUTPUT_TYPE == "loglikelihood_rolling" else "prompts of its own making"
        )
        raise TaskError(
            f"{loaded.name}: measures {kind}, which gives no rows of prompt and answer; plan with a task "
            "file, then score the run with `lm_eval`"
        )
    with contained_lm_eval(loaded.name, trusted=loaded.trusted):
        parts = _learning_documents(task)
        if not parts:
            raise TaskError(
                f"{loaded.name}: has no split beside the one it is scored on, so nothing to learn from; plan with "
                "a task file, then score the run with `lm_eval`"
            )
        for part in (*parts, task.eval_docs):
            check_documents(loaded.name, part)
        notes: list[str] = []
        learning = _rows(task, _spread([doc for part in parts for doc in part], _LEARNING_DOCUMENTS), "learned", notes)
        count = _HELDOUT_DOCUMENTS if heldout is None else heldout
        scored = _rows(task, _spread(list(task.eval_docs), count), "held-out", notes)
    total = len(task.eval_docs)
    if total > count:
        notes.append(f"{count} of {total} documents are held out, spread evenly; `heldout` sets another number")
    return LmEvalRows(loaded.name, learning, scored, tuple(f"{loaded.name}: {note}" for note in notes))


def _learning_documents(task: Any) -> list[Any]:
    """Return the documents of the splits lm-eval does not score on."""
    config = task.config
    scored = config.test_split if task.has_test_docs() else config.validation_split
    parts = []
    if task.has_training_docs() and config.training_split != scored:
        parts.append(task.training_docs())
    if task.has_validation_docs() and config.validation_split != scored:
        parts.append(task.validation_docs())
    # few-shot documents are mostly a handful of the training split: only where there is nothing else
    if not parts and config.fewshot_split not in (None, scored):
        parts.append(task.fewshot_docs())
    return parts


def _spread(docs: Sequence[Any], most: int) -> list[Any]:
    return [docs[at * len(docs) // most] for at in range(most)] if len(docs) > most else list(docs)


def _rows(task: Any, docs: Sequence[Any], what: str, notes: list[str]) -> tuple[Row, ...]:
    rows, dropped, large = [], 0, list[int]()
    for doc in docs:
        row = _row(task, doc)
        if row is None:
            dropped += 1
        elif excess := excess_of_texts((row.input, *row.right, *(row.choices or ()))):
            large.append(excess)
        else:
            rows.append(row)
    if dropped:
        notes.append(f"{dropped} {what} documents left out: no text to ask, or no right answer among its choices")
    if large:
        remedy = ROW_BYTES.remedy(max(large))
        notes.append(f"{len(large)} {what} documents left out: each has {ROW_BYTES.over}; to take them, {remedy}")
    return tuple(dict.fromkeys(rows))  # equal documents once: a row must not be on both sides of a split


def _row(task: Any, doc: Any) -> Row | None:
    """Return one document as a row, with all its right answers; None where it has no input or no answer."""
    text, target = prompt_of(task, doc), task.doc_to_target(doc)
    targets = target if isinstance(target, list) else [target]
    choices: tuple[str, ...] | None = None
    if task.config.doc_to_choice is not None:
        choices = tuple(str(choice) for choice in task.doc_to_choice(doc))
        targets = [choices[at] if isinstance(at, int) and 0 <= at < len(choices) else at for at in targets]
        if len(set(choices)) < max(2, len(choices)) or not all(answer in choices for answer in targets):
            return None
    answers = tuple(dict.fromkeys(answer for answer in map(str, targets) if answer.strip()))
    if not text.strip() or not answers:
        return None
    chosen = choices if task.OUTPUT_TYPE == "multiple_choice" else None
    return Row(text, answers[0], chosen, answers=answers if len(answers) > 1 else None)
