"""What `auto` takes, on a workbench whose models are numbers."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from merge_advisor.adapt.auto import PROMPTED_MERGE, PROMPTED_SHOTS, SURE, Auto
from merge_advisor.adapt.experience import EXPERIENCE, EXPERIENCE_OVER_CHOICES, Experience
from merge_advisor.adapt.values import Adapted
from merge_advisor.errors import TaskError
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import Row
from tests.support.number_world import ROWS, World


@pytest.mark.parametrize(("rows", "folds"), [(2, 2), (5, 4), (8, 4), (9, 4), (10, 2), (20, 2)])
def test_auto_makes_more_folds_of_few_rows(rows: int, folds: int) -> None:
    world = World(wanted=30, learned=0.9, merge=-300).with_rows(rows)
    world.shown = 900.0
    assert len(world.bench.learning) == rows
    adapted = Auto().adapt(world.bench)
    assert adapted.options[0].name == "shots" and adapted.settings["folds"] == folds
    assert Auto(folds=3, few=2).for_rows(rows).folds == (2 if rows < 10 else 3)


@pytest.mark.parametrize(("rows", "asked"), [(9, 2), (10, 0), (20, 0)])
def test_auto_chooses_merges_anew_where_rows_are_few(rows: int, asked: int) -> None:
    for adaptation in (Auto(), Auto(pool=False), Auto(anew=True)):
        world = World(wanted=1, learned=0.5, merge=0.6).with_rows(rows)
        choices: list[Sequence[Row]] = []

        def choose(
            by: Sequence[Row], world: World = world, choices: list[Sequence[Row]] = choices
        ) -> tuple[WeightedMerge, int]:
            choices.append(by)
            return world.bench.merge, 100

        world.bench.run_choice = choose
        adaptation.adapt(world.bench)
        # once for the merge, and the same for it with examples or for what is trained on top of it
        assert len(choices) == (0 if not adaptation.pool else 2 if adaptation.anew else asked)


@pytest.mark.parametrize(
    ("world", "name"),
    [
        (World(wanted=0, learned=0.5, merge=30), "none"),
        (World(wanted=30, learned=0.9, merge=-300), "shots"),
        (World(wanted=30, learned=0.2, merge=29), "merge"),
        (World(wanted=30, learned=0.7, merge=20).with_rows(12), "basis from merge"),
    ],
)
def test_auto_takes_what_does_best_on_rows_held_out(world: World, name: str) -> None:
    world.shown = 900.0
    adapted = Auto(anew=True).adapt(world.bench)
    assert adapted.options[0].name == {"none": "base"}.get(name, name), adapted.options
    assert adapted.name == {"merge": "none"}.get(name, name.partition(" ")[0])
    assert [option.gain for option in adapted.options] == sorted((o.gain for o in adapted.options), reverse=True)
    assert adapted.options[0].error == 0
    if "merge" in name:
        assert adapted.merge.candidates[0].id == "m0"
        assert adapted.chance is not None and adapted.chance > 0.99
    else:
        assert adapted.chance is None


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tasks have shown, whatever benchmarks say today."""
    monkeypatch.setitem(EXPERIENCE, "basis from merge", {20: Experience(gain=0.8, spread=0.27)})
    monkeypatch.setitem(EXPERIENCE, "merge", {20: Experience(gain=-0.1, spread=0.27)})


@pytest.mark.usefixtures("shown")
def test_auto_goes_by_what_other_tasks_have_shown_where_the_rows_say_little() -> None:
    def taken(merge: float) -> str:
        world = World(wanted=1, learned=0.9, merge=merge, least=1.0).with_rows(12)  # shots leaves 0.01 beside it
        return Auto(anew=True).adapt(world.bench).options[0].name

    assert taken(0.95) == "basis from merge"  # a little better, as other tasks say
    assert taken(-0.5) == "basis from merge"  # 0.01 nats worse, which twelve rows do not show
    assert taken(-30.0) == "shots"  # 9.6 nats worse


@pytest.mark.usefixtures("shown")
def test_auto_believes_small_differences_where_both_lose_next_to_nothing() -> None:
    world = World(wanted=1, learned=0.9, merge=-0.5).with_rows(12)
    assert Auto(anew=True).adapt(world.bench).options[0].name == "shots"


def test_auto_takes_what_needs_a_pool_only_where_it_is_surely_better(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(gain: float) -> Adapted:
        monkeypatch.setitem(EXPERIENCE, "basis from merge", {20: Experience(gain=gain, spread=0.27)})
        return Auto(anew=True).adapt(World(wanted=1, learned=0.9, merge=0.95, least=1.0).with_rows(12).bench)

    sure, unsure, worse = taken(0.8), taken(0.3), taken(-0.8)
    assert sure.options[0].name == "basis from merge" and sure.chance is not None and sure.chance >= SURE
    assert unsure.options[0].name == "shots" and unsure.chance is None and unsure.merge == unsure.without_pool
    assert unsure.options[1].name == "basis from merge" and unsure.options[1].gain > unsure.options[0].gain
    said = re.search(r"not taken: its lead over shots is \+([\d.]+) nats with an error of ([\d.]+), and", unsure.reason)
    assert said is not None and 0 < float(said[1]) < float(said[2]) * 2 / 3  # which is what "two thirds" asks for
    for found in (sure, unsure, worse):  # a probability that is not calibrated is not printed
        assert "probab" not in found.reason and "%" not in found.reason and "chance" not in found.reason
    assert worse.options[0].name == "shots" and "not taken" not in worse.reason


@pytest.mark.parametrize(("kinds", "taken"), [([0] * 20, "merge"), ([1] * 20, "shots"), ([0, 1] * 10, "merge")])
def test_auto_mistrusts_a_merge_more_where_most_rows_have_choices(
    kinds: list[int], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPERIENCE, "merge", {20: Experience(gain=0.1, spread=0.3)})
    monkeypatch.setitem(EXPERIENCE_OVER_CHOICES, "merge", {20: Experience(gain=0.1, spread=0.3, optimism=2.0)})
    world = World(wanted=1, learned=0.5, merge=1, least=1.0)
    rows = [Row(f"say {place}", "yes", ("yes", "no") if kind else None) for place, kind in enumerate(kinds)]
    world.bench.tasks, world.bench.tuning = (tuple(rows),), frozenset()
    world.bench.merge = replace(world.bench.merge, composition="ties")  # which nothing can be trained on top of
    assert Auto().adapt(world.bench).options[0].name == taken


def test_auto_takes_the_prompt_where_it_is_best_and_says_where_it_cannot_be() -> None:
    world = World(wanted=30, learned=0.5, merge=0)
    world.shown = 0.01
    adapted = Auto().adapt(world.bench)
    assert adapted.name == "prompt" and adapted.prompted and not adapted.merge.members

    def full(shown: Sequence[Row], asked: Sequence[Row], merge: WeightedMerge) -> list[float]:
        raise TaskError("not one of 6 examples fits")

    world = World(wanted=30, learned=0.5, merge=0)
    world.bench.run_prompted = full
    adapted = Auto().adapt(world.bench)
    assert adapted.name != "prompt" and adapted.reason.count("prompt cannot be: not one of 6 examples fits") == 1
    assert not any("prompt" in option.name for option in adapted.options)


def prompted_best_at(world: World, wanted: float) -> None:
    """Have a model with examples in its prompt lose nothing at a place, and more the farther it is from there."""
    world.bench.run_prompted = lambda shown, asked, merge: [(world.place(merge) - wanted) ** 2 for _ in asked]


@pytest.mark.parametrize("pool", [False, True])
def test_auto_takes_a_prompted_lora_of_few_rows_at_the_scale_that_its_examples_ask_for(pool: bool) -> None:
    world = World(wanted=2.5, learned=0.8, merge=-8, least=4.0)  # LoRAs come to 2
    prompted_best_at(world, 0.5)
    adapted = Auto(pool=pool).adapt(world.bench)
    assert adapted.options[0].name == PROMPTED_SHOTS and adapted.name == "prompt" and adapted.prompted
    assert world.place(adapted.merge) == pytest.approx(0.5) and adapted.settings["scale"] == 0.25
    assert adapted.chance is None  # it needs no pool
    # the LoRA of the rows alone is shown beside it as strong as it is best without examples
    assert adapted.without_pool is not None and world.place(adapted.without_pool) == pytest.approx(2)


@pytest.mark.parametrize(("rows", "asked", "tried"), [(9, False, True), (10, False, False), (10, True, True)])
def test_auto_prompts_the_lora_of_few_rows_or_where_it_is_told_to(rows: int, asked: bool, tried: bool) -> None:
    for pool in (False, True):
        world = World(wanted=10, learned=0.2, merge=1, least=4.0).with_rows(rows)
        prompted_best_at(world, 0.5)
        adaptation = Auto(pool=pool, prompts=asked)
        compared = {option.name for option in adaptation.adapt(world.bench).options}
        merge_too = pool and rows < 10
        assert ((PROMPTED_SHOTS in compared), (PROMPTED_MERGE in compared)) == (tried, merge_too)
        how = adaptation.for_rows(rows)
        assert how.prompts == tried
        more = how.passes(1)[1] - replace(how, prompts=False).passes(1)[1]
        assert more == ((4 + 5 * merge_too) * how.folds if tried else 0)


def test_auto_takes_a_prompted_merge_of_few_rows_where_it_surely_leads() -> None:
    world = World(wanted=30, learned=0.05, merge=8, least=4.0)  # LoRAs come to 1.5
    prompted_best_at(world, 6.0)
    adapted = Auto().adapt(world.bench)
    assert adapted.options[0].name == PROMPTED_MERGE and adapted.name == "prompt" and adapted.prompted
    assert world.place(adapted.merge) == pytest.approx(6.0) and adapted.settings["scale"] == 0.75
    assert adapted.chance is not None and adapted.chance >= SURE
    assert adapted.without_pool is not None and world.place(adapted.without_pool) == pytest.approx(1.5)
    world = World(wanted=30, learned=0.05, merge=8, least=4.0)
    prompted_best_at(world, 1.6)  # where the LoRA is, so there is no lead
    assert Auto().adapt(world.bench).options[0].name == PROMPTED_SHOTS


def test_few_rows_train_nothing_on_top_of_a_merge() -> None:
    for rows, trained in ((9, False), (10, True)):
        world = World(wanted=30, learned=0.2, merge=20).with_rows(rows)
        compared = {option.name for option in Auto().adapt(world.bench).options}
        assert ("continue from merge" in compared) == trained and "basis from merge" not in compared
        assert any(request.start.members for request in world.requests) == trained
        assert Auto().for_rows(rows).passes(1)[0] == 1 + trained


def test_a_prompted_lora_that_comes_out_as_the_prompt_is_compared_once() -> None:
    world = World(wanted=30, learned=0.5, merge=8)
    prompted_best_at(world, -1.0)
    adapted = Auto().adapt(world.bench)
    assert adapted.options[0].name == "prompt" and not adapted.merge.members
    assert not {PROMPTED_SHOTS, PROMPTED_MERGE} & {option.name for option in adapted.options}
    assert all(f"prompt on {model} came out as prompt" in adapted.reason for model in ("shots", "merge"))


def test_what_is_asked_with_examples_is_charged_once() -> None:
    world = World(wanted=30, learned=0.5, merge=8)
    prompted_best_at(world, 4.0)
    asked: list[tuple[float, int]] = []
    found = world.bench.run_prompted

    def losses(shown: Sequence[Row], rows: Sequence[Row], merge: WeightedMerge) -> list[float]:
        asked.append((world.place(merge), len(shown) + len(rows)))
        return found(shown, rows, merge)

    world.bench.run_prompted = losses
    adapted = Auto().adapt(world.bench)
    assert [place for place, _ in asked].count(0) == 4  # once for each fold, though it is a scale of the LoRA's as well
    of = {option.name: option.forwards for option in adapted.options}
    assert of["prompt"] == 4 * 8 and of[PROMPTED_SHOTS] == of[PROMPTED_MERGE] == 4 * 4 * 8
    assert sum(passes for _, passes in asked) == of["prompt"] + of[PROMPTED_SHOTS] + of[PROMPTED_MERGE]


def test_auto_of_several_tasks_prompts_nothing() -> None:
    world = World(wanted=1, learned=0.5, merge=0.5)
    world.bench.tasks = (ROWS[:4], ROWS[4:])
    assert not any("prompt" in option.name for option in Auto().adapt(world.bench).options)


def test_auto_without_a_pool_looks_at_no_merge() -> None:
    world = World(wanted=1, learned=0.5, merge=1)
    adapted = Auto(pool=False).adapt(world.bench)
    assert adapted.name == "shots"
    assert {option.name for option in adapted.options} == {"base", "prompt", "shots"}
    assert "prompt on shots came out as prompt" in adapted.reason
    assert not any(request.start.members for request in world.requests)


@pytest.mark.parametrize("onwards", [True, False])
def test_a_merge_that_is_no_sum_is_judged_by_rows_that_did_not_choose_it(onwards: bool) -> None:
    world = World(wanted=1, learned=0.5, merge=0.6).with_rows(12)
    world.bench.merge = WeightedMerge(world.bench.merge.members, "ties")
    asked = world.choosing_halves()
    adapted = Auto(onwards=onwards).adapt(world.bench)
    assert len(asked) == 2 and ("ties is no plain sum" in adapted.reason) == onwards


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("merge", [0.9, -9.0])
def test_auto_compares_the_merge_itself_where_nothing_can_be_trained_on_top(merge: float) -> None:
    world = World(wanted=1, learned=0.5, merge=merge).with_rows(12)
    world.bench.merge = WeightedMerge(world.bench.merge.members, "ties")
    adapted = Auto().adapt(world.bench)
    assert "merge" in [option.name for option in adapted.options] and "ties is no plain sum" in adapted.reason
    assert not any(request.start.members for request in world.requests)
    if merge > 0:
        assert adapted.merge == world.bench.merge and adapted.name == "none" and adapted.chance is not None
    else:
        assert adapted.name == "shots"


def test_auto_of_one_row_leaves_the_merge() -> None:
    world = World(wanted=1, learned=0.5, merge=0.5)
    world.bench.tasks, world.bench.tuning = (ROWS[:1],), frozenset()
    adapted = Auto().adapt(world.bench)
    assert adapted.merge == world.bench.merge and adapted.name == "none" and not adapted.losses
    assert "one row cannot both train and judge: the merge" in adapted.reason
    assert not Auto(pool=False).adapt(world.bench).merge.members and not world.requests
