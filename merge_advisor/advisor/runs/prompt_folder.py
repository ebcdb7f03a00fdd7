"""The prompt of `icl` in a run folder, for other tools: a text to paste, and of a chat its messages.

prompt/0.txt    of the first task: the examples and behind them a mark, in whose place an input goes
prompt/0.json   the same as messages, where the run's template is the base's chat
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from merge_advisor.advisor.measuring.in_context import planned_prompt
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.types import Row, Task
from merge_advisor.whole_files import discard, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from merge_advisor.advisor.measuring.meter import MergeMeter
    from merge_advisor.advisor.runs.run_folder import Run
    from merge_advisor.templates import Template
    from merge_advisor.types import Turn

PROMPT = "prompt"
"""Folder of a run."""


def rows_shown(task: Task, digests: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows learned from that a prompt shows, in its order.

    >>> rows_shown(Task("sums", (Row("1 + 1", "2"),), (), ()), [Row("1 + 1", "2").digest])[0].output
    '2'

    Args:
        task: its shots and tuning rows are the examples.
        digests: of those shown; one that is no row of the task is left out.
    """
    known = {row.digest: row for row in (*task.shots, *task.tuning)}
    return tuple(known[digest] for digest in digests if digest in known)


def input_mark(task: Task) -> str:
    """Return what stands in the files for the input: a word in braces that no row learned from holds.

    >>> input_mark(Task("sums", (Row("1 + 1", "2"),), (), ()))
    '{input}'

    Args:
        task: the task.
    """
    return next(_marks(task))


def _marks(task: Task) -> Iterator[str]:
    texts = [text for row in (*task.shots, *task.tuning) for text in (row.input, *row.right)]
    for number in count():
        mark = f"{{input{number or ''}}}"
        if not any(mark in text for text in texts):
            yield mark


def prompt_texts(template: Template, task: Task) -> dict[str, str]:
    r"""Return the files of a task's prompt by their endings: a text, and the messages where the template is a chat.

    >>> from merge_advisor import templates
    >>> shown = templates.get("plain").with_examples([("1 + 1", "2")])
    >>> prompt_texts(shown, Task("sums", (), (), ()))
    {'txt': '1 + 1\n2\n\n{input}\n'}

    Args:
        template: with the examples.
        task: the task; a system prompt that all its rows have is kept.
    """
    mark = input_mark(task)
    asked = _asked(task, mark)
    files = {}
    try:
        text = template.prompt(asked)
        if text.count(mark) == 1:  # a chat template is a program: it may write what it is given otherwise, or twice
            files["txt"] = text
    except SpecError:  # of a mark alone; the messages are what it is made of
        pass
    if template.chat_template is not None:
        files["json"] = json.dumps(template.messages(asked), indent=1, ensure_ascii=False) + "\n"
    return files


def _asked(task: Task, mark: str) -> str | tuple[Turn, ...]:
    """The mark as what is asked, behind the system prompt that all rows share."""
    opening = {row.turns[0] if row.turns else None for row in (*task.shots, *task.tuning)}
    shared = next(iter(opening)) if len(opening) == 1 else None
    return mark if shared is None or shared[0] != "system" else (shared, ("user", mark))


def write_prompt(folder: Path, number: int, task: Task, template: Template | None) -> None:
    """Write the prompt of a task into a run folder; without one, take away what is there.

    Args:
        folder: the run folder, or one that becomes it.
        number: of the task.
        task: the task.
        template: with the examples; None: not one fits.

    Raises:
        RunError: no permission, or no room.
    """
    files = {} if template is None else prompt_texts(template, task)
    for ending in ("txt", "json"):
        place = folder / PROMPT / f"{number}.{ending}"
        if ending in files:
            write_text(place, files[ending])
        else:
            discard(place)


def write_planned_prompt(meter: MergeMeter, task: Task, folder: Path) -> None:
    """Write the prompt of a run whose model is the base with examples in it.

    Args:
        meter: has the base and its template.
        task: the run's one task.
        folder: the run folder, or one that becomes it.

    Raises:
        RunError: it cannot be written.
    """
    try:
        shown = planned_prompt(meter, task).model.template
    except TaskError:  # beside the held-out rows not one fits: the reason says so
        shown = None
    write_prompt(folder, 0, task, shown)


def prompt_files(run: Run) -> list[str]:
    """Return the names of the prompts that a run folder holds, task by task: the text where there is one.

    Args:
        run: the run.
    """
    found = []
    for number in range(len(run.tasks)):
        names = [f"{PROMPT}/{number}.{ending}" for ending in ("txt", "json")]
        found += [name for name in names if (run.folder / name).is_file()][:1]
    return found


def prompt_description(run: Run) -> str:
    """Return what the folder of prompts is, in words.

    Args:
        run: the run.
    """
    marks = " or ".join(dict.fromkeys(map(input_mark, run.tasks)))
    return f"the base's prompt with examples (icl), to paste: an input goes where it says {marks}"
