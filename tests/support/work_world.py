"""Work that is arithmetic, with workers that die, hang, refuse or raise on what they are told to."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merge_advisor.engine.work import ListedWork, WorkItem
from merge_advisor.errors import InputError
from merge_advisor.limits import ROW_BYTES

LONG = 300.0
"""Seconds that what has to come is waited for, on a busy machine too."""
SILENCE = 15.0
"""Seconds without a sign of life that a stopped worker is given up after; one that works shows one each second."""


@dataclass(frozen=True)
class Arithmetic:
    """Opens a worker that squares numbers, and does what a file of its folder says instead, once or always.

    With `together` an item waits until so many workers have begun one: a fast worker would leave nothing to the others.
    """

    folder: Path
    together: int = 1
    refusal: str = ""
    dies_opening: bool = False

    @contextmanager
    def open(self, threads: int) -> Iterator[Callable[[int], tuple[int, int]]]:
        with (self.folder / "opened").open("a") as file:
            file.write(f"{os.getpid()} {threads}\n")
        if self.refusal:
            raise InputError(self.refusal)
        if self.dies_opening:
            os._exit(7)
        yield self.square

    def square(self, number: int) -> tuple[int, int]:
        with (self.folder / "done").open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        for what in ("once", "always"):
            for path in self.folder.glob(f"{what}-*-{number}"):
                if what == "once":
                    path.unlink()
                self.misbehave(path.name.split("-")[1])
        self.meet()
        return number * number, os.getpid()

    def meet(self) -> None:
        met = comes(lambda: len({line.split()[1] for line in self.lines("done")}) >= self.together)
        assert met, "no other worker has begun an item"

    def misbehave(self, how: str) -> None:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "wait":
            threading.Event().wait()  # uses no processor and does not end
        elif how == "raise":
            raise InputError("a number that nobody can square")
        elif how == "crash":
            raise ZeroDivisionError

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True)
class Surroundings:
    """Opens a worker that tells variables of its environment, and the most of a row that it reads."""

    @contextmanager
    def open(self, threads: int) -> Iterator[Callable[[str], tuple[str | None, int]]]:
        yield lambda name: (os.environ.get(name), ROW_BYTES.most)


def squares(count: int) -> tuple[ListedWork, dict[int, int]]:
    """Work of so many numbers, and what comes of it."""
    found: dict[int, int] = {}

    def keep(item: WorkItem, reply: Any) -> None:
        assert item.value not in found
        found[item.value] = reply[0]

    return ListedWork([WorkItem(f"number {number}", number) for number in range(count)], keep), found


def comes(what: Callable[[], bool]) -> bool:
    """Whether something becomes true, on a busy machine too."""
    until = time.monotonic() + LONG
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.1)
    return found
