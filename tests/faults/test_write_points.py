"""Commands that are killed, or whose writes fail, at every point where they write, and are called again.

They end as undisturbed, to the byte, and leave nothing; a write that fails is one line.

Slow: hundreds of tiny commands, each in a fork of a process that has imported everything.
"""

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from merge_advisor.write_points import POINTS
from tests.support.faults import COMMANDS, TRACEBACK, Command, Ended, FaultWorld

PACKAGE = Path(__file__).parents[2] / "merge_advisor"
OF_FILES = {"folder set aside", "folder put back", "leftover removed", "discarded"}
"""Kinds that an undisturbed command passes on other systems, or not at all; `test_whole_files.py` walks them."""

OF_CLAIMS = ("rows to be written DELETE FROM claims WHERE owner", "rows written DELETE FROM claims WHERE owner")
"""A claim that stays is void once its process has ended, and the next one deletes it."""
CARD = re.compile(r" [ab][0-9]\.md")
OF_THE_STORE = ("store.sqlite", "hashes", "measured", "ALTER TABLE", "spaces VALUES")
"""In the names of its points, which the commands that fill it walk."""
IN_THE_CACHE = ("folder in place shots_lora", "folder in place residual", "folder in place=EIO")


def kinds_in_the_source() -> set[str]:
    """What the package's calls of `write_point` name."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "write_point":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: name the point in the call"
                found.add(str(node.args[0].value))
    return found


def test_every_point_is_described() -> None:
    assert kinds_in_the_source() == set(POINTS)


def points_of(world: FaultWorld, command: Command) -> list[str]:
    """The points that a command passes, each kind with each target, in the order in which they are first passed.

    Of tables of numbers, which are one function's work, the first two are enough; and so they are of model cards, and
    of statements that make tables, which are one transaction.
    """
    passed = world.undisturbed(command)[1].passed
    tables = sorted({name.rpartition(" ")[2] for name in passed if name.endswith(".csv")})[2:]
    tables += sorted({name.rpartition(" ")[2] for name in passed if CARD.search(name)})[2:]
    made = [name for name in passed if " CREATE " in name][2:-2]
    names = [name for name in passed if name not in ("any", *made) and name.rpartition(" ")[2] not in tables]
    if command.briefly:
        # before a statement is after the one before it
        before = [name for name in names if name.startswith("rows to be written") and not name.endswith("COMMIT")]
        names = [name for name in names if name not in before and not any(part in name for part in OF_THE_STORE)]
    return [name for name in names if name not in POINTS or not any(other.startswith(f"{name} ") for other in names)]


def walk(world: FaultWorld, command: Command, points: Sequence[str], wrong_of: Callable[[Ended, str], str]) -> None:
    """Disturb a command at one point after the other, each time it is called; at last leave it alone.

    In the order in which an undisturbed command passes them, so that each call goes on where the last one ended.
    Where a call does not pass its point any more, it must have ended as undisturbed, and the walk goes on anew.
    """
    wrong, place, since = [], world.place(command), list[str]()
    for point in points:
        found = world.server.run([*command.argv, "-q"], place, fail_at=point)
        if found.code in (0, command.twice) and not world.differences(command, place):
            since, place = [], world.place(command)
            found = world.server.run([*command.argv, "-q"], place, fail_at=point)
        since.append(point)
        if problem := wrong_of(found, point):
            wrong.append(f"{point}: {problem}")
            since, place = [], world.place(command)
    if since and (problem := world.check_again(command, place)):
        wrong.append(f"after {since}: {problem}")
    assert not wrong and points, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_killed_at_every_point_it_ends_as_undisturbed(world: FaultWorld, command: Command) -> None:
    def wrong_of(killed: Ended, _: str) -> str:
        return "" if killed.code == -9 and TRACEBACK not in killed.err else f"ended with {killed.code}: {killed.err}"

    walk(world, command, points_of(world, command), wrong_of)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_write_that_fails_is_one_line_and_loses_nothing(world: FaultWorld, command: Command) -> None:
    """A full disk at every point; a broken one at the first of each kind."""

    def wrong_of(failed: Ended, point: str) -> str:
        said = "Input/output error" if point.endswith("EIO") else "No space left"
        # who holds a lock is nobody any more; a folder of the cache that is in place is as good as another process's
        if failed.code == 0 and not failed.lines and point.startswith(("holder removed", *OF_CLAIMS, *IN_THE_CACHE)):
            return ""
        if command.name == "gate-watch" and failed.code == 0 and not failed.lines and "catalogue" in point:
            return ""  # what was to be listed of before is listed after the next decision
        # a decision of a gate stands, whether or not the hub can list it
        if failed.code == 0 and len(failed.lines) == 1 and said in failed.err and "in the hub: " in failed.err:
            return "" if command.name.startswith("gate") else f"code 0: {failed.err}"
        if failed.code != 2 or len(failed.lines) != 1 or said not in failed.err:
            return f"code {failed.code}: {failed.err}"
        return f"left {left}" if (left := world.server.temporary_files()) else ""

    passed = world.undisturbed(command)[1].passed
    walk(world, command, [f"{point}=ENOSPC" for point in points_of(world, command)], wrong_of)
    kinds = [kind for kind in passed if kind in POINTS and not (command.briefly and "vectors" not in kind)]
    if kinds:
        walk(world, command, [f"{kind}=EIO" for kind in kinds], wrong_of)


@pytest.mark.slow
def test_every_kind_of_point_is_passed(world: FaultWorld) -> None:
    passed = {kind for command in COMMANDS.values() for kind in world.undisturbed(command)[1].passed}
    assert set(POINTS) - passed <= OF_FILES
