"""The law of each composition, against plain formulas, mergekit's own functions and PEFT."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor.compose.mask_cache import MaskCache
from merge_advisor.compose.slerp import slerp
from merge_advisor.compose.sparse import largest_mask
from merge_advisor.compose.truncate import truncate, truncated_svd
from merge_advisor.errors import SpecError
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, WeightDelta
from tests.support.compositions import (
    RANDOM,
    SHAPES,
    WHOLE,
    adapter,
    assert_same,
    build,
    checkpoint,
    compose,
    dense,
    matrix,
)
from tests.support.compositions import stored_checkpoint as stored
from tests.support.models import LLAMA_MODULES, write_lora
from tests.support.updates import low_rank

BIG = 40_000
"""Entries enough for shares and means to be told from chance."""


def big(*seeds: int) -> list[dict[str, DenseUpdate]]:
    """Members of one parameter of 200 x 200."""
    return [{"w.weight": DenseUpdate(matrix(seed))} for seed in seeds]


class TestParameters:
    @pytest.mark.parametrize("name", sorted(WHOLE))
    @pytest.mark.parametrize("density", ["0", "-0.1", "1.1", "nan"])
    def test_density_is_a_share(self, name: str, density: str) -> None:
        with pytest.raises(SpecError, match=f"composition '{name}:density={density}': density="):
            build(f"{name}:density={density}")

    @pytest.mark.parametrize(
        ("spec", "why"),
        [("ties:sign=most", "sum, count"), ("breadcrumbs:gamma=1", "gamma=1"), ("breadcrumbs:gamma=-0.1", "gamma"),
         ("dare_linear:rescale=l2", "l1, density, none"), ("della:density=0.9", "epsilon=0.15"),
         ("della:epsilon=-1", "epsilon"), ("svd:rank=-1", "rank=-1"), ("dare_ties:sign=x", "sum, count"),
         ("ties:top=0.2", "its parameters: density, sign, normalize"), ("dare_linear:seed=a", "seed")],
    )  # fmt: skip
    def test_the_rest_is_checked_too(self, spec: str, why: str) -> None:
        with pytest.raises(SpecError, match=why):
            build(spec)


class TestLargest:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 99), st.sampled_from([1, 7, 500, 20_000]), st.floats(0, 1), st.booleans())
    def test_is_the_first_k_of_a_stable_sort(self, seed: int, size: int, share: Any, coarse: Any) -> None:
        sizes = np.abs(np.random.default_rng(seed).normal(size=size)).astype(np.float32)
        sizes = np.round(sizes, 1) if coarse else sizes  # many equal ones
        keep = int(share * size)
        wanted = np.zeros(size, bool)
        wanted[np.argsort(-sizes, kind="stable")[:keep]] = True
        np.testing.assert_array_equal(largest_mask(sizes, keep), wanted)

    def test_sorted_arrays_do_not_fool_the_sample(self) -> None:
        for sizes in (np.arange(50_000), np.arange(50_000)[::-1], np.tile([0, 1], 25_000), np.zeros(50_000)):
            found = np.asarray(sizes, np.float32)
            for keep in (1, 100, 25_000, 49_999, 50_000, 0):
                mask = largest_mask(found, keep)
                assert mask.sum() == keep and (
                    not keep or keep == len(found) or found[mask].min() >= found[~mask].max()
                )


class TestTies:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data(), density=st.sampled_from([0.1, 0.4, 0.75, 1.0]), k=st.integers(1, 4))
    def test_is_the_papers_algorithm_with_lambda_the_sum_of_weights(
        self, data: st.DataObject, density: float, k: int
    ) -> None:
        weights = [1.0 / k] * k if data.draw(st.booleans()) else [0.5 + i for i in range(k)]
        deltas = np.stack([matrix(10 * data.draw(st.integers(0, 9)) + i, (12, 9)) for i in range(k)]).astype(np.float64)
        for delta in deltas:
            delta[np.abs(delta) < np.sort(np.abs(delta), axis=None)[-max(1, int(density * delta.size))]] = 0
        weighted = deltas * np.reshape(weights, (-1, 1, 1))
        sign = np.where(weighted.sum(axis=0) >= 0, 1, -1)
        agree = np.sign(deltas) == sign
        share = (np.reshape(weights, (-1, 1, 1)) * agree).sum(axis=0)
        wanted = sum(weights) * (weighted * agree).sum(axis=0) / np.where(share, share, 1)
        members = [{"w.weight": DenseUpdate(delta.astype(np.float32))} for delta in deltas]
        merged = compose("ties:density=1", members, weights)  # they are trimmed already
        np.testing.assert_allclose(merged["w.weight"].dense(), wanted, atol=1e-5)
        np.testing.assert_allclose(
            compose(f"ties:density={density}", members, weights)["w.weight"].dense(), wanted, atol=1e-5
        )

    def test_members_are_counted_where_asked(self) -> None:
        members = [{"w.weight": DenseUpdate(np.array([[value]], np.float32))} for value in (3.0, -1.0, -1.0)]
        by_sum, by_count = (
            compose(f"ties:density=1,sign={sign}", members, [1 / 3] * 3)["w.weight"].dense()
            for sign in ("sum", "count")
        )
        assert by_sum == pytest.approx(3) and by_count == pytest.approx(-1)

    def test_without_normalize_those_that_agree_are_added(self) -> None:
        members = [{"w.weight": DenseUpdate(np.array([[value]], np.float32))} for value in (3.0, 1.0, -1.0)]
        merged = compose("ties:density=1,normalize=false", members, [0.5, 0.25, 1.0])
        assert merged["w.weight"].dense() == pytest.approx(0.5 * 3 + 0.25 * 1)

    def test_at_least_one_entry_is_kept(self) -> None:
        merged = compose("ties:density=0.001", [adapter(0)], [1.0])
        assert all(np.count_nonzero(merged[name].dense()) == 1 for name in SHAPES)


class TestAgainstMergekitsFunctions:
    """Its own functions on the same arrays; whole models are compared in test_mergekit.py."""

    @pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9, 1.0])
    def test_what_is_kept(self, density: float) -> None:
        import torch
        from mergekit.sparsify import magnitude, magnitude_outliers

        for seed, gamma in itertools.product(range(3), (0.0, 0.01, 0.2)):
            array = matrix(seed, (37, 23))
            members = [{"w.weight": DenseUpdate(array)}]
            for spec, theirs in (
                (f"magnitude:density={density}", magnitude(torch.from_numpy(array), density)),
                (f"ties:density={density}", magnitude(torch.from_numpy(array), density)),
                (f"breadcrumbs:density={density},gamma={gamma}",
                 magnitude_outliers(torch.from_numpy(array), density, gamma=gamma)),
            ):  # fmt: skip
                np.testing.assert_allclose(compose(spec, members, [1.0])["w.weight"].dense(), theirs.numpy(), atol=1e-6)

    def test_random_ones_keep_as_many_and_rescale_alike(self) -> None:
        import torch
        from mergekit.sparsify import RescaleNorm, bernoulli, della_magprune

        array = matrix(3)
        torch.manual_seed(0)
        tensor = torch.from_numpy(array)
        for spec, theirs in (
            ("dare_linear:density=0.3", bernoulli(tensor, 0.3, RescaleNorm.l1)),
            ("della:density=0.4,epsilon=0.3,consensus=none", della_magprune(tensor, 0.4, 0.3, RescaleNorm.l1)),
        ):
            ours = compose(spec, [{"w.weight": DenseUpdate(array)}], [1.0])["w.weight"].dense()
            order = np.argsort(np.abs(array), axis=1)
            for fifth in np.array_split(order, 5, axis=1):  # by size within the row
                kept = [float(np.mean(np.take_along_axis(m, fifth, 1) != 0)) for m in (ours, theirs.numpy())]
                assert kept[0] == pytest.approx(kept[1], abs=0.03)  # 4 standard errors of 8000 entries each
            assert np.abs(ours).sum() == pytest.approx(float(theirs.abs().sum()), rel=1e-4)
            assert np.abs(ours).sum() == pytest.approx(np.abs(array).sum(), rel=1e-4)


@pytest.mark.parametrize("name", RANDOM)
class TestRandom:
    def test_the_same_seed_the_same_bytes(self, name: str) -> None:
        one, two, other = (
            compose(f"{name}:seed={seed}", big(0, 1), [0.5, 0.5])["w.weight"].dense() for seed in (3, 3, 4)
        )
        assert one.tobytes() == two.tobytes() and one.tobytes() != other.tobytes()

    def test_a_members_mask_is_its_own(self, name: str) -> None:
        """Whatever the weights and the other members: the merge is the sum of what each gives alone."""
        rule = build(f"{name}:density=0.5,{'consensus=none' if name == 'della' else 'seed=0'}")
        if name == "dare_ties":
            rule = build("dare_linear:density=0.5")  # without the election
        alone = [rule.compose([member], [1.0])["w.weight"].dense() for member in big(0, 1, 2)]
        for order, weights in (((0, 1, 2), [0.5, 1, 2]), ((2, 1, 0), [-1, 0, 0.5])):
            merged = rule.compose(big(*order), weights)["w.weight"].dense()
            wanted = sum(np.float64(weight) * alone[seed] for seed, weight in zip(order, weights, strict=True))
            np.testing.assert_allclose(merged, wanted, rtol=1e-5, atol=1e-6)

    def test_another_parameter_or_member_draws_anew(self, name: str) -> None:
        rule = build(name)
        one, two = DenseUpdate(matrix(0)), DenseUpdate(matrix(1))
        masks = [rule.sparsify(key, update).mask for key, update in (("a", one), ("b", one), ("a", two))]
        for left, right in itertools.combinations(masks, 2):
            assert np.mean(left == right) == pytest.approx(0.5, abs=0.03)

    def test_the_share_kept_is_the_density(self, name: str) -> None:
        for density in (0.2, 0.5, 0.8):
            mask = build(f"{name}:density={density}").sparsify("w", DenseUpdate(matrix(5))).mask
            assert mask.mean() == pytest.approx(density, abs=4 * np.sqrt(density * (1 - density) / BIG))

    def test_density_one_keeps_all(self, name: str) -> None:
        merged = compose(f"{name}:density=1", big(0), [0.5])["w.weight"].dense()
        np.testing.assert_allclose(merged, 0.5 * matrix(0), rtol=1e-6)


def test_dare_means_the_member_on_average() -> None:
    """Over draws the mean of what is kept, rescaled, is the member (the paper's claim, for its own rescaling)."""
    member = [{"w.weight": DenseUpdate(matrix(0, (20, 20)))}]
    draws = [compose(f"dare_linear:density=0.5,rescale=density,seed={seed}", member, [1.0]) for seed in range(400)]
    mean = np.mean([draw["w.weight"].dense() for draw in draws], axis=0)
    assert np.abs(mean - matrix(0, (20, 20))).max() < 5 * np.abs(matrix(0, (20, 20))).max() / np.sqrt(400)
    assert np.corrcoef(mean.ravel(), matrix(0, (20, 20)).ravel())[0, 1] > 0.99


def test_della_keeps_large_entries_likelier() -> None:
    array = matrix(0)
    mask = build("della:density=0.5,epsilon=0.4").sparsify("w", DenseUpdate(array)).mask
    order = np.argsort(np.abs(array), axis=1)
    shares = [float(np.take_along_axis(mask, part, 1).mean()) for part in np.array_split(order, 4, axis=1)]
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.6, 0.8], atol=0.03)


def test_dare_ties_adds_and_della_averages() -> None:
    members = [{"w.weight": DenseUpdate(np.array([[value]], np.float32))} for value in (3.0, 1.0, -1.0)]
    assert compose("dare_ties:density=1", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(2.0)
    assert compose("dare_ties:density=1,normalize=true", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(3.0)
    assert compose("della:density=1", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(3.0)
    assert compose("della:density=1,consensus=none", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(1.5)


class TestModelStock:
    def test_is_the_formula(self) -> None:
        members = [adapter(seed, scale=0.5 + seed) for seed in range(3)]
        merged = dense(compose("model_stock", members, [1 / 3] * 3))
        for name in SHAPES:
            arrays = [dense(member)[name] for member in members]
            cosines = [
                np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(arrays, 2)
            ]
            t = 3 * np.mean(cosines) / (1 + 2 * np.mean(cosines))
            np.testing.assert_allclose(merged[name], t * np.mean(arrays, axis=0), atol=1e-5)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_row_by_row(self, transposed: bool) -> None:
        members = [adapter(seed, transposed=transposed) for seed in range(2)]
        merged = dense(compose("model_stock:filter_wise=true", members, [0.5, 0.5]))
        for name in SHAPES:
            one, two = (dense(member)[name] for member in members)
            cosine = np.sum(one * two, axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
            np.testing.assert_allclose(merged[name], (2 * cosine / (1 + cosine))[:, None] * (one + two) / 2, atol=1e-4)

    def test_equal_members_are_kept_whole_and_opposite_ones_vanish(self) -> None:
        one = adapter(0)
        assert_same(dense(compose("model_stock", [one, dict(one)], [0.5, 0.5])), dense(one))
        assert_same(dense(compose("model_stock", [one, one], [0.5, -0.5])), dense({}), atol=1e-6)


class TestSlerp:
    def test_is_an_arc_of_the_whole_weights(self) -> None:
        one, other = stored(0), stored(1)
        merged = dense(compose("slerp", [one, other], [0.75, 0.25]))
        for name in SHAPES:
            base = one.base_weight(name).astype(np.float64)
            left, right = (base + dense(member)[name] for member in (one, other))
            angle = np.arccos(np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right))
            arc = (np.sin(0.75 * angle) * left + np.sin(0.25 * angle) * right) / np.sin(angle)
            np.testing.assert_allclose(merged[name], arc - base, atol=1e-5)

    def test_unit_vectors_stay_unit_and_parallel_ones_go_straight(self) -> None:
        one, other = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
        np.testing.assert_allclose(slerp(one, other, 0.5), [np.sqrt(0.5)] * 2, atol=1e-6)
        np.testing.assert_allclose(slerp(one, 3 * one, 0.25), [1.5, 0], atol=1e-6)
        np.testing.assert_allclose(slerp(one, -one, 0.25), [0.5, 0], atol=1e-6)
        np.testing.assert_allclose(slerp(0 * one, other, 0.5), [0, np.sin(np.pi / 4)], atol=1e-6)

    def test_two_at_most_and_of_one_sign(self) -> None:
        with pytest.raises(SpecError, match="two checkpoints, not 3; give `k=2`"):
            compose("slerp", [stored(0), stored(1), stored(2)], [1, 1, 1])
        with pytest.raises(SpecError, match="same sign"):
            compose("slerp", [stored(0), stored(1)], [1, -0.5])


class TestSvd:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_is_the_best_of_its_rank(self, rank: int) -> None:
        members = [adapter(0), adapter(1, rank=3)]
        merged, whole = (compose(spec, members, [0.5, 1.0]) for spec in (f"svd:rank={rank}", "exact"))
        for name in SHAPES:
            values = np.linalg.svd(dense(whole)[name], compute_uv=False)
            away = np.linalg.norm(dense(whole)[name] - dense(merged)[name])
            assert low_rank(merged, name).rank == rank
            assert away == pytest.approx(np.linalg.norm(values[rank:]), abs=1e-5)

    def test_without_a_rank_it_is_the_largest_of_the_members(self) -> None:
        assert low_rank(compose("svd", [adapter(0), adapter(1, rank=3)], [0.5, 1.0]), "q.weight").rank == 3
        with pytest.raises(SpecError, match="svd:rank=R"):
            dense(compose("svd", [checkpoint(0)], [1.0]))

    @pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
    def test_a_matrix_is_cut_as_well_as_factors(self, shape: Any) -> None:
        array = matrix(0, shape)
        values = np.linalg.svd(array.astype(np.float64), compute_uv=False)
        for rank in (1, 5, 40):
            found, lost, whole = truncated_svd(DenseUpdate(array), rank)
            assert isinstance(found, LowRankUpdate) and found.rank == min(rank, 20)
            np.testing.assert_allclose(lost, np.sum(values[rank:] ** 2), atol=1e-6 * whole)
            np.testing.assert_allclose(np.sum((found.dense() - array) ** 2), lost, atol=1e-5 * whole)

    def test_truncate_keeps_vectors_and_zeros(self) -> None:
        delta = {"a.weight": DenseUpdate(np.zeros((3, 4), np.float32)), "n.weight": DenseUpdate(np.ones(3, np.float32))}
        found, error = truncate(delta, 2)
        assert error == 0 and not found["a.weight"].dense().any() and found["n.weight"] is delta["n.weight"]


def test_linear_is_pefts(tiny_llama: Path, tmp_path: Path) -> None:
    """Signs, scales, patterns and other targets, as `add_weighted_adapter` leaves them in plain PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.support.merges import assert_same_weights, merged_weights, state_of

    only_q = {name: shape for name, shape in LLAMA_MODULES.items() if "q_proj" in name}
    folders = [
        write_lora(tmp_path / "a", LLAMA_MODULES, alpha=8, seed=1),
        write_lora(tmp_path / "b", LLAMA_MODULES, alpha=3, seed=2, use_rslora=True),
        write_lora(tmp_path / "c", only_q, alpha=2, seed=3, alpha_pattern={"layers.1.self_attn.q_proj": 12}),
    ]
    weights = [0.75, -0.5, 1.25]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(number))
    model.add_weighted_adapter([str(i) for i in range(3)], weights, "merged", combination_type="linear")
    model.set_adapter("merged")
    shapes = {name: info.shape for name, (_, info) in open_folder(tiny_llama).items()}
    merged = compose("linear", [read_adapter(folder, shapes) for folder in folders], weights)
    assert_same_weights(state_of(model.merge_and_unload(adapter_names=["merged"])), merged_weights(tiny_llama, merged))


class TestMaskCache:
    """What thins members out does it once for merges of the same members; the merges are the same to the byte."""

    @pytest.mark.parametrize("name", sorted(WHOLE))
    def test_masks_are_made_once_and_merges_are_the_same(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        rule, again = build(name), MaskCache(build(name))
        members: list[WeightDelta] = [adapter(1), adapter(2, scale=0.5), checkpoint(3)]
        wanted = [dense(rule.compose(members, weights)) for weights in ((0.5, 1, -0.2), (2, 0.3, 1), (0, 1, 1))]
        made, sparsify = [], type(rule).sparsify

        def counted(self: Any, *told: Any) -> Any:
            made.append(told)
            return sparsify(self, *told)

        monkeypatch.setattr(type(rule), "sparsify", counted)
        for weights, parts in zip(((0.5, 1, -0.2), (2, 0.3, 1), (0, 1, 1)), wanted, strict=True):
            for key, part in dense(again.compose(members, weights)).items():
                np.testing.assert_array_equal(part, parts[key])
        assert len(made) == len(members) * len(SHAPES)
        assert again.bytes == sum(-(-out * width // 8) for out, width in SHAPES.values()) * len(members)

    def test_densities_do_not_share_masks(self) -> None:
        half, all_of_it = MaskCache(build("magnitude")), MaskCache(build("magnitude:density=1"))
        members = [adapter(1)]
        assert np.count_nonzero(dense(half.compose(members, [1.0]))["q.weight"]) == 15
        assert np.count_nonzero(dense(all_of_it.compose(members, [1.0]))["q.weight"]) == 30
        assert all_of_it.bytes == 0

    def test_it_forgets_members_that_are_gone_and_keeps_no_more_than_it_may(self) -> None:
        members = big(1, 2)
        again, small = MaskCache(build("ties")), MaskCache(build("ties"), most=6_000)
        for rule in (again, small):
            rule.compose(members, [1.0, 1.0])["w.weight"]
        assert again.bytes == 2 * 200 * 200 // 8 and small.bytes == 200 * 200 // 8
        np.testing.assert_array_equal(
            small.compose(members, [1.0, 2.0])["w.weight"].dense(),
            build("ties").compose(members, [1.0, 2.0])["w.weight"].dense(),
        )
        del members
        assert again.bytes == small.bytes == 0
