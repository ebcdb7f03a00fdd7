"""Strategies at random and by delta, where the right answer is known."""

import itertools

import numpy as np
import pytest

from merge_advisor.select import Evidence
from merge_advisor.select.diversity import Facility, Kdpp
from merge_advisor.select.similarity import unit_rows
from tests.support.select_world import gains_of, places, random_world, seeded, world
from tests.support.strategy_contract import choose


def two_clusters(seed: int = 0, spread: float = 0.05) -> Evidence:
    """Positions 0-3 along x, 4-7 along y, 8 along z; the task is mostly x, some y, and against z."""
    rng = np.random.default_rng(seed)
    middles = np.repeat(np.eye(6)[:3], [4, 4, 1], axis=0)
    return world(middles + spread * rng.normal(size=(9, 6)), [1.0, 0.7, -0.3, 0, 0, 0], seed=seed)


def kind(position: int) -> str:
    return "xyz"[min(position // 4, 2)]


def test_random_takes_every_set_about_equally_often_and_grows_by_nesting() -> None:
    evidence = random_world(4)
    counts: dict[tuple[int, ...], int] = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for seed in range(600):
        drawn = places(choose("random", seeded(evidence, seed), 2))
        assert drawn == places(choose("random", seeded(evidence, seed), 3))[:2]
        counts[tuple(sorted(drawn))] += 1
    assert min(counts.values()) > 60  # 100 expected, standard deviation 9


def test_anchor_random_draws_partners_only() -> None:
    evidence = two_clusters()
    nearest = places(choose("top_k", evidence, 1))[0]
    seen = set()
    for seed in range(60):
        choice = choose("anchor_random", seeded(evidence, seed), 3)
        assert places(choice)[0] == nearest
        assert choice.stopped == "k reached"
        assert choice.picks[0].gain is not None and choice.picks[1].gain is None
        seen.update(places(choice)[1:])
    assert seen == set(range(9)) - {nearest}


def test_all_takes_the_pool_whatever_k_is() -> None:
    evidence = two_clusters()
    choice = choose("all", evidence, 2)
    assert places(choice) == [*places(choose("top_k", evidence, 8)), 8]
    assert choice.stopped == "the whole pool"


def test_top_k_orders_by_cosine_not_by_length() -> None:
    evidence = world(np.array([[0, 9.0], [2, 2], [0.1, 0], [-1, 0]]), [1, 0.2])
    choice = choose("top_k", evidence, 4)
    assert places(choice) == [2, 1, 0]
    assert choice.stopped == "another partner adds nothing"
    cosines = [1 / 1.04**0.5, 1.2 / (2 * 1.04) ** 0.5, 0.2 / 1.04**0.5]
    np.testing.assert_allclose(gains_of(choice), cosines, atol=1e-8)


def test_equal_deltas_tie_to_the_smaller_position() -> None:
    rng = np.random.default_rng(0)
    row = rng.normal(size=577)
    evidence = world(np.tile(row, (203, 1)), row + rng.normal(size=577))
    assert places(choose("top_k", evidence, 4)) == [0, 1, 2, 3]
    for objective in ("mmr", "facility", "kdpp"):
        choice = choose(f"anchor_diverse:objective={objective},diversity=0.6", evidence, 4)
        assert places(choice) == [0]
        assert choice.stopped == "another partner adds nothing"


def test_centring_takes_the_common_part_away() -> None:
    common = np.array([10.0, 0, 0, 0])
    deltas = common + np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, -1, -1, 0]])
    evidence = world(deltas, common + np.array([0, 0, 2.0, 0]))
    plain, centred = choose("top_k", evidence, 3), choose("top_k:centre=true", evidence, 3)
    assert len(plain.picks) == 3 and gains_of(plain).min() > 0.95
    assert places(centred) == [1]
    np.testing.assert_allclose(gains_of(centred)[0], 1, atol=1e-6)


@pytest.mark.parametrize("objective", ["mmr", "facility", "kdpp"])
@pytest.mark.parametrize("seed", range(5))
def test_anchor_diverse_goes_to_the_other_cluster_where_top_k_stays(objective: str, seed: int) -> None:
    evidence = two_clusters(seed)
    assert [kind(p) for p in places(choose("top_k", evidence, 3))] == ["x", "x", "x"]
    choice = choose(f"anchor_diverse:objective={objective},diversity=0.5,least=0.05", evidence, 6)
    assert [kind(p) for p in places(choice)] == ["x", "y"]
    assert choice.stopped == "another partner adds nothing"


def test_less_diversity_stays_nearer_to_the_task() -> None:
    evidence = two_clusters()
    for objective in ("mmr", "kdpp"):
        kinds = [kind(p) for p in places(choose(f"anchor_diverse:objective={objective},diversity=0.02", evidence, 3))]
        assert kinds == ["x", "x", "x"]


def test_mmr_gains_are_its_formula() -> None:
    deltas = np.array([[1.0, 0.2], [1, 0.1], [0.3, 1]])
    choice = choose("anchor_diverse:diversity=0.4", world(deltas, [1.0, 0.3]), 3)
    unit = deltas / np.linalg.norm(deltas, axis=1, keepdims=True)
    near = unit @ np.array([1.0, 0.3]) / np.linalg.norm([1.0, 0.3])
    assert places(choice) == [0, 1, 2]
    redundancy = [0, unit[1] @ unit[0], max(unit[2] @ unit[0], unit[2] @ unit[1])]
    wanted = [0.6 * near[p] - 0.4 * redundancy[p] for p in range(3)]
    np.testing.assert_allclose(gains_of(choice), wanted, atol=1e-6)


def test_kdpp_gains_are_the_rise_of_log_det() -> None:
    rng = np.random.default_rng(1)
    rows = unit_rows(rng.normal(size=(8, 5)))
    relevance = rows @ rows[0]
    grown, chosen = Kdpp(rows, relevance, 0.4), list[int]()
    quality = np.exp(relevance * 0.6 / 0.8)
    kernel = quality[:, None] * (rows @ rows.T) * quality
    before = 0.0
    for position in (0, 5, 2, 7):
        rises = grown.gains()
        for other in set(range(8)) - set(chosen):
            inside = np.ix_([*chosen, other], [*chosen, other])
            np.testing.assert_allclose(rises[other], np.linalg.slogdet(kernel[inside])[1] - before, atol=1e-9)
        grown.add(position)
        chosen.append(position)
        before = np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1]


def test_facility_gains_are_the_rise_of_coverage() -> None:
    rng = np.random.default_rng(2)
    rows = unit_rows(rng.normal(size=(8, 5)))
    relevance = rows @ rows[0]
    grown, chosen = Facility(rows, relevance, 0.25), list[int]()
    weights = np.maximum(relevance, 0) ** 3

    def coverage(members: list[int]) -> float:
        best = np.maximum(rows @ rows[members].T, 0).max(axis=1) if members else np.zeros(8)
        return float(weights @ best / weights.sum())

    for position in (0, 5, 2):
        wanted = [coverage([*chosen, other]) - coverage(chosen) for other in range(8)]
        np.testing.assert_allclose(grown.gains(), wanted, atol=1e-6)
        grown.add(position)
        chosen.append(position)


@pytest.mark.parametrize("centre", ["false", "true"])
def test_additive_finds_the_parts_of_a_sum_and_their_shares(centre: str) -> None:
    rng = np.random.default_rng(4)
    deltas = rng.normal(size=(30, 60))
    if centre == "true":
        deltas += 5 * rng.normal(size=60)
    mean = deltas.mean(axis=0) if centre == "true" else 0
    task = mean + 3 * (deltas[7] - mean) + 1 * (deltas[21] - mean) + 2 * (deltas[11] - mean)
    choice = choose(f"additive:centre={centre}", world(deltas, task), 10)
    assert places(choice) == [7, 11, 21]
    np.testing.assert_allclose(np.array(choice.direction), [3 / 6, 2 / 6, 1 / 6], atol=1e-5)
    np.testing.assert_allclose(gains_of(choice).sum(), 1, atol=1e-6)
    assert choice.stopped == "another partner adds nothing"


def test_additive_uses_no_negative_share_and_drops_what_later_ones_replace() -> None:
    # 0 lies between the two true parts: taken first, worth nothing once both are there
    evidence = world(np.array([[1, 1, 0.0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]]), [1.0, 0.8, 0.0], anchor=None)
    assert places(choose("additive:least=0", evidence, 2)) == [0, 1]
    drop = world(np.array([[1, 1, 0.6], [1, 0, 0.0], [0, 1, 0]]), [1.0, 1.0, 0.0])
    choice = choose("additive:least=0", drop, 3)
    assert places(choice) == [1, 2]
    np.testing.assert_allclose(np.array(choice.direction), [0.5, 0.5], atol=1e-6)


def test_additive_stops_at_the_stated_share() -> None:
    evidence = world(np.eye(4), [1.0, 0.5, 0.2, 0.0])  # shares of the squared length: .775 .194 .031
    assert places(choose("additive:least=0.03", evidence, 4)) == [0, 1, 2]
    assert places(choose("additive:least=0.04", evidence, 4)) == [0, 1]


@pytest.mark.parametrize("method", ["agglomerative", "kmeans"])
def test_cluster_takes_the_nearest_of_each_kind(method: str) -> None:
    evidence = two_clusters()
    scores = unit_rows(evidence.deltas.astype(float)) @ evidence.task_delta()
    choice = choose(f"cluster:method={method}", evidence, 3)
    near_x, near_y = int(np.argmax(scores[:4])), 4 + int(np.argmax(scores[4:8]))
    assert places(choice) == [near_x, near_y]  # and not 8, which is against the task
    assert choice.stopped == "another partner adds nothing"


def test_cluster_makes_no_more_clusters_than_deltas_differ() -> None:
    deltas = np.repeat([[1.0, 0.2], [0.2, 1.0]], 3, axis=0)
    for method in ("agglomerative", "kmeans"):
        choice = choose(f"cluster:method={method}", world(deltas, [1.0, 0.5]), 5)
        assert places(choice) == [0, 3]
        assert choice.stopped == "another partner adds nothing"
