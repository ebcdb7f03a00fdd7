"""The guard: what a merge costs on text that has nothing to do with the task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from merge_advisor.errors import TaskError
from merge_advisor.limits import ROW_BYTES, TASK_BYTES
from merge_advisor.regular_files import read_bounded
from merge_advisor.scores import GuardScore
from merge_advisor.statistics import paired_interval

_MINIMUM = 2
"""Texts a guard has at least: an interval of a mean needs two values."""
TOLERANCE = 0.05
"""Nats per token a merge may lose on unrelated text."""
_TEXT_PAIRS = (
    ("input", "output"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("context", "completion"),
    ("input", "target"),
)
"""Names under which a row may hold a text in two parts instead of one `text`; a blank line joins them."""


def read_guard(path: Path) -> tuple[str, ...]:
    """Return the texts of a guard file, in order, equal ones once; see `placed_guard`.

    Args:
        path: as `placed_guard` takes it.

    Raises:
        TaskError: as `placed_guard`.
    """
    return tuple(placed_guard(path))


def placed_guard(path: Path, minimum: int = _MINIMUM) -> dict[str, str]:
    """Return the texts of a guard file with the place of each, in order; of equal ones the first.

    Args:
        path: JSONL, UTF-8; each line an object with `text`, or with a pair such as `input` and `output`.
        minimum: how many there have to be.

    Raises:
        TaskError: the file cannot be read, a line is not such an object or its text is blank, or there are fewer than
            `minimum` texts; the message names the line.
    """
    try:
        data = read_bounded(path, TASK_BYTES.most)
        if data is None:
            size = path.stat().st_size
            wanted = TASK_BYTES.remedy(size if size > TASK_BYTES.most else None)
            raise TaskError(f"{path}: holds {TASK_BYTES.over}; give a part of it, or {wanted}")
        lines = data.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}); give a JSONL file of unrelated text") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    different: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            different.setdefault(_text(line, f"{path}:{number}"), f"{path.name}:{number}")
    if len(different) < minimum:
        raise TaskError(
            f"{path}: {len(different)} different texts, the minimum is {minimum}; add lines of unrelated text"
        )
    return different


def _text(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f'{place}: not JSON; write one object per line, {{"text": "..."}}') from error
    parts: list[object] = []
    if isinstance(row, dict):
        names = next((names for names in (("text",), *_TEXT_PAIRS) if all(name in row for name in names)), ())
        parts = [row[name] for name in names]
    if not parts:
        raise TaskError(f'{place}: no text in it; write {{"text": "..."}}, or input and output')
    words = [part for part in parts if isinstance(part, str)]
    if len(words) < len(parts) or not "".join(words).strip():
        raise TaskError(f"{place}: its text is blank or no string; give a text")
    text = "\n\n".join(words)
    if (size := len(text.encode("utf-8", "surrogatepass"))) > ROW_BYTES.most:
        raise TaskError(f"{place}: has {ROW_BYTES.over}; give a part of it, or {ROW_BYTES.remedy(size)}")
    return text


def guard_score(base_losses: Sequence[float], merge_losses: Sequence[float]) -> GuardScore:
    """Return how the losses of base and merge compare, text by text.

    The merge has regressed where the lower end of the paired 95% interval of merge - base is above `TOLERANCE`: worse
    by more than noise, and by more than is worth a warning.

    Args:
        base_losses: (n,) nats per token of each text, n at least 2.
        merge_losses: (n,) the same under the merge.

    Raises:
        ValueError: not as many losses of one as of the other, fewer than two, or one that is not finite.

    >>> score = guard_score([2.0, 3.0, 2.5], [2.4, 3.4, 2.9])
    >>> score.regressed, round(score.merge - score.base, 2)
    (True, 0.4)
    """
    base, merge = np.asarray(base_losses, dtype=np.float64), np.asarray(merge_losses, dtype=np.float64)
    if base.shape != merge.shape:
        raise ValueError(f"{len(base)} losses of the base and {len(merge)} of the merge; they are compared in pairs")
    interval = paired_interval(merge - base, counts=False)
    return GuardScore(
        rows=len(base),
        base=float(base.mean()),
        merge=float(merge.mean()),
        lower=interval.lower,
        upper=interval.upper,
        regressed=interval.lower > TOLERANCE,
    )
