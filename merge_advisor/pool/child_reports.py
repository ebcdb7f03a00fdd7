"""What the child processes of a pool say: a JSON object a line, and last words where they died."""

from __future__ import annotations

import json
from typing import Any


def read_report(line: str, missing: str) -> dict[str, Any]:
    """Return what a line of a child process reports.

    >>> read_report('{"updates": []}', "it wrote no report"), read_report("Segmentation fault", "it wrote no report")
    ({'updates': []}, {'error': 'it wrote no report'})

    Args:
        line: as it wrote it.
        missing: the error of a line that is no report.
    """
    try:
        report = json.loads(line)
    except ValueError:
        report = None
    return report if isinstance(report, dict) else {"error": missing}


def last_words(text: object, most: int) -> str:
    r"""Return the last line of a text that says something, printable and short.

    >>> last_words("Traceback ...\nValueError: no\x1b such file\n\n", 40)
    'ValueError: no  such file'

    Args:
        text: what a child process wrote; None where it wrote nothing.
        most: characters of it.
    """
    lines = [line for line in str(text or "").splitlines() if line.strip()] or ["no reason given"]
    return printed(lines[-1], most)


def printed(text: object, most: int) -> str:
    """Return the beginning of a text, with a space for each character that is not printable.

    Args:
        text: any.
        most: characters of it.
    """
    return "".join(c if c.isprintable() else " " for c in str(text))[:most].strip()
