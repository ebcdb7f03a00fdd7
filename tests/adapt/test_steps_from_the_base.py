"""Training on from a merge for as many steps as from the base: the rows that chose the merge would stay there."""

import numpy as np
import pytest

from merge_advisor.adapt.auto import Auto
from merge_advisor.adapt.basis import Basis
from merge_advisor.adapt.continuing import Continue
from merge_advisor.types import Row
from tests.support.number_world import ROWS, World


@pytest.mark.parametrize(
    "adaptation", [Continue(folds=2, stop="shots"), Basis("prior", start="merge", folds=2, stop="shots")]
)
def test_rows_that_chose_the_merge_need_not_say_when_to_leave_it(adaptation: Continue | Basis) -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    adapted = adaptation.adapt(world.bench)
    alone = [request for request in world.requests if not request.start.members]
    on_top = [request for request in world.requests if request.start == world.bench.merge]
    assert [request.settings.steps for request in alone] == [None, None]
    assert [request.settings.steps for request in on_top] == [4, 4] and adapted.settings["steps"] == "4, 4"
    assert [request.rows for request in alone] == [request.rows for request in on_top]
    assert world.place(adapted.merge) == pytest.approx(0.8) and np.mean(adapted.losses) == pytest.approx(0.2**2)
    assert "for as many steps as from the base" in adapted.reason
    assert adaptation.passes(1) == (2, 1) and world.bench.forwards == 2 * 2 * 60 + len(ROWS)


def test_one_lora_on_top_takes_as_many_steps_as_one_from_the_base() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    adapted = Continue(folds=0, stop="shots").adapt(world.bench)
    assert [request.settings.steps for request in world.requests] == [None, 4]
    assert world.place(adapted.merge) == pytest.approx(0.8)


def test_auto_of_more_rows_leaves_the_merge_for_as_many_steps_as_from_the_base() -> None:
    world = World(wanted=30, learned=0.7, merge=20)
    world.shown = 900.0
    world.bench.tasks = (tuple(Row(f"say {number}", f"{number}") for number in range(10)),)
    adapted = Auto().adapt(world.bench)
    assert adapted.options[0].name == "continue from merge" and adapted.name == "continue"
    assert {option.name for option in adapted.options} == {"base", "prompt", "shots", "merge", "continue from merge"}
    assert adapted.settings["steps"] == "4, 4" and adapted.chance is not None and adapted.chance > 0.99
    assert len(world.requests) == 6  # what counts the steps is what `shots` trained, and charged once
    trained, measured = Auto().passes(1)
    assert trained == 2 and world.bench.forwards <= trained * 2 * 60 + measured * 10
