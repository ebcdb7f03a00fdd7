"""What every registered composition keeps, the law of each, and cutting to a rank."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor import registry
from merge_advisor.compose.truncate import truncate
from merge_advisor.errors import InputError, SpecError
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, WeightDelta, digest_of_delta, is_low_rank
from tests.support.compositions import (
    ALONE,
    DEGREE,
    NAMES,
    ON_ADAPTERS,
    SHAPES,
    WEIGHT_SPACE,
    WHOLE,
    adapter,
    assert_same,
    checkpoint,
    compose,
    dense,
    member_of,
)
from tests.support.updates import low_rank


def drawn(data: st.DataObject, name: str) -> tuple[list[WeightDelta], list[float]]:
    """Members and weights that the composition takes."""
    most = getattr(registry.load("composition", name), "most", 4)
    seeds = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=most, unique=True))
    low = 0 if name == "slerp" else -3
    weights = data.draw(st.lists(st.floats(low, 3, width=16), min_size=len(seeds), max_size=len(seeds)))
    return [member_of(name, seed, scale=0.5 + seed / 40) for seed in seeds], weights


weight = st.floats(-3, 3, width=16)
seeds = st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True)


@pytest.mark.parametrize("name", NAMES)
class TestEveryComposition:
    def test_states_what_it_does(self, name: str) -> None:
        found = registry.build("composition", name)
        assert found.name == name and found.weight_means and found.source and found.memory
        assert found.takes in ("adapters", "checkpoints", "both")
        assert all(isinstance(value, bool) for value in (found.linear, found.low_rank, found.deterministic))
        assert found.deterministic or found.seed == 0

    @pytest.mark.parametrize("transposed", [False, True])
    def test_one_member_at_weight_one_is_that_member(self, name: str, transposed: bool) -> None:
        member = member_of(name, 0, scale=1.5, transposed=transposed)
        assert_same(dense(compose(WHOLE.get(name, name), [member], [1.0])), dense(member), atol=1e-5)

    def test_weights_of_zero_change_nothing(self, name: str) -> None:
        assert_same(dense(compose(name, [member_of(name, 0), member_of(name, 1)], [0.0, 0.0])), dense({}), atol=0)

    def test_a_member_of_weight_zero_does_not_count(self, name: str) -> None:
        both = compose(name, [member_of(name, 0), member_of(name, 1, names=("q.weight",))], [0.7, 0.0])
        assert_same(dense(both), dense(compose(name, [member_of(name, 0)], [0.7])), atol=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_the_order_of_members_does_not_matter(self, name: str, data: st.DataObject) -> None:
        members, weights = drawn(data, name)
        order = data.draw(st.permutations(range(len(members))))
        one = compose(name, members, weights)
        other = compose(name, [members[i] for i in order], [weights[i] for i in order])
        assert_same(dense(one), dense(other), atol=1e-3)

    @settings(max_examples=20, deadline=None)
    @given(data=st.data(), factor=st.sampled_from([0.5, 2.0, 4.0]))
    def test_scaling_law(self, name: str, data: st.DataObject, factor: float) -> None:
        members, weights = drawn(data, name)
        one = dense(compose(name, members, weights))
        other = dense(compose(name, members, [factor * weight for weight in weights]))
        law = factor ** DEGREE.get(name, 1)
        assert_same(other, {key: law * array for key, array in one.items()}, atol=1e-3)

    @settings(max_examples=20, deadline=None)
    @given(data=st.data())
    def test_opposite_weights_are_the_opposite_update(self, name: str, data: st.DataObject) -> None:
        members, weights = drawn(data, name)
        one = dense(compose(name, members, weights))
        other = dense(compose(name, members, [-weight for weight in weights]))
        sign = (-1) ** DEGREE.get(name, 1)
        assert_same(other, {key: sign * array for key, array in one.items()}, atol=1e-3)

    def test_inputs_are_unchanged(self, name: str) -> None:
        members = [member_of(name, 0), member_of(name, 1, scale=0.5)]
        before = [digest_of_delta(member) for member in members]
        dense(compose(name, members, [0.3, 2.0]))
        assert [digest_of_delta(member) for member in members] == before

    def test_float32_inside(self, name: str) -> None:
        merged = compose(name, [member_of(name, 0), member_of(name, 1)], [0.3, 0.6])
        assert all(merged[key].dense().dtype == np.float32 for key in merged)

    def test_low_rank_in_low_rank_out(self, name: str) -> None:
        if registry.load("composition", name).low_rank:
            assert is_low_rank(compose(name, [adapter(0), adapter(1)], [0.5, 0.5]))

    def test_linear_means_linear(self, name: str) -> None:
        if registry.load("composition", name).linear:
            members = [adapter(0), adapter(1, scale=0.25)]
            merged = dense(compose(name, members, [0.75, -1.5]))
            wanted = {n: 0.75 * dense(members[0])[n] - 1.5 * dense(members[1])[n] for n in SHAPES}
            assert_same(merged, wanted, atol=1e-5)

    def test_what_it_does_not_take_is_refused(self, name: str) -> None:
        takes = registry.load("composition", name).takes
        if takes == "both":
            dense(compose("svd:rank=2" if name == "svd" else name, [checkpoint(0), checkpoint(1)], [0.5, 0.5]))
        else:
            wrong = checkpoint if takes == "adapters" else adapter
            with pytest.raises(SpecError, match=f"composition {name}: .*use exact"):
                compose(name, [wrong(0), wrong(1)], [0.5, 0.5])

    @pytest.mark.parametrize("weights", [[1.0], [float("nan"), 1.0]])
    def test_bad_weights_are_refused(self, name: str, weights: Any) -> None:
        with pytest.raises(SpecError, match=f"composition {name}"):
            compose(name, [member_of(name, 0), member_of(name, 1)], weights)


@pytest.mark.parametrize("name", ON_ADAPTERS)
class TestOnAdapters:
    def test_disjoint_targets_stay_apart(self, name: str) -> None:
        left, right = adapter(0, names=("q.weight",)), adapter(1, names=("v.weight",))
        merged = compose(WHOLE.get(name, name), [left, right], [0.5, 0.5])
        assert sorted(merged) == ["q.weight", "v.weight"]
        wanted = {key: ALONE.get(name, 0.5) * array for key, array in dense({**left, **right}).items()}
        assert_same(dense(merged), wanted, atol=1e-5)

    def test_the_result_reads_a_parameter_at_a_time(self, name: str) -> None:
        members = [Counting(adapter(0)), Counting(adapter(1))]
        merged = compose(name, members, [0.5, 0.5])
        for member in members:
            member.read.clear()
        merged["v.weight"]
        assert {found for member in members for found in member.read} == {"v.weight"}
        assert "nothing" not in merged
        with pytest.raises(KeyError):
            merged["nothing"]

    def test_members_of_other_bases_are_refused(self, name: str) -> None:
        other = {"q.weight": LowRankUpdate(np.ones((2, 7), np.float32), np.ones((6, 2), np.float32))}
        with pytest.raises(SpecError, match=r"q\.weight has shapes"):
            compose(name, [adapter(0), other], [0.5, 0.5])["q.weight"]


@pytest.mark.parametrize("name", WEIGHT_SPACE)
class TestWeightSpace:
    """What is computed on ΔW does not know how ΔW was stored."""

    @settings(max_examples=15, deadline=None)
    @given(data=st.data(), seeds=seeds)
    def test_mixed_ranks_and_scales_are_their_updates(self, name: str, data: st.DataObject, seeds: list[int]) -> None:
        spec = "svd:rank=3" if name == "svd" else name
        weights = data.draw(st.lists(st.floats(0.125, 3, width=16), min_size=len(seeds), max_size=len(seeds)))
        members = [adapter(s, rank=1 + s % 4, scale=0.1 + s / 50) for s in seeds]
        plain = [{key: DenseUpdate(update.dense()) for key, update in member.items()} for member in members]
        assert_same(dense(compose(spec, members, weights)), dense(compose(spec, plain, weights)), atol=1e-3)

    def test_gpt2_layout(self, name: str) -> None:
        members = [adapter(0, transposed=True), adapter(1, rank=3, transposed=True)]
        plain = [{key: DenseUpdate(update.dense()) for key, update in member.items()} for member in members]
        spec = "svd:rank=3" if name == "svd" else name
        merged = compose(spec, members, [0.5, 0.25])
        assert merged["q.weight"].shape == SHAPES["q.weight"]
        assert_same(dense(merged), dense(compose(spec, plain, [0.5, 0.25])))

    def test_vectors_of_checkpoints(self, name: str) -> None:
        members = [{"norm.weight": DenseUpdate(np.array([1, -2, 3, i], np.float32))} for i in (4, 5)]
        merged = compose("svd:rank=1" if name == "svd" else WHOLE.get(name, name), members, [0.5, 0.5])
        assert merged["norm.weight"].shape == (4,) and np.isfinite(merged["norm.weight"].dense()).all()


class Counting(dict[str, LowRankUpdate]):
    """A delta that notes what was read."""

    def __init__(self, delta: dict[str, LowRankUpdate]) -> None:
        super().__init__(delta)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> LowRankUpdate:
        self.read.append(name)
        return super().__getitem__(name)


class TestExact:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data(), seeds=seeds)
    def test_sums_mixed_ranks_scales_and_checkpoints(self, data: st.DataObject, seeds: list[int]) -> None:
        weights = data.draw(st.lists(weight, min_size=len(seeds), max_size=len(seeds)))
        members = [checkpoint(s) if s % 3 == 0 else adapter(s, rank=1 + s % 4, scale=0.1 + s / 50) for s in seeds]
        merged = dense(compose("exact", members, weights))
        for name in SHAPES:
            wanted = sum(w * dense(member)[name] for member, w in zip(members, weights, strict=True))
            np.testing.assert_allclose(merged[name], wanted, atol=1e-4)

    def test_rank_is_the_sum_of_ranks(self) -> None:
        merged = compose("exact", [adapter(0, rank=1), adapter(1, rank=3, names=("q.weight",))], [1.0, 2.0])
        assert (low_rank(merged, "q.weight").rank, low_rank(merged, "v.weight").rank) == (4, 1)

    def test_only_what_a_checkpoint_changes_is_dense(self) -> None:
        part = {"q.weight": checkpoint(0)["q.weight"]}
        merged = compose("exact", [adapter(1), part], [1.0, 1.0])
        assert isinstance(merged["q.weight"], DenseUpdate) and isinstance(merged["v.weight"], LowRankUpdate)

    def test_gpt2_layout(self) -> None:
        left, right = adapter(0, transposed=True), adapter(1, rank=3, transposed=True)
        merged = compose("exact", [left, right], [1.0, -1.0])
        assert merged["q.weight"].shape == SHAPES["q.weight"]
        assert_same(dense(merged), {n: dense(left)[n] - dense(right)[n] for n in SHAPES})


class TestLoraHub:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data(), seeds=seeds)
    def test_with_one_scale_it_is_the_formula_of_its_code(self, data: st.DataObject, seeds: list[int]) -> None:
        weights = data.draw(st.lists(weight, min_size=len(seeds), max_size=len(seeds)))
        members = [adapter(seed, scale=1.25) for seed in seeds]
        merged = dense(compose("lorahub", members, weights))
        for name in SHAPES:
            a = np.sum([w * m[name].a.astype(np.float64) for m, w in zip(members, weights, strict=True)], axis=0)
            b = np.sum([w * m[name].b.astype(np.float64) for m, w in zip(members, weights, strict=True)], axis=0)
            np.testing.assert_allclose(merged[name], 1.25 * b @ a, atol=1e-3)

    def test_twice_the_weights_is_four_times_the_delta(self) -> None:
        members = [adapter(0), adapter(1, scale=0.5)]
        one, two = (dense(compose("lorahub", members, [0.25 * s, -0.75 * s])) for s in (1, 2))
        assert_same(two, {name: 4 * array for name, array in one.items()})

    def test_opposite_weights_are_the_same_model(self) -> None:
        members = [adapter(0), adapter(1)]
        plus, minus = (dense(compose("lorahub", members, [0.5 * s, -0.25 * s])) for s in (1, -1))
        assert_same(plus, minus, atol=0)
        assert np.abs(plus["q.weight"]).max() > 0.01

    def test_it_is_not_exact(self) -> None:
        members, weights = [adapter(0), adapter(1)], [0.5, 0.5]
        factors, sums = (dense(compose(name, members, weights))["q.weight"] for name in ("lorahub", "exact"))
        assert np.abs(factors - sums).max() > 0.1

    @pytest.mark.parametrize(
        ("other", "why"), [(adapter(1, rank=3), r"q\.weight.*ranks 2, 3"), (checkpoint(1), r"q\.weight.*checkpoint")]
    )
    def test_what_it_cannot_add_is_refused_by_name(self, other: Any, why: str) -> None:
        with pytest.raises(SpecError, match=why):
            dense(compose("lorahub", [adapter(0), other], [0.5, 0.5]))


class TestTruncate:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 99), rank=st.integers(1, 6))
    def test_is_the_best_of_that_rank_and_states_its_error(self, seed: int, rank: int) -> None:
        delta = adapter(seed, rank=4)
        cut, error = truncate(delta, rank)
        lost = whole = 0.0
        for name in SHAPES:
            matrix = dense(delta)[name]
            values = np.linalg.svd(matrix, compute_uv=False)
            away = np.sum((matrix - dense(cut)[name]) ** 2)
            np.testing.assert_allclose(away, np.sum(values[rank:] ** 2), atol=1e-6 * np.sum(values**2))
            lost, whole = lost + np.sum(values[rank:] ** 2), whole + np.sum(values**2)
            assert low_rank(cut, name).rank == min(rank, 4)
        assert error == pytest.approx(np.sqrt(lost / whole), abs=1e-6)
        assert (error == 0) == (rank >= 4)

    def test_what_fits_is_handed_on_untouched(self) -> None:
        delta = adapter(0, rank=3)
        cut, error = truncate(delta, 3)
        assert error == 0 and all(cut[name] is delta[name] for name in delta)

    def test_only_what_is_too_large_is_cut(self) -> None:
        delta = {"q.weight": adapter(0, rank=4)["q.weight"], "v.weight": adapter(1, rank=2)["v.weight"]}
        cut, error = truncate(delta, 2)
        assert low_rank(cut, "q.weight").rank == 2 and cut["v.weight"] is delta["v.weight"] and 0 < error < 1

    def test_a_rank_that_is_more_than_it_needs_costs_nothing(self) -> None:
        one = adapter(0, rank=2)
        twice = compose("exact", [one, one], [0.5, 0.5])  # rank 4 on paper, 2 in truth
        cut, error = truncate(twice, 2)
        assert error < 1e-6 and low_rank(cut, "q.weight").rank == 2
        assert_same(dense(cut), dense(one))

    def test_gpt2_layout(self) -> None:
        delta = adapter(0, rank=3, transposed=True)
        cut, error = truncate(delta, 2)
        away = sum(np.sum((dense(delta)[n] - dense(cut)[n]) ** 2) for n in SHAPES)
        assert np.sqrt(away / sum(np.sum(dense(delta)[n] ** 2) for n in SHAPES)) == pytest.approx(error, abs=1e-6)

    def test_the_dense_matrix_is_never_formed(self) -> None:
        rng = np.random.default_rng(0)
        a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 400_000), (400_000, 3)))
        cut, error = truncate({"huge.weight": LowRankUpdate(a, b)}, 1)  # 640 GB as a matrix
        assert low_rank(cut, "huge.weight").b.shape == (400_000, 1) and 0 < error < 1

    def test_nothing_and_all_zero(self) -> None:
        assert truncate({}, 4)[1] == 0.0
        zero = LowRankUpdate(np.zeros((3, 5), np.float32), np.zeros((6, 3), np.float32))
        cut, error = truncate({"q.weight": zero}, 1)
        assert error == 0.0 and not cut["q.weight"].dense().any()

    def test_rank_below_one_is_refused(self) -> None:
        with pytest.raises(InputError, match="`rank=0`: an adapter has at least rank 1"):
            truncate(adapter(0), 0)
