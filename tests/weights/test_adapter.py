"""Adapters, read and written, mean to us what they mean to plain PEFT."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.random._generator import Generator
from safetensors.numpy import load_file, save_file

from merge_advisor.arrays import Float32Array
from merge_advisor.errors import InputError, PoolError
from merge_advisor.weights.adapter import (
    adapter_fingerprint,
    check_values,
    map_factors,
    read_adapter,
    read_weights_header,
)  # fmt: skip
from merge_advisor.weights.adapter_config import read_adapter_config
from merge_advisor.weights.adapter_writing import write_adapter
from merge_advisor.weights.naming import find_parameter
from merge_advisor.weights.tensorfile import open_folder, read_tensor
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, WeightDelta
from tests.support.models import LLAMA_MODULES, open_base, write_lora
from tests.support.updates import low_rank

T5_MODULES = {
    f"{stack}.block.{block}.layer.{layer}.{kind}.{name}": (32, 32)
    for stack, layer, kind in (
        ("encoder", 0, "SelfAttention"), ("decoder", 0, "SelfAttention"), ("decoder", 1, "EncDecAttention"),
    )
    for block in range(2)
    for name in "qv"
}  # fmt: skip
GPT2_MODULES = {
    "transformer.h.0.attn.c_attn": (96, 32),
    "transformer.h.0.attn.c_proj": (32, 32),
    "transformer.h.1.mlp.c_fc": (128, 32),
}


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2: its weights are stored (in, out)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.support.models import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128)
    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_peft(
    base: Path, adapter: Path, kind: str = "AutoModelForCausalLM", quiet: bool = False
) -> dict[str, Float32Array]:
    """Weights after plain PEFT loaded and merged the adapter; what it warns of is an error unless `quiet`."""
    import transformers
    from peft import PeftModel

    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        model = getattr(transformers, kind).from_pretrained(base)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return {name: array.float().numpy() for name, array in merged.state_dict().items()}


def assert_same(base: Path, delta: WeightDelta, merged: dict[str, Float32Array], tolerance: float = 1e-6) -> None:
    """Base + delta equals `merged`, and the delta touches no more than it says."""
    located = open_folder(base)
    scale = max(np.abs(update.dense()).max() for update in delta.values())
    assert scale > 0.01
    for name, place in located.items():
        wanted = read_tensor(*place)
        if name in delta:
            assert delta[name].shape == wanted.shape
            wanted = wanted + delta[name].dense()
        key = find_parameter(name, {key: array.shape for key, array in merged.items()})
        assert key is not None, name
        assert np.abs(merged[key] - wanted).max() <= tolerance * max(scale, 1), name


PATTERNS = {
    "plain": {},
    "alpha": {"alpha": 3},
    "rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 1, "layers.0.self_attn.v_proj": 5, "v_pro": 900}},
    "first pattern counts": {"alpha_pattern": {r"layers\.0\..*": 2, "q_proj": 7, "^layers.1.self_attn.v_proj": 99}},
    "anchored": {"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 40}, "use_rslora": True},
    "half": {"dtype": np.float16},
}


@pytest.mark.parametrize("settings", PATTERNS.values(), ids=PATTERNS)
def test_means_what_it_means_to_peft(tiny_llama: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = write_lora(tmp_path / "x", LLAMA_MODULES, base=str(tiny_llama), **settings)
    delta = read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
    assert all(low_rank(delta, name).a.dtype == np.float32 for name in delta)
    assert_same(tiny_llama, delta, by_peft(tiny_llama, folder, quiet=True))


def test_rank_patterns_and_differing_modules(tiny_llama: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    modules = {
        "model.layers.0.self_attn.q_proj": (rng.normal(size=(2, 32)), rng.normal(size=(32, 2))),
        "model.layers.1.self_attn.q_proj": (rng.normal(size=(6, 32)), rng.normal(size=(32, 6))),
        "model.layers.1.mlp.down_proj": (rng.normal(size=(4, 64)), rng.normal(size=(32, 4))),
    }
    folder = write_lora(
        tmp_path / "x", modules, base=str(tiny_llama), target_modules=list(modules), use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 6, "q_proj": 2}, alpha_pattern={"down_proj": 5},
    )  # fmt: skip
    delta = read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
    assert [low_rank(delta, f"{name}.weight").rank for name in modules] == [2, 6, 4]
    assert low_rank(delta, "model.layers.1.mlp.down_proj.weight").scale == pytest.approx(5 / 2)
    assert_same(tiny_llama, delta, by_peft(tiny_llama, folder))


def test_encoder_decoder(tiny_t5: Path, tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "x", T5_MODULES, base=str(tiny_t5), task_type="SEQ_2_SEQ_LM")
    delta = read_adapter(folder, open_base(tiny_t5, tmp_path).shapes)
    assert len(delta) == len(T5_MODULES)
    assert_same(tiny_t5, delta, by_peft(tiny_t5, folder, "AutoModelForSeq2SeqLM"))


def test_weights_stored_in_by_out(tiny_gpt2: Path, tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "x", GPT2_MODULES, target_modules=list(GPT2_MODULES), fan_in_fan_out=True)
    delta = read_adapter(folder, open_base(tiny_gpt2, tmp_path).shapes)
    assert all(low_rank(delta, name).transposed for name in delta)  # the square one as well
    assert_same(tiny_gpt2, delta, by_peft(tiny_gpt2, folder))


def test_a_base_saved_from_its_inner_model(tiny_gpt2: Path, tmp_path: Path) -> None:
    """The hub's GPT-2 names `h.0…` what PEFT names `transformer.h.0…`."""
    inner = tmp_path / "inner"
    inner.mkdir()
    tensors = load_file(tiny_gpt2 / "model.safetensors")
    save_file({name.removeprefix("transformer."): x for name, x in tensors.items()}, inner / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (inner / name).write_bytes((tiny_gpt2 / name).read_bytes())
    base = open_base(inner, tmp_path)
    assert base.shapes.module_of("h.0.attn.c_attn.weight") == "transformer.h.0.attn.c_attn"
    folder = write_lora(tmp_path / "x", GPT2_MODULES, target_modules=list(GPT2_MODULES), fan_in_fan_out=True)
    delta = read_adapter(folder, base.shapes)
    assert sorted(delta) == sorted(name.removeprefix("transformer.") + ".weight" for name in GPT2_MODULES)
    write_adapter(
        tmp_path / "again", delta, base_name="x", task_type="CAUSAL_LM", dtype="float32", base_shapes=base.shapes
    )
    assert_same(inner, delta, by_peft(inner, tmp_path / "again"))


def test_a_square_weight_is_turned_only_where_the_base_turns_its_weights(tiny_llama: Path, tmp_path: Path) -> None:
    modules = {"model.layers.0.self_attn.q_proj": (32, 32)}
    folder = write_lora(tmp_path / "x", modules, base=str(tiny_llama), fan_in_fan_out=True)
    delta = read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
    assert_same(tiny_llama, delta, by_peft(tiny_llama, folder, quiet=True))


def test_keys_as_older_tools_wrote_them(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    shapes = open_base(tiny_llama, tmp_path).shapes
    wanted = read_adapter(tiny_pool / "a0", shapes)
    tensors = load_file(tiny_pool / "a0" / "adapter_model.safetensors")
    renames: list[Callable[[str], str]] = [
        lambda key: key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace("base_model.model.model.", "base_model.model."),
    ]
    for number, rename in enumerate(renames):
        folder = write_lora(tmp_path / str(number), LLAMA_MODULES)
        save_file({rename(key): array for key, array in tensors.items()}, folder / "adapter_model.safetensors")
        found = read_adapter(folder, shapes)
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name].dense(), wanted[name].dense()) for name in wanted)


def test_many_names_that_end_alike_are_no_match() -> None:
    shapes = {"encoder.layers.0.q.weight": (2, 2), "decoder.layers.0.q.weight": (2, 2), "head.weight": (2, 2)}
    assert find_parameter("layers.0.q.weight", shapes) is None
    assert find_parameter("decoder.layers.0.q.weight", shapes) == "decoder.layers.0.q.weight"
    assert find_parameter("model.head.weight", shapes) == "head.weight"
    assert find_parameter("ead.weight", shapes) is None


@pytest.mark.parametrize("prefix", ["vision_tower.model", "mtp.model", "model.audio_tower", "model.mtp", "visual"])
@pytest.mark.parametrize("base", ["layers", "model.layers", "language_model.model.layers"])
def test_layers_of_another_part_of_a_model_are_not_those_of_its_text(prefix: str, base: str) -> None:
    own, others = f"{base}.0.q.weight", f"{prefix}.layers.0.q.weight"
    assert find_parameter(others, {own: (2, 2)}) is None
    assert find_parameter(own, {others: (2, 2)}) is None
    assert find_parameter(own, {others: (2, 2), "model.language_model.layers.0.q.weight": (2, 2)}) is not None


TEXT_LAYERS = (
    "layers.0.q.weight", "model.layers.0.q.weight", "language_model.model.layers.0.q.weight",
    "model.language_model.layers.0.q.weight", "language_model.layers.0.q.weight", "module.model.layers.0.q.weight",
    "pretrained_model.model.layers.0.q.weight", "base_model.model.model.layers.0.q.weight",
)  # fmt: skip


@pytest.mark.parametrize("name", TEXT_LAYERS)
@pytest.mark.parametrize("own", TEXT_LAYERS[:5])
def test_text_layers_are_found_under_all_their_names(name: str, own: str) -> None:
    tower = {"vision_tower.encoder.layers.0.q.weight": (2, 2), "model.visual.layers.0.q.weight": (2, 2)}
    assert find_parameter(name, {own: (2, 2), **tower}) == own


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0, "all zero")]
)
def test_values_are_checked_and_the_answer_is_kept(tmp_path: Path, value: float, message: str) -> None:
    modules = {"model.layers.0.self_attn.q_proj": (np.ones((4, 32)), np.full((32, 4), value))}
    folder = write_lora(tmp_path / "x", modules)
    header, hashes = read_weights_header(folder), dict[str, str]()
    for _ in range(2):
        with pytest.raises(PoolError, match=message):
            check_values(folder, header, hashes)
    kept = dict(hashes)
    assert any(message in answer for answer in kept.values())
    check_values(write_lora(tmp_path / "good", LLAMA_MODULES), header, hashes)
    assert kept.items() < hashes.items()


def fingerprint_of(folder: Path, hashes: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> str:
    placed = map_factors(read_adapter_config(folder), read_weights_header(folder), shapes)
    return adapter_fingerprint(folder, {part.module: part.scale for part in placed.values()}, hashes)


def test_fingerprint_is_of_weights_and_their_meaning(tmp_path: Path, tiny_llama: Path) -> None:
    shapes = dict(open_base(tiny_llama, tmp_path / "cache").shapes)

    def of(name: str, **settings: Any) -> str:
        return fingerprint_of(write_lora(tmp_path / name, LLAMA_MODULES, **settings), {}, shapes)

    plain = of("a")
    assert of("b", base="elsewhere", target_modules=["v_proj"], lora_dropout=0.3, fan_in_fan_out=True) == plain
    assert of("c", alpha_pattern={"q_proj": 8}) == plain  # 8 is its alpha anyway
    different = [of("d", alpha=9), of("e", use_rslora=True), of("f", alpha_pattern={"q_proj": 9}), of("g", seed=1)]
    assert len({plain, *different}) == 5


def test_a_file_that_changes_is_hashed_again(tmp_path: Path, tiny_llama: Path) -> None:
    shapes = dict(open_base(tiny_llama, tmp_path / "cache").shapes)
    folder = write_lora(tmp_path / "x", LLAMA_MODULES)
    hashes: dict[str, str] = {}
    before = fingerprint_of(folder, hashes, shapes)
    write_lora(tmp_path / "x", LLAMA_MODULES, seed=5)
    assert fingerprint_of(folder, hashes, shapes) != before


def random_update(
    rng: Generator, rank: int, scale: float = 1.0, shape: tuple[int, int] = (32, 32), size: float = 0.3
) -> LowRankUpdate:
    a, b = rng.normal(0, size, (rank, shape[1])), rng.normal(0, size, (shape[0], rank))
    return LowRankUpdate(a.astype(np.float32), b.astype(np.float32), scale)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_written_adapters_are_the_same_to_peft_and_to_us(
    tiny_llama: Path, tmp_path: Path, dtype: Literal["float16", "float32"], tolerance: float
) -> None:
    rng = np.random.default_rng(0)
    delta = {
        "model.layers.0.self_attn.q_proj.weight": random_update(rng, 5, 2.5),
        "model.layers.1.self_attn.q_proj.weight": random_update(rng, 5, -0.7),
        "model.layers.1.self_attn.v_proj.weight": random_update(rng, 1, 1e-3, (16, 32), 20),
        "model.layers.0.mlp.down_proj.weight": random_update(rng, 12, 1 / 3, (32, 64)),
    }
    folder = tmp_path / "written"
    write_adapter(folder, delta, base_name="x", task_type="CAUSAL_LM", dtype=dtype, texts={"README.md": "A card.\n"})
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (5, 5)
    assert sorted(config["rank_pattern"].values()) == [1, 12]
    assert (folder / "README.md").read_text() == "A card.\n"
    assert_same(tiny_llama, delta, by_peft(tiny_llama, folder), tolerance)
    again = read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
    for name, update in delta.items():
        assert low_rank(again, name).rank == update.rank
        assert np.abs(again[name].dense() - update.dense()).max() <= tolerance * np.abs(update.dense()).max()


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_gpt2"])
def test_written_adapters_of_other_architectures(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base: Path = request.getfixturevalue(name)
    t5 = base.name == "tiny-t5"
    modules, task = (T5_MODULES, "SEQ_2_SEQ_LM") if t5 else (GPT2_MODULES, "CAUSAL_LM")
    target = sorted({name.rsplit(".", 1)[-1] for name in modules}) if t5 else list(modules)
    folder = write_lora(tmp_path / "x", modules, task_type=task, target_modules=target, fan_in_fan_out=not t5)
    shapes = open_base(base, tmp_path).shapes
    delta = read_adapter(folder, shapes)
    again = tmp_path / "again"
    write_adapter(again, delta, base_name="x", task_type=task, dtype="float32", base_shapes=shapes)
    assert json.loads((again / "adapter_config.json").read_text())["target_modules"] == sorted(target)
    assert_same(base, delta, by_peft(base, again, "AutoModelForSeq2SeqLM" if t5 else "AutoModelForCausalLM"))


def test_small_and_large_factors_survive_half_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    update = LowRankUpdate(
        (rng.normal(size=(2, 32)) * [[1e5], [1e-7]]).astype(np.float32),
        (rng.normal(size=(32, 2)) * [[1e-7, 1e4]]).astype(np.float32),
    )
    write_adapter(tmp_path / "x", {"w.weight": update}, base_name="x", task_type="CAUSAL_LM")
    found = read_adapter(tmp_path / "x", {"w.weight": (32, 32)})["w.weight"]
    assert np.abs(found.dense() - update.dense()).max() < 2e-3 * np.abs(update.dense()).max()


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"w.weight": DenseUpdate(np.ones((2, 2), np.float32))}, "has no LoRA factors"),
        ({}, "changes nothing is not written"),
        (
            {"w.weight": LowRankUpdate(np.ones((0, 4), np.float32), np.ones((4, 0), np.float32))},
            "changes nothing is not written",
        ),
        (
            {"w.weight": LowRankUpdate(np.full((1, 4), 1e6, np.float32), np.full((4, 1), 1e6, np.float32))},
            "float16 cannot",
        ),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, delta: dict[str, DenseUpdate | LowRankUpdate], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_adapter(tmp_path / "x", delta, base_name="x", task_type="CAUSAL_LM")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("mine")
    update = random_update(np.random.default_rng(0), 2)
    with pytest.raises(InputError, match="is there already"):
        write_adapter(tmp_path / "x", {"w.weight": update}, base_name="x", task_type="CAUSAL_LM")
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "mine"]


def test_an_adapter_that_disappears_is_a_plain_error(tiny_llama: Path, tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "x", LLAMA_MODULES)
    delta = read_adapter(folder, open_base(tiny_llama, tmp_path).shapes)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(PoolError, match=r"^x: adapter_model\.safetensors: cannot be read"):
        delta[next(iter(delta))]


def test_mapping_is_by_the_base_names(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    shapes = open_base(tiny_llama, tmp_path).shapes
    placed = map_factors(read_adapter_config(tiny_pool / "a0"), read_weights_header(tiny_pool / "a0"), shapes)
    assert sorted(placed) == sorted(f"{name}.weight" for name in LLAMA_MODULES)
    assert {(part.rank, part.scale, part.transposed) for part in placed.values()} == {(4, 2.0, False)}


@pytest.mark.parametrize("pool", ["pool-smollm2", "pool-bigbench"])
def test_real_adapters_open(shared: Path, pool: str, tmp_path: Path) -> None:
    shapes = {
        f"model.layers.{layer}.self_attn.{name}_proj.weight": shape
        for layer in range(30)
        for name, shape in (("q", (576, 576)), ("v", (192, 576)))
    }
    folders = sorted(path.parent for path in (shared / pool).glob("*/adapter_config.json"))
    assert len(folders) >= 20
    for folder in folders:
        delta = read_adapter(folder, shapes)
        assert len(delta) == 60
        assert delta["model.layers.3.self_attn.v_proj.weight"].shape == (192, 576)
