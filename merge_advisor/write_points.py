"""Points at which something lasting is written, by name, so that a test can have each of them fail.

`MERGE_ADVISOR_FAIL_AT=NAME[:NTH][=FAULT]` has the process fail the first (or NTH) time that it passes a point of this
name. NAME is a kind of point ("file filled"), a kind and what is written there ("file filled plan.json"), or "any".
FAULT is `kill` (SIGKILL, as of a process that is out of memory; the default), `ENOSPC` (a full disk) or `EIO` (a broken
one). Where the variable is there and empty nothing fails, and `passed` counts.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections import Counter

from merge_advisor.errors import InputError

FAIL_AT = "MERGE_ADVISOR_FAIL_AT"
"""Name of the variable."""
POINTS = {
    "file begun": "an empty file lies beside its place",
    "file filled": "all is in it",
    "file synced": "it is on the disk",
    "file in place": "it has its name",
    "folder begun": "an empty folder lies beside its place",
    "folder filled": "all is in it",
    "folder synced": "it is on the disk",
    "folder set aside": "the one that it replaces has another name, where two cannot be swapped at once",
    "folder in place": "it has its name",
    "folder put back": "one that was set aside by a killed process has its name again",
    "scratch begun": "an empty folder for what is not kept is there",
    "leftover removed": "what a killed process left is gone",
    "discarded": "what is to be removed has no name of its own any more",
    "database opened": "an SQLite file is there, and its journal is set",
    "rows to be written": "before a statement of SQL",
    "rows written": "after it",
    "vectors to be written": "before rows of a file of vectors, or checksums of them, are appended",
    "vectors written": "they are on the disk, and do not count yet",
    "lock taken": "a study is locked",
    "holder noted": "who holds the lock is written beside it",
    "holder removed": "and is gone again",
    "study to be written": "before a call of Optuna's storage",
    "study written": "after it",
    "part in place": "one part of a tuned run has taken the place of the plan's",
}
"""The kinds of points, and what has happened at each. `tests/faults` passes all of them."""
_ASKED = re.compile(r"(?P<name>.+?)(?::(?P<nth>[1-9][0-9]*))?(?:=(?P<fault>kill|ENOSPC|EIO))?")
passed: Counter[str] = Counter()
"""How often each point was passed in this process, by every name it has; counted where the variable is there."""


def write_point(kind: str, target: str = "") -> None:
    """Fail here if the environment asks for it.

    >>> write_point("file filled", "plan.json")

    Args:
        kind: one of `POINTS`.
        target: what is written: a file's name, or a statement, of which the words before its first bracket count.

    Raises:
        OSError: the environment asks for this.
        InputError: it asks for something that is none.
    """
    asked = os.environ.get(FAIL_AT)
    if asked is not None:
        _pass(kind, target.partition("(")[0].strip(), asked)


def _pass(kind: str, target: str, asked: str) -> None:
    names = ["any", kind, *([f"{kind} {target}"] if target else [])]
    passed.update(names)
    if not asked:
        return
    match = _ASKED.fullmatch(asked)
    kinds = ("any ", *(f"{known} " for known in POINTS))
    if match is None or not f"{match['name']} ".startswith(kinds):
        raise InputError(f"{FAIL_AT}={asked}: names no point of writing; see `merge_advisor/write_points.py`")
    if match["name"] in names and passed[match["name"]] == int(match["nth"] or 1):
        _fail(match["fault"] or "kill")


def _fail(fault: str) -> None:
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    number = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}[fault]
    raise OSError(number, os.strerror(number))
