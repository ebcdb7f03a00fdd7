"""Two of a command at once, to one place: the second is refused in one line, or both are right."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.faults import COMMANDS, TRACEBACK, Command, FaultWorld, leftovers, snapshot

REFUSALS = ("is there already", "is in use by ", "is being judged for by ", "has no model 'b0'")


def close_last(place: Path) -> None:
    """Move write-ahead logs into their databases, as the next command would.

    SQLite does so when the last process closes a database; of two that close at one moment neither may be the last.
    """
    for log in place.rglob("*.sqlite-wal"):
        with closing(sqlite3.connect(log.with_name(log.name.removesuffix("-wal")))) as file:
            file.execute("SELECT count(*) FROM sqlite_master").fetchall()
        assert not log.exists(), log


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_of_two_at_once_one_is_refused_or_both_are_right(world: FaultWorld, command: Command) -> None:
    wanted = snapshot(world.undisturbed(command)[0])
    for _ in range(1 if command.name == "convert" or command.briefly else 3):  # convert imports torch anew
        place = world.place(command)
        numbers = [world.server.begin([*command.argv, "-q"], place) for _ in range(2)]
        both = [world.server.wait(number) for number in numbers]
        assert not any(TRACEBACK in one.err for one in both), [one.err for one in both]
        assert 0 in [one.code for one in both], [one.err for one in both]
        for one in both:
            if one.code:
                assert one.code == 2 and len(one.lines) == 1, one.err
                assert any(said in one.err for said in REFUSALS), one.err
        close_last(place)
        found = snapshot(place)
        assert found == wanted, [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
        assert not leftovers(place) + world.server.temporary_files()
