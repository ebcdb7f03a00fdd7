"""Runs `peft_child` in a process of its own, and reads what it reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from merge_advisor.pool import peft_child
from merge_advisor.pool.child_reports import last_words, read_report
from merge_advisor.progress import Progress

_KEPT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""What the child is told of the environment: no tokens, no proxies, no folders of the user."""


def run_peft_child(
    asked: Mapping[str, Any], scratch: Path, limit: float, progress: Progress
) -> tuple[list[dict[str, Any]], str]:
    """Return what one child process reports job by job, and what it died of if it did not finish.

    Args:
        asked: what it reads, see `peft_child`.
        scratch: a folder for its log.
        limit: seconds after which it is ended.
        progress: called with (what, done, total).
    """
    total = len(asked["jobs"])
    # -I: neither the user's folders nor their environment say what the child imports
    command = [sys.executable, "-I", "-B", str(Path(peft_child.__file__).resolve())]
    reports: list[dict[str, Any]] = []
    progress("merging adapters by PEFT", 0, total)
    with (scratch / "log").open("w+", encoding="utf-8", errors="replace") as log:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=scratch,
                env=_environment(scratch), encoding="utf-8", errors="replace",
            )  # fmt: skip
        except OSError as error:
            return [], f"no child process can be started ({error.strerror}); try again"
        watch = threading.Timer(limit, child.kill)
        watch.start()
        try:
            for report in _reports_of(child, asked):
                reports.append(report)
                progress("merging adapters by PEFT", len(reports), total)
            code = child.wait()
        finally:
            watch.cancel()
            if child.poll() is None:  # Ctrl-C above all
                child.kill()
                child.wait()
        log.seek(0)
        return reports[:total], f"the process that merges died ({code}: {last_words(log.read(), 200)}); try again"


def _environment(scratch: Path) -> dict[str, str]:
    named = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return named | {
        "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(scratch), "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip


def _reports_of(child: subprocess.Popen[str], asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the child its jobs, and yield its lines as they come."""
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdout as lines:
        try:
            child.stdin.write(json.dumps(asked))
            child.stdin.close()
        except BrokenPipeError:  # it died before it read them; its log says of what
            return
        for line in lines:
            yield read_report(line, "it wrote no report")
