"""Strategies by measured loss, where the right answer is known."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from merge_advisor.arrays import Float64Array
from merge_advisor.select.sets import even_sets
from tests.support.select_world import CountedLosses, constant_gains, gains_of, places, random_world, seeded, world
from tests.support.strategy_contract import choose


def test_shot_loss_takes_those_that_beat_the_base_and_measures_each_once() -> None:
    losses = CountedLosses([0.2, -0.5, 0.9, 0.0, 0.4])
    choice = choose("shot_loss", world(np.eye(5), np.ones(5), shot_loss=losses), 5)
    assert places(choice) == [2, 4, 0]
    np.testing.assert_allclose(gains_of(choice), [0.9, 0.4, 0.2])
    assert losses.calls == [{}, {0: 1.0}, {1: 1.0}, {2: 1.0}, {3: 1.0}, {4: 1.0}]


def test_shot_loss_gives_the_best_even_where_none_beats_the_base() -> None:
    choice = choose("shot_loss", world(np.eye(3), np.ones(3), shot_loss=CountedLosses([-0.3, -0.1, -0.2])), 3)
    assert places(choice) == [1]
    np.testing.assert_allclose(gains_of(choice)[0], -0.1)
    assert choice.stopped == "another partner adds nothing"


class Pairs(CountedLosses):
    """Members 0 and 2 complete each other; 1 is the best alone after 0, and of no use beside it."""

    def loss_of(self, weights: Mapping[int, float], share: float) -> float:
        table = {"": 3.0, "0": 2.0, "1": 2.1, "2": 2.8, "02": 1.5, "01": 2.0, "12": 2.5}
        return table.get("".join(map(str, sorted(weights))), 1.4999)


def test_greedy_measures_merges_and_stops_when_the_loss_falls_no_further() -> None:
    losses = Pairs()
    evidence = world(np.eye(4)[:3], np.ones(4), shot_loss=losses)
    assert places(choose("shot_loss", evidence, 2)) == [0, 1]
    losses.calls.clear()
    choice = choose("shot_loss:greedy=true", evidence, 3)
    assert places(choice) == [0, 2]
    np.testing.assert_allclose(gains_of(choice), [1.0, 0.5])
    assert choice.stopped == "another partner adds nothing"
    assert len(losses.calls) == 1 + 3 + 2 + 2  # the third partner at full strength, then averaged
    assert all(weight in (1, 1 / len(call)) for call in losses.calls for weight in call.values())
    assert places(choose("shot_loss:greedy=true,least=0", evidence, 3)) == [0, 2, 1]


@pytest.mark.parametrize(("rows", "spec", "k", "chosen", "why"), [
    (10, "rerank", 2, [0, 2], "k reached"),
    (9, "rerank", 2, [0], "fewer than 10 rows choose one model (few=1)"),
    (9, "rerank", 1, [0], "k reached"),
    (9, "rerank:few=2", 3, [0, 2], "fewer than 10 rows choose 2 models at most (few=2)"),
    (9, "rerank:few=2", 2, [0, 2], "k reached"),
    (9, "rerank:few=3,sets=0", 3, [0, 2], "another partner adds nothing"),
])  # fmt: skip
def test_of_few_rows_rerank_takes_one_model_unless_told(
    rows: int, spec: str, k: int, chosen: list[int], why: str
) -> None:
    evidence = world(
        np.eye(4)[:3], np.ones(4), shot_loss=Pairs(), gradient_gain=constant_gains(np.array([0.9, 0.8, 0.7]))
    )
    choice = choose(spec, replace(evidence, rows=rows), k)
    assert (places(choice), choice.stopped) == (chosen, why)


@pytest.mark.parametrize("first", ["gradient", "delta", "text"])
def test_rerank_measures_the_shortlist_alone(first: str) -> None:
    n = 40
    rng = np.random.default_rng(6)
    gains = np.linspace(1, -1, n)
    deltas = np.stack([np.ones(n), np.arange(n)], axis=1)  # turning away from the task as the position grows
    texts = tuple("sorting" + " beads" * place for place in range(n))  # likewise
    drops = np.zeros(n)
    drops[[3, 5, 30]] = 0.5, 0.8, 1.9  # 30 is the best, and far from the shortlist
    losses = CountedLosses(drops)
    evidence = world(
        deltas, [1.0, 0.0], texts=texts, query="sorting", shot_loss=losses,
        gradient_gain=constant_gains(gains),
    )  # fmt: skip
    evidence = seeded(evidence, int(rng.integers(9)))
    choice = choose(f"rerank:first={first},pool=8,sets=0", evidence, 4)
    assert places(choice)[0] == 5
    assert {position for call in losses.calls for position in call} == set(range(8))
    assert len({tuple(call.items()) for call in losses.calls}) <= 1 + 8 * 4
    assert places(choose(f"rerank:first={first},pool=31", evidence, 1)) == [30]


class Early(CountedLosses):
    """Position 7 looks best on few rows, and is the worst on all."""

    def loss_of(self, weights: Mapping[int, float], share: float) -> float:
        return 1.0 if 7 in weights and share < 1 else super().loss_of(weights, share)


def test_what_falls_behind_on_few_rows_is_not_measured_on_the_others() -> None:
    gains = np.linspace(1, 0.1, 8)
    for spec, counts in (("rerank", {0.5: 8, 1.0: 4}), ("rerank:halving=false", {1.0: 8})):
        losses = Early([0.1, 0.5, 0.8, 0.2, 0.7, 0.3, 0.4, 0.0])
        evidence = world(np.eye(8), np.ones(8), shot_loss=losses, gradient_gain=constant_gains(gains))
        assert places(choose(spec, evidence, 1)) == [2]
        singles = [share for call, share in zip(losses.calls, losses.shares, strict=True) if call]
        assert {share: singles.count(share) for share in singles} == counts


class Crowd(CountedLosses):
    """No partner helps a single member, three of 2, 3, 5 and 6 together do; all gradients are alike."""

    def loss_of(self, weights: Mapping[int, float], share: float) -> float:
        good = len({2, 3, 5, 6} & set(weights))
        return 3.0 if not weights else {0: 2.9, 1: 2.0, 2: 2.2, 3: 1.2, 4: 1.0}[good] + 0.001 * len(weights)


def test_rerank_measures_sets_where_no_step_leads_to_them() -> None:
    losses = Crowd()
    evidence = world(np.eye(9), np.ones(9), shot_loss=losses, gradient_gain=constant_gains(np.linspace(2, 1, 9)))
    assert places(choose("rerank:sets=0", evidence, 4)) == [2]
    choice = choose("rerank:sets=126", evidence, 4)  # all there are
    assert places(choice) == [2, 3, 5, 6] and choice.stopped == "k reached"
    np.testing.assert_allclose(gains_of(choice), [0.999, -0.201, 0.999, 0.199])
    tried = [tuple(call) for call in losses.calls if len(call) == 4 and set(call.values()) == {0.25}]
    assert len(set(tried)) == 126
    few = choose("rerank:sets=30", evidence, 4)
    assert len({2, 3, 5, 6} & set(places(few))) >= 3
    assert places(choose("rerank:sets=30", evidence, 4)) == places(few)  # no chance in it
    assert places(choose("rerank:sets=126", seeded(evidence, anchor=8), 4))[0] == 8
    assert places(choose("rerank", evidence, 1)) == [2]


@pytest.mark.parametrize(
    ("n", "k", "count"), [(16, 4, 16), (16, 3, 16), (9, 4, 200), (5, 5, 4), (40, 20, 16), (4, 2, 6)]
)
def test_even_sets(n: int, k: int, count: int) -> None:
    positions = list(range(100, 100 + n))
    sets = even_sets(positions, k, count)
    assert sets == even_sets(positions, k, count) and len(set(sets)) == len(sets) == min(count, math.comb(n, k))
    assert all(list(members) == sorted(set(members)) and len(members) == k for members in sets)
    times = [sum(position in members for members in sets) for position in positions]
    assert max(times) - min(times) <= (1 if n % k == 0 else 3)


def test_random_takes_the_best_of_its_sets_by_all_rows() -> None:
    drops = np.linspace(0.05, 0.4, 9)
    whole = {}
    for halving in ("true", "false"):
        losses = CountedLosses(drops)
        choice = choose(f"random:sets=8,halving={halving}", seeded(random_world(), 3, shot_loss=losses), 3)
        drawn = {tuple(sorted(call)) for call in losses.calls}
        assert len(drawn) == 8 and tuple(sorted(places(choice))) == max(drawn, key=lambda s: drops[list(s)].sum())
        whole[halving] = losses.shares.count(1.0)
    assert whole == {"true": 2 * 4, "false": 2 * 8}


def test_rerank_keeps_a_demanded_anchor_and_looks_for_its_partners() -> None:
    losses = Pairs()
    evidence = world(np.eye(3), np.ones(3), shot_loss=losses, gradient_gain=constant_gains(np.zeros(3)), anchor=2)
    assert places(choose("rerank", evidence, 2)) == [2, 0]


@pytest.mark.parametrize(("by", "wanted"), [("delta", 0), ("gradient", 1), ("shot_loss", 2)])
def test_best_single(by: str, wanted: int) -> None:
    evidence = world(
        np.eye(3),
        [1.0, 0.5, 0.2],
        gradient_gain=constant_gains(np.array([0, 1.0, 0])),
        shot_loss=CountedLosses([0.1, 0.2, 0.3]),
    )
    choice = choose(f"best_single:by={by}", evidence, 3)
    assert places(choice) == [wanted]


def test_rerank_looks_for_partners_in_the_gradient_beside_the_merge() -> None:
    """Two near copies of the best lead the ranking at the base; the complement leads it only beside the first."""
    asked: list[tuple[dict[int, float], float]] = []

    def gains(merge: Mapping[int, float], share: float) -> Float64Array:
        asked.append((dict(merge), share))
        return np.array([0.0, 0.1, 0.1, 5.0] if merge else [3.0, 2.9, 2.8, 0.0])

    def loss(weights: Mapping[int, float], share: float) -> float:
        first = max((weights.get(position, 0) for position in (0, 1, 2)), default=0)
        return 4.0 - first - 2 * weights.get(3, 0) * (first > 0) - 0.01 * weights.get(0, 0)

    evidence = world(np.eye(4), np.ones(4), gradient_gain=gains, shot_loss=loss)
    choice = choose("rerank:pool=2", evidence, 2)
    assert places(choice) == [0, 3] and asked == [({}, 1.0), ({0: 1.0}, 1.0)]
