"""Bases from folders and GGUF files: found, checked, hashed, dequantised once."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.backbone.model import load_backbone
from merge_advisor.errors import BaseModelError, PoolError, RunError
from merge_advisor.weights import base as base_module
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.checkpoint import read_checkpoint_delta


@pytest.fixture
def copy(tiny_llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llama, tmp_path / "copy")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_gguf(folder: Path, path: Path) -> Path:
    """Write a Llama folder as llama.cpp does: Q8_0 matrices, rotary halves of q and k interleaved."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<pad>", "<|end|>") else 1 for token in tokens])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "model.layers": "blk", "model.embed_tokens": "token_embd", "model.norm": "output_norm"}  # fmt: skip
    for name, array in load_file(folder / "model.safetensors").items():
        count = heads if "q_proj" in name else kv_heads if "k_proj" in name else 0
        if count:
            array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        for old, new in names.items():
            name = name.replace(old, new)
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_folder(tiny_llama: Path, tmp_path: Path) -> None:
    found = resolve_base(str(tiny_llama), cache=tmp_path)
    assert (found.base.id, found.base.revision) == ("tiny-llama", None)
    assert found.base.architecture == "LlamaForCausalLM"
    assert found.path == tiny_llama
    assert found.shapes["model.layers.1.self_attn.v_proj.weight"] == (16, 32)
    assert "lm_head.weight" not in found.shapes  # tied
    assert found.config["hidden_size"] == 32
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_called_by_its_own_name(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smol").symlink_to(tiny_llama)
    linked, plain = (resolve_base(str(path), cache=tmp_path / "cache") for path in (tmp_path / "smol", tiny_llama))
    assert (linked.base.id, linked.base.digest) == ("smol", plain.base.digest)
    monkeypatch.chdir(tmp_path / "smol")
    assert resolve_base(".", cache=tmp_path / "cache").base.id == tiny_llama.name


def test_an_encoder_decoder_folder(tiny_t5: Path, tmp_path: Path) -> None:
    found = resolve_base(str(tiny_t5), cache=tmp_path)
    assert found.base.architecture == "T5ForConditionalGeneration"
    assert found.shapes["decoder.block.0.layer.1.EncDecAttention.q.weight"] == (32, 32)


def test_digest_is_of_content(tiny_llama: Path, copy: Path, tmp_path: Path) -> None:
    def digest() -> str:
        return resolve_base(str(copy), cache=tmp_path).base.digest

    first = resolve_base(str(tiny_llama), cache=tmp_path).base.digest
    edit(copy / "config.json", transformers_version="9.9", _name_or_path="/elsewhere")
    (copy / "README.md").write_text("no part of the model")
    assert digest() == first
    found = {first}
    edit(copy / "config.json", rms_norm_eps=1e-3)
    found.add(digest())
    (copy / "tokenizer_config.json").write_text("{}")
    found.add(digest())
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, copy / "model.safetensors")
    found.add(digest())
    assert len(found) == 4


def test_known_files_are_not_hashed_again(tiny_llama: Path, copy: Path, tmp_path: Path) -> None:
    hashes: dict[str, str] = {}
    first = resolve_base(str(copy), cache=tmp_path, hashes=hashes)
    assert {key.split("|")[0] for key in hashes} >= {str(copy / "model.safetensors"), str(copy / "tokenizer.json")}
    key = next(key for key in hashes if "model.safetensors|" in key)
    hashes[key] = "0" * 64  # what stands in the memo is what is used
    assert resolve_base(str(copy), cache=tmp_path, hashes=hashes).base.digest != first.base.digest
    hashes.clear()
    assert resolve_base(str(copy), cache=tmp_path, hashes=hashes).base.digest == first.base.digest


@pytest.mark.parametrize("ref", ["", "absent", "./org/name", "/no/such/folder", "a/b/c", "org/na..me", "org/name@"])
def test_absent(ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if ref == "":
        ref = str(tmp_path / "nothing")
    with pytest.raises(BaseModelError, match="no such folder or file; give one, or a hub id like org/name"):
        resolve_base(ref, cache=tmp_path)


def spoil(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "no config":
        config.unlink()
    elif how == "bad config":
        config.write_text("{")
    elif how == "deep config":
        config.write_text("[" * 100_000)
    elif how == "no architecture":
        edit(config, architectures=[])
    elif how == "rwkv":
        edit(config, model_type="rwkv")
    elif how == "quantised":
        edit(config, quantization_config={"bits": 4})
    elif how == "adapter":
        config.rename(folder / "adapter_config.json")
    elif how == "gguf":
        config.unlink()
        (folder / "model.gguf").write_bytes(b"GGUF")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", r"pytorch_model\.bin: pickle weights are never opened; convert it to safetensors"),
        ("truncated", r"model\.safetensors: bad safetensors header .*fetch it again"),
        ("no config", r"config\.json: cannot be read"),
        ("bad config", r"config\.json: not JSON"),
        ("deep config", r"config\.json: not JSON"),
        ("no architecture", r"config\.json: has no architectures"),
        ("rwkv", r"config\.json: RWKV's weights change as transformers runs it"),
        ("quantised", r"config\.json: its weights are quantised"),
        ("adapter", "this is an adapter, not a base; give it as `pool`"),
        ("gguf", r"model\.gguf: a GGUF base is given by its file; give copy/model\.gguf"),
    ],
)
def test_folders_that_are_no_base(copy: Path, tmp_path: Path, how: str, message: str) -> None:
    spoil(copy, how)
    with pytest.raises(BaseModelError, match=message) as caught:
        resolve_base(str(copy), cache=tmp_path)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BaseModelError, match=r"is neither a folder nor a \.gguf file"):
        resolve_base(str(tmp_path / "model.safetensors"), cache=tmp_path)


def test_gguf_is_dequantised_once(tiny_llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    cache = tmp_path / "cache"
    (cache / "0123.99.partial").mkdir(parents=True)  # what a killed run leaves is never taken
    found = resolve_base(str(path), cache=cache)
    assert found.base.id == "tiny.gguf"
    assert found.path.parent == cache
    assert capfd.readouterr().err == ""
    wanted, got = load_file(tiny_llama / "model.safetensors"), load_file(found.path / "model.safetensors")
    assert got.keys() == wanted.keys() == found.shapes.keys()
    for name, array in wanted.items():
        assert got[name].dtype == np.float32
        assert np.abs(got[name] - array).max() <= np.abs(array).max() / 100, name
    assert "quantization_config" not in found.config
    model = AutoModelForCausalLM.from_pretrained(found.path)
    assert model.dtype.itemsize == 4
    text = "### Response: 007, yes"
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (tiny_llama, found.path)]
    assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids

    made = (found.path / "model.safetensors").stat().st_mtime_ns
    again = resolve_base(str(path), cache=cache)
    assert again.base == found.base
    assert (again.path / "model.safetensors").stat().st_mtime_ns == made
    renamed = path.rename(tmp_path / "other.gguf")
    assert resolve_base(str(renamed), cache=cache).base.digest == found.base.digest
    assert resolve_base(str(found.path), cache=cache).base.digest == found.base.digest


def test_the_header_of_a_gguf_is_read_once(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    read = []

    class Counting(gguf.GGUFReader):  # type: ignore[misc]  # gguf has no types
        def __init__(self, path: str, *rest: Any, **named: Any) -> None:
            read.append(str(path))
            super().__init__(path, *rest, **named)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    resolve_base(str(path), cache=tmp_path / "cache")
    assert read == [str(path)]
    assert gguf.GGUFReader is Counting


def test_a_bad_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    import gguf

    path, reader = tmp_path / "bad.gguf", gguf.GGUFReader
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BaseModelError, match="cannot be read as GGUF"):
        resolve_base(str(path), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert gguf.GGUFReader is reader


def test_an_interrupted_dequantisation_is_not_used(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")

    def interrupted(path: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_module, "_dequantise", interrupted)
        with pytest.raises(KeyboardInterrupt):
            resolve_base(str(path), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert resolve_base(str(path), cache=tmp_path / "cache").shapes


def test_a_cache_that_cannot_be_made(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_llama, tmp_path / "tiny.gguf")
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(RunError, match="cannot be written"):
        resolve_base(str(path), cache=tmp_path / "cache")


def test_checkpoint_delta_is_the_difference(tiny_llama: Path, copy: Path) -> None:
    rng = np.random.default_rng(0)
    base = load_file(tiny_llama / "model.safetensors")
    tuned = {name: array + rng.normal(0, 0.1, array.shape).astype(np.float32) for name, array in base.items()}
    save_file(
        {**tuned, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}, copy / "model.safetensors"
    )
    delta = read_checkpoint_delta(copy, tiny_llama)
    assert sorted(delta) == sorted(base)
    for name, update in delta.items():
        assert np.array_equal(update.dense(), tuned[name] - base[name])
    with pytest.raises(PoolError, match=r"copy: model\.safetensors: not there"):
        (copy / "model.safetensors").unlink()
        read_checkpoint_delta(copy, tiny_llama)


@pytest.mark.slow
def test_the_real_gguf_gives_the_folder_it_gave_before(real_base: Path, tmp_path: Path) -> None:
    if real_base.suffix != ".gguf":
        pytest.skip("the real base here is a folder, not a GGUF file")
    found = resolve_base(str(real_base), cache=tmp_path)
    assert len(found.shapes) == 272
    assert resolve_base(str(found.path), cache=tmp_path).base.digest == found.base.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ('"rms_norm_eps": NaN', "rms_norm_eps is nan"), ('"rope_theta": 1e999', "rope_theta is inf"),
        ('"text_config": {"x": -Infinity}', "config.json: text_config: x is -inf"),
        ('"hidden_size": "a"', "hidden_size is 'a', no size"), ('"num_hidden_layers": -1', "num_hidden_layers is -1"),
        ('"vocab_size": {}', "vocab_size is {}, no size"),
        ('"model_type": ["a"]', "model_type is ['a'], which it cannot be"),
        ('"text_config": 5', "text_config is 5, which it cannot be"),
        ('"vocab_size": 1.5', "vocab_size is 1.5, no size"), ('"d_model": true', "d_model is True, no size"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(changes: str, said: str, copy: Path, tmp_path: Path) -> None:
    text = (copy / "config.json").read_text().rstrip().removesuffix("}")
    (copy / "config.json").write_text(f"{text}, {changes}}}")
    with pytest.raises(BaseModelError, match=re.escape(said)):
        resolve_base(str(copy), cache=tmp_path / "cache")


class Forgetful(dict[str, str]):
    """A memo that loses what it is given, as a damaged store may."""

    def __setitem__(self, key: str, value: str) -> None:
        pass


def test_a_memo_that_keeps_nothing_is_no_error(copy: Path, tmp_path: Path) -> None:
    found = resolve_base(str(copy), cache=tmp_path, hashes=Forgetful())
    assert found.base.digest == resolve_base(str(copy), cache=tmp_path).base.digest


def test_infinity_in_a_list_is_read_as_some_models_have_it(copy: Path, tmp_path: Path) -> None:
    before = resolve_base(str(copy), cache=tmp_path).base.digest
    edit(copy / "config.json", time_step_limit=[0.0, float("inf")])
    assert resolve_base(str(copy), cache=tmp_path).base.digest != before


def test_a_configuration_that_transformers_cannot_use_is_one_line(copy: Path) -> None:
    edit(copy / "config.json", vocab_size=None)
    with pytest.raises(BaseModelError, match=r"base copy: cannot be loaded \(.*\); check the folder's files"):
        load_backbone(copy)
