"""Workers of this machine: every item once, whatever becomes of a worker; nothing is left behind."""

import sys
import threading
import time
from pathlib import Path

import pytest

from merge_advisor.engine.life import LifeSigns
from merge_advisor.engine.processes import ProcessFleet
from merge_advisor.engine.supervisor import do_here, run_work
from merge_advisor.engine.work import Reply
from merge_advisor.errors import ExternalError, InputError
from merge_advisor.owners import is_running
from tests.support.work_world import SILENCE, Arithmetic, comes, squares

SQUARES = {number: number * number for number in range(6)}


def run(opening: Arithmetic, count: int = 6, *, silence: float = 60.0) -> tuple[dict[int, int], list[str]]:
    work, found = squares(count)
    run_work(work, ProcessFleet(opening, threads=1), 2, silence=silence)
    return found, [f"{item.name}: {reason}" for item, reason in work.failures]


def test_every_item_is_done_once_by_some_worker(tmp_path: Path) -> None:
    opening = Arithmetic(tmp_path, together=2)
    assert run(opening) == (SQUARES, [])
    opened = [int(line.split()[0]) for line in opening.lines("opened")]
    assert len(opened) == 2 and {line.split()[1] for line in opening.lines("opened")} == {"1"}
    assert sorted(int(line.split()[0]) for line in opening.lines("done")) == list(range(6))
    assert {int(line.split()[1]) for line in opening.lines("done")} == set(opened)
    assert not any(map(is_running, opened))


@pytest.mark.parametrize("how", ["kill", "crash", "stop", pytest.param("wait", marks=pytest.mark.slow)])
def test_what_a_worker_leaves_is_done_by_another(tmp_path: Path, how: str) -> None:
    """Killed, crashed; stopped, and waiting for ever, are noticed by their silence."""
    (tmp_path / f"once-{how}-2").touch()
    opening = Arithmetic(tmp_path)
    assert run(opening, silence=SILENCE) == (SQUARES, [])
    again = [line.split()[1] for line in opening.lines("done") if line.startswith("2 ")]
    assert len(again) > 1 and again[0] != again[-1]
    assert not any(is_running(int(line.split()[0])) for line in opening.lines("opened"))


def test_an_item_two_workers_died_on_has_failed(tmp_path: Path) -> None:
    (tmp_path / "always-kill-2").touch()
    opening = Arithmetic(tmp_path)
    found, failures = run(opening)
    assert found == {number: square for number, square in SQUARES.items() if number != 2}
    assert failures == ["number 2: the worker died on it twice, signal 9"]


def test_a_silent_worker_s_ending_is_told(tmp_path: Path) -> None:
    (tmp_path / "always-stop-0").touch()
    assert run(Arithmetic(tmp_path), 1, silence=3.0) == (
        {}, ["number 0: the worker died on it twice, no sign of life for 3 seconds"],
    )  # fmt: skip


def test_what_an_item_raises_comes_back(tmp_path: Path) -> None:
    (tmp_path / "always-raise-3").touch()
    opening = Arithmetic(tmp_path)
    with pytest.raises(InputError, match="a number that nobody can square"):
        run(opening)
    assert not any(is_running(int(line.split()[0])) for line in opening.lines("opened"))


def test_workers_that_cannot_begin_end_the_work(tmp_path: Path) -> None:
    with pytest.raises(ExternalError, match="2 of 2 workers could not begin: base x: no such folder"):
        run(Arithmetic(tmp_path, refusal="base x: no such folder"))
    dying = Arithmetic(tmp_path / "dying", dies_opening=True)
    dying.folder.mkdir()
    with pytest.raises(ExternalError, match=r"2 of 2 workers ended early \(exit code 7\); .* take fewer `workers`"):
        run(dying)
    assert len(dying.lines("opened")) == 4  # each place is tried twice


def test_nothing_is_started_for_nothing_and_one_worker_for_one_item(tmp_path: Path) -> None:
    opening = Arithmetic(tmp_path)
    assert run(opening, 0) == ({}, []) and opening.lines("opened") == []
    assert run(opening, 1) == ({0: 0}, []) and len(opening.lines("opened")) == 1


def test_work_done_here_is_the_same(tmp_path: Path) -> None:
    work, found = squares(6)
    looks = []
    do_here(work, Arithmetic(tmp_path).square, lambda: looks.append(len(found)))
    assert found == SQUARES and looks == [1, 2, 3, 4, 5, 6]


def test_a_thread_lives_while_it_computes_and_not_while_it_waits() -> None:
    signs, begun, enough, over = LifeSigns(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        signs.watch()
        begun.set()
        while not enough.is_set():
            pass
        over.wait()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    before = signs.look()
    more = comes(lambda: signs.look() > before)
    enough.set()

    def stands_still() -> bool:
        seen = set()
        for _ in range(3):
            seen.add(signs.look())
            time.sleep(0.05)
        return len(seen) == 1

    still = sys.platform != "linux" or comes(stands_still)
    over.set()
    thread.join()
    assert more and still


class Reluctant:
    """A fleet whose first worker does all there is, and whose others find no place, as in a cluster that has shrunk."""

    def __init__(self) -> None:
        self.begun: list[Reluctant.Worker] = []

    class Worker:
        def __init__(self, first: bool) -> None:
            self.first, self.over = first, threading.Event()

        def open(self) -> Reply:
            if not self.first:
                self.over.wait()
            return Reply("done" if self.first else "died", "no place")

        def do(self, value: int) -> Reply:
            return Reply("done", (value * value, 0))

        def signs(self) -> int:
            return 0

        def kill(self) -> None:
            self.over.set()

        leave = kill

    def start(self) -> Worker:
        self.begun.append(Reluctant.Worker(not self.begun))
        return self.begun[-1]

    def close(self) -> None:
        pass


def test_a_worker_that_finds_no_place_is_not_waited_for_when_all_is_done() -> None:
    work, found = squares(6)
    fleet = Reluctant()
    began = time.monotonic()
    run_work(work, fleet, 2, silence=300.0)
    assert found == SQUARES and len(fleet.begun) == 2 and fleet.begun[1].over.is_set()
    assert time.monotonic() - began < 60
