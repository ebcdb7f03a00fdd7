"""Commands that are killed, or whose writes fail, at every point where they write, and are called again.

They end as undisturbed, to the byte, and leave nothing; a write that fails is one line.

Slow: hundreds of tiny commands, each in a fork of a process that has imported everything.
"""

import ast
from pathlib import Path

import pytest

from merge_advisor.write_points import POINTS
from tests.support.faults import COMMANDS, TRACEBACK, Command, FaultWorld, leftovers

PACKAGE = Path(__file__).parents[2] / "merge_advisor"
OF_FILES = {"folder set aside", "folder put back", "leftover removed", "discarded"}
"""Kinds that an undisturbed command passes on other systems, or not at all; `test_whole_files.py` walks them."""
AFTER_A_KILL = ("leftover removed",)
SLOW_ONES = ("convert",)
"""Commands that start a process of their own, which imports torch: fewer of their points are walked twice."""


def kinds_in_the_source() -> set[str]:
    """What the package's calls of `write_point` name."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "write_point":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: name the point in the call"
                found.add(node.args[0].value)
    return found


def test_every_point_is_described() -> None:
    assert kinds_in_the_source() == set(POINTS)


def points_of(world: FaultWorld, command: Command) -> list[str]:
    """The points that a command passes: each kind and target, where it passes them often the first and the last time.

    Of tables of numbers, which are one function's work, the first two are enough.
    """
    passed = world.undisturbed(command)[1].passed
    tables = sorted({name.rpartition(" ")[2] for name in passed if name.endswith(".csv")})[2:]
    names = [name for name in passed if name != "any" and name not in POINTS and name.rpartition(" ")[2] not in tables]
    names += [kind for kind in POINTS if kind in passed and not any(name.startswith(f"{kind} ") for name in names)]
    found = []
    for name in sorted(names):
        found.append(name)
        if passed[name] > 1 and command.name not in SLOW_ONES:
            found.append(f"{name}:{passed[name]}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_killed_at_every_point_it_ends_as_undisturbed(world: FaultWorld, command: Command) -> None:
    wrong = {}
    points = points_of(world, command)
    for point in points:
        place = world.place(command)
        killed = world.server.run(command.argv, place, fail_at=point)
        if TRACEBACK in killed.err or killed.code != -9:
            wrong[point] = f"ended with {killed.code}: {killed.err}"
        elif problem := world.check_again(command, place):
            wrong[point] = problem
    assert not wrong and points, wrong


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_write_that_fails_is_one_line_and_loses_nothing(world: FaultWorld, command: Command) -> None:
    """A full disk at every point; a broken one at the first of each kind."""
    wrong = {}
    points = [f"{point}=ENOSPC" for point in points_of(world, command)]
    points += [f"{kind}=EIO" for kind in POINTS if kind in world.undisturbed(command)[1].passed]
    for point in points:
        place = world.place(command)
        failed = world.server.run([*command.argv, "-q"], place, fail_at=point)
        if failed.code == 0 and (failed.lines or not point.startswith(("holder removed", "leftover removed"))):
            wrong[point] = f"no failure: {failed.err}"
        elif failed.code and (failed.code != 2 or len(failed.lines) != 1 or TRACEBACK in failed.err):
            wrong[point] = f"code {failed.code}: {failed.err}"
        elif failed.code and not any(said in failed.err for said in ("No space left", "Input/output error")):
            wrong[point] = f"does not say what is wrong: {failed.err}"
        elif left := leftovers(place) + world.server.temporary_files():
            wrong[point] = f"left {left}"
        elif problem := world.check_again(command, place):
            wrong[point] = problem
    assert not wrong and points, wrong


@pytest.mark.slow
def test_every_kind_of_point_is_passed(world: FaultWorld) -> None:
    passed = {kind for command in COMMANDS.values() for kind in world.undisturbed(command)[1].passed}
    assert set(POINTS) - passed <= OF_FILES
