"""Files that may not become larger than so many bytes, as on a full disk: one line, nothing half, what is kept is read.

Such a limit is there on every Unix, a small disk to fill is not; the system says EFBIG where that would say ENOSPC.
"""

from pathlib import Path

import pytest

from merge_advisor.benchmark.running.ledger import Ledger
from merge_advisor.hub import Hub
from merge_advisor.hub.catalogue import CATALOGUE
from merge_advisor.store import Store
from tests.support.faults import COMMANDS, TRACEBACK, Command, FaultWorld, leftovers

SIZES = (0, 1 << 10, 1 << 12, 12_000, 20_000, 40_000, 60_000, 1 << 17, 1 << 18)
"""Bytes, from less than any file to more than all but the largest."""
SAID = ("File too large", "disk I/O error", "database or disk is full", "no room to write")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_room_is_one_line_and_what_is_kept_is_read(world: FaultWorld, command: Command) -> None:
    world.undisturbed(command)
    wrong, failures = {}, 0
    for size in SIZES[
        :: 4 if command.name == "convert" or command.briefly else 1
    ]:  # convert imports torch anew each time
        place = world.place(command)
        failed = world.server.run([*command.argv, "-q"], place, limit=size or 1)
        failures += failed.code != 0
        if failed.code and (failed.code != 2 or len(failed.lines) != 1 or TRACEBACK in failed.err):
            wrong[size] = f"code {failed.code}: {failed.err}"
        elif failed.code and not any(said in failed.err for said in SAID):
            wrong[size] = f"does not say what is wrong: {failed.err}"
        elif left := [name for name in leftovers(place) if not name.endswith(("-wal", "-shm"))]:
            wrong[size] = f"left {left}"
        elif problem := unreadable(place) or world.check_again(command, place):
            wrong[size] = problem
    assert not wrong, wrong
    assert failures


def unreadable(place: Path) -> str:
    """What of store, hub and ledger cannot be read after a failure, or is damaged."""
    store = place / "cache" / "store.sqlite"
    if store.exists():
        with Store(store) as opened:
            if any(damaged for _, damaged in opened.check().values()):
                return "the store is damaged"
    if (place / "hub" / CATALOGUE).exists():
        with Hub.open(place / "hub") as hub:
            if hub.check().damaged:
                return "the hub is damaged"
    if (place / "results" / "results.sqlite").exists():
        with Ledger(place / "results") as ledger:
            ledger.results()
    return ""
