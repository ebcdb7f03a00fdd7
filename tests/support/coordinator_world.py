"""A problem and a sampler small enough to search in milliseconds, and a search that is killed again and again.

python tests/support/coordinator_world.py FOLDER BUDGET KILLS SEED   # search in children, each killed at random
"""

import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from merge_advisor.tuning import Ask, Point, SearchSpace, Trial
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import best_trial, goal_named
from merge_advisor.tuning.settings import Budget, SearchResult, SearchSettings, start_points
from merge_advisor.tuning.study import StudyPlace

MEMBERS = ("math", "law", "code")
SPACE = SearchSpace(Point((0.5, 0.3, 0.2), "exact"))
STARTS = start_points(SPACE, len(MEMBERS))


class Bowls:
    """Each row is a bowl with a bottom of its own; the base of all of them is `floor`."""

    members: tuple[str, ...] = MEMBERS
    forwards = 1

    def __init__(
        self,
        rows: int = 20,
        tasks: Sequence[int] | None = None,
        seed: int = 0,
        floor: float = 0.2,
        log: Path | None = None,
        pause: float = 0.0,
    ) -> None:
        self.tasks = (0,) * rows if tasks is None else tuple(tasks)
        rng = np.random.default_rng(seed)
        self.bottoms = np.array([0.9, -0.2, 0.4]) + rng.normal(0, 0.3, (len(self.tasks), len(MEMBERS)))
        self.floor, self.log, self.pause = floor, log, pause
        self.seen: list[tuple[Point, tuple[int, ...]]] = []

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        self.seen.append((point, tuple(rows)))
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {point.weights[0]!r}\n")
        time.sleep(self.pause)
        gaps = np.array(point.weights) - self.bottoms[list(rows)]
        return [float(loss) for loss in (gaps**2).sum(axis=1) + self.floor]

    def gradient(self, point: Point, rows: Sequence[int]) -> tuple[list[float], NDArray[np.float64]]:
        gaps = np.array(point.weights) - self.bottoms[list(rows)]
        return self.losses(point, rows), 2 * gaps.mean(axis=0)

    def guard(self, point: Point) -> float:
        return max(point.weights) - 1.0


class Meeting(Bowls):
    """Its first merge waits until so many processes are at theirs, which a folder tells; a later one may wait for ever.

    A fast process would leave nothing to share, or end before it is killed. The file "stuck" says that one waits.
    """

    def __init__(self, folder: Path, processes: int = 1, stops_at: int | None = None, pause: float = 0.0) -> None:
        super().__init__(pause=pause)
        self.folder, self.processes, self.stops_at = folder, processes, stops_at

    def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
        if not self.seen:
            self.folder.mkdir(exist_ok=True)
            (self.folder / str(os.getpid())).touch()
            while len(list(self.folder.iterdir())) < self.processes:
                time.sleep(0.02)
        if len(self.seen) == self.stops_at:
            self.folder.with_name("stuck").touch()
            threading.Event().wait()
        return super().losses(point, rows)


@dataclass(frozen=True)
class Wander:
    """Steps from the best so far, by random numbers that hang on every bit of the history."""

    step: float = 0.4

    name: ClassVar[str] = "wander"
    searches: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "a forward pass a row"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        told = repr([(trial.values, trial.losses, trial.notes) for trial in history])
        rng = np.random.default_rng([seed, zlib.crc32(told.encode())])
        best = min(history, key=lambda trial: trial.values[0], default=None)
        centre = np.array((best.point if best else space.start).weights)
        return Ask(Point(tuple(centre + rng.normal(0, self.step, len(centre))), "exact"), notes={"step": self.step})


@dataclass(frozen=True)
class Listed:
    """Asks for given points, then for the last one again and again."""

    points: tuple[tuple[float, ...], ...]
    gradient: tuple[int, ...] = ()

    name: ClassVar[str] = "listed"
    searches: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "a forward pass a row"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        number = min(max(len(history), 0), len(self.points) - 1)
        return Ask(Point(self.points[number], "exact"), gradient=self.gradient)


def best(trials: Iterable[Trial]) -> Trial:
    """The best trial, of which there is one."""
    trial = best_trial(trials)
    assert trial is not None
    return trial


def losses_of(trial: Trial) -> list[float]:
    """The losses of a trial that saw all rows."""
    assert trial.whole
    return [loss for loss in trial.losses if loss is not None]


BUDGETS = {"trials": Budget(trials=90), "forwards": Budget(forwards=900)}


def run(folder: Path, budget: str, log: Path | None = None, pause: float = 0.0, keep: bool = True) -> SearchResult:
    """One search of the world, kept in `folder`."""
    problem = Bowls(log=log, pause=pause)
    place = StudyPlace(folder / "study.sqlite", {"task rows": "bowls"}) if keep else None
    settings = SearchSettings(goal_named("mean", problem.tasks), BUDGETS[budget], seed=3, starts=STARTS, guard=2)
    return search(problem, SPACE, Wander(), settings, study=place)


def kill_often(folder: Path, budget: str, kills: int, seed: int) -> None:
    """Start the search in a child process, kill it after a random number of measurements and a random while; repeat."""
    rng, log = np.random.default_rng(seed), folder / "log"
    log.touch()
    for _ in range(kills):
        lines = len(log.read_text().splitlines()) + int(rng.integers(0, 8))
        child = os.fork()
        if child == 0:
            run(folder, budget, log=log, pause=0.004)
            os._exit(0)
        while len(log.read_text().splitlines()) < lines:
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                raise RuntimeError("a search ended before it was killed")
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    import optuna.storages._rdb.models  # noqa: F401  imported once here and not in every child

    kill_often(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
