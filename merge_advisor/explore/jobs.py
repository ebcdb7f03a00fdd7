"""What the page starts and waits for: each job is a process of its own, which says how far it is, line by line."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from merge_advisor.errors import InputError, RunError
from merge_advisor.formats.child_process import end_group

JobState = Literal["running", "done", "failed", "stopped"]
MOST_AT_ONCE = 2
"""Tasks and plans that compute at a time: each opens the base."""
_MOST_KEPT = 200
_LAST_WORDS = 2_000
_WAIT = 5.0


@dataclass(eq=False)
class PageJob:
    """One job.

    >>> PageJob("a1", "task", "sums").state
    'running'
    """

    id: str
    kind: str
    """"layout", "task" or "plan"."""
    name: str
    """Of the task or run, for the page."""
    state: JobState = "running"
    progress: tuple[str, int, int] = ("starting", 0, 1)
    error: str = ""
    """One line; empty unless it failed."""
    result: dict[str, Any] | None = None
    started: float = field(default_factory=time.time)
    ended: float | None = None
    said: dict[str, Any] = field(default_factory=dict)
    """What else the page is told of it."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, without its result."""
        what, done, total = self.progress
        return {
            "id": self.id, "kind": self.kind, "name": self.name, "state": self.state, "what": what, "done": done,
            "total": total, "error": self.error, "seconds": round((self.ended or time.time()) - self.started, 1),
            **self.said,
        }  # fmt: skip


class JobBoard:
    """All jobs of one page; threads of this process read what the processes say.

    >>> JobBoard().jobs()
    []
    """

    def __init__(self) -> None:
        self._jobs: dict[str, PageJob] = {}
        self._lock = threading.Lock()

    def start(
        self, kind: str, name: str, asked: Mapping[str, Any], *, said: Mapping[str, Any] | None = None
    ) -> PageJob:
        """Return a job that has begun.

        Args:
            kind: "layout", "task" or "plan".
            name: what the page calls it.
            asked: what `child` is to do.
            said: what else the page is told of it.

        Raises:
            InputError: as many as may run at once are running.
            RunError: no process can be started.
        """
        job = PageJob(secrets.token_hex(6), kind, name, said=dict(said or {}))
        with self._lock:
            running = [other for other in self._jobs.values() if other.state == "running" and other.kind != "layout"]
            if kind != "layout" and len(running) >= MOST_AT_ONCE:
                names = ", ".join(other.name for other in running)
                raise InputError(f"{MOST_AT_ONCE} jobs are running already ({names}); wait for one, or stop it")
            try:
                job._process = subprocess.Popen(
                    [sys.executable, "-m", "merge_advisor.explore.child"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise RunError(f"no process can be started ({error.strerror or error}); close others") from error
            self._jobs[job.id] = job
            ended = [other for other in self._jobs.values() if other.state != "running"]
            for other in ended[: max(0, len(self._jobs) - _MOST_KEPT)]:
                del self._jobs[other.id]
        threading.Thread(target=self._follow, args=(job, json.dumps({**asked, "kind": kind})), daemon=True).start()
        return job

    def jobs(self) -> list[PageJob]:
        """Return all jobs, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.started)

    def job(self, name: str) -> PageJob:
        """Return a job.

        Args:
            name: its id.

        Raises:
            InputError: there is none.
        """
        found = self._jobs.get(name)
        if found is None:
            raise InputError("there is no such job any more; load the page again")
        return found

    def stop(self, job: PageJob) -> None:
        """End a job and all that it has started; one that has ended stays as it is.

        Args:
            job: the job.
        """
        process = job._process
        if job.state != "running" or process is None:
            return
        job.state = "stopped"
        end_group(process)

    def close(self) -> None:
        """End all jobs."""
        for job in self.jobs():
            self.stop(job)

    def _follow(self, job: PageJob, asked: str) -> None:
        process = job._process
        assert process is not None and process.stdin and process.stdout and process.stderr
        last: list[bytes] = []
        words = threading.Thread(target=_keep_last, args=(process.stderr, last), daemon=True)
        words.start()
        try:
            process.stdin.write(asked.encode())
            process.stdin.close()
        except OSError:  # it has ended already; its last words say why
            pass
        for line in process.stdout:
            _note(job, line)
        code = process.wait()
        words.join(_WAIT)
        process.stdout.close()
        process.stderr.close()
        job.ended = time.time()
        if job.state == "stopped":
            return
        if job.result is None and not job.error:
            told = b"".join(last).decode("utf-8", "replace").strip().splitlines()
            job.error = f"its process ended with code {code}{': ' + told[-1][:300] if told else ''}; try again"
        job.state = "failed" if job.error else "done"


def _note(job: PageJob, line: bytes) -> None:
    try:
        told = json.loads(line)
    except ValueError:
        return
    if "progress" in told:
        what, done, total = told["progress"]
        job.progress = (str(what), int(done), int(total))
    elif "error" in told:
        job.error = str(told["error"])
    elif "result" in told:
        job.result = told["result"]


def _keep_last(stream: Any, last: list[bytes]) -> None:
    """Read a stream to its end, and keep the last of it."""
    for line in stream:
        last.append(line)
        while len(last) > 1 and sum(map(len, last)) > _LAST_WORDS:
            del last[0]
