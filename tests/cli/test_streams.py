"""Streams that are closed or full, and an interrupt at any moment: an exit code, at most one line, no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FULL = "merge-advisor: error: No space left on device; check the path, permissions and free space\n"
SHOW = f"{sys.executable} -m merge_advisor show strategies"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MERGE_ADVISOR_CACHE": str(folder / "cache")}
    return subprocess.run(
        ["bash", "-c", command], env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 0, ""), ("2>&-", 0, ""), (">&- 2>&-", 0, ""), ("<&- >&- 2>&-", 0, ""),
        ("> /dev/full", 2, FULL),
        ("--nonsense 2> /dev/full", 2, ""), ("| true", 0, ""),
    ],
)  # fmt: skip
def test_a_stream_that_cannot_be_written(streams: str, code: int, said: str, tmp_path: Path) -> None:
    done = shell(f"set -o pipefail; {SHOW} {streams}", tmp_path)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """What is printed to a stream that is not there must not end in the store."""
    (tmp_path / "code.py").write_text(
        "from merge_advisor.cli import main\n"
        "main(['show', 'strategies'])\n"
        "with open('file', 'w') as file, open('told', 'w') as told:\n"
        "    told.write(str(file.fileno() > 2))\n"
    )
    assert shell(f"{sys.executable} code.py <&- >&- 2>&-", tmp_path).returncode == 0
    assert (tmp_path / "told").read_text() == "True"


def interrupting(module: str, how: str) -> str:
    """Code that interrupts its own process while a module is looked for."""
    return (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            {how}\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )


def as_in_a_terminal() -> None:
    """What a shell began in the background has interrupts ignored, and so has all that it begins."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("module", ["merge_advisor.version", "merge_advisor.__main__", "merge_advisor.cli"])
def test_an_interrupt_in_the_first_milliseconds_is_no_traceback(module: str, tmp_path: Path) -> None:
    """Sent as a terminal sends it, while `python -m` is still on its way to the entry."""
    (tmp_path / "sitecustomize.py").write_text(interrupting(module, "os.kill(os.getpid(), signal.SIGINT)"))
    done = subprocess.run(
        [sys.executable, "-m", "merge_advisor", "show", "strategies"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, check=False, timeout=60, preexec_fn=as_in_a_terminal,
    )  # fmt: skip
    assert done.returncode in (130, -signal.SIGINT) and not done.stdout
    assert done.stderr in ("", "merge-advisor: interrupted\n")


def test_who_imports_the_package_keeps_its_own_interrupts() -> None:
    code = "import signal, merge_advisor; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, preexec_fn=as_in_a_terminal
    )
    assert done.stdout == "True\n"


@pytest.mark.parametrize("module", ["merge_advisor.cli", "merge_advisor.cli.commands", "merge_advisor.cli.doctor"])
def test_an_interrupt_while_modules_are_imported_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(
        f"{interrupting(module, 'raise KeyboardInterrupt')}"
        "sys.argv = ['merge-advisor', 'doctor']\n"
        "from merge_advisor.__main__ import entry\n"
        "sys.exit(entry())\n"
    )
    done = shell(f"{sys.executable} code.py", tmp_path)
    said = done.stderr.splitlines()
    assert done.returncode == 130 and len(said) == 1 and said[0].startswith("merge-advisor: interrupted")
