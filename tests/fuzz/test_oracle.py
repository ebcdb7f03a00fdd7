"""The oracle finds what it is there for: each kind of fault, planted."""

import gc
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from merge_advisor import cli
from merge_advisor.cli.saying import say
from tests.fuzz.checks import Case
from tests.fuzz.oracle import faults_of, run_command
from tests.fuzz.running import Fuzzer

Main = Callable[[Sequence[str]], int]


def crashes(_: Sequence[str]) -> int:
    raise ZeroDivisionError("planted")


def shows_an_escape(_: Sequence[str]) -> int:
    sys.stdout.write("\x1b[31mred\n")
    return 0


def warns(_: Sequence[str]) -> int:
    sys.stderr.write("path.py:1: UserWarning: planted\n")
    return 0


def says_two_errors(_: Sequence[str]) -> int:
    say("error: one; mend it")
    say("error: two; mend it")
    return 2


def has_no_remedy(_: Sequence[str]) -> int:
    say("error: it is wrong")
    return 2


def says_nothing(_: Sequence[str]) -> int:
    return 2


def has_another_code(_: Sequence[str]) -> int:
    return 70


def writes_outside(_: Sequence[str]) -> int:
    (Path.cwd().parent / "escaped").write_text("x")
    return 0


def removes_outside(_: Sequence[str]) -> int:
    (Path.cwd().parent / "gone").mkdir()
    return 0


def starts_a_process(_: Sequence[str]) -> int:
    subprocess.run(["true"], check=True)
    return 0


def asks_the_network(_: Sequence[str]) -> int:
    with socket.socket() as connection:
        connection.connect_ex(("127.0.0.1", 9))
    return 0


PLANTED: dict[Main, str] = {
    crashes: "traceback: ZeroDivisionError", shows_an_escape: "control characters on stdout",
    warns: "a line of others on stderr",
    says_two_errors: "several errors", has_no_remedy: "an error without a remedy", says_nothing: "no error line",
    has_another_code: "exit code 70", writes_outside: "did: open outside", removes_outside: "did: os.mkdir outside",
    starts_a_process: "did: subprocess.Popen", asks_the_network: "did: socket.connect",
}  # fmt: skip


@pytest.mark.parametrize("planted", PLANTED, ids=lambda main: main.__name__)
def test_a_planted_fault_is_found(planted: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", planted)
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    faults = faults_of(run_command([], folder), {0, 2, 3})
    assert any(fault.kind.startswith(PLANTED[planted]) for fault in faults), faults


def test_a_command_that_does_as_it_should_has_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes_inside(_: Sequence[str]) -> int:
        Path("inside").write_text("x")
        say("error: it is wrong; mend it")
        return 2

    monkeypatch.setattr(cli, "main", writes_inside)
    monkeypatch.chdir(tmp_path)
    assert faults_of(run_command([], tmp_path), {2}) == []


def hangs(_: Sequence[str]) -> int:
    while True:
        pass


def waits(_: Sequence[str]) -> int:
    time.sleep(60)
    return 0


def dies(_: Sequence[str]) -> int:
    signal.raise_signal(signal.SIGKILL)
    return 0


def takes_memory(_: Sequence[str]) -> int:
    return len(bytearray(b"x") * (1900 << 20)) and 0


def spoils_its_input(_: Sequence[str]) -> int:
    Path("x.jsonl").write_text("other")
    return 0


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        (hangs, "hang"),
        (waits, "hang"),
        (dies, "died of SIGKILL"),
        (takes_memory, "memory"),
        (spoils_its_input, "input changed"),
    ],
)
def test_a_fault_of_the_process_is_found(
    planted: Main, kind: str, fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "main", planted)
    gc.collect()  # what earlier tests left would be freed in the fork, and taken off what it takes
    if kind == "hang":
        monkeypatch.setattr("tests.fuzz.running.SECONDS", 1)
        monkeypatch.setattr("tests.fuzz.running.WALL", 3)
    case = Case("map", {"x.jsonl": b"{}"}, ("plan",))
    outcome = fuzzer.cases("map", [lambda: case])
    assert outcome.cases == 1 and [found for found in outcome.faults if found.startswith(kind)], outcome.faults


def test_a_case_is_cut_down(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes_on_b(_: Sequence[str]) -> int:
        if b"b" in Path("x.jsonl").read_bytes():
            raise ZeroDivisionError
        return 0

    monkeypatch.setattr(cli, "main", crashes_on_b)
    case = Case("map", {"x.jsonl": b"aaaaaaaabaaaaaaa"}, ("plan",))
    (kind,) = fuzzer.faults(case)
    assert fuzzer.smallest(case, kind).files == {"x.jsonl": b"b"}
