"""What every registered sampler keeps to, other packages' included: one registry line and it is tested here."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor import registry
from merge_advisor.errors import SpecError
from merge_advisor.tuning import Ask, Point, SearchSpace, Trial
from merge_advisor.tuning.samplers.auto import AutoSampler
from merge_advisor.tuning.samplers.history import trial_values
from merge_advisor.tuning.samplers.nsga2 import crowding, fronts
from merge_advisor.tuning.space import check_space, searched_parts
from tests.support.tune_world import SPACES, bowl, first_trials, grow, space_of, trial

NAMES = registry.names("sampler")
CASES = [
    (name, where)
    for name in NAMES
    for where, space in SPACES.items()
    if set(searched_parts(space)) <= registry.load("sampler", name).searches
]


def first(space: SearchSpace, seed: int = 0) -> list[Trial]:
    return first_trials(space, [bowl(len(space.start.weights), seed)[0]])


def grown(
    name: str, space: SearchSpace, count: int, seed: int = 0, history: Sequence[Trial] | None = None
) -> list[Trial]:
    loss, slope = bowl(len(space.start.weights), 0)
    return grow(name, space, first(space) if history is None else history, count, [loss], seed, slope)


def check_inside(space: SearchSpace, point: Point, name: str) -> None:
    check_space(space)
    low, high = space.bounds
    least, most = space.scale or (1.0, 1.0)
    for weight in point.weights:
        assert math.isfinite(weight)
        assert low * (most if low < 0 else least) - 1e-12 <= weight <= high * most + 1e-12 or space.members
    assert point.composition in (space.compositions or (space.start.composition,))
    assert len(point.layers) in (0, space.layers) and all(0 <= factor <= 2 for factor in point.layers)
    if space.members:
        assert any(point.weights), f"{name} asked for the base"


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_says_what_it_is(name: str) -> None:
    cls = registry.load("sampler", name)
    assert cls.name == name and cls.cost
    assert cls.searches <= {"composition", "members", "density", "layers"}
    assert registry.summary("sampler", name).endswith(".")
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.build("sampler", name).name = "other"


@pytest.mark.parametrize(("name", "where"), CASES)
def test_asks_are_merges_of_the_space(name: str, where: str) -> None:
    space = SPACES[where]
    for history in ([], first(space)):
        found = grown(name, space, 11, history=history)
        for done in found[len(history) :]:
            check_inside(space, done.point, name)
            assert json.loads(json.dumps(dict(done.notes))) == dict(done.notes)


@pytest.mark.parametrize(("name", "where"), CASES)
def test_what_a_sampler_cannot_search_it_refuses(name: str, where: str) -> None:
    searches = registry.load("sampler", name).searches
    for other, space in SPACES.items():
        unable = set(searched_parts(space)) - searches
        if unable:
            with pytest.raises(SpecError, match=min(unable)) as caught:
                registry.build("sampler", name).ask(space, [], 0)
            assert "\n" not in str(caught.value), other
    check_inside(SPACES[where], registry.build("sampler", name).ask(SPACES[where], [], 0).point, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_cut_anywhere_grows_again_the_same(name: str) -> None:
    space = SPACES["everything" if registry.load("sampler", name).searches >= {"composition"} else "scale"]
    whole = grown(name, space, 14, seed=3)
    for cut in (4, 6, 9, 13):
        assert grown(name, space, cut + 1, seed=3, history=whole[:cut]) == whole[: cut + 1]
    assert grown(name, space, 14, seed=3, history=whole[:11]) == whole
    sampler = registry.build("sampler", name)
    assert sampler.ask(space, whole, 3) == sampler.ask(space, tuple(whole), 3)


ELSEWHERE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tests.tuning.test_samplers import asked, grown
from tests.support.tune_world import SPACES
json.dump({name: asked(name) for name in json.loads(sys.argv[2])}, sys.stdout)
"""


def asked(name: str) -> Any:
    """The last of a sampler's asks, as JSON."""
    ask = registry.build("sampler", name).ask(SPACES["scale"], grown(name, SPACES["scale"], 11, seed=7), 7)
    return json.loads(json.dumps([*dataclasses.astuple(ask.point), dict(ask.notes)]))


@pytest.mark.slow
def test_another_process_asks_the_same() -> None:
    here = {name: asked(name) for name in NAMES}
    told = [sys.executable, "-c", ELSEWHERE, str(Path(__file__).parents[2]), json.dumps(NAMES)]
    found = subprocess.run(told, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == here


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", ["nan", "infinite", "constant", "alike", "far"])
def test_odd_histories(name: str, odd: str) -> None:
    space = SPACES["weights"]
    values = {"nan": [math.nan, 0.5], "infinite": [math.inf, 0.5, 0.7], "constant": [1.0], "alike": [0.5, 0.6]}
    history = first(space) if odd != "far" else [trial(0, "plan", Point((9.0, -9.0, 0.0), "exact"), [0.1])]
    sampler = registry.build("sampler", name)
    while len(history) < 11:
        ask = sampler.ask(space, history, 1)
        check_inside(space, ask.point, name)
        point = space.start if odd == "alike" else ask.point
        value = values.get(odd, [0.3])[len(history) % len(values.get(odd, [0.3]))]
        gradient = (0.0,) * 3 if ask.gradient else None
        history.append(trial(len(history), name, point, [value], ask.notes, gradient))


@pytest.mark.parametrize("name", NAMES)
def test_every_value_bad(name: str) -> None:
    space = SPACES["weights"]
    history = [trial(i, "plan", space.start, [math.nan]) for i in range(14)]
    check_inside(space, registry.build("sampler", name).ask(space, history, 1).point, name)


@pytest.mark.parametrize("name", ["cmaes", "gp", "lorahub"])
def test_one_value_is_wanted(name: str) -> None:
    space = SPACES["weights"]
    with pytest.raises(SpecError, match="one value, not 2; use `sampler=nsga2`"):
        registry.build("sampler", name).ask(space, first_trials(space, [bowl(3, 0)[0], bowl(3, 1)[0]]), 0)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_differ_and_nothing_is_said(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    level = optuna.logging.get_verbosity()
    space = SPACES["weights"]
    history = grown("random", space, 12)
    asks = {registry.build("sampler", name).ask(space, history, seed).point for seed in range(4)}
    assert len(asks) == (1 if name in ("lorahub", "gradient") or _deterministic(name) else 4)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level


def _deterministic(name: str) -> bool:
    return name == "auto" and "gradient" in NAMES


def test_trials_of_two_studies_are_refused() -> None:
    space = SPACES["weights"]
    mixed = [trial(0, "plan", space.start, [1.0]), trial(1, "plan", space.start, [1.0, 2.0])]
    with pytest.raises(SpecError, match="different numbers of values"):
        trial_values(mixed)


def test_bad_values_are_worse_than_all_others() -> None:
    found = trial_values([trial(0, "", Point((), ""), [v, -v]) for v in (1.0, math.nan, 3.0, math.inf, -math.inf)])
    assert found[:, 0].tolist() == [1.0, 5.0, 3.0, 5.0, 5.0]
    assert found[:, 1].tolist() == [-1.0, 1.0, -3.0, 1.0, 1.0]


# --- random -----------------------------------------------------------------------------------------------------------


def test_random_is_uniform() -> None:
    space = SPACES["everything"]
    points = [registry.build("sampler", "random").ask(space, [], seed) for seed in range(600)]
    scales = np.log2([ask.notes["scale"] for ask in points])
    assert abs(scales.mean()) < 0.1 and scales.min() < -0.95 and scales.max() > 0.95
    assert 240 < sum(ask.point.composition == "exact" for ask in points) < 360
    out = [sum(weight == 0 for weight in ask.point.weights) for ask in points]
    assert max(out) == 2 and 1.2 < np.mean(out) < 1.55  # 1.5 less the eighth that would be none
    weights = np.array([ask.point.weights[1] / ask.notes["scale"] for ask in points])
    assert abs(weights[weights != 0].mean()) < 0.15 and np.ptp(weights) > 2.9


# --- what they are for ------------------------------------------------------------------------------------------------


def left(name: str, k: int, count: int, seeds: Iterable[int]) -> float:
    """Mean over bowls of log10 (least loss / least of the first four trials)."""
    found = []
    for seed in seeds:
        space = space_of(k)
        loss, slope = bowl(k, seed)
        history = grow(name, space, first_trials(space, [loss]), count, [loss], seed, slope)
        values = [done.values[0] for done in history]
        found.append(math.log10(min(values) / min(values[:4])))
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("name", "k", "least"),
    [
        ("tpe", 4, 0.35),
        pytest.param("tpe", 20, 0.2, marks=pytest.mark.slow),
        ("cmaes", 4, 0.5),
        ("cmaes", 20, 0.2),
    ],
)
def test_it_finds_more_than_random_in_60_trials(name: str, k: int, least: float) -> None:
    assert left(name, k, 60, range(4)) < left("random", k, 60, range(4)) - least


@pytest.mark.slow
def test_gp_finds_more_than_random_in_16_trials() -> None:
    assert left("gp", 4, 16, range(3)) < left("random", 4, 16, range(3)) - 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("k", "least"), [(4, 1.5), (20, 0.15)])
def test_gp_finds_more_than_random_in_60_trials(k: int, least: float) -> None:
    assert left("gp", k, 60, range(3)) < left("random", k, 60, range(3)) - least


def test_cmaes_goes_to_the_bottom() -> None:
    assert left("cmaes", 4, 280, [0]) < -2
    assert left("cmaes", 1, 60, [0]) < -4


def test_cmaes_starts_at_the_best_of_the_trials_before_it() -> None:
    space = space_of(20)
    far = trial(0, "plan", Point((0.9,) * 20, "exact"), [0.0])
    near_far = [grow("cmaes", space, [far], 2, [lambda point: 1.0], seed)[1].point.weights for seed in range(40)]
    assert np.abs(np.mean(near_far, axis=0) - 0.9).max() < 0.1


# --- nsga2 ------------------------------------------------------------------------------------------------------------


def test_fronts_and_crowding() -> None:
    losses = np.array([[1.0, 4], [2, 2], [4, 1], [2, 3], [5, 5], [1, 4]])
    assert fronts(losses).tolist() == [0, 0, 0, 1, 2, 0]
    found = crowding(losses[:3], np.zeros(3, dtype=np.int64))
    assert found[[0, 2]].tolist() == [math.inf, math.inf] and found[1] == 2.0


def area(history: Sequence[Trial]) -> float:
    """Area that the front dominates up to (1, 1)."""
    worst, total = 1.0, 0.0
    for one, other in sorted(tuple(np.minimum(done.values, 1.0)) for done in history):
        if other < worst:
            total += (1 - one) * (worst - other)
            worst = other
    return total


def test_nsga2_finds_a_better_front_than_random() -> None:
    def front(name: str, seed: int) -> float:
        space, losses = space_of(4), [bowl(4, 2 * seed)[0], bowl(4, 2 * seed + 1)[0]]
        return area(grow(name, space, first_trials(space, losses), 80, losses, seed))

    assert np.mean([front("nsga2", seed) - front("random", seed) for seed in range(4)]) > 0.05


# --- lorahub ----------------------------------------------------------------------------------------------------------


def test_lorahub_begins_at_the_base_and_adds_members_one_by_one() -> None:
    target = np.array([0.5, -0.2, 0.5])
    space = space_of(3)
    history = grow("lorahub", space, first(space), 8, [lambda p: float(np.sum((np.array(p.weights) - target) ** 2))], 0)
    points = [done.point.weights for done in history[4:]]
    assert points == [(0, 0, 0), (0.5, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5)]


def test_lorahub_goes_on_after_its_budget_and_reflects_at_the_bounds() -> None:
    space = space_of(2, bounds=(-0.3, 0.3))
    history = grow("lorahub:budget=10", space, [], 30, [lambda p: -sum(p.weights)], 0)
    assert all(abs(weight) <= 0.3 for done in history for weight in done.point.weights)
    assert min(done.values[0] for done in history) == pytest.approx(-0.6, abs=0.02)


def test_lorahub_takes_another_start_where_nought_is_out_of_bounds() -> None:
    assert registry.build("sampler", "lorahub").ask(SPACES["positive"], [], 0).point.weights == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("k", [1, 2, 4, 20])
def test_lorahub_is_what_nevergrad_picks(k: int) -> None:
    pytest.importorskip("nevergrad", reason="nevergrad is not installed (extra lorahub)")
    for seed in range(2):
        loss, _ = bowl(k, seed)
        ours = grow("lorahub", space_of(k), [], 40, [loss], seed)
        theirs = grow("lorahub:engine=nevergrad", space_of(k), [], 40, [loss], seed)
        assert [done.point for done in ours] == [done.point for done in theirs]


def test_lorahub_without_nevergrad_says_so() -> None:
    try:
        import nevergrad  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        with pytest.raises(SpecError, match="needs the package nevergrad"):
            registry.build("sampler", "lorahub:engine=nevergrad").ask(SPACES["weights"], [], 0)
    else:
        pytest.skip("nevergrad is installed")


@pytest.mark.parametrize(
    "spec",
    "lorahub:engine=ngopt lorahub:budget=0 tpe:startup=0 gp:startup=0 cmaes:sigma=0 cmaes:population=3 "
    "nsga2:population=1 auto:steps=-1".split(),
)
def test_bad_parameters(spec: str) -> None:
    with pytest.raises(SpecError, match=spec.partition(":")[0]):
        registry.build("sampler", spec)


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_keeps_to_its_rules() -> None:
    auto = AutoSampler()
    few, many, mixed = SPACES["weights"], space_of(20), SPACES["everything"]
    two = first_trials(few, [bowl(3, 0)[0], bowl(3, 1)[0]])
    assert auto.choose(few, two) == "nsga2"
    assert auto.choose(mixed, []) == "tpe"
    plain = AutoSampler(steps=0)
    assert plain.choose(few, []) == "gp" and plain.choose(many, []) == "tpe"
    went = [trial(i, "auto", few.start, [1.0], {"auto": "gradient"}, (0.0,) * 3) for i in range(8)]
    assert auto.choose(few, went) == auto.choose(few, []) == "gradient"
    short = AutoSampler(steps=8, fits=9)
    assert (short.choose(few, went[:7]), short.choose(few, went)) == ("gradient", "gp")
    assert short.choose(few, [*went, went[0]]) == "cmaes"
    rough = dataclasses.replace(few, smooth=False)
    assert auto.choose(rough, []) == auto.choose(rough, went * 12) == "gp"
    assert auto.choose(rough, went * 13) == "cmaes"
    ties = dataclasses.replace(few, start=dataclasses.replace(few.start, composition="ties"))
    assert auto.choose(ties, []) == "gp"


def test_auto_hands_the_ask_on_and_names_who_asked() -> None:
    space, history = SPACES["members"], first(SPACES["members"])
    ask = registry.build("sampler", "auto").ask(space, history, 5)
    other = registry.build("sampler", "tpe").ask(space, history, 5)
    assert ask == Ask(other.point, other.gradient, {**other.notes, "auto": "tpe"})
