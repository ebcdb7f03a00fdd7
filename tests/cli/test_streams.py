"""Streams that are closed or full, and an interrupt at any moment: an exit code, at most one line, no traceback."""

import os
import signal
import subprocess
import sys
import time
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


@pytest.mark.parametrize("after", [0.2, 0.4, 0.8])
def test_an_early_interrupt_is_at_most_a_line(after: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "merge_advisor", "doctor"], cwd=tmp_path, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # where Python has not come to our first line yet, the interrupt is its own affair
    assert "Traceback" not in said or "merge_advisor/" not in said
