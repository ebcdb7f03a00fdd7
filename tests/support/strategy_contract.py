"""The contract of a strategy as tests: a class of tests over a `spec`, for the registered ones and for any other.

A subclass gives `spec`, by `pytest.mark.parametrize` or by a fixture of that name; what the spec names is registered.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge_advisor import registry
from merge_advisor.arrays import FloatingArray
from merge_advisor.select import Choice, Evidence
from merge_advisor.select.run_strategy import run_strategy
from tests.support.select_world import idle_world, lowrank, random_world, seeded, world

SLOW = ("cluster", "text")
"""Strategies on scikit-learn: milliseconds a choice, too slow for hundreds of random pools."""


def choose(spec: str, evidence: Evidence, k: int) -> Choice:
    """The choice of a strategy; well formed, and stating whatever the strategy used (`run_strategy` sees to that)."""
    choice = run_strategy(spec, evidence, k)
    n = len(evidence.ids)
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
    return choice


class StrategyContract:
    """What every strategy keeps to; `merge_advisor.select` says it in words."""

    def test_it_says_what_it_is(self, spec: str) -> None:
        name = spec.partition(":")[0]
        cls = registry.load("strategy", name)
        assert cls.name == name
        assert cls.centres in ("no", "yes", "option")
        assert (cls.centres == "option") == ("centre" in {field.name for field in dataclasses.fields(cls)})
        assert cls.cost and isinstance(cls.stops, str)
        assert registry.summary("strategy", name).endswith((".", ")"))
        built = registry.build("strategy", spec)
        with pytest.raises(dataclasses.FrozenInstanceError):
            built.name = "other"

    @pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (2, 2), (9, 1), (9, 4), (9, 9)])
    def test_a_choice_is_well_formed(self, spec: str, n: int, k: int) -> None:
        choose(spec, random_world(n), k)

    @pytest.mark.parametrize("anchor", [0, 3, 6])
    @pytest.mark.parametrize("k", [1, 3])
    def test_a_demanded_anchor_comes_first(self, spec: str, anchor: int, k: int) -> None:
        evidence = random_world(7)
        opposed = seeded(evidence, anchor=anchor, task_delta=lambda: -evidence.task_delta())
        for case in (seeded(evidence, anchor=anchor), opposed):  # also where nothing speaks for it
            choice = choose(spec, case, k)
            assert choice.picks[0].position == anchor
            assert choice.direction is None or choice.direction[0] > 0

    def test_same_evidence_and_seed_same_choice(self, spec: str) -> None:
        evidence = random_world(12, seed=3)
        before = evidence.deltas.copy(), evidence.task_delta().copy()
        assert choose(spec, seeded(evidence, 5), 5) == choose(spec, seeded(evidence, 5), 5)
        np.testing.assert_array_equal(evidence.deltas, before[0])
        np.testing.assert_array_equal(evidence.task_delta(), before[1])

    def test_it_says_what_it_used(self, spec: str) -> None:
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

    def test_it_stops_where_nothing_is_added(self, spec: str) -> None:
        choice = choose(spec, idle_world(5), 3)
        if registry.load("strategy", spec.partition(":")[0]).stops:
            assert len(choice.picks) == 1
            assert choice.stopped != "k reached"
            assert choice.picks[0].position == 0
        else:
            assert len(choice.picks) >= 3

    @pytest.mark.parametrize(
        ("deltas", "task"),
        [
            (np.zeros((4, 3)), np.ones(3)),
            (np.ones((4, 3)), np.zeros(3)),
            (np.ones((4, 3)), np.ones(3)),
            (np.ones((4, 3)), -np.ones(3)),
            (np.array([[0.1, 0.7, 0.3]] * 6), np.array([0.1, 0.7, 0.3])),
            (np.eye(4)[:, :1], np.ones(1)),
            (np.array([[1e30, 0, 0], [1e-30, 0, 0], [0, 1e30, 0], [0, 0, 0]]), np.array([1e30, 1e30, 0])),
        ],
        ids=[
            "zero pool",
            "zero task",
            "all equal",
            "all opposed",
            "equal, inexact",
            "one dimension",
            "extreme lengths",
        ],
    )
    def test_degenerate_deltas_never_give_nan(self, spec: str, deltas: FloatingArray, task: FloatingArray) -> None:
        n = len(deltas)
        evidence = world(
            deltas, task, shot_loss=lambda weights, share=1.0: 2.0, gradient_gain=lambda weights, share=1.0: np.zeros(n)
        )
        for k in (1, 3, n):
            choose(spec, seeded(evidence), k)

    @pytest.mark.parametrize("anchor", [None, 2])
    def test_ties_go_to_the_smaller_position(self, spec: str, anchor: int | None) -> None:
        rng = np.random.default_rng(0)
        row = rng.normal(size=577)  # long enough that the order of summing shows in the last digits
        evidence = world(
            np.tile(row, (31, 1)), row + rng.normal(size=577), texts=("one word",) * 31, query="word",
            shot_loss=lambda weights, share=1.0: 3.0 - 0.1 * len(weights),
            gradient_gain=lambda weights, share=1.0: np.ones(31), anchor=anchor,
            weights_of=lambda position: {"layer.weight": lowrank(np.random.default_rng(0))},
        )  # fmt: skip
        choice = choose(spec, evidence, 4)
        if "rng" not in choice.used:
            order = [position for position in (anchor, *range(31)) if position is not None]
            wanted = list(dict.fromkeys(order))[: len(choice.picks)]
            assert [pick.position for pick in choice.picks] == wanted

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_measurements_that_are_no_numbers_are_survived(self, spec: str, bad: float) -> None:
        gains = np.array([bad, 0.2, -bad, 0.1])
        evidence = world(
            np.eye(4),
            np.ones(4),
            shot_loss=lambda weights, share=1.0: bad if 0 in weights else 2.0,
            gradient_gain=lambda weights, share=1.0: gains,
        )
        choose(spec, evidence, 3)
        hopeless: dict[str, Any] = {
            "shot_loss": lambda weights, share=1.0: bad,
            "gradient_gain": lambda weights, share=1.0: np.full(4, -math.inf),
        }
        choose(spec, seeded(evidence, **hopeless), 3)

    @given(
        n=st.integers(1, 8),
        d=st.integers(1, 6),
        k=st.integers(1, 8),
        seed=st.integers(0, 10**6),
        levels=st.integers(1, 4),
    )
    @settings(
        max_examples=20, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.differing_executors],  # a class of tests is inherited on purpose
    )  # fmt: skip
    def test_any_small_pool_gives_a_well_formed_choice(
        self, spec: str, n: int, d: int, k: int, seed: int, levels: int
    ) -> None:
        if spec.partition(":")[0] in SLOW:
            return
        rng = np.random.default_rng(seed)
        # few levels make ties, copies and zero rows common
        deltas = rng.integers(-levels, levels + 1, size=(n, d))
        choose(spec, world(deltas, rng.integers(-levels, levels + 1, size=d), seed=seed), min(k, n))
