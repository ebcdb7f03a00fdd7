"""Cross-fitting, and each adaptation on a workbench whose models are numbers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from merge_advisor.adapt.auto import Auto
from merge_advisor.adapt.basis import Basis
from merge_advisor.adapt.coefficients import Coefficients
from merge_advisor.adapt.continuing import Continue, chooses_anew, start_of
from merge_advisor.adapt.folds import cross_fit, folds_of, with_trained
from merge_advisor.adapt.mix import Mix
from merge_advisor.adapt.prompting import Prompting
from merge_advisor.adapt.shots import RATES, SCALES, ShotsAlone
from merge_advisor.adapt.values import Trained, TrainingRecord, TrainingRequest
from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.training_loss import TrainingLoss
from merge_advisor.errors import SpecError, TaskError
from merge_advisor.json_form import digest_of
from merge_advisor.merges import WeightedMerge
from merge_advisor.types import RESIDUAL, SHOTS_LORA, Row
from tests.support.number_world import ROWS, World


def test_folds_leave_each_row_out_once_and_share_every_task() -> None:
    other = tuple(Row(f"add {number}", f"{number}") for number in range(4))
    folds = folds_of([ROWS, other], 4)
    assert [len(fold.out) for fold in folds] == [3, 3, 3, 3]
    out = [row.digest for fold in folds for row in fold.out]
    assert sorted(out) == sorted(row.digest for row in (*ROWS, *other))
    assert all({row.input[:3] for row in fold.out} == {"say", "add"} for fold in folds)
    assert all(not set(fold.rows) & set(fold.out) and len(fold.rows) + len(fold.out) == 12 for fold in folds)


def test_rows_of_one_input_are_left_out_together() -> None:
    again = (Row(" say  3", "three"), *(Row(f"add {number}", f"{number}") for number in range(3)), ROWS[6])
    folds = folds_of([ROWS, again], 2)
    inputs = [{row.plain_input for row in fold.out} for fold in folds]
    assert not inputs[0] & inputs[1] and sum(len(fold.out) for fold in folds) == 13
    assert [len(fold.out) for fold in folds_of([ROWS, ROWS], 2)] == [8, 8]
    assert len(folds_of([[Row("say", "1"), Row("say", "2")]], 2)) == 2


@pytest.mark.parametrize(("tasks", "count"), [(([0], [1]), 2), (([0, 1],), 2), (([0, 1, 2],), 3)])
def test_few_rows_give_fewer_folds(tasks: Sequence[Sequence[int]], count: int) -> None:
    folds = folds_of([[ROWS[place] for place in rows] for rows in tasks], 4)
    assert len(folds) == count and all(fold.rows and fold.out for fold in folds)


def test_every_row_is_trained_on_and_judged_once() -> None:
    world = World(wanted=1, learned=0.5, merge=0.2)
    fit = cross_fit(world.bench, lambda fold: ShotsAlone().request(world.bench, fold), 4)
    assert len(fit.trained) == 4 and world.bench.forwards == 4 * 60
    adapted = ShotsAlone().adapt(world.bench)
    assert len(adapted.losses) == len(ROWS)
    assert world.bench.forwards == 4 * 60 + (len(SCALES) - 1) * len(ROWS)  # the folds' models are paid once


@pytest.mark.parametrize(("wanted", "scale"), [(1.0, 1.0), (0.25, 0.25), (-1.0, 0.0)])
def test_the_scale_is_that_of_least_loss(wanted: float, scale: float) -> None:
    world = World(wanted=1, learned=1, merge=0)
    trained = ShotsAlone(scaled=False).adapt(world.bench)
    assert world.place(trained.merge) == pytest.approx(1)
    world.wanted = wanted  # what was trained overshoots
    world.bench.run_training = lambda request: Trained(
        world.candidate(RESIDUAL, 1.0), TrainingRecord(4, 4, (), (), 1, 0)
    )
    for folds in (4, 0):
        adapted = ShotsAlone(folds).adapt(world.bench)
        assert world.place(adapted.merge) == pytest.approx(scale)
        assert adapted.without_pool == adapted.merge
    # what is trained in the pool's directions from zero overshoots as well
    for how in (Basis("prior"), Continue(start="base"), Basis("prior", start="mean")):
        adapted = how.adapt(world.bench)
        assert world.place(adapted.merge) == pytest.approx(1.0 if how.start == "mean" else scale)
        assert how.passes(1)[1] == (0 if how.start == "mean" else len(SCALES) - 1)


class Rates(World):
    """A world in which how far training goes is given by its rate; at the full rate it overshoots."""

    def train(self, request: TrainingRequest) -> Trained:
        self.learned = {0.002: 20.0, 0.001: 0.5, 0.0005: 0.9}[round(request.settings.lr, 9)]
        return super().train(request)


@pytest.mark.parametrize(("rates", "rate"), [(1, 0.002), (2, 0.001), (3, 0.0005)])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_rate_is_chosen_on_rows_that_were_not_trained_on(rates: int, rate: float, scaled: bool) -> None:
    for folds in (4, 0):
        world = Rates(wanted=1, learned=1, merge=0)
        adaptation = ShotsAlone(folds=folds, rates=rates, scaled=scaled)
        adapted = adaptation.adapt(world.bench)
        assert adapted.settings["rate"] == rate
        assert {request.settings.lr for request in world.requests} == {0.002 * part for part in RATES[rates]}
        assert (f"at a rate of {rate:g}, the best of {rates}" in adapted.reason) == (rates > 1)
        assert ("rates tried" in adapted.settings) == (rates > 1)
        trained, measured = adaptation.passes(0)
        assert len(world.requests) == trained * max(folds, 1)
        assert world.bench.forwards <= trained * max(folds, 1) * 60 + measured * len(ROWS)


@pytest.mark.parametrize("folds", [2, 0])
def test_the_terms_of_t_few_are_trained_on_and_told_where_they_are_asked_for(folds: int) -> None:
    world = World(wanted=1, learned=0.5, merge=0)
    adapted = ShotsAlone(folds=folds, choices=0.5, normalised=1.0, unlikelihood=0.25, rates=2).adapt(world.bench)
    assert {request.terms for request in world.requests} == {TrainingLoss(1.0, 0.5, 1.0, 0.25)}
    assert adapted.settings["loss over the choices"] == 0.5 and adapted.settings["unlikelihood"] == 0.25
    assert adapted.settings["loss over the choices per token"] == 1.0
    plain = World(wanted=1, learned=0.5, merge=0)
    settings = ShotsAlone(folds=folds).adapt(plain.bench).settings
    assert {request.terms for request in plain.requests} == {TrainingLoss(choices=1.0)}  # as before there were any
    assert not {"unlikelihood", "loss over the choices per token"} & set(settings)


def test_of_equal_rates_the_full_one_is_taken() -> None:
    world = World(wanted=1, learned=0.5, merge=0)
    assert ShotsAlone(rates=3).adapt(world.bench).settings["rate"] == 0.002


def test_a_rate_without_rows_that_choose_it_is_refused() -> None:
    world = World(wanted=1, learned=0.5, merge=0)
    world.bench.tuning = frozenset()
    with pytest.raises(TaskError, match="rates=2 with folds=0 chooses the rate on tuning rows"):
        ShotsAlone(folds=0, rates=2).adapt(world.bench)
    assert not world.requests


def test_continue_goes_on_from_the_merge() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    adapted = Continue().adapt(world.bench)
    assert world.place(adapted.merge) == pytest.approx(0.8)
    assert [candidate.id for candidate in adapted.merge.candidates] == ["m0", RESIDUAL]
    assert all(request.start == world.bench.merge for request in world.requests)
    assert np.mean(adapted.losses) == pytest.approx(0.2**2)


def test_a_merge_chosen_anew_is_judged_by_rows_that_did_not_choose_it() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    asked = world.choosing_halves()
    adapted = Basis("prior", start="merge", anew=True, folds=2).adapt(world.bench)
    assert [request.rows for request in world.requests] == asked and len(asked) == 2
    assert [world.place(request.start) for request in world.requests] == pytest.approx([0.2, 0.4])
    assert sorted(set(adapted.losses)) == pytest.approx([0.3**2, 0.4**2])
    # what began at two merges does not average well: the one is kept whose left-out rows lose less
    assert world.place(adapted.merge) == pytest.approx(0.4 + 0.3)
    assert [candidate.id for candidate in adapted.merge.candidates] == ["half 2", RESIDUAL]
    assert adapted.merge.weights == (1.0, 1.0)
    assert "one update, trained without one part" in adapted.reason
    assert "on the merge of 2 whose left-out rows lost least" in adapted.reason
    assert world.bench.forwards == 2 * 100 + 2 * 60


def test_a_member_that_both_halves_chose_is_one_member() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    world.bench.run_choice = lambda rows: (world.bench.merge, 100)
    adapted = Basis("prior", start="merge", anew=True, folds=2).adapt(world.bench)
    assert [candidate.id for candidate in adapted.merge.candidates] == ["m0", RESIDUAL]
    assert adapted.merge.weights == (1.0, 1.0)
    assert world.place(adapted.merge) == pytest.approx(0.8)


def test_each_of_four_folds_begins_at_the_merge_of_the_half_that_it_does_not_judge() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    asked = world.choosing_halves()
    adapted = Basis("prior", start="merge", anew=True, folds=4).adapt(world.bench)
    assert len(asked) == 2 and len(world.requests) == 4
    assert {row for rows in asked for row in rows} == set(ROWS) and not set(asked[0]) & set(asked[1])
    for request in world.requests:
        (chosen_by,) = (rows for rows in asked if not set(rows) & set(request.watch))
        assert world.place(request.start) == pytest.approx(0.2 * (1 + asked.index(chosen_by)))
    assert world.place(adapted.merge) == pytest.approx(0.4 + 0.3)
    assert sorted(set(adapted.losses)) == pytest.approx([0.3**2, 0.4**2]), "of every row, also of the half not kept"


def test_where_training_on_top_of_the_halves_merges_helps_neither_the_merge_of_all_rows_stands() -> None:
    world = World(wanted=1, learned=0.0, merge=0.6)
    world.bench.run_choice = lambda rows: (WeightedMerge(((world.candidate("half", 0.2), 1.0),)), 100)
    train = world.bench.run_training

    def standing(request: TrainingRequest) -> Trained:
        train(request)
        record = TrainingRecord(0, 8, (0.64,), (0.64,) * len(request.watch), 10, 60)
        return Trained(world.candidate(RESIDUAL, 0.0), record)

    world.bench.run_training = standing
    adapted = Basis("prior", start="merge", anew=True, folds=2).adapt(world.bench)
    assert adapted.merge == world.bench.merge
    assert np.mean(adapted.losses) == pytest.approx(0.8**2)  # judged all the same by merges that it did not choose


@pytest.mark.parametrize(
    ("adaptation", "composition"),
    [(Basis("prior", start="merge", anew=True), "exact"), (Continue(anew=True), "exact"), (Auto(), "exact"),
     (Auto(), "ties"), (Auto(few=2, folds=2), "ties")],
)  # fmt: skip
def test_without_anything_that_chooses_no_merge_is_judged_by_the_rows_that_chose_it(
    adaptation: Basis | Continue | Auto, composition: str
) -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    world.bench.run_choice = None
    world.bench.merge = replace(world.bench.merge, composition=composition)
    assert chooses_anew(adaptation, len(ROWS), composition)
    with pytest.raises(SpecError, match="nothing here can choose a merge by fewer rows"):
        adaptation.adapt(world.bench)


def test_what_needs_no_merge_chosen_anew_does_without() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    world.bench.run_choice = None
    for adaptation in (Auto(pool=False), Continue(), Basis("prior"), Mix(), ShotsAlone()):
        assert not chooses_anew(adaptation, len(ROWS), "exact")
        assert len(adaptation.adapt(world.bench).losses) == len(ROWS)
    assert not chooses_anew(Auto(), 10, "exact") and chooses_anew(Auto(), 10, "ties")


def test_where_training_never_helps_the_start_stays() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    train = world.bench.run_training

    def standing(request: TrainingRequest) -> Trained:
        train(request)
        return Trained(
            world.candidate(RESIDUAL, 0.0), TrainingRecord(0, 8, (0.16,), (0.16,) * len(request.watch), 10, 60)
        )

    world.bench.run_training = standing
    adapted = Continue().adapt(world.bench)
    assert adapted.merge == world.bench.merge and "the start itself" in adapted.reason


def test_mix_finds_weights_of_lora_and_members() -> None:
    world = World(wanted=1, learned=0.5, merge=0.5, members=2)
    adapted = Mix(l1=0.0).adapt(world.bench)
    assert world.place(adapted.merge) == pytest.approx(1, abs=0.1)
    assert SHOTS_LORA in [candidate.id for candidate in adapted.merge.candidates]
    # a member that leads away is left out, and a penalty leaves out one that is worth too little
    away = World(wanted=1, learned=1.0, merge=-3)
    assert [candidate.id for candidate in Mix().adapt(away.bench).merge.candidates] == [SHOTS_LORA]
    little = World(wanted=1, learned=0.95, merge=0.01)
    assert [candidate.id for candidate in Mix(l1=0.1).adapt(little.bench).merge.candidates] == [SHOTS_LORA]


class Noise(World):
    """A world whose losses are chance alone, of each model and row anew: nothing is better than anything else."""

    seed = 0

    def __init__(self) -> None:
        super().__init__(wanted=1, learned=0.5, merge=0.5, members=2)
        self.means: dict[float, dict[str, float]] = {}

    def losses(self, merge: WeightedMerge, rows: Sequence[Row]) -> list[float]:
        place = round(self.place(merge), 6)
        key = [[candidate.id, weight] for candidate, weight in merge.members]
        found = {
            row.digest: float(np.random.default_rng([self.seed, int(digest_of([key, row.digest])[:8], 16)]).random())
            for row in rows
        }
        self.means.setdefault(place, {}).update(found)
        return list(found.values())


def test_mix_does_not_promise_the_least_of_all_it_tried() -> None:
    promised, least = [], []
    for seed in range(12):
        world = Noise()
        world.seed = seed
        promised.append(np.mean(Mix(folds=4).adapt(world.bench).losses))
        whole = [found for found in world.means.values() if len(found) == len(ROWS)]
        least.append(min(np.mean(list(found.values())) for found in whole))
    assert np.mean(promised) == pytest.approx(0.5, abs=0.08)  # which is what every model loses
    assert np.mean(least) < 0.4


def test_coefficients_are_picked_for_each_fold_by_the_rows_that_it_trains_on() -> None:
    for folds in (4, 2, 0):
        world = World(wanted=1, learned=0.5, merge=0.6, members=2)
        asked: list[tuple[Row, ...]] = []

        def gradient(
            merge: WeightedMerge, rows: Sequence[Row], asked: list[tuple[Row, ...]] = asked
        ) -> dict[str, Float32Array]:
            asked.append(tuple(rows))
            return {"w": np.full((1, 1), len(asked), np.float32)}

        world.bench.run_gradient = gradient
        adaptation = Coefficients(folds=folds, most=1)
        adapted = adaptation.adapt(world.bench)
        assert asked == [request.rows for request in world.requests] and len(asked) == max(folds, 1)
        assert all(not set(rows) & set(request.watch) for rows, request in zip(asked, world.requests, strict=True))
        assert len(adapted.losses) == (len(ROWS) if folds else 0)
        trained, measured = adaptation.passes(2)
        assert world.bench.forwards <= trained * max(folds, 1) * 60 + measured * len(ROWS)


@pytest.mark.parametrize(
    ("adaptation", "said"),
    [
        (ShotsAlone(folds=2), ["shots, half 1 of 2", "shots, half 2 of 2"]),
        (ShotsAlone(folds=0, rates=2), ["shots", "shots at 0.5 of the rate"]),
        (Continue(folds=3), [f"from the chosen merge, without part {number} of 3" for number in (1, 2, 3)]),
        (Continue(folds=0, start="mean"), ["from the mean of the pool"]),
        (Continue(folds=2, stop="shots"), [
            "shots, half 1 of 2", "shots, half 2 of 2", "from the chosen merge, half 1 of 2",
            "from the chosen merge, half 2 of 2",
        ]),
        (Basis("prior", folds=2), [f"from zero, in the directions of the pool, half {part} of 2" for part in (1, 2)]),
        (Mix(folds=2), ["shots, half 1 of 2", "shots, half 2 of 2"]),
    ],
)  # fmt: skip
def test_a_finetune_says_what_is_trained_and_its_place_in_the_cache_does_not_depend_on_it(
    adaptation: ShotsAlone | Continue | Basis | Mix, said: list[str]
) -> None:
    world = World(wanted=1, learned=0.5, merge=0.6)
    adaptation.adapt(world.bench)
    assert sorted(request.what for request in world.requests) == sorted(said)
    assert all(replace(request, what="other").digest == request.digest for request in world.requests)


def test_starts_to_compare_with() -> None:
    world = World(wanted=1, learned=0.5, merge=0.6, members=3)
    assert start_of(world.bench, "base").members == ()
    assert world.place(start_of(world.bench, "anchor")) == pytest.approx(0.2)
    assert world.place(start_of(world.bench, "mean")) == pytest.approx(0.2)
    drawn = start_of(world.bench, "random")
    assert len(drawn.members) == 3 and abs(world.place(drawn)) == pytest.approx(0.6, abs=1e-5)
    world.bench.merge = WeightedMerge(world.bench.merge.members, "ties")
    with pytest.raises(SpecError, match="no plain sum"):
        start_of(world.bench, "merge")
    world.bench.merge = WeightedMerge(world.bench.merge.members, layers=(0.5, 1.0))
    with pytest.raises(SpecError, match="factor by layer"):
        start_of(world.bench, "merge")


class Unequal(World):
    """A task of many rows that a LoRA helps a little, and one of two that it hurts a lot; the merge helps neither."""

    def __init__(self) -> None:
        super().__init__(wanted=1, learned=1, merge=0.0)
        self.bench.tasks = (ROWS, (Row("add 1", "1"), Row("add 2", "2")))

    def losses(self, merge: WeightedMerge, rows: Sequence[Row]) -> list[float]:
        return [1 + self.place(merge) * (-0.05 if row.input.startswith("say") else 0.15) for row in rows]

    def train(self, request: TrainingRequest) -> Trained:
        self.requests.append(request)
        candidate = self.candidate(RESIDUAL, 1.0)
        rows = self.losses(with_trained(request.start, candidate, 1.0), request.watch)
        return Trained(candidate, TrainingRecord(4, 4, (), tuple(rows), 10, 60))


@pytest.mark.parametrize("folds", [2, 0])
def test_a_task_of_few_rows_counts_as_much_as_one_of_many(folds: int) -> None:
    world = Unequal()
    world.bench.tuning = frozenset(row.digest for rows in world.bench.tasks for row in rows[1:])
    adapted = ShotsAlone(folds=folds).adapt(world.bench)
    assert adapted.settings["scale"] == 0.0  # of all rows alike, at scale 1 the mean would be 0.99
    # what stops a finetune counts them so as well
    assert all(request.weights[-1] >= 0.25 > request.weights[0] for request in world.requests)
    assert sum(world.requests[0].weights) == pytest.approx(1)


def test_mix_and_auto_weigh_tasks_alike() -> None:
    world = Unequal()
    assert Mix(folds=2).adapt(world.bench).settings["scale"] == 0.0
    found = {one.name: one for one in Auto(folds=2).adapt(world.bench).options}
    assert found["shots"].loss == pytest.approx(1) and found["continue from merge"].loss == pytest.approx(1.05)
    assert found["continue from merge"].gain < 0


def test_of_several_starts_the_one_is_kept_whose_tasks_lose_least_on_average() -> None:
    world = Unequal()
    world.choosing_halves()
    adapted = Continue(folds=2, anew=True).adapt(world.bench)
    # begun at 0.2 and at 0.4: the second is better on four rows of the large task, and worse on one of the small one
    assert world.place(adapted.merge) == pytest.approx(1.2)


def test_the_weights_of_one_task_leave_means_and_requests_as_they_were() -> None:
    world = World(wanted=1, learned=0.5, merge=0.2)
    losses = np.random.default_rng(0).random(len(ROWS))
    assert world.bench.mean(losses) == float(losses.mean())
    request = ShotsAlone().request(world.bench, folds_of(world.bench.tasks, 4)[0])
    assert request.weights == () and request.digest != replace(request, weights=(0.75, 0.25)).digest


def test_one_prompt_cannot_show_several_tasks() -> None:
    with pytest.raises(TaskError, match="one prompt cannot show the examples of 2 tasks; plan for one"):
        Prompting().adapt(Unequal().bench)
