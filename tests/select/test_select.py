"""What every registered strategy keeps to, other packages' included: one registry line and it is tested here."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor import registry
from merge_advisor.arrays import FloatingArray
from merge_advisor.errors import SpecError
from tests.support.select_world import idle_world, random_world, seeded, world

VARIANTS = [
    "top_k:centre=true",
    "anchor_random:centre=true",
    "anchor_diverse:objective=facility",
    "anchor_diverse:objective=kdpp",
    "anchor_diverse:objective=mmr,centre=true,diversity=0.6",
    "anchor_diverse:objective=facility,centre=true",
    "anchor_diverse:objective=kdpp,centre=true,least=0",
    "additive:centre=true,least=0",
    "cluster:method=kmeans",
    "cluster:centre=true",
    "weight_kinship:kinship=high",
    "gradient:distinct=true",
    "shot_loss:greedy=true",
    "rerank:first=delta,pool=3",
    "rerank:first=text",
    "best_single:by=shot_loss",
    "best_single:by=gradient",
    "all:centre=true",
]
SPECS = [*registry.names("strategy"), *VARIANTS]


def check(choice, n, k, spec):
    positions = [pick.position for pick in choice.picks]
    assert all(type(position) is int and 0 <= position < n for position in positions)
    assert len(set(positions)) == len(positions)
    assert 1 <= len(positions) <= (n if spec.partition(":")[0] == "all" else k)
    assert all(pick.gain is None or (type(pick.gain) is float and math.isfinite(pick.gain)) for pick in choice.picks)
    assert choice.stopped and "\n" not in choice.stopped
    if choice.direction is not None:
        assert len(choice.direction) == len(positions)
        assert all(math.isfinite(weight) for weight in choice.direction)
        assert math.isclose(sum(choice.direction), 1, rel_tol=1e-9)


@pytest.mark.parametrize("name", registry.names("strategy"))
def test_a_strategy_says_what_it_is(name):
    cls = registry.load("strategy", name)
    assert cls.name == name
    assert cls.centres in ("no", "yes", "option")
    assert (cls.centres == "option") == ("centre" in {field.name for field in dataclasses.fields(cls)})
    assert cls.cost and isinstance(cls.stops, str)
    assert registry.summary("strategy", name).endswith((".", ")"))
    built = registry.build("strategy", name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        built.name = "other"


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (9, 1), (9, 4), (9, 9)])
def test_a_choice_is_well_formed(spec, n, k):
    check(registry.build("strategy", spec).select(random_world(n), k), n, k, spec)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("anchor", [0, 3, 6])
@pytest.mark.parametrize("k", [1, 3])
def test_a_demanded_anchor_comes_first(spec, anchor, k):
    strategy = registry.build("strategy", spec)
    evidence = random_world(7)
    opposed = seeded(
        evidence, anchor=anchor, task_delta=lambda: -evidence.task_delta()
    )  # also where nothing speaks for it
    for case in (seeded(evidence, anchor=anchor), opposed):
        choice = strategy.select(case, k)
        check(choice, 7, k, spec)
        assert choice.picks[0].position == anchor
        assert choice.direction is None or choice.direction[0] > 0


@pytest.mark.parametrize("spec", SPECS)
def test_same_evidence_and_seed_same_choice(spec):
    strategy = registry.build("strategy", spec)
    evidence = random_world(12, seed=3)
    before = evidence.deltas.copy(), evidence.task_delta().copy()
    assert strategy.select(seeded(evidence, 5), 5) == strategy.select(seeded(evidence, 5), 5)
    np.testing.assert_array_equal(evidence.deltas, before[0])
    np.testing.assert_array_equal(evidence.task_delta(), before[1])


@pytest.mark.parametrize("spec", SPECS)
def test_it_says_what_it_used(spec: str) -> None:
    evidence = random_world(9)
    calls: list[str] = []

    def task_delta() -> FloatingArray:
        calls.append("task_delta")
        return evidence.task_delta()

    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    choice = registry.build("strategy", spec).select(seeded(evidence, task_delta=task_delta, rng=rng), 4)
    drawn = {"rng"} if rng.bit_generator.state != before else set()
    assert choice.used == {*calls, *drawn}


@pytest.mark.parametrize("spec", SPECS)
def test_it_stops_where_nothing_is_added(spec):
    strategy = registry.build("strategy", spec)
    choice = strategy.select(idle_world(5), 3)
    check(choice, 5, 3, spec)
    if type(strategy).stops:
        assert len(choice.picks) == 1
        assert choice.stopped != "k reached"
        assert choice.picks[0].position == 0
    else:
        assert len(choice.picks) >= 3


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    ("deltas", "task"),
    [
        (np.zeros((4, 3)), np.ones(3)),
        (np.ones((4, 3)), np.zeros(3)),
        (np.ones((4, 3)), np.ones(3)),
        (np.ones((4, 3)), -np.ones(3)),
        (np.array([[0.1, 0.7, 0.3]] * 6), np.array([0.1, 0.7, 0.3])),
        (np.array([[1e30, 0, 0], [1e-30, 0, 0], [0, 1e30, 0], [0, 0, 0]]), np.array([1e30, 1e30, 0])),
        (np.eye(4)[:, :1], np.ones(1)),
    ],
    ids=["zero pool", "zero task", "all equal", "all opposed", "equal, inexact", "extreme lengths", "one dimension"],
)
def test_degenerate_deltas_never_give_nan(spec, deltas, task):
    n = len(deltas)
    evidence = world(
        deltas, task, shot_loss=lambda weights, share=1.0: 2.0, gradient_gain=lambda weights, share=1.0: np.zeros(n)
    )
    for k in (1, 3, n):
        check(registry.build("strategy", spec).select(seeded(evidence), k), n, k, spec)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_measurements_that_are_no_numbers_are_survived(spec, bad):
    gains = np.array([bad, 0.2, -bad, 0.1])
    evidence = world(
        np.eye(4),
        np.ones(4),
        shot_loss=lambda weights, share=1.0: bad if 0 in weights else 2.0,
        gradient_gain=lambda weights, share=1.0: gains,
    )
    check(registry.build("strategy", spec).select(evidence, 3), 4, 3, spec)
    hopeless = seeded(
        evidence,
        shot_loss=lambda weights, share=1.0: bad,
        gradient_gain=lambda weights, share=1.0: np.full(4, -math.inf),
    )
    check(registry.build("strategy", spec).select(hopeless, 3), 4, 3, spec)


@given(
    n=st.integers(1, 8),
    d=st.integers(1, 6),
    k=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    levels=st.integers(1, 4),
    which=st.sampled_from([spec for spec in SPECS if spec.partition(":")[0] not in ("cluster", "text")]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_small_pool_gives_a_well_formed_choice(n, d, k, seed, levels, which):
    rng = np.random.default_rng(seed)
    # few levels make ties, copies and zero rows common
    deltas = rng.integers(-levels, levels + 1, size=(n, d))
    evidence = world(deltas, rng.integers(-levels, levels + 1, size=d), seed=seed)
    k = min(k, n)
    check(registry.build("strategy", which).select(evidence, k), n, k, which)


@pytest.mark.parametrize(
    "spec",
    [
        "anchor_diverse:objective=best",
        "anchor_diverse:diversity=0",
        "anchor_diverse:diversity=1",
        "anchor_diverse:least=1",
        "additive:least=-0.1",
        "cluster:method=dbscan",
        "weight_kinship:kinship=none",
        "shot_loss:least=2",
        "rerank:first=luck",
        "rerank:pool=0",
        "rerank:least=nan",
        "best_single:by=luck",
        "top_k:centred=true",
        "random:seed=3",
    ],
)
def test_a_wrong_parameter_is_named(spec):
    with pytest.raises(SpecError, match=f"strategy '{spec}'"):
        registry.build("strategy", spec)
