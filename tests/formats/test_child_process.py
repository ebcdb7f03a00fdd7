"""Other programs in a child process: what they say last is in the message, nothing is left running."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_advisor.errors import ExternalError
from merge_advisor.formats.child_process import end_group, last_line, run_child

SLEEPER = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"


def run(code: str, log: Path, offline: bool = False) -> None:
    """Run Python code as mergekit is run."""
    run_child([sys.executable, "-c", code], log, offline=offline, name="mergekit")


def assert_gone(place: Path) -> None:
    """The process whose id is in the file has ended."""
    number = int(place.read_text())
    for _ in range(50):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{number}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":  # ended, nobody asked yet
            return
        time.sleep(0.1)
    raise AssertionError("still running")


def test_its_last_words_are_in_the_message(tmp_path: Path) -> None:
    code = "import sys; print('50%|#### | 1/2', file=sys.stderr); raise RuntimeError('no such tensor')"
    with pytest.raises(ExternalError, match="mergekit failed: RuntimeError: no such tensor; its log: "):
        run(code, tmp_path / "log")


def test_a_silent_failure_says_that_it_wrote_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExternalError, match="it wrote nothing"):
        run("import sys; sys.exit(3)", tmp_path / "log")


def test_progress_bars_are_no_words(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"ValueError: bad \xff\n\r 10%|# | 1/9 [00:01, 2.0it/s]\r100%|##| 9/9\n\n")
    assert last_line(tmp_path / "log").startswith("ValueError: bad")


def test_folders_alone_need_no_hub(tmp_path: Path) -> None:
    for offline in (True, False):
        wanted = "1" if offline else ""
        run(
            f"import os; assert os.environ.get('HF_HUB_OFFLINE', '') == '{wanted}'", tmp_path / "log",
            offline=offline,
        )  # fmt: skip


def test_ctrl_c_stops_it_with_all_it_started(tmp_path: Path, interrupt: Callable[[float], object]) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}, {str(tmp_path / 'pid')!r}])"
    interrupt(2.0)
    with pytest.raises(KeyboardInterrupt):
        run(code, tmp_path / "log")
    assert_gone(tmp_path / "pid")
    assert not (tmp_path / "log").exists()


def test_what_does_not_listen_is_ended_too(tmp_path: Path) -> None:
    """The child ends when it is asked; what it has started does not."""
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {deaf!r}, {str(tmp_path / 'pid')!r}])"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert child.poll() is None
        time.sleep(0.01)
    end_group(child)
    assert child.returncode == -signal.SIGTERM
    assert_gone(tmp_path / "pid")
    end_group(child)  # nobody is left: nothing happens
