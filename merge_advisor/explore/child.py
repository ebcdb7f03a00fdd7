"""The process of one job: what is asked comes in on stdin as JSON, progress and the result go out as lines of JSON.

It alone loads models; the server stays light, and a job that is stopped or killed takes nothing with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from merge_advisor.explore.run_views import refusal_line
from merge_advisor.machine_options import Machine
from merge_advisor.session_options import SessionOptions

_EVERY = 0.1
_LOOK = 1.0


def run_job(asked: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Do a job, and tell how far it is and what came of it; errors are told as well.

    Args:
        asked: `kind`, and what `layout_job`, `task_job` or `plan_job` takes.
        tell: called with each line.
    """
    told_at, told = 0.0, ""

    def progress(what: str, done: int, total: int) -> None:
        nonlocal told_at, told
        now = time.monotonic()
        if what != told or done >= total or now - told_at > _EVERY:
            told_at, told = now, what
            tell({"progress": [what, done, total]})

    from merge_advisor.explore import job_work

    doers: dict[str, Callable[[dict[str, Any], SessionOptions], dict[str, Any]]] = {
        "layout": job_work.layout_job, "task": job_work.task_job, "plan": job_work.plan_job,
    }  # fmt: skip
    try:
        tell({"result": doers[asked["kind"]](asked, _where(asked, progress))})
    except Exception as error:
        # whoever dropped a file knows it by its name, not by where its copy lies
        kept = str(asked.get("file") or "")
        tell({"error": refusal_line(error).replace(kept, Path(kept).name) if kept else refusal_line(error)})


def _where(asked: dict[str, Any], progress: Callable[[str, int, int], None]) -> SessionOptions:
    given = asked.get("where", {})
    where = SessionOptions(progress=progress, offline=bool(given.get("offline", False)))
    if given.get("cache"):
        where["cache"] = Path(given["cache"])
    if given.get("store"):
        where["store"] = Path(given["store"])
    if given.get("machine"):
        where["machine"] = Machine(**given["machine"])
    return where


def end_with(parent: int) -> None:
    """End this process and what it started once its parent is gone: nobody else would stop it any more.

    Args:
        parent: number of the process that started it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Do the job that stdin asks for."""
    end_with(os.getppid())
    warnings.simplefilter("ignore")
    # what libraries print must not come between the lines
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(line: dict[str, Any]) -> None:
        try:
            out.write(json.dumps(line) + "\n")
            out.flush()
        except BrokenPipeError:  # the server is gone: nobody waits for this any more
            os._exit(1)

    run_job(json.load(sys.stdin), tell)


if __name__ == "__main__":
    main()
