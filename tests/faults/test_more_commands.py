"""Commands that share work or name places of their own, disturbed at a few points: the walks go over all of others.

With workers the process that writes is disturbed; what becomes of killed workers is in tests/engine.
"""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from merge_advisor.hub import Hub
from tests.faults.test_write_points import walk
from tests.support.faults import _CHOICE, _LORA, _MODELS, _THREADS, TRACEBACK, Command, Ended, FaultWorld

_HUB = ("made hub",)
WORKERS = Command("embed-workers", ("embed", "--out", "deltas.npz", *_MODELS, "--workers", "2"))
STORAGE = Command(
    "tune-storage", ("tune", "run", "--trials", "6", "--storage", "sqlite:///trials.sqlite", *_THREADS), after=("plan",)
)
PLAN = Command(
    "plan-hub",
    ("plan", "--task", "examples.jsonl", "--out", "run", "--hub", "hub", "--base", "base", *_THREADS, *_LORA, *_CHOICE,
     "--adaptation", "none"),
    after=_HUB, twice=2,
)  # fmt: skip
POINTS = {
    WORKERS: ["file filled deltas.npz"],  # of what workers do not pass
    STORAGE: ["study to be written create_new_trial:2", "study written set_trial_state_values:4", "part in place"],
    PLAN: ["rows written INSERT OR REPLACE INTO measured:5", "folder synced run", "file in place 0.json"],
}


@pytest.fixture(scope="module")
def hubs(world: FaultWorld) -> Iterator[FaultWorld]:
    """The world with a place that has a hub of its pool, whose catalogue holds times and folders of its runs."""
    place = world.place(Command("hub", ()))
    made = world.server.learn(["hub", "add", "adapters", "--hub", "hub", "--base", "base", *_THREADS], place)
    assert made.code == 0, made.err
    world._before[_HUB] = place
    found = world.differences
    with mock.patch.object(
        world, "differences", lambda *asked: [name for name in found(*asked) if name != "hub/catalogue.sqlite"]
    ):
        yield world


def killed(found: Ended, _: str) -> str:
    return "" if found.code == -9 and TRACEBACK not in found.err else f"ended with {found.code}: {found.err}"


def full(found: Ended, _: str) -> str:
    one = found.code == 2 and len(found.lines) == 1 and "No space left" in found.err
    return "" if one else f"code {found.code}: {found.err}"


@pytest.mark.slow
@pytest.mark.parametrize("command", POINTS, ids=lambda command: command.name)
def test_disturbed_at_some_points_it_ends_as_undisturbed(hubs: FaultWorld, command: Command) -> None:
    passed = hubs.undisturbed(command)[1].passed
    for point in POINTS[command]:
        name, _, number = point.rpartition(":") if point[-1].isdigit() and ":" in point else (point, "", "1")
        assert passed[name] >= int(number), f"{point} is not passed: {dict(passed)}"
    walk(hubs, command, POINTS[command], killed)
    walk(hubs, command, [f"{POINTS[command][0]}=ENOSPC"], full)


@pytest.mark.slow
def test_a_plan_that_was_killed_is_listed_in_its_hub(hubs: FaultWorld) -> None:
    place = hubs.place(PLAN)
    assert hubs.server.run(PLAN.argv, place, fail_at=POINTS[PLAN][-1]).code == -9
    assert hubs.server.run(PLAN.argv, place).code == 0
    with Hub.open(place / "hub") as hub:
        assert [Path(run.folder).name for run in hub.runs()] == ["run"]
