"""Examples in the prompt of the base, of a LoRA of the rows and of a merge, on a model that is one number."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from merge_advisor import registry
from merge_advisor.adapt.folds import folds_of
from merge_advisor.adapt.prompting import PROMPTED_MODELS, Prompting
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import SHOTS_LORA, Row
from tests.support.number_world import World


def prompted_at(world: World, wanted: float) -> list[tuple[float, set[str], set[str]]]:
    """Have rows with examples in the prompt lose least under a model at `wanted`; what is asked is listed."""
    asked: list[tuple[float, set[str], set[str]]] = []

    def losses(shown: Sequence[Row], rows: Sequence[Row], merge: WeightedMerge) -> list[float]:
        asked.append((world.place(merge), {row.digest for row in shown}, {row.digest for row in rows}))
        return [(world.place(merge) - wanted) ** 2 for _ in rows]

    world.bench.run_prompted = losses
    return asked


@pytest.mark.parametrize(("wanted", "scale"), [(0.5, 0.5), (1.0, 1.0), (0.7, 0.75), (3.0, 1.0), (-1.0, 0.0)])
def test_a_merge_is_taken_at_the_scale_that_its_examples_ask_for(wanted: float, scale: float) -> None:
    world = World(wanted=9, learned=0.5, merge=1.0, members=2)
    asked = prompted_at(world, wanted)
    found = Prompting(folds=2, on="merge").adapt(world.with_rows(20).bench)
    assert found.prompted and world.place(found.merge) == pytest.approx(scale)
    assert [weight for _, weight in found.merge.members] == ([scale] * 2 if scale else [])
    assert list(found.losses) == pytest.approx([(scale - wanted) ** 2] * 20)
    assert found.settings["scale"] == scale and not found.numbers and found.without_pool is None
    assert not world.requests  # nothing was trained
    assert all(not shown & rows and len(shown | rows) == 20 for _, shown, rows in asked)
    assert (f"times {scale:g}" if scale else "the base (no scale") in found.reason


@pytest.mark.parametrize(("wanted", "scale"), [(0.25, 0.5), (0.5, 1.0), (-1.0, 0.0)])
def test_a_lora_of_the_rows_is_taken_at_the_scale_that_its_examples_ask_for(wanted: float, scale: float) -> None:
    world = World(wanted=1, learned=0.5, merge=9)  # a LoRA comes to a half
    prompted_at(world, wanted)
    found = Prompting(folds=2, on="shots").adapt(world.with_rows(20).bench)
    assert found.prompted and world.place(found.merge) == pytest.approx(0.5 * scale)
    assert [candidate.id for candidate in found.merge.candidates] == ([SHOTS_LORA] if scale else [])
    assert found.without_pool == found.merge and found.numbers
    assert found.settings["folds"] == 2 and found.settings["rate"]
    # each fold's LoRA has seen the rows that its prompts show, and no other
    assert [{row.digest for row in request.rows} for request in world.requests] == [
        {row.digest for row in fold.rows} for fold in folds_of(world.bench.tasks, 2)
    ]


def test_few_rows_choose_the_merges_that_others_judge() -> None:
    world = World(wanted=9, learned=0.5, merge=1.0)
    halves = world.choosing_halves()  # they choose 0.2 and 0.4
    asked = prompted_at(world, 0.3)
    found = Prompting(folds=2, on="merge").adapt(world.bench)
    of_half = {0.15: 0, 0.4: 1}  # ¾ of the first, and the second, as no other scale has them
    judged = [(of_half[round(value, 9)], rows) for value, _, rows in asked if round(value, 9) in of_half]
    assert len(halves) == 2 and {half for half, _ in judged} == {0, 1}
    for half, rows in judged:  # of the half that chose it none is judged
        assert rows and not rows & {row.digest for row in halves[half]}
    assert world.place(found.merge) == 1.0  # the merge of all rows, at the scale that was best of those


def test_a_merge_of_any_composition_can_be_prompted() -> None:
    world = World(wanted=9, learned=0.5, merge=1.0)
    prompted_at(world, 0.5)
    world.bench.merge = replace(world.bench.merge, composition="ties")
    found = Prompting(folds=2, on="merge").adapt(world.with_rows(20).bench)
    assert found.merge.composition == "ties" and world.place(found.merge) == 0.5


@pytest.mark.parametrize(("wanted", "scale"), [(1.0, 0.5), (-1.0, 0.0)])
@pytest.mark.parametrize("rows", [5, 20])
def test_the_mean_of_the_pool_is_chosen_by_nothing(wanted: float, scale: float, rows: int) -> None:
    world = World(wanted=9, learned=0.5, merge=6.0, members=2)  # which hold 3 each, and so does another one
    stranger = world.candidate("stranger", 0.0)
    world.bench.candidates = (*world.bench.merge.candidates, stranger)
    chosen = world.choosing_halves()
    prompted_at(world, wanted)
    found = Prompting(folds=2, on="mean").adapt(world.with_rows(rows).bench)
    assert found.prompted and world.place(found.merge) == pytest.approx(2 * scale)
    weights = {candidate.id: weight for candidate, weight in found.merge.members}
    ids = [candidate.id for candidate in world.bench.candidates]
    assert weights == (dict.fromkeys(ids, pytest.approx(scale / 3)) if scale else {})
    assert not chosen and not world.requests
    assert (f"the mean of the pool, times {scale:g}" if scale else "the base (no scale") in found.reason


@pytest.mark.parametrize("on", PROMPTED_MODELS)
def test_what_it_costs_is_what_it_says(on: str) -> None:
    world = World(wanted=1, learned=0.5, merge=1.0)
    adaptation: Prompting = registry.build("adaptation", f"prompt:folds=2,on={on}")
    prompted_at(world, 0.5)
    adaptation.adapt(world.with_rows(20).bench)
    finetunes, passes = adaptation.passes(1)
    assert len(world.requests) == 2 * finetunes
    assert world.bench.forwards - 60 * len(world.requests) == passes * 20


def test_what_cannot_be_prompted_is_refused() -> None:
    with pytest.raises(ValueError, match="on=pool: give base, shots, merge, mean"):
        Prompting(on="pool")
