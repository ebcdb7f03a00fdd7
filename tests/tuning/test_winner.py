"""The winner's rule on trials whose true losses are known."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from merge_advisor.errors import TaskError
from merge_advisor.statistics import Interval
from merge_advisor.tuning import Point, Trial
from merge_advisor.tuning.winner import Winner, choose_trained, choose_winner, confirmation_rows
from tests.support.coordinator_world import losses_of

LEAST = np.array([1.0, -0.5])
PLAN = (0.5, 0.5)


class World:
    """A parabola with its least at LEAST (times `gain`), and rows that disagree about it."""

    def __init__(self, n: int, noise: float, seed: int = 0, gain: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.least = np.array(PLAN) + gain * (LEAST - PLAN)
        self.level, self.slope = rng.normal(size=n), noise * rng.normal(size=(n, 2))
        self.asked: list[Point] = []

    def rows(self, weights: Sequence[float] | NDArray[np.float64]) -> list[float]:
        w = np.asarray(weights)
        found = 1 + 0.5 * ((w - self.least) ** 2).sum() + self.level + self.slope @ (w - PLAN)
        return [float(loss) for loss in found]

    def measure(self, point: Point) -> list[float]:
        self.asked.append(point)
        return self.rows(point.weights)

    def trials(self, points: Iterable[Sequence[float] | NDArray[np.float64]], label: str = "tpe") -> list[Trial]:
        starts = {"plan": PLAN, "uniform": (0.4, 0.4), "anchor": (1.0, 0.0), "base": (0.0, 0.0)}
        named = [*starts.items(), *((label, tuple(point)) for point in points)]
        return [trial(i, name, w, self.rows(w)) for i, (name, w) in enumerate(named)]

    def true(self, weights: Sequence[float] | NDArray[np.float64]) -> float:
        return 0.5 * float(((np.array(weights) - self.least) ** 2).sum())


def trial(
    number: int,
    label: str,
    weights: Sequence[float],
    losses: Sequence[float],
    composition: str = "exact",
    layers: tuple[float, ...] = (),
    whole: bool = True,
) -> Trial:
    point = Point(tuple(float(w) for w in weights), composition, layers)
    return Trial(number, label, point, tuple(losses), (float(np.mean(losses)),), whole, len(losses))


def interval_of(interval: Interval | None) -> Interval:
    assert interval is not None
    return interval


def never(point: Point) -> list[float]:
    raise AssertionError(f"{point} was measured")


def spread(seed: int = 0, n: int = 40) -> list[Any]:
    """Points all over, the least among them."""
    return [*np.random.default_rng(seed).uniform(-1.5, 1.5, size=(n, 2)), LEAST]


def choice(trials: Sequence[Trial], world: World, tasks: list[int] | None = None, **settings: Any) -> Winner:
    n = len(world.level)
    return choose_winner(trials, tasks or [0] * n, world.measure, seed=settings.pop("seed", 0), **settings)


def test_a_gain_beyond_all_noise_is_kept_whole() -> None:
    world = World(12, 0.02)
    won = choice(world.trials(spread()), world)
    assert (won.label, won.share, won.reference) == ("tpe", 1.0, "anchor")
    assert won.point.weights == tuple(LEAST) and won.losses == tuple(world.rows(LEAST))
    assert won.reference_losses == tuple(world.rows((1.0, 0.0)))
    assert interval_of(won.gain).lower > 0 and won.confirmed is None and not world.asked
    assert "\n" not in won.reason and "100% of the way" in won.reason
    assert f"{interval_of(won.gain).mean:+.3f} nats" in won.reason and "12 rows" in won.reason


def test_a_gain_within_noise_leaves_the_start() -> None:
    world = World(8, 1.5, seed=3, gain=0.0)
    won = choice(world.trials(spread()), world)
    assert (won.label, won.share, won.point.weights) == (won.reference, 0.0, won.point.weights)
    assert won.losses == won.reference_losses and "stays" in won.reason


def test_a_gain_in_between_is_shrunk_towards_the_start() -> None:
    found = []
    for seed in range(30):
        world = World(10, 0.5, seed)
        trials = world.trials(spread(seed))
        won = choice(trials, world)
        if 0 < won.share < 1:
            best = min((t for t in trials), key=lambda t: np.mean(losses_of(t))).point.weights
            start = next(t.point.weights for t in trials if t.label == won.reference)
            assert won.share in (0.25, 0.5, 0.75) and world.asked == [won.point]
            assert won.point.weights == pytest.approx(np.array(start) + won.share * np.subtract(best, start))
            assert won.losses == tuple(world.rows(won.point.weights)) and f"{won.share:.0%} of the way" in won.reason
            found.append(won)
    assert len(found) > 5


@pytest.mark.parametrize("n", [5, 10, 20])
def test_with_nothing_to_gain_the_harm_is_small_and_with_much_most_is_kept(n: int) -> None:
    ours, naive, much = [], [], []
    for seed in range(40):
        world = World(n, 0.5, seed, gain=0.0)  # the plan is the least
        trials = world.trials([*spread(seed), world.least - world.slope.mean(0)])  # the least of these rows as well
        start = min((t for t in trials[:4]), key=lambda t: np.mean(losses_of(t)))
        best = min(trials, key=lambda t: np.mean(losses_of(t)))
        ours.append(world.true(choice(trials, world).point.weights) - world.true(start.point.weights))
        naive.append(world.true(best.point.weights) - world.true(start.point.weights))
        world = World(n, 0.5, seed, gain=2.0)
        trials = world.trials([*spread(seed), world.least - world.slope.mean(0)])
        start = min((t for t in trials[:4]), key=lambda t: np.mean(losses_of(t)))
        kept = world.true(start.point.weights) - world.true(choice(trials, world).point.weights)
        much.append(kept / world.true(start.point.weights))
    assert np.mean(ours) < 0.4 * np.mean(naive) and np.mean(ours) < 0.015
    assert np.mean(much) > 0.75


def test_the_reference_is_the_best_start_the_cheapest_of_equals() -> None:
    world = World(6, 0.1)
    same = [trial(i, label, (i, 0.0), [1.0] * 6) for i, label in enumerate(("plan", "uniform", "anchor", "base"))]
    assert choice(same, world).label == "base"
    worse = [trial(9, "tpe", (0.3, 0.3), [1.0] * 6)]
    won = choice([*same[:2], *worse], world)
    assert won.label == "uniform" and "no trial is better" in won.reason and won.gain == (0, 0, 0)


def test_order_and_unfinished_trials_change_nothing() -> None:
    world = World(10, 0.5, 4)
    trials = world.trials(spread(4))
    won = choice(trials, world)
    stopped = Trial(60, "tpe", Point((0.0, 1.0), "exact"), (*[-5.0] * 9, None), (-5.0,), False, 9)
    broken = trial(61, "tpe", (0.1, 0.2), [*[-5.0] * 9, float("nan")])
    assert choice([stopped, *trials[4:], broken, *trials[:4]], world) == won


def test_the_folds_are_fixed_by_the_seed() -> None:
    world = World(20, 0.7, 1)
    trials = world.trials(spread(1))
    assert choice(trials, world, seed=5) == choice(trials, world, seed=5)
    assert len({choice(trials, world, seed=s).gain for s in range(5)}) > 1


def test_the_cross_validated_gain_is_honest_where_the_gain_seen_is_not() -> None:
    seen, honest, rng = [], [], np.random.default_rng(0)
    for seed in range(60):  # trials of pure noise: nothing is gained
        losses = rng.normal(size=(44, 10))
        labels = ["plan", "uniform", "anchor", "base"] + ["tpe"] * 40
        trials = [
            trial(i, label, rng.normal(size=2).tolist(), row)
            for i, (label, row) in enumerate(zip(labels, losses, strict=True))
        ]
        won = choose_winner(trials, [0] * 10, lambda point: [9.0] * 10, seed=seed)
        seen.append(losses[:4].mean(1).min() - losses.mean(1).min())
        honest.append(interval_of(won.gain).mean)
        assert won.losses in {tuple(row) for row in losses}
    assert np.mean(seen) > 0.2 and abs(np.mean(honest)) < 0.12


def test_folds_are_balanced_over_tasks() -> None:
    # each task has its own best point; with a task missing from the other folds, its rows would be lost by much
    tasks = [0] * 10 + [1] * 5
    base = trial(0, "base", (0.0,), [1.0] * 15)
    good = trial(1, "tpe", (1.0,), [0.9] * 10 + [0.8] * 5)
    for seed in range(5):
        won = choose_winner([base, good], tasks, lambda point: [1.0] * 15, seed=seed)
        assert interval_of(won.gain).mean == pytest.approx((10 * 0.1 + 5 * 0.2) / 15)


def test_rows_kept_aside_have_a_veto() -> None:
    world = World(12, 0.05)
    trials = world.trials(spread())
    asked = []

    def against(point: Point) -> list[float]:
        asked.append(point)
        return [1.0, 1.2, 1.1] if len(asked) == 1 else [1.5, 1.6, 1.4]

    won = choice(trials, world, confirm=against)
    assert won.share == 0 and won.label == won.reference and interval_of(won.confirmed).mean < 0
    assert len(asked) == 2 and asked[0] == won.point and "kept aside the lead is -0.4" in won.reason
    asked.clear()
    won = choice(trials, world, confirm=lambda point: [3 - a for a in against(point)])
    assert (
        won.share == 1
        and interval_of(won.confirmed).mean == pytest.approx(0.4)
        and "kept aside the lead is +0.4" in won.reason
    )
    assert choice(trials, world, confirm=lambda point: [float("nan")] * 3).share == 0
    assert choice(trials, world, confirm=lambda point: [1.0]).share == 0  # equal on one row


def test_rows_kept_aside_are_not_asked_where_the_start_stays() -> None:
    world = World(8, 1.5, seed=3, gain=0.0)

    assert choice(world.trials(spread()), world, confirm=never).share == 0


def test_no_task_may_get_worse_beyond_noise_under_worst() -> None:
    rng = np.random.default_rng(0)
    tasks = [0] * 10 + [1] * 10
    noise = 0.02 * rng.normal(size=20)
    plan = trial(0, "plan", (0.0, 0.0), [*(2 + noise[:10]), *(1 + noise[10:])])
    other = 0.02 * rng.normal(size=20)
    lifted = trial(1, "tpe", (1.0, 0.0), [*(1.5 + noise[:10] + other[:10]), *(1.3 + noise[10:] + other[10:])])
    fair = trial(2, "tpe", (0.0, 1.0), [*(1.6 + noise[:10] + other[:10]), *(1 + noise[10:] + other[10:])])

    won = choose_winner([plan, lifted], tasks, never, seed=0, worst=True)
    assert won.label == "plan" and "task 1 gains -0.3" in won.reason
    won = choose_winner([plan, fair], tasks, never, seed=0, worst=True)
    assert won.label == "tpe" and interval_of(won.gain).mean == pytest.approx(0.4, abs=0.05)
    assert choose_winner([plan, lifted], tasks, lambda point: [1.3] * 20, seed=0).label == "tpe"  # better by the mean


def test_worst_is_judged_by_the_worst_task() -> None:
    plan = trial(0, "plan", (0.0,), [2.0, 2.1, 1.9, 2.0, 0.5, 0.5, 0.5, 0.5])
    anchor = trial(1, "anchor", (1.0,), [1.0, 1.1, 0.9, 1.0, 1.4, 1.4, 1.4, 1.4])
    tasks = [0] * 4 + [1] * 4
    assert choose_winner([plan, anchor], tasks, never, seed=0, worst=True).label == "anchor"
    assert choose_winner([plan, anchor], tasks, never, seed=0).label == "anchor"  # 1.2 against 1.25
    cheap = trial(2, "uniform", (0.5,), [1.9, 2.1, 1.9, 1.9, 0.1, 0.1, 0.1, 0.1])
    assert choose_winner([cheap, anchor], tasks, never, seed=0).label == "uniform"
    assert choose_winner([cheap, anchor], tasks, never, seed=0, worst=True).label == "anchor"


def middle(
    seed: int = 0,
    composition: str = "exact",
    start: Sequence[float] = (0.2, 0.2),
    best: Sequence[float] = (1.0, -0.4),
    gain: float = 0.25,
    n: int = 10,
    sd: float = 0.3,
    **fields: Any,
) -> list[Trial]:
    """A start and a trial whose gain takes a share between 0 and 1."""
    gains = np.random.default_rng(seed).normal(size=n)
    gains = gain + sd * (gains - gains.mean()) / gains.std(ddof=1)
    return [
        trial(0, "plan", start, [2.0] * n, **fields),
        trial(1, "tpe", best, (2.0 - gains).tolist(), composition, fields.get("layers", ())),
    ]


def test_a_ridge_on_the_way_leaves_the_ends() -> None:
    sure = choose_winner(middle(sd=0.3, gain=0.25), [0] * 10, lambda point: [3.0] * 10, seed=0)
    assert sure.share == 1 and sure.point.weights == (1.0, -0.4) and interval_of(sure.gain).lower > 0
    unsure = choose_winner(middle(sd=0.3, gain=0.1), [0] * 10, lambda point: [3.0] * 10, seed=0)
    assert unsure.share == 0 and "nothing on the way" in unsure.reason
    assert interval_of(unsure.gain).lower <= 0
    forbidden = choose_winner(middle(sd=0.3, gain=0.1), [0] * 10, lambda point: [float("inf")] * 10, seed=0)
    assert forbidden.share == 0


def test_between_two_compositions_there_is_no_way() -> None:
    sure = choose_winner(middle(composition="ties", gain=0.25), [0] * 10, never, seed=0)
    assert sure.share == 1 and sure.point.composition == "ties"
    assert choose_winner(middle(composition="ties", gain=0.2), [0] * 10, never, seed=0).share == 0


def test_the_same_model_under_the_other_sign_is_no_detour() -> None:
    asked = []

    def measure(point: Point) -> list[float]:
        asked.append(point.weights)
        return [1.9] * 10

    trials = [
        trial(t.number, t.label, t.point.weights, losses_of(t), "lorahub")
        for t in middle(start=(0.5, 0.5), best=(-0.6, -0.4), gain=0.1)
    ]
    won = choose_winner(trials, [0] * 10, measure, seed=0)
    assert 0 < won.share < 1 and asked == [won.point.weights]
    assert won.point.weights == pytest.approx((0.5 + 0.1 * won.share, 0.5 - 0.1 * won.share))


def test_layer_factors_are_shrunk_too() -> None:
    trials = middle(gain=0.1)
    object.__setattr__(trials[1], "point", Point((1.0, -0.4), "exact", (1.0, 0.5)))
    won = choose_winner(trials, [0] * 10, lambda point: [1.9] * 10, seed=0)
    assert 0 < won.share < 1 and won.point.layers == pytest.approx((1.0, 1 - 0.5 * won.share))


def test_a_point_tried_already_is_not_measured_again() -> None:
    trials = middle(gain=0.1)
    won = choose_winner(trials, [0] * 10, lambda point: [1.9] * 10, seed=0)
    again = trial(2, "shrunk", won.point.weights, [1.9] * 10)
    assert choose_winner([*trials, again], [0] * 10, never, seed=0).losses == (1.9,) * 10


def test_few_rows() -> None:
    for n in (1, 2, 3):
        trials = [trial(0, "plan", (0.0,), [2.0] * n), trial(1, "tpe", (1.0,), [1.0] * n)]
        won = choose_winner(trials, [0] * n, never, seed=0)
        assert won.label == "plan" and (won.gain is None) == (n == 1)
    assert (
        "one row"
        in choose_winner([trial(0, "plan", (0.0,), [2.0]), trial(1, "x", (1.0,), [1.0])], [0], never, seed=0).reason
    )


def test_right_or_wrong_rows_have_their_own_unit() -> None:
    plan, best = [1.0] * 10 + [0.0] * 10, [0.0] * 9 + [1.0] + [0.0] * 10
    won = choose_winner(
        [trial(0, "plan", (0.0,), plan), trial(1, "tpe", (1.0,), best)], [0] * 20, never, seed=0, unit="errors"
    )
    assert won.label == "tpe" and "errors" in won.reason and "nats" not in won.reason


def test_what_cannot_be_judged() -> None:
    with pytest.raises(TaskError, match="finite loss on all 2 rows"):
        choose_winner(
            [trial(0, "plan", (0.0,), [1.0, float("nan")]), trial(1, "tpe", (0.0,), [1, 1])], [0, 0], never, seed=0
        )
    with pytest.raises(TaskError, match="0 rows"):
        choose_winner([], [], never, seed=0)
    with pytest.raises(ValueError, match="each of them"):
        choose_winner([trial(0, "plan", (0.0,), [1.0])], [0, 0], never, seed=0)


def test_what_is_trained_takes_the_plans_place_only_beyond_noise() -> None:
    plan = np.array([2.0, 2.2, 1.8, 2.1, 1.9, 2.3, 1.7, 2.0])
    wobble = np.array([0.3, -0.3] * 4)
    found = choose_trained(plan, plan - 0.5 + wobble, [0] * 8)
    assert found.tuned and interval_of(found.gain).mean == pytest.approx(0.5) and "takes the place" in found.reason
    for tuned, why in (
        (plan - 0.1 + wobble, "within noise"), (plan, "a lead of +0.000 nats"), (plan + 0.5, "the plan's model stays"),
    ):  # fmt: skip
        found = choose_trained(plan, tuned, [0] * 8)
        assert not found.tuned and why in found.reason and found.reason.endswith("the plan's model stays")
    for rows in (1, 2, 3):
        assert "so few rows" in choose_trained([2.0] * rows, [1.0] * rows, [0] * rows).reason
    assert "nats a row" in choose_trained(plan, plan - 1, [0] * 8, unit="nats a row").reason


def test_of_several_tasks_the_worst_may_count_for_what_is_trained_too() -> None:
    tasks, plan = [0] * 6 + [1] * 6, [1.0] * 6 + [6.0] * 6
    gain, loss = np.array([2.9, 3.0, 3.1] * 2), np.array([-0.1, -0.2, -0.3] * 2)
    better = np.subtract(plan, [*gain, *loss])
    assert choose_trained(plan, better, tasks).tuned  # in the mean
    assert not choose_trained(plan, better, tasks, worst=True).tuned  # the task that is worst gets worse
    other = np.subtract(plan, [*loss, *gain])
    found = choose_trained(plan, other, tasks, worst=True)
    assert not found.tuned and "but task 0 gains -0.200 nats" in found.reason and "on 6 rows" in found.reason
    assert choose_trained(plan, np.subtract(plan, [*gain, *gain]), tasks, worst=True).tuned


def test_rows_to_keep_aside() -> None:
    assert confirmation_rows([0] * 79, 0) == ()
    tasks = [0] * 50 + [1] * 30 + [2] * 20
    kept = confirmation_rows(tasks, 1)
    assert (
        len(kept) == 30
        and list(kept) == sorted(set(kept))
        and kept == confirmation_rows(tasks, 1) != confirmation_rows(tasks, 2)
    )
    assert [sum(tasks[row] == task for row in kept) for task in range(3)] == [15, 9, 6]


@pytest.mark.parametrize(("members", "share"), [(2, 1.0), (4, 0.75), (20, 0.75)])
def test_few_rows_differ_in_few_directions(members: int, share: float) -> None:
    """t = 1 - (n-1)/(n-3) · min(d, n-1) · s²/(4g²), with n = 5 and g = 3s: 0.89 for d = 2, 0.78 from d = 4 on."""
    gains = 0.3 + 0.1 * np.sqrt(5) * np.array([-1, 1, -1, 1, 0]) / np.std([-1, 1, -1, 1, 0], ddof=1)
    start = [1 / members] * members
    search = [trial(1 + i, "tpe", [*start[:i], 1.0, *start[i + 1 :]], [3.0] * 5) for i in range(members)]
    best = trial(members + 1, "tpe", [0.5] * members, 2.0 - gains)
    trials = [trial(0, "plan", start, [2.0] * 5), *search, best]
    won = choose_winner(trials, [0] * 5, lambda point: (2.0 - gains * 0.9).tolist(), seed=0)
    assert won.gain is not None and interval_of(won.gain).mean > 0
    assert won.share == share and won.losses == pytest.approx(2.0 - gains * (1.0 if share == 1 else 0.9))
