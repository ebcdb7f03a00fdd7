"""What the base's template and tokenizer refuse of a task's rows, found before anything is loaded or computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from merge_advisor.errors import SpecError, TaskError

if TYPE_CHECKING:
    from merge_advisor.advisor.measuring.prompted_model import PromptedModel
    from merge_advisor.options import PlanOptions
    from merge_advisor.types import Row, Task


def check_task_rows(model: PromptedModel, tasks: Sequence[Task], inputs: Sequence[Row], options: PlanOptions) -> None:
    """Refuse rows that the template cannot render, and answers that do not fit into the base's context.

    >>> from merge_advisor.advisor.measuring.session import open_session
    >>> from merge_advisor.options import PlanOptions
    >>> from merge_advisor.types import Row, Task
    >>> with open_session("base", "adapters") as session:
    ...     check_task_rows(session.model, [Task("t", (Row("say 1 twice", "1 1"),), (), ())], (), PlanOptions())

    Args:
        model: the base under its template.
        tasks: with their rows.
        inputs: unlabelled rows.
        options: of the plan.

    Raises:
        TaskError: such a row; the message names it.
        BaseModelError: the base's tokenizer cannot be read.
    """
    for row in (*(row for task in tasks for row in (*task.shots, *task.tuning, *task.heldout)), *inputs):
        try:
            model.template.prompt(row.asked)
        except SpecError as error:
            raise TaskError(f"{row.called}: {error}, or drop the row{_of_system(row)}") from error
    trains = options.adaptation.partition(":")[0].strip() != "none"
    for task in tasks:
        # shots that choose nothing are cut where they are too long to train on; an adaptation judges by them as well
        learned = (*task.shots, *task.tuning) if trains else task.choosing
        _check_answers(model, (*learned, *task.heldout))
    _check_answers(model, inputs)


def _of_system(row: Row) -> str:
    return " or its system prompt" if row.turns and row.turns[0][0] == "system" else ""


def _check_answers(model: PromptedModel, rows: Iterable[Row]) -> None:
    """Count the tokens of answers that are long enough for it to matter: most are short, and no tokenizer is read."""
    known: set[str] = set()
    for row in rows:
        for answer in dict.fromkeys((row.output, *(row.choices or ()))):
            text = model.template.completion(answer)
            if text in known or _most_tokens(text) < model.longest_row:
                continue
            known.add(text)
            tokens = len(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) + 1
            if tokens > model.longest_row or (tokens == model.longest_row and not model.encoder_decoder):
                what = "its answer" if answer == row.output else f"its choice {answer[:20]!r}"
                raise TaskError(
                    f"{row.called}: {what} takes {tokens} tokens of {model.longest_row}, which is all that a row may "
                    "have; shorten it or drop the row"
                )


def _most_tokens(text: str) -> int:
    """More tokens than a text has: one a byte is the most, four where a tokenizer spells characters out."""
    return 4 * len(text.encode()) + 8
