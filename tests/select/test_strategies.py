"""Each strategy where the right answer is known."""

import itertools
import math

import numpy as np
import pytest

from merge_advisor import registry
from merge_advisor.select.diversity import Facility, Kdpp
from merge_advisor.select.sets import even_sets
from merge_advisor.select.similarity import unit_rows
from merge_advisor.select.text import words_of
from merge_advisor.weights.updates import LowRankUpdate
from tests.support.select_world import Losses, lowrank, random_world, seeded, world


def choose(spec, evidence, k):
    return registry.build("strategy", spec).select(evidence, k)


def places(choice):
    return [pick.position for pick in choice.picks]


def two_clusters(seed=0, spread=0.05):
    """Positions 0-3 along x, 4-7 along y, 8 along z; the task is mostly x, some y, and against z."""
    rng = np.random.default_rng(seed)
    middles = np.repeat(np.eye(6)[:3], [4, 4, 1], axis=0)
    return world(middles + spread * rng.normal(size=(9, 6)), [1.0, 0.7, -0.3, 0, 0, 0], seed=seed)


def kind(position):
    return "xyz"[min(position // 4, 2)]


# --- random, anchor_random, all ---------------------------------------------------------------------------------------


def test_random_takes_every_set_about_equally_often_and_grows_by_nesting():
    evidence = random_world(4)
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for seed in range(600):
        found = places(choose("random", seeded(evidence, seed), 2))
        assert found == places(choose("random", seeded(evidence, seed), 3))[:2]
        counts[tuple(sorted(found))] += 1
    assert min(counts.values()) > 60  # 100 expected, standard deviation 9


def test_anchor_random_draws_partners_only():
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


def test_all_takes_the_pool_whatever_k_is():
    evidence = two_clusters()
    choice = choose("all", evidence, 2)
    assert places(choice) == [*places(choose("top_k", evidence, 8)), 8]
    assert choice.stopped == "the whole pool"


# --- by delta ---------------------------------------------------------------------------------------------------------


def test_top_k_orders_by_cosine_not_by_length():
    evidence = world([[0, 9.0], [2, 2], [0.1, 0], [-1, 0]], [1, 0.2])
    choice = choose("top_k", evidence, 4)
    assert places(choice) == [2, 1, 0]
    assert choice.stopped == "another partner adds nothing"
    cosines = [1 / 1.04**0.5, 1.2 / (2 * 1.04) ** 0.5, 0.2 / 1.04**0.5]
    np.testing.assert_allclose([pick.gain for pick in choice.picks], cosines, atol=1e-8)


def test_equal_deltas_tie_to_the_smaller_position():
    rng = np.random.default_rng(0)
    row = rng.normal(size=577)
    evidence = world(np.tile(row, (203, 1)), row + rng.normal(size=577))
    assert places(choose("top_k", evidence, 4)) == [0, 1, 2, 3]
    for objective in ("mmr", "facility", "kdpp"):
        choice = choose(f"anchor_diverse:objective={objective},diversity=0.6", evidence, 4)
        assert places(choice) == [0]
        assert choice.stopped == "another partner adds nothing"


def test_centring_takes_the_common_part_away():
    common = np.array([10.0, 0, 0, 0])
    deltas = common + np.array([[0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, -1, -1, 0]])
    evidence = world(deltas, common + np.array([0, 0, 2.0, 0]))
    plain, centred = choose("top_k", evidence, 3), choose("top_k:centre=true", evidence, 3)
    assert len(plain.picks) == 3 and min(pick.gain for pick in plain.picks) > 0.95
    assert places(centred) == [1]
    np.testing.assert_allclose(centred.picks[0].gain, 1, atol=1e-6)


@pytest.mark.parametrize("objective", ["mmr", "facility", "kdpp"])
@pytest.mark.parametrize("seed", range(5))
def test_anchor_diverse_goes_to_the_other_cluster_where_top_k_stays(objective, seed):
    evidence = two_clusters(seed)
    assert [kind(p) for p in places(choose("top_k", evidence, 3))] == ["x", "x", "x"]
    choice = choose(f"anchor_diverse:objective={objective},diversity=0.5,least=0.05", evidence, 6)
    assert [kind(p) for p in places(choice)] == ["x", "y"]
    assert choice.stopped == "another partner adds nothing"


def test_less_diversity_stays_nearer_to_the_task():
    evidence = two_clusters()
    for objective in ("mmr", "kdpp"):
        kinds = [kind(p) for p in places(choose(f"anchor_diverse:objective={objective},diversity=0.02", evidence, 3))]
        assert kinds == ["x", "x", "x"]


def test_mmr_gains_are_its_formula():
    deltas = np.array([[1.0, 0.2], [1, 0.1], [0.3, 1]])
    choice = choose("anchor_diverse:diversity=0.4", world(deltas, [1.0, 0.3]), 3)
    unit = deltas / np.linalg.norm(deltas, axis=1, keepdims=True)
    near = unit @ np.array([1.0, 0.3]) / np.linalg.norm([1.0, 0.3])
    assert places(choice) == [0, 1, 2]
    redundancy = [0, unit[1] @ unit[0], max(unit[2] @ unit[0], unit[2] @ unit[1])]
    wanted = [0.6 * near[p] - 0.4 * redundancy[p] for p in range(3)]
    np.testing.assert_allclose([pick.gain for pick in choice.picks], wanted, atol=1e-6)


def test_kdpp_gains_are_the_rise_of_log_det():
    rng = np.random.default_rng(1)
    rows = unit_rows(rng.normal(size=(8, 5)))
    relevance = rows @ rows[0]
    grown, chosen = Kdpp(rows, relevance, 0.4), []
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


def test_facility_gains_are_the_rise_of_coverage():
    rng = np.random.default_rng(2)
    rows = unit_rows(rng.normal(size=(8, 5)))
    relevance = rows @ rows[0]
    grown, chosen = Facility(rows, relevance, 0.25), []
    weights = np.maximum(relevance, 0) ** 3

    def coverage(members):
        best = np.maximum(rows @ rows[members].T, 0).max(axis=1) if members else np.zeros(8)
        return weights @ best / weights.sum()

    for position in (0, 5, 2):
        wanted = [coverage([*chosen, other]) - coverage(chosen) for other in range(8)]
        np.testing.assert_allclose(grown.gains(), wanted, atol=1e-6)
        grown.add(position)
        chosen.append(position)


@pytest.mark.parametrize("centre", ["false", "true"])
def test_additive_finds_the_parts_of_a_sum_and_their_shares(centre):
    rng = np.random.default_rng(4)
    deltas = rng.normal(size=(30, 60))
    if centre == "true":
        deltas += 5 * rng.normal(size=60)
    mean = deltas.mean(axis=0) if centre == "true" else 0
    task = mean + 3 * (deltas[7] - mean) + 1 * (deltas[21] - mean) + 2 * (deltas[11] - mean)
    choice = choose(f"additive:centre={centre}", world(deltas, task), 10)
    assert places(choice) == [7, 11, 21]
    np.testing.assert_allclose(choice.direction, [3 / 6, 2 / 6, 1 / 6], atol=1e-5)
    np.testing.assert_allclose(sum(pick.gain for pick in choice.picks), 1, atol=1e-6)
    assert choice.stopped == "another partner adds nothing"


def test_additive_uses_no_negative_share_and_drops_what_later_ones_replace():
    # 0 lies between the two true parts: taken first, worth nothing once both are there
    evidence = world([[1, 1, 0.0], [1, 0, 0], [0, 1, 0], [-1, 0, 0]], [1.0, 0.8, 0.0], anchor=None)
    assert places(choose("additive:least=0", evidence, 2)) == [0, 1]
    drop = world([[1, 1, 0.6], [1, 0, 0.0], [0, 1, 0]], [1.0, 1.0, 0.0])
    choice = choose("additive:least=0", drop, 3)
    assert places(choice) == [1, 2]
    np.testing.assert_allclose(choice.direction, [0.5, 0.5], atol=1e-6)


def test_additive_stops_at_the_stated_share():
    evidence = world(np.eye(4), [1.0, 0.5, 0.2, 0.0])  # shares of the squared length: .775 .194 .031
    assert places(choose("additive:least=0.03", evidence, 4)) == [0, 1, 2]
    assert places(choose("additive:least=0.04", evidence, 4)) == [0, 1]


@pytest.mark.parametrize("method", ["agglomerative", "kmeans"])
def test_cluster_takes_the_nearest_of_each_kind(method):
    evidence = two_clusters()
    scores = unit_rows(evidence.deltas.astype(float)) @ evidence.task_delta()
    choice = choose(f"cluster:method={method}", evidence, 3)
    near_x, near_y = int(np.argmax(scores[:4])), 4 + int(np.argmax(scores[4:8]))
    assert places(choice) == [near_x, near_y]  # and not 8, which is against the task
    assert choice.stopped == "another partner adds nothing"


def test_cluster_makes_no_more_clusters_than_deltas_differ():
    deltas = np.repeat([[1.0, 0.2], [0.2, 1.0]], 3, axis=0)
    for method in ("agglomerative", "kmeans"):
        choice = choose(f"cluster:method={method}", world(deltas, [1.0, 0.5]), 5)
        assert places(choice) == [0, 3]
        assert choice.stopped == "another partner adds nothing"


# --- by weights, text, gradient ---------------------------------------------------------------------------------------


def kin_world(**others):
    """Weights of 0: along e0; 1: half e0, half e1; 2: along e1; 3: opposed; 4: twice e0 (a copy); 5: nothing."""
    rows = np.array([[1, 0], [1, 1], [0, 1], [-1, 0.5], [2, 0], [0, 0]], np.float32)
    made = [{"w": LowRankUpdate(row[None], np.ones((1, 1), np.float32))} for row in rows]
    deltas = np.eye(6) + 0.01
    return world(deltas, deltas[0], weights_of=lambda p: made[p], **others)


def test_weight_kinship_least_and_most_alike():
    low = choose("weight_kinship", kin_world(), 6)
    assert places(low) == [0, 3, 2, 1]
    np.testing.assert_allclose([p.gain for p in low.picks[1:]], [1 + 1 / 1.25**0.5, 1, 1 - 0.5**0.5], atol=1e-6)
    high = choose("weight_kinship:kinship=high", kin_world(), 6)
    assert places(high) == [0, 1]
    assert high.stopped == low.stopped == "another partner adds nothing"
    assert places(choose("weight_kinship", kin_world(), 2)) == [0, 3]


def test_words_of_names():
    assert words_of("gsm8kMathWord_problems-HTTPServer").split() == ["gsm8k", "math", "word_problems-http", "server"]


def test_text_finds_names_and_cards():
    texts = (
        "qwen-SpanishTranslation",
        "org/legal_bench contracts and statutes",
        "adapter of the a base",
        "med-qa doctors, patients, statutes",
    )
    evidence = world(np.zeros((4, 2)), np.zeros(2), texts=texts, query="Which statutes bind the contracts of a legal?")
    choice = choose("text", evidence, 4)
    assert places(choice) == [1, 3]
    assert choice.picks[0].gain > choice.picks[1].gain > 0
    assert places(choose("text", seeded(evidence, query="a spanish sentence"), 4)) == [0]


def test_gradient_takes_gains_above_zero():
    gains = np.array([-0.1, 0.3, 0.0, 0.5, 0.3])
    choice = choose("gradient", world(np.eye(5), np.ones(5), gradient_gain=lambda weights, share=1.0: gains), 5)
    assert places(choice) == [3, 1, 4]
    assert [pick.gain for pick in choice.picks] == [0.5, 0.3, 0.3]


def test_gradient_distinct_passes_over_copies():
    gains = np.array([0.9, 0.5, 0.4, 0.3, 1.8, 0.0])  # 4 is twice 0
    choice = choose("gradient:distinct=true", kin_world(gradient_gain=lambda weights, share=1.0: gains), 6)
    assert places(choice) == [4, 2, 3, 1]
    wanted = [1.8, 0.4, 0.3 * (1 - 0.2**0.5), 0.5 * (1 - 0.5**0.5)]
    np.testing.assert_allclose([pick.gain for pick in choice.picks], wanted, atol=1e-5)
    assert choice.stopped == "another partner adds nothing"


# --- by measured loss -------------------------------------------------------------------------------------------------


def test_shot_loss_takes_those_that_beat_the_base_and_measures_each_once():
    losses = Losses([0.2, -0.5, 0.9, 0.0, 0.4])
    choice = choose("shot_loss", world(np.eye(5), np.ones(5), shot_loss=losses), 5)
    assert places(choice) == [2, 4, 0]
    np.testing.assert_allclose([pick.gain for pick in choice.picks], [0.9, 0.4, 0.2])
    assert losses.calls == [{}, {0: 1.0}, {1: 1.0}, {2: 1.0}, {3: 1.0}, {4: 1.0}]


def test_shot_loss_gives_the_best_even_where_none_beats_the_base():
    choice = choose("shot_loss", world(np.eye(3), np.ones(3), shot_loss=Losses([-0.3, -0.1, -0.2])), 3)
    assert places(choice) == [1]
    np.testing.assert_allclose(choice.picks[0].gain, -0.1)
    assert choice.stopped == "another partner adds nothing"


class Pairs(Losses):
    """Members 0 and 2 complete each other; 1 is the best alone after 0, and of no use beside it."""

    def __call__(self, weights, share=1.0):
        self.calls.append(dict(weights))
        table = {(): 3.0, (0,): 2.0, (1,): 2.1, (2,): 2.8, (0, 2): 1.5, (0, 1): 2.0, (1, 2): 2.5}
        return table.get(tuple(sorted(weights)), 1.4999)


def test_greedy_measures_merges_and_stops_when_the_loss_falls_no_further():
    losses = Pairs([])
    evidence = world(np.eye(4)[:3], np.ones(4), shot_loss=losses)
    assert places(choose("shot_loss", evidence, 2)) == [0, 1]
    losses.calls.clear()
    choice = choose("shot_loss:greedy=true", evidence, 3)
    assert places(choice) == [0, 2]
    np.testing.assert_allclose([pick.gain for pick in choice.picks], [1.0, 0.5])
    assert choice.stopped == "another partner adds nothing"
    assert len(losses.calls) == 1 + 3 + 2 + 2  # the third partner at full strength, then averaged
    assert all(weight in (1, 1 / len(call)) for call in losses.calls for weight in call.values())
    assert places(choose("shot_loss:greedy=true,least=0", evidence, 3)) == [0, 2, 1]


@pytest.mark.parametrize("first", ["gradient", "delta", "text"])
def test_rerank_measures_the_shortlist_alone(first):
    n = 40
    rng = np.random.default_rng(6)
    gains = np.linspace(1, -1, n)
    deltas = np.stack([np.ones(n), np.arange(n)], axis=1)  # turning away from the task as the position grows
    texts = tuple("sorting" + " beads" * place for place in range(n))  # likewise
    drops = np.zeros(n)
    drops[[3, 5, 30]] = 0.5, 0.8, 1.9  # 30 is the best, and far from the shortlist
    losses = Losses(drops)
    evidence = world(
        deltas, [1.0, 0.0], texts=texts, query="sorting", shot_loss=losses,
        gradient_gain=lambda weights, share=1.0: gains,
    )  # fmt: skip
    evidence = seeded(evidence, int(rng.integers(9)))
    choice = choose(f"rerank:first={first},pool=8,sets=0", evidence, 4)
    assert places(choice)[0] == 5
    assert {position for call in losses.calls for position in call} == set(range(8))
    assert len({tuple(call.items()) for call in losses.calls}) <= 1 + 8 * 4
    assert places(choose(f"rerank:first={first},pool=31", evidence, 1)) == [30]


class Early(Losses):
    """Position 7 looks best on few rows, and is the worst on all."""

    def __call__(self, weights, share=1.0):
        loss = super().__call__(weights)
        self.shares[-1] = share
        return 1.0 if 7 in weights and share < 1 else loss


def test_what_falls_behind_on_few_rows_is_not_measured_on_the_others():
    gains = np.linspace(1, 0.1, 8)
    for spec, counts in (("rerank", {0.5: 8, 1.0: 4}), ("rerank:halving=false", {1.0: 8})):
        losses = Early([0.1, 0.5, 0.8, 0.2, 0.7, 0.3, 0.4, 0.0])
        evidence = world(np.eye(8), np.ones(8), shot_loss=losses, gradient_gain=lambda weights, share: gains)
        assert places(choose(spec, evidence, 1)) == [2]
        singles = [share for call, share in zip(losses.calls, losses.shares, strict=True) if call]
        assert {share: singles.count(share) for share in singles} == counts


class Crowd(Losses):
    """No partner helps a single member, three of 2, 3, 5 and 6 together do; everybody's gradient is alike."""

    def __call__(self, weights, share=1.0):
        self.calls.append(dict(weights))
        good = len({2, 3, 5, 6} & set(weights))
        return 3.0 if not weights else {0: 2.9, 1: 2.0, 2: 2.2, 3: 1.2, 4: 1.0}[good] + 0.001 * len(weights)


def test_rerank_measures_sets_where_no_step_leads_to_them():
    losses = Crowd([])
    evidence = world(np.eye(9), np.ones(9), shot_loss=losses, gradient_gain=lambda weights, share: np.linspace(2, 1, 9))
    assert places(choose("rerank:sets=0", evidence, 4)) == [2]
    choice = choose("rerank:sets=126", evidence, 4)  # all there are
    assert places(choice) == [2, 3, 5, 6] and choice.stopped == "k reached"
    np.testing.assert_allclose([pick.gain for pick in choice.picks], [0.999, -0.201, 0.999, 0.199])
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
def test_even_sets(n, k, count):
    positions = list(range(100, 100 + n))
    found = even_sets(positions, k, count)
    assert found == even_sets(positions, k, count) and len(set(found)) == len(found) == min(count, math.comb(n, k))
    assert all(list(members) == sorted(set(members)) and len(members) == k for members in found)
    times = [sum(position in members for members in found) for position in positions]
    assert max(times) - min(times) <= (1 if n % k == 0 else 3)


def test_random_takes_the_best_of_its_sets_by_all_rows():
    drops = np.linspace(0.05, 0.4, 9)
    found = {}
    for halving in ("true", "false"):
        losses = Losses(drops)
        choice = choose(f"random:sets=8,halving={halving}", seeded(random_world(), 3, shot_loss=losses), 3)
        drawn = {tuple(sorted(call)) for call in losses.calls}
        assert len(drawn) == 8 and tuple(sorted(places(choice))) == max(drawn, key=lambda s: drops[list(s)].sum())
        found[halving] = losses.shares.count(1.0)
    assert found == {"true": 2 * 4, "false": 2 * 8}


def test_rerank_keeps_a_demanded_anchor_and_looks_for_its_partners():
    losses = Pairs([])
    evidence = world(
        np.eye(3), np.ones(3), shot_loss=losses, gradient_gain=lambda weights, share=1.0: np.zeros(3), anchor=2
    )
    assert places(choose("rerank", evidence, 2)) == [2, 0]


@pytest.mark.parametrize(("by", "wanted"), [("delta", 0), ("gradient", 1), ("shot_loss", 2)])
def test_best_single(by, wanted):
    evidence = world(
        np.eye(3),
        [1.0, 0.5, 0.2],
        gradient_gain=lambda weights, share=1.0: np.array([0, 1.0, 0]),
        shot_loss=Losses([0.1, 0.2, 0.3]),
    )
    choice = choose(f"best_single:by={by}", evidence, 3)
    assert places(choice) == [wanted]


def test_a_gain_is_written_in_plain_numbers():
    evidence = seeded(random_world(), weights_of=lambda p: {"w": lowrank(np.random.default_rng(p))})
    for name in registry.names("strategy"):
        for pick in choose(name, seeded(evidence), 4).picks:
            assert type(pick.position) is int
            assert type(pick.gain) in (float, type(None))


def test_rerank_looks_for_partners_in_the_gradient_beside_the_merge():
    """Two near copies of the best lead the ranking at the base; the complement leads it only beside the first."""
    asked = []

    def gains(merge, share):
        asked.append((dict(merge), share))
        return np.array([0.0, 0.1, 0.1, 5.0] if merge else [3.0, 2.9, 2.8, 0.0])

    def loss(weights, share):
        first = max((weights.get(position, 0) for position in (0, 1, 2)), default=0)
        return 4.0 - first - 2 * weights.get(3, 0) * (first > 0) - 0.01 * weights.get(0, 0)

    evidence = world(np.eye(4), np.ones(4), gradient_gain=gains, shot_loss=loss)
    choice = choose("rerank:pool=2", evidence, 2)
    assert places(choice) == [0, 3] and asked == [({}, 1.0), ({0: 1.0}, 1.0)]
