"""A process that has imported all that commands import, and runs each command in a fork of itself.

A command costs its own work then and not ten seconds of imports, so that hundreds can be killed. The process has one
thread; a fork is a process of its own in all that counts here: what it has open, its memory, its number.

python tests/support/fork_server.py     # requests on stdin, answers on stdout, each a line of JSON

- `{"argv", "cwd", "env", "out", "limit"}` begins a command, answers `{"pid"}`; what it prints goes to `out`.stdout and
  `out`.stderr, and where it ends by itself the points of writing that it passed and the modules that it had imported go
  to `out`.json. `limit`: the largest file it may write, in bytes.
- `{"pid", "kill_after"}` waits for it, or kills it (SIGKILL) after so many seconds; answers `{"code", "seconds"}`, the
  code of a killed one is -9.
- `{"modules"}` imports these.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

POLL = 0.001
"""Seconds between two looks at a command that is to be killed."""


def begin(request: dict[str, Any]) -> int:
    """Return the number of a process that runs a command."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        out = request["out"]
        for number, stream in ((1, "stdout"), (2, "stderr")):
            file = os.open(f"{out}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, number)
            os.close(file)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        if request.get("limit"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
        code = run(request["argv"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        report = {"passed": dict(passed()), "modules": sorted(sys.modules)}
        Path(f"{out}.json").write_text(json.dumps(report))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


def run(argv: list[str]) -> int:
    """Run a command as its own process does, and return the exit code."""
    from merge_advisor.cli import main

    try:
        return main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def passed() -> dict[str, int]:
    """How often each point of writing was passed."""
    from merge_advisor import write_points

    return dict(write_points.passed)


def wait(pid: int, kill_after: float | None) -> dict[str, Any]:
    """Wait for a command, or kill it."""
    start = time.monotonic()
    while kill_after is not None and time.monotonic() - start < kill_after:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - start}
        time.sleep(POLL)
    if kill_after is not None:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - start}


def load(modules: list[str]) -> int:
    """Import what can be imported of these; return how many are."""
    import torch

    torch.set_num_threads(1)
    for name in modules:
        if name not in sys.modules and not name.startswith(("_pytest", "__main__", "__mp_main__")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all the memory that it shares
    return len(sys.modules)


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    for line in sys.stdin:
        request = json.loads(line)
        if "argv" in request:
            answer: dict[str, Any] = {"pid": begin(request)}
        elif "pid" in request:
            answer = wait(request["pid"], request.get("kill_after"))
        else:
            answer = {"modules": load(request["modules"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
