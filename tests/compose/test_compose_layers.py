"""Compositions on adapters as they are stored, by layer group, and in memory."""

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.compose.layers import compose_layers
from merge_advisor.errors import PoolError, SpecError
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.naming import block_of, count_blocks, layer_factor
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import LowRankUpdate, WeightDelta
from tests.support.compositions import ON_ADAPTERS, WHOLE, build, compose, matrix
from tests.support.models import LLAMA_MODULES, write_lora


class TestStoredAdapters:
    """What a configuration says about scales reaches every composition; all is float32 inside."""

    def read(self, folder: Path, base: Path) -> WeightDelta:
        return read_adapter(folder, {name: info.shape for name, (_, info) in open_folder(base).items()})

    @pytest.mark.parametrize("name", ON_ADAPTERS)
    @pytest.mark.parametrize(
        ("settings", "scale"),
        [({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"layers.1.self_attn.q_proj": 2}}, 0.5)],
    )
    def test_scale(self, name: str, settings: Any, scale: Any, tiny_llama: Path, tmp_path: Path) -> None:
        """rsLoRA divides by √r; a pattern gives one module an alpha of its own."""
        folder = write_lora(tmp_path / "x", LLAMA_MODULES, seed=4, **settings)  # r 4, alpha 8
        key = "model.layers.1.self_attn.q_proj.weight"
        plain = self.read(write_lora(tmp_path / "plain", LLAMA_MODULES, seed=4, alpha=4), tiny_llama)[key]
        merged = compose(WHOLE.get(name, name), [self.read(folder, tiny_llama)], [1.0])
        np.testing.assert_allclose(merged[key].dense(), scale * plain.dense(), atol=1e-5)

    @pytest.mark.parametrize("name", ON_ADAPTERS)
    def test_half_precision_in_float32_inside(self, name: str, tiny_llama: Path, tmp_path: Path) -> None:
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

    def test_rank_pattern(self, tiny_llama: Path, tmp_path: Path) -> None:
        key = "model.layers.0.self_attn.v_proj"
        rng = np.random.default_rng(0)
        a, b = rng.normal(size=(2, 32)), rng.normal(size=(16, 2))
        modules = LLAMA_MODULES | {key: (a, b)}
        delta = self.read(write_lora(tmp_path / "x", modules, rank_pattern={key: 2}), tiny_llama)
        merged = compose("ties:density=1", [delta, delta], [0.5, 0.5])
        np.testing.assert_allclose(merged[f"{key}.weight"].dense(), 4.0 * b @ a, rtol=1e-4)

    def test_dora_never_reaches_a_composition(self, tiny_llama: Path, tmp_path: Path) -> None:
        with pytest.raises(PoolError, match="DoRA"):
            self.read(write_lora(tmp_path / "x", LLAMA_MODULES, use_dora=True), tiny_llama)


class TestLayers:
    NAMES = tuple(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(4))

    def members(self, *seeds: int, extra: tuple[str, ...] = ()) -> list[dict[str, LowRankUpdate]]:
        return [
            {name: LowRankUpdate(matrix(100 * seed + i, (2, 5)), matrix(200 * seed + i, (6, 2)), 0.5)
             for i, name in enumerate((*self.NAMES, *extra))}
            for seed in seeds
        ]  # fmt: skip

    @pytest.mark.parametrize("name", ON_ADAPTERS)
    def test_each_group_is_merged_with_its_own_weights(self, name: str) -> None:
        members, weights = self.members(1, 2, extra=("lm_head.weight",)), [0.5, 0.25]
        merged = compose_layers(build(name), members, weights, (0.5, 2.0), 4)
        for factor, names in ((0.5, self.NAMES[:2]), (2.0, self.NAMES[2:]), (1.0, ("lm_head.weight",))):
            alone = compose(name, members, [factor * weight for weight in weights])
            for key in names:
                np.testing.assert_array_equal(merged[key].dense(), alone[key].dense())

    def test_one_everywhere_is_the_merge_itself(self) -> None:
        members = self.members(1, 2)
        for layers in ((), (1.0,), (1.0, 1.0, 1.0)):
            merged = compose_layers(build("exact"), members, [0.5, 0.25], layers, 4)
            for key in self.NAMES:
                np.testing.assert_array_equal(merged[key].dense(), compose("exact", members, [0.5, 0.25])[key].dense())

    def test_a_group_of_zero_is_the_base(self) -> None:
        merged = compose_layers(build("ties"), self.members(1, 2), [0.5, 0.25], (0.0, 1.0), 4)
        assert sorted(merged) == list(self.NAMES[2:])

    @pytest.mark.parametrize(
        ("name", "block"),
        [("model.layers.12.mlp.up_proj.weight", ("model.layers.12.", 12)), ("h.3.attn.c_attn.weight", ("h.3.", 3)),
         ("transformer.h.3.ln_1.weight", ("transformer.h.3.", 3)), ("model.embed_tokens.weight", None),
         ("decoder.block.1.layer.2.DenseReluDense.wi.weight", ("decoder.block.1.", 1)), ("model.norm.weight", None),
         ("bert.encoder.layer.0.output.dense.weight", ("bert.encoder.layer.0.", 0)), ("layers.weight", None)],
    )  # fmt: skip
    def test_blocks_by_name(self, name: str, block: Any) -> None:
        assert block_of(name) == block

    def test_groups_are_equal_and_contiguous(self) -> None:
        names = [f"model.layers.{i}.w.weight" for i in range(30)]
        assert count_blocks(names) == 30 and count_blocks(["model.norm.weight"]) == 0
        found = [layer_factor(name, (1.0, 2.0, 3.0, 4.0), 30) for name in names]
        assert found == sorted(found) and sorted(found.count(x) for x in (1.0, 2.0, 3.0, 4.0)) == [7, 7, 8, 8]
        for stack in ("encoder", "decoder"):
            assert layer_factor(f"{stack}.block.1.layer.0.SelfAttention.q.weight", (0.5, 2.0), 2) == 2.0

    def test_bad_groups_are_refused(self) -> None:
        for layers, why in (
            ((1.0,) * 5, "5 layer groups, but the base has 4 blocks"),
            ((1.0, np.inf), "inf is no finite"),
        ):
            with pytest.raises(SpecError, match=why):
                compose_layers(build("exact"), self.members(1), [1.0], layers, 4)


class Large(dict[str, LowRankUpdate]):
    """Many parameters, made when they are read: what is kept of them shows."""

    def __init__(self, seed: int, count: int) -> None:
        nothing = LowRankUpdate(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32))
        super().__init__(dict.fromkeys((f"model.layers.{i}.w.weight" for i in range(count)), nothing))
        self.seed = seed

    def __getitem__(self, name: str) -> LowRankUpdate:
        return LowRankUpdate(matrix(self.seed, (4, 256)), matrix(self.seed + 1, (256, 4)))


@pytest.mark.parametrize("name", ON_ADAPTERS)
@pytest.mark.parametrize("members", [2, 8])
def test_a_merge_holds_one_parameters_scratch(name: str, members: int) -> None:
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
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.tensorfile import open_folder
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
def test_twenty_real_adapters_in_one_process(spec: str, real_base: Any, shared: Any, tmp_path: Path) -> None:
    if not (shared / "pool-bigbench").is_dir() or not real_base.is_dir():
        pytest.skip("no pool-bigbench in ../shared, or the base is no folder")
    command = [sys.executable, "-c", PROCESS, real_base, shared / "pool-bigbench", tmp_path / "out", spec]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(found[0]) == 20 and int(found[1]) < 3 * 1024, found
