"""The law of each composition, against plain formulas, mergekit's own functions and PEFT; layer groups; memory."""

import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import LLAMA_MODULES, write_lora
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compose import NAMES, ON_ADAPTERS, RANDOM, SHAPES, WHOLE, adapter, assert_same, checkpoint, compose, dense
from test_compose import stored_checkpoint as stored

from merge_advisor import registry
from merge_advisor.backbone.adapter import read_adapter
from merge_advisor.backbone.naming import block_of, count_blocks, layer_factor
from merge_advisor.backbone.tensorfile import open_folder
from merge_advisor.backbone.weights import Dense, LowRank
from merge_advisor.compose.crossing import crossing, parts_of
from merge_advisor.compose.layers import compose_layers
from merge_advisor.compose.slerp import slerp
from merge_advisor.compose.sparse import largest
from merge_advisor.compose.truncate import cut, truncate
from merge_advisor.errors import PoolError, SpecError

BIG = 40_000
"""Entries enough for shares and means to be told from chance."""


def matrix(seed, shape=(200, 200)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def big(*seeds):
    """Members of one parameter of 200 x 200."""
    return [{"w.weight": Dense(matrix(seed))} for seed in seeds]


def build(spec):
    return registry.build("composition", spec)


class TestParameters:
    @pytest.mark.parametrize("name", sorted(WHOLE))
    @pytest.mark.parametrize("density", ["0", "-0.1", "1.1", "nan"])
    def test_density_is_a_share(self, name, density):
        with pytest.raises(SpecError, match=f"composition '{name}:density={density}': density="):
            build(f"{name}:density={density}")

    @pytest.mark.parametrize(
        ("spec", "why"),
        [("ties:sign=most", "sum, count"), ("breadcrumbs:gamma=1", "gamma=1"), ("breadcrumbs:gamma=-0.1", "gamma"),
         ("dare_linear:rescale=l2", "l1, density, none"), ("della:density=0.9", "epsilon=0.15"),
         ("della:epsilon=-1", "epsilon"), ("svd:rank=-1", "rank=-1"), ("dare_ties:sign=x", "sum, count"),
         ("ties:top=0.2", "its parameters: density, sign, normalize"), ("dare_linear:seed=a", "seed")],
    )  # fmt: skip
    def test_the_rest_is_checked_too(self, spec, why):
        with pytest.raises(SpecError, match=why):
            build(spec)


class TestLargest:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 99), st.sampled_from([1, 7, 500, 20_000]), st.floats(0, 1), st.booleans())
    def test_is_the_first_k_of_a_stable_sort(self, seed, size, share, coarse):
        sizes = np.abs(np.random.default_rng(seed).normal(size=size)).astype(np.float32)
        sizes = np.round(sizes, 1) if coarse else sizes  # many equal ones
        keep = int(share * size)
        wanted = np.zeros(size, bool)
        wanted[np.argsort(-sizes, kind="stable")[:keep]] = True
        np.testing.assert_array_equal(largest(sizes, keep), wanted)

    def test_sorted_arrays_do_not_fool_the_sample(self):
        for sizes in (np.arange(50_000), np.arange(50_000)[::-1], np.tile([0, 1], 25_000), np.zeros(50_000)):
            found = np.asarray(sizes, np.float32)
            for keep in (1, 100, 25_000, 49_999, 50_000, 0):
                mask = largest(found, keep)
                assert mask.sum() == keep and (
                    not keep or keep == len(found) or found[mask].min() >= found[~mask].max()
                )


class TestTies:
    @settings(max_examples=25, deadline=None)
    @given(data=st.data(), density=st.sampled_from([0.1, 0.4, 0.75, 1.0]), k=st.integers(1, 4))
    def test_is_the_papers_algorithm_with_lambda_the_sum_of_weights(self, data, density, k):
        weights = [1.0 / k] * k if data.draw(st.booleans()) else [0.5 + i for i in range(k)]
        deltas = np.stack([matrix(10 * data.draw(st.integers(0, 9)) + i, (12, 9)) for i in range(k)]).astype(np.float64)
        for delta in deltas:
            delta[np.abs(delta) < np.sort(np.abs(delta), axis=None)[-max(1, int(density * delta.size))]] = 0
        weighted = deltas * np.reshape(weights, (-1, 1, 1))
        sign = np.where(weighted.sum(axis=0) >= 0, 1, -1)
        agree = np.sign(deltas) == sign
        share = (np.reshape(weights, (-1, 1, 1)) * agree).sum(axis=0)
        wanted = sum(weights) * (weighted * agree).sum(axis=0) / np.where(share, share, 1)
        members = [{"w.weight": Dense(delta.astype(np.float32))} for delta in deltas]
        merged = compose("ties:density=1", members, weights)  # they are trimmed already
        np.testing.assert_allclose(merged["w.weight"].dense(), wanted, atol=1e-5)
        np.testing.assert_allclose(
            compose(f"ties:density={density}", members, weights)["w.weight"].dense(), wanted, atol=1e-5
        )

    def test_members_are_counted_where_asked(self):
        members = [{"w.weight": Dense(np.float32([[value]]))} for value in (3.0, -1.0, -1.0)]
        by_sum, by_count = (
            compose(f"ties:density=1,sign={sign}", members, [1 / 3] * 3)["w.weight"].dense()
            for sign in ("sum", "count")
        )
        assert by_sum == pytest.approx(3) and by_count == pytest.approx(-1)

    def test_without_normalize_those_that_agree_are_added(self):
        members = [{"w.weight": Dense(np.float32([[value]]))} for value in (3.0, 1.0, -1.0)]
        merged = compose("ties:density=1,normalize=false", members, [0.5, 0.25, 1.0])
        assert merged["w.weight"].dense() == pytest.approx(0.5 * 3 + 0.25 * 1)

    def test_at_least_one_entry_is_kept(self):
        merged = compose("ties:density=0.001", [adapter(0)], [1.0])
        assert all(np.count_nonzero(merged[name].dense()) == 1 for name in SHAPES)


class TestAgainstMergekitsFunctions:
    """Its own functions on the same arrays; whole models are compared in test_mergekit.py."""

    @pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.9, 1.0])
    def test_what_is_kept(self, density):
        import torch
        from mergekit.sparsify import magnitude, magnitude_outliers

        for seed, gamma in itertools.product(range(3), (0.0, 0.01, 0.2)):
            array = matrix(seed, (37, 23))
            members = [{"w.weight": Dense(array)}]
            for spec, theirs in (
                (f"magnitude:density={density}", magnitude(torch.from_numpy(array), density)),
                (f"ties:density={density}", magnitude(torch.from_numpy(array), density)),
                (f"breadcrumbs:density={density},gamma={gamma}",
                 magnitude_outliers(torch.from_numpy(array), density, gamma=gamma)),
            ):  # fmt: skip
                np.testing.assert_allclose(compose(spec, members, [1.0])["w.weight"].dense(), theirs.numpy(), atol=1e-6)

    def test_random_ones_keep_as_many_and_rescale_alike(self):
        import torch
        from mergekit.sparsify import RescaleNorm, bernoulli, della_magprune

        array = matrix(3)
        torch.manual_seed(0)
        tensor = torch.from_numpy(array)
        for spec, theirs in (
            ("dare_linear:density=0.3", bernoulli(tensor, 0.3, RescaleNorm.l1)),
            ("della:density=0.4,epsilon=0.3,consensus=none", della_magprune(tensor, 0.4, 0.3, RescaleNorm.l1)),
        ):
            ours = compose(spec, [{"w.weight": Dense(array)}], [1.0])["w.weight"].dense()
            order = np.argsort(np.abs(array), axis=1)
            for fifth in np.array_split(order, 5, axis=1):  # by size within the row
                kept = [float(np.mean(np.take_along_axis(m, fifth, 1) != 0)) for m in (ours, theirs.numpy())]
                assert kept[0] == pytest.approx(kept[1], abs=0.03)  # 4 standard errors of 8000 entries each
            assert np.abs(ours).sum() == pytest.approx(float(theirs.abs().sum()), rel=1e-4)
            assert np.abs(ours).sum() == pytest.approx(np.abs(array).sum(), rel=1e-4)


@pytest.mark.parametrize("name", RANDOM)
class TestRandom:
    def kept(self, name, members, weights, which, seed=0):
        """Entries left of one member before signs are elected."""
        rule = build(f"{name}:seed={seed},density=0.5")
        return rule.sparsify("w.weight", members[which]["w.weight"]).mask

    def test_the_same_seed_the_same_bytes(self, name):
        one, two, other = (
            compose(f"{name}:seed={seed}", big(0, 1), [0.5, 0.5])["w.weight"].dense() for seed in (3, 3, 4)
        )
        assert one.tobytes() == two.tobytes() and one.tobytes() != other.tobytes()

    def test_a_members_mask_is_its_own(self, name):
        rule = build(f"{name}:density=0.5,{'consensus=none' if name == 'della' else 'seed=0'}")
        if name == "dare_ties":
            rule = build("dare_linear:density=0.5")  # without the election
        alone = parts_of(rule, big(0), [1.0])[0]["w.weight"].dense()
        for members, weights, place in ((big(0, 1, 2), [0.5, 1, 2], 0), (big(2, 1, 0), [-1, 0, 0.5], 2)):
            part = parts_of(rule, members, weights)[place]["w.weight"].dense()
            np.testing.assert_allclose(part, alone * weights[place], rtol=1e-6)

    def test_another_parameter_or_member_draws_anew(self, name):
        rule = build(name)
        one, two = Dense(matrix(0)), Dense(matrix(1))
        masks = [rule.sparsify(key, update).mask for key, update in (("a", one), ("b", one), ("a", two))]
        for left, right in itertools.combinations(masks, 2):
            assert np.mean(left == right) == pytest.approx(0.5, abs=0.03)

    def test_the_share_kept_is_the_density(self, name):
        for density in (0.2, 0.5, 0.8):
            mask = build(f"{name}:density={density}").sparsify("w", Dense(matrix(5))).mask
            assert mask.mean() == pytest.approx(density, abs=4 * np.sqrt(density * (1 - density) / BIG))

    def test_density_one_keeps_all(self, name):
        merged = compose(f"{name}:density=1", big(0), [0.5])["w.weight"].dense()
        np.testing.assert_allclose(merged, 0.5 * matrix(0), rtol=1e-6)


def test_dare_means_the_member_on_average():
    """Over draws the mean of what is kept, rescaled, is the member (the paper's claim, for its own rescaling)."""
    member = [{"w.weight": Dense(matrix(0, (20, 20)))}]
    draws = [compose(f"dare_linear:density=0.5,rescale=density,seed={seed}", member, [1.0]) for seed in range(400)]
    mean = np.mean([draw["w.weight"].dense() for draw in draws], axis=0)
    assert np.abs(mean - matrix(0, (20, 20))).max() < 5 * np.abs(matrix(0, (20, 20))).max() / np.sqrt(400)
    assert np.corrcoef(mean.ravel(), matrix(0, (20, 20)).ravel())[0, 1] > 0.99


def test_della_keeps_large_entries_likelier():
    array = matrix(0)
    mask = build("della:density=0.5,epsilon=0.4").sparsify("w", Dense(array)).mask
    order = np.argsort(np.abs(array), axis=1)
    shares = [float(np.take_along_axis(mask, part, 1).mean()) for part in np.array_split(order, 4, axis=1)]
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.6, 0.8], atol=0.03)


def test_dare_ties_adds_and_della_averages():
    members = [{"w.weight": Dense(np.float32([[value]]))} for value in (3.0, 1.0, -1.0)]
    assert compose("dare_ties:density=1", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(2.0)
    assert compose("dare_ties:density=1,normalize=true", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(3.0)
    assert compose("della:density=1", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(3.0)
    assert compose("della:density=1,consensus=none", members, [0.5] * 3)["w.weight"].dense() == pytest.approx(1.5)


class TestModelStock:
    def test_is_the_formula(self):
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
    def test_row_by_row(self, transposed):
        members = [adapter(seed, transposed=transposed) for seed in range(2)]
        merged = dense(compose("model_stock:filter_wise=true", members, [0.5, 0.5]))
        for name in SHAPES:
            one, two = (dense(member)[name] for member in members)
            cosine = np.sum(one * two, axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1)
            np.testing.assert_allclose(merged[name], (2 * cosine / (1 + cosine))[:, None] * (one + two) / 2, atol=1e-4)

    def test_equal_members_are_kept_whole_and_opposite_ones_vanish(self):
        one = adapter(0)
        assert_same(dense(compose("model_stock", [one, dict(one)], [0.5, 0.5])), dense(one))
        assert_same(dense(compose("model_stock", [one, one], [0.5, -0.5])), dense({}), atol=1e-6)


class TestSlerp:
    def test_is_an_arc_of_the_whole_weights(self):
        one, other = stored(0), stored(1)
        merged = dense(compose("slerp", [one, other], [0.75, 0.25]))
        for name in SHAPES:
            base = one.base_weight(name).astype(np.float64)
            left, right = (base + dense(member)[name] for member in (one, other))
            angle = np.arccos(np.sum(left * right) / np.linalg.norm(left) / np.linalg.norm(right))
            arc = (np.sin(0.75 * angle) * left + np.sin(0.25 * angle) * right) / np.sin(angle)
            np.testing.assert_allclose(merged[name], arc - base, atol=1e-5)

    def test_unit_vectors_stay_unit_and_parallel_ones_go_straight(self):
        one, other = np.float32([1, 0]), np.float32([0, 1])
        np.testing.assert_allclose(slerp(one, other, 0.5), [np.sqrt(0.5)] * 2, atol=1e-6)
        np.testing.assert_allclose(slerp(one, 3 * one, 0.25), [1.5, 0], atol=1e-6)
        np.testing.assert_allclose(slerp(one, -one, 0.25), [0.5, 0], atol=1e-6)
        np.testing.assert_allclose(slerp(0 * one, other, 0.5), [0, np.sin(np.pi / 4)], atol=1e-6)

    def test_two_at_most_and_of_one_sign(self):
        with pytest.raises(SpecError, match="two checkpoints, not 3; give --k 2"):
            compose("slerp", [stored(0), stored(1), stored(2)], [1, 1, 1])
        with pytest.raises(SpecError, match="same sign"):
            compose("slerp", [stored(0), stored(1)], [1, -0.5])


class TestSvd:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_is_the_best_of_its_rank(self, rank):
        members = [adapter(0), adapter(1, rank=3)]
        merged, whole = (compose(spec, members, [0.5, 1.0]) for spec in (f"svd:rank={rank}", "exact"))
        for name in SHAPES:
            values = np.linalg.svd(dense(whole)[name], compute_uv=False)
            away = np.linalg.norm(dense(whole)[name] - dense(merged)[name])
            assert merged[name].rank == rank and away == pytest.approx(np.linalg.norm(values[rank:]), abs=1e-5)

    def test_without_a_rank_it_is_the_largest_of_the_members(self):
        assert compose("svd", [adapter(0), adapter(1, rank=3)], [0.5, 1.0])["q.weight"].rank == 3
        with pytest.raises(SpecError, match="svd:rank=R"):
            dense(compose("svd", [checkpoint(0)], [1.0]))

    @pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
    def test_a_matrix_is_cut_as_well_as_factors(self, shape):
        array = matrix(0, shape)
        values = np.linalg.svd(array.astype(np.float64), compute_uv=False)
        for rank in (1, 5, 40):
            found, lost, whole = cut(Dense(array), rank)
            assert isinstance(found, LowRank) and found.rank == min(rank, 20)
            np.testing.assert_allclose(lost, np.sum(values[rank:] ** 2), atol=1e-6 * whole)
            np.testing.assert_allclose(np.sum((found.dense() - array) ** 2), lost, atol=1e-5 * whole)

    def test_truncate_keeps_vectors_and_zeros(self):
        delta = {"a.weight": Dense(np.zeros((3, 4), np.float32)), "n.weight": Dense(np.ones(3, np.float32))}
        found, error = truncate(delta, 2)
        assert error == 0 and not found["a.weight"].dense().any() and found["n.weight"] is delta["n.weight"]


def test_linear_is_pefts(tiny_llama, tmp_path):
    """Signs, scales, patterns and other targets, as `add_weighted_adapter` leaves them in plain PEFT."""
    from peft import PeftModel
    from test_formats import assert_same_weights, merged_weights, state_of
    from transformers import AutoModelForCausalLM

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


class TestStoredAdapters:
    """What a configuration says about scales reaches every composition; all is float32 inside."""

    def read(self, folder, base):
        return read_adapter(folder, {name: info.shape for name, (_, info) in open_folder(base).items()})

    @pytest.mark.parametrize("name", ON_ADAPTERS)
    @pytest.mark.parametrize(
        ("settings", "scale"),
        [({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"layers.1.self_attn.q_proj": 2}}, 0.5)],
    )
    def test_scale(self, name, settings, scale, tiny_llama, tmp_path):
        """rsLoRA divides by √r; a pattern gives one module an alpha of its own."""
        folder = write_lora(tmp_path / "x", LLAMA_MODULES, seed=4, **settings)  # r 4, alpha 8
        key = "model.layers.1.self_attn.q_proj.weight"
        plain = self.read(write_lora(tmp_path / "plain", LLAMA_MODULES, seed=4, alpha=4), tiny_llama)[key]
        merged = compose(WHOLE.get(name, name), [self.read(folder, tiny_llama)], [1.0])
        np.testing.assert_allclose(merged[key].dense(), scale * plain.dense(), atol=1e-5)

    @pytest.mark.parametrize("name", ON_ADAPTERS)
    def test_half_precision_in_float32_inside(self, name, tiny_llama, tmp_path):
        import torch
        from safetensors.torch import load_file, save_file

        for dtype in (torch.float16, torch.bfloat16):
            folder = write_lora(tmp_path / str(dtype), LLAMA_MODULES, seed=4)
            rounded = {key: tensor.to(dtype) for key, tensor in load_file(folder / "adapter_model.safetensors").items()}
            save_file(rounded, folder / "adapter_model.safetensors")
            wide = write_lora(tmp_path / f"{dtype}-wide", LLAMA_MODULES, seed=4)
            save_file({key: tensor.float() for key, tensor in rounded.items()}, wide / "adapter_model.safetensors")
            half, full = (compose(name, [self.read(place, tiny_llama)], [0.3]) for place in (folder, wide))
            for key in full:
                assert half[key].dense().dtype == np.float32
                np.testing.assert_array_equal(half[key].dense(), full[key].dense())

    def test_rank_pattern(self, tiny_llama, tmp_path):
        key = "model.layers.0.self_attn.v_proj"
        rng = np.random.default_rng(0)
        modules = LLAMA_MODULES | {key: (rng.normal(size=(2, 32)), rng.normal(size=(16, 2)))}
        delta = self.read(write_lora(tmp_path / "x", modules, rank_pattern={key: 2}), tiny_llama)
        merged = compose("ties:density=1", [delta, delta], [0.5, 0.5])
        np.testing.assert_allclose(merged[f"{key}.weight"].dense(), 4.0 * modules[key][1] @ modules[key][0], rtol=1e-4)

    def test_dora_never_reaches_a_composition(self, tiny_llama, tmp_path):
        with pytest.raises(PoolError, match="DoRA"):
            self.read(write_lora(tmp_path / "x", LLAMA_MODULES, use_dora=True), tiny_llama)


class TestLayers:
    NAMES = tuple(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(4))

    def members(self, *seeds, extra=()):
        return [
            {name: LowRank(matrix(100 * seed + i, (2, 5)), matrix(200 * seed + i, (6, 2)), 0.5)
             for i, name in enumerate((*self.NAMES, *extra))}
            for seed in seeds
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ON_ADAPTERS)
    def test_each_group_is_merged_with_its_own_weights(self, name):
        members, weights = self.members(1, 2, extra=("lm_head.weight",)), [0.5, 0.25]
        merged = compose_layers(build(name), members, weights, (0.5, 2.0), 4)
        for factor, names in ((0.5, self.NAMES[:2]), (2.0, self.NAMES[2:]), (1.0, ("lm_head.weight",))):
            alone = compose(name, members, [factor * weight for weight in weights])
            for key in names:
                np.testing.assert_array_equal(merged[key].dense(), alone[key].dense())

    def test_one_everywhere_is_the_merge_itself(self):
        members = self.members(1, 2)
        for layers in ((), (1.0,), (1.0, 1.0, 1.0)):
            merged = compose_layers(build("exact"), members, [0.5, 0.25], layers, 4)
            for key in self.NAMES:
                np.testing.assert_array_equal(merged[key].dense(), compose("exact", members, [0.5, 0.25])[key].dense())

    def test_a_group_of_zero_is_the_base(self):
        merged = compose_layers(build("ties"), self.members(1, 2), [0.5, 0.25], (0.0, 1.0), 4)
        assert sorted(merged) == list(self.NAMES[2:])

    @pytest.mark.parametrize(
        ("name", "block"),
        [("model.layers.12.mlp.up_proj.weight", ("model.layers.12.", 12)), ("h.3.attn.c_attn.weight", ("h.3.", 3)),
         ("transformer.h.3.ln_1.weight", ("transformer.h.3.", 3)), ("model.embed_tokens.weight", None),
         ("decoder.block.1.layer.2.DenseReluDense.wi.weight", ("decoder.block.1.", 1)), ("model.norm.weight", None),
         ("bert.encoder.layer.0.output.dense.weight", ("bert.encoder.layer.0.", 0)), ("layers.weight", None)],
    )  # fmt: skip
    def test_blocks_by_name(self, name, block):
        assert block_of(name) == block

    def test_groups_are_equal_and_contiguous(self):
        names = [f"model.layers.{i}.w.weight" for i in range(30)]
        assert count_blocks(names) == 30 and count_blocks(["model.norm.weight"]) == 0
        found = [layer_factor(name, (1.0, 2.0, 3.0, 4.0), 30) for name in names]
        assert found == sorted(found) and sorted(found.count(x) for x in (1.0, 2.0, 3.0, 4.0)) == [7, 7, 8, 8]
        for stack in ("encoder", "decoder"):
            assert layer_factor(f"{stack}.block.1.layer.0.SelfAttention.q.weight", (0.5, 2.0), 2) == 2.0

    def test_bad_groups_are_refused(self):
        for layers, why in (
            ((1.0,) * 5, "5 layer groups, but the base has 4 blocks"),
            ((1.0, np.inf), "inf is no finite"),
        ):
            with pytest.raises(SpecError, match=why):
                compose_layers(build("exact"), self.members(1), [1.0], layers, 4)


class TestCrossing:
    def test_parts_add_up_to_the_merge(self):
        members, weights = [adapter(0), adapter(1, names=("q.weight",)), adapter(2)], [0.5, 0.0, -0.75]
        for name in NAMES:
            if hasattr(build(name), "parts") or build(name).linear:
                parts = parts_of(build(name), members, weights)
                found = {key: sum(dense(part)[key] for part in parts) for key in SHAPES}
                assert_same(found, dense(compose(name, members, weights)), atol=1e-5)
        for name in ("lorahub", "svd"):
            with pytest.raises(SpecError, match="no sum over the members"):
                parts_of(build(name), members, weights)

    def test_by_hand(self):
        one, other = ({"w": Dense(np.float32([values]))} for values in ([2, 1, 0, -1], [1, -2, 0, 0]))
        found = crossing([one, other])
        assert found.norm**2 == pytest.approx(9 + 1 + 1)
        assert found.cross_terms == pytest.approx(2 * (2 - 2) / 11)
        assert found.sign_conflict == pytest.approx(1 / 7) and found.overlap == pytest.approx(6 / 7)

    def test_alone_or_empty(self):
        for parts in ([adapter(0)], [{}], []):
            found = crossing(parts)
            assert (found.sign_conflict, found.overlap) == (0, 0) and found.cross_terms == pytest.approx(0, abs=1e-6)

    def test_an_election_leaves_no_conflict_and_trimming_less_overlap(self):
        members = [adapter(0), adapter(1)]
        before, after = (crossing(parts_of(build(spec), members, [0.5, 0.5])) for spec in ("exact", "ties:density=0.4"))
        assert before.sign_conflict > 0.05 and after.sign_conflict == 0 and after.overlap < before.overlap == 1.0


class Large(dict):
    """Many parameters, made when they are read: what is kept of them shows."""

    def __init__(self, seed, count):
        super().__init__(dict.fromkeys(f"model.layers.{i}.w.weight" for i in range(count)))
        self.seed = seed

    def __getitem__(self, name):
        return LowRank(matrix(self.seed, (4, 256)), matrix(self.seed + 1, (256, 4)))


@pytest.mark.parametrize("name", ON_ADAPTERS)
@pytest.mark.parametrize("members", [2, 8])
def test_a_merge_holds_one_parameters_scratch(name, members):
    """However many parameters and members: a mask of a byte an entry for each member, and a few copies of one."""
    one = 256 * 256 * 4
    merged = compose(name, [Large(seed, 40) for seed in range(members)], [1 / members] * members)
    tracemalloc.start()
    try:
        for key in merged:
            merged[key].dense()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (14 + members) * one < 40 * one


PROCESS = """
import resource, sys
from pathlib import Path
from merge_advisor import registry
from merge_advisor.backbone.adapter import read_adapter
from merge_advisor.backbone.tensorfile import open_folder
from merge_advisor.formats.full_model import write_full_model
base, pool, out, spec = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
shapes = {name: info.shape for name, (_, info) in open_folder(base).items()}
folders = [path for path in sorted(pool.iterdir()) if (path / "adapter_config.json").is_file()][:20]
members = [dict(read_adapter(folder, shapes)) for folder in folders]
write_full_model(base, registry.build("composition", spec).compose(members, [0.05] * len(members)), out)
print(len(members), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["exact", "ties", "della", "model_stock"])
def test_twenty_real_adapters_in_one_process(spec, real_base, shared, tmp_path):
    if not (shared / "pool-bigbench").is_dir() or not real_base.is_dir():
        pytest.skip("no pool-bigbench in ../shared, or the base is no folder")
    command = [sys.executable, "-c", PROCESS, real_base, shared / "pool-bigbench", tmp_path / "out", spec]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(found[0]) == 20 and int(found[1]) < 3 * 1024, found
