"""The guard: what a merge costs on text that has nothing to do with the task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from merge_advisor.errors import TaskError
from merge_advisor.scores import GuardScore
from merge_advisor.statistics import paired_interval

GUARD_MINIMUM = 2
"""Texts a guard has at least."""
TOLERANCE = 0.05
"""Nats per token a merge may lose on unrelated text."""
PAIRS = (
    ("input", "output"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("context", "completion"),
    ("input", "target"),
)
"""Names under which a row may hold a text in two parts instead of one `text`; a blank line joins them."""


def read_guard(path: Path) -> tuple[str, ...]:
    """Read the texts of a guard file, in order, equal ones once.

    Args:
        path: JSONL, UTF-8; each line an object with `text`, or with one of `PAIRS`.

    Raises:
        TaskError: the file cannot be read, a line is not such an object or its text is blank, or there are fewer than
            `GUARD_MINIMUM` texts; the message names the line.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise TaskError(f"{path}: cannot be read ({error.strerror}); give a JSONL file of unrelated text") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    texts = [_text(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    found = tuple(dict.fromkeys(texts))
    if len(found) < GUARD_MINIMUM:
        raise TaskError(
            f"{path}: {len(found)} different texts, the minimum is {GUARD_MINIMUM}; add lines of unrelated text"
        )
    return found


def _text(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f'{place}: not JSON; write one object per line, {{"text": "..."}}') from error
    parts: list[object] = []
    if isinstance(row, dict):
        names = next((names for names in (("text",), *PAIRS) if all(name in row for name in names)), ())
        parts = [row[name] for name in names]
    if not parts:
        raise TaskError(f'{place}: no text in it; write {{"text": "..."}}, or input and output')
    words = [part for part in parts if isinstance(part, str)]
    if len(words) < len(parts) or not "".join(words).strip():
        raise TaskError(f"{place}: its text is blank or no string; give a text")
    return "\n\n".join(words)


def guard_score(
    base_losses: Sequence[float], merge_losses: Sequence[float], tolerance: float = TOLERANCE
) -> GuardScore:
    """Compare the losses of base and merge, text by text.

    Args:
        base_losses: (n,) nats per token of each text, n at least 2.
        merge_losses: (n,) the same under the merge.
        tolerance: nats per token; the merge has regressed where the lower end of the paired 95% interval of
            merge - base is above it.

    Raises:
        ValueError: not as many losses of one as of the other, fewer than two, or one that is not finite.
    """
    base, merge = np.asarray(base_losses, dtype=np.float64), np.asarray(merge_losses, dtype=np.float64)
    if base.shape != merge.shape:
        raise ValueError(f"{len(base)} losses of the base and {len(merge)} of the merge; they are compared in pairs")
    found = paired_interval(merge - base, counts=False)
    return GuardScore(
        rows=len(base),
        base=float(base.mean()),
        merge=float(merge.mean()),
        lower=found.lower,
        upper=found.upper,
        regressed=found.lower > tolerance,
    )
