"""Models with quantised weights: the copy holds what the packages that quantised them make of their weights."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from merge_advisor.weights import unpacking
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.tensorfile import tensor_bytes
from tests.support.architectures import build_model
from tests.support.quantised_models import (
    BITSANDBYTES,
    awq_layer,
    by_hand,
    copied,
    gptq_layer,
    say_quantised,
    with_bitsandbytes,
)


def loaded(folder: Path) -> Any:
    """A quantised model as transformers loads it; in training mode bitsandbytes keeps to the dtype of its inputs."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").train()


@pytest.mark.parametrize("name", BITSANDBYTES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bitsandbytes_weights_are_those_of_bitsandbytes(
    name: str, dtype: str, wide_llama: Path, tmp_path: Path
) -> None:
    import torch

    folder = with_bitsandbytes(wide_llama, tmp_path / "quantised", dtype, name)
    ours = copied(folder, tmp_path / "cache")
    theirs = loaded(folder).dequantize().state_dict()
    plain = load_file(wide_llama / "model.safetensors")
    assert ours.keys() == plain.keys()
    for key, tensor in ours.items():
        assert tensor.dtype == getattr(torch, dtype), key
        assert torch.equal(tensor, theirs[key]), key
    rounded = [key for key in ours if not torch.equal(ours[key], plain[key].to(ours[key].dtype))]
    assert len(rounded) == 14, "each of the linear layers was quantised"


def test_rows_shorter_than_a_block_of_scales(tiny_llama: Path, tmp_path: Path) -> None:
    """Here bitsandbytes 0.50.2 itself is wrong on a CPU (by 40% of the weights, not by 9%), so it is not asked."""
    ours = copied(with_bitsandbytes(tiny_llama, tmp_path / "quantised"), tmp_path / "cache")
    for key, weight in load_file(tiny_llama / "model.safetensors").items():
        assert float((ours[key] - weight).norm()) < 0.11 * float(weight.norm()), key


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_layers_that_lie_the_other_way_round(name: str, tmp_path: Path) -> None:
    import torch

    base = build_model("gpt2", tmp_path / "gpt2")
    folder = with_bitsandbytes(base, tmp_path / "quantised", name=name)
    ours, plain = copied(folder, tmp_path / "cache"), load_file(base / "model.safetensors")
    for key, tensor in ours.items():
        assert tensor.shape == plain[key].shape, key
        assert float((tensor - plain[key]).abs().max()) < 0.4 * float(plain[key].abs().max()) + 1e-6, key
    square = next(key for key in ours if key.endswith("attn.c_proj.weight"))
    assert torch.corrcoef(torch.stack([ours[square].flatten(), plain[square].flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize(("bits", "shuffled", "layout"), [
    (4, False, "gptq"), (4, True, "gptq_v2"), (2, False, "gptq"), (3, True, "gptq"), (8, False, "gptq"),
])  # fmt: skip
def test_gptq(bits: int, shuffled: bool, layout: str, tiny_llama: Path, tmp_path: Path) -> None:
    import torch

    meant: list[Any] = []

    def compress(weight: Any) -> dict[str, Any]:
        layer, stands_for = gptq_layer(weight, bits, 16, shuffled=shuffled, less_one=layout == "gptq", seed=len(meant))
        meant.append(stands_for)
        return layer

    settings = {"quant_method": "gptq", "bits": bits, "group_size": 16, "checkpoint_format": layout}
    names = list(by_hand(tiny_llama, tmp_path / "quantised", compress, settings))
    ours = copied(tmp_path / "quantised", tmp_path / "cache")
    for name, weight in zip(names, meant, strict=True):
        assert torch.equal(ours[name], weight), name


def test_awq_is_what_compressed_tensors_makes_of_it(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter

    layers: list[dict[str, Any]] = []

    def compress(weight: Any) -> dict[str, Any]:
        layers.append(awq_layer(weight, 16, seed=len(layers)))
        return layers[-1]

    settings = {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}
    names = list(by_hand(tiny_llama, tmp_path / "quantised", compress, settings))
    ours = copied(tmp_path / "quantised", tmp_path / "cache")
    for name, layer in zip(names, layers, strict=True):
        codes, zeros = AutoAWQConverter.unpack_awq(layer["qweight"], layer["qzeros"], 4)
        codes, zeros = AutoAWQConverter.reverse_awq_order(codes, zeros, 4)
        scales = layer["scales"].repeat_interleave(16, 0)
        meant = scales * ((codes & 15) - (zeros & 15).repeat_interleave(16, 0)).half()
        assert torch.equal(ours[name], meant.T), name


_GROUPS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 16}
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "int4 in groups": ("pack-quantized", _GROUPS | {"symmetric": True}),
    "int4 in groups with zero points": ("pack-quantized", _GROUPS | {"symmetric": False}),
    "int3 by rows": ("pack-quantized", {"num_bits": 3, "type": "int", "strategy": "channel", "symmetric": True}),
    "int8 by rows": ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}),
    "fp8 as a whole": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}),
    "fp8 in blocks": (
        "float-quantized",
        {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 8], "symmetric": True},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "symmetric": True,
         "scale_dtype": "float8_e4m3fn", "zp_dtype": "float8_e4m3fn"},
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "symmetric": True,
         "scale_dtype": "uint8", "zp_dtype": "uint8"},
    ),
}  # fmt: skip
"""Name -> format, settings of the weights."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEMES)
def test_compressed_tensors(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    layout, weights = SCHEMES[name]
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    compressor = BaseCompressor.get_value_from_registry(layout)
    meant: list[Any] = []

    def compress(weight: Any) -> dict[str, Any]:
        made = compressor.compress({"weight": weight, **_scales(weight, scheme.weights)}, scheme)
        meant.append(compressor.decompress(dict(made), scheme)["weight"])
        return {key: tensor for key, tensor in made.items() if tensor is not None}

    settings = {
        "quant_method": "compressed-tensors", "format": layout,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip
    old = by_hand(tiny_llama, tmp_path / "quantised", compress, settings, dtype="float32")
    ours = copied(tmp_path / "quantised", tmp_path / "cache")
    for (key, weight), theirs in zip(old.items(), meant, strict=True):
        # it computes nvfp4 in bfloat16
        torch.testing.assert_close(ours[key], theirs.float(), rtol=2**-7 if "fp4" in name else 1e-6, atol=1e-6)
        assert float((ours[key] - weight).norm() / weight.norm()) < (0.4 if weights["num_bits"] == 3 else 0.2)


def _scales(weight: Any, args: Any) -> dict[str, Any]:
    """Scales and zero points of the largest entries, as an observer of compressed-tensors finds them."""
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    out, width = weight.shape
    if args.strategy == "tensor":
        low, high = weight.amin().reshape(1), weight.amax().reshape(1)
    elif args.strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    elif args.strategy == "block":
        rows, columns = args.block_structure
        blocks = weight.reshape(out // rows, rows, width // columns, columns)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    else:
        groups = weight.reshape(out, width // args.group_size, args.group_size)
        low, high = groups.amin(-1), groups.amax(-1)
    common = (
        generate_gparam(weight.amin().reshape(1), weight.amax().reshape(1)) if "tensor_g" in args.strategy else None
    )
    scale, zero = calculate_qparams(low, high, args, global_scale=common)
    found = {"weight_scale": scale, "weight_zero_point": zero}
    if common is not None:
        found["weight_global_scale"] = torch.as_tensor(common, dtype=torch.float32)
    return found


def test_fp8_in_blocks_is_what_transformers_makes_of_it(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    def compress(weight: Any) -> dict[str, Any]:
        out, width = weight.shape
        blocks = weight.reshape(out // 16, 16, width // 8, 8)
        scale = blocks.abs().amax((1, 3)) / 448
        codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        return {"weight": codes.reshape(out, width), "weight_scale_inv": scale}

    settings = {"quant_method": "fp8", "weight_block_size": [16, 8], "activation_scheme": "dynamic"}
    by_hand(tiny_llama, tmp_path / "quantised", compress, settings, dtype="float32")
    ours = copied(tmp_path / "quantised", tmp_path / "cache")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "quantised", dtype=torch.float32, quantization_config=FineGrainedFP8Config(dequantize=True)
    ).state_dict()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


def test_every_8_bit_float_is_torchs() -> None:
    import torch

    codes = np.arange(256, dtype=np.uint8)
    kinds = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu}
    for name, dtype in kinds.items():
        theirs = torch.from_numpy(codes).view(dtype).float().numpy()
        np.testing.assert_array_equal(unpacking.from_float8(codes, name), theirs, name)


def test_experts_of_gpt_oss_are_what_transformers_makes_of_them() -> None:
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    chance = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 8, 2, 16), generator=chance, dtype=torch.uint8)
    exponents = torch.randint(110, 130, (3, 8, 2), generator=chance, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32)
    ours = unpacking.from_mxfp4(blocks.numpy(), exponents.numpy())
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_is_torchs(dtype: str) -> None:
    import torch

    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    values = np.concatenate([
        np.random.default_rng(0).normal(0, 3, 5000), [0, -0.0, 65519, 1e-8, np.inf, -np.inf, np.nan, 1.00390625]
    ]).astype(np.float32)  # fmt: skip
    theirs = torch.from_numpy(values).to(kinds[dtype])
    ours = torch.frombuffer(bytearray(tensor_bytes(values, dtype)), dtype=kinds[dtype])
    assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))
    assert torch.equal(ours.isnan(), theirs.isnan())


def test_a_whole_gpt_oss(tiny_llama: Path, tmp_path: Path) -> None:
    """As published: experts in mxfp4, all else in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, GptOssConfig, Mxfp4Config

    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=320, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    folder = tmp_path / "gpt-oss"
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, width, out = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (experts, out, width // 32, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 126, (experts, out, width // 32), dtype=torch.uint8)
    assert sum(name.endswith("_blocks") for name in tensors) == 4
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    say_quantised(folder, {"quant_method": "mxfp4"})
    shutil.copy(tiny_llama / "tokenizer.json", folder)
    found = resolve_base(str(folder), cache=tmp_path / "cache")
    assert "(mxfp4): dequantised once, to bfloat16" in found.dequantised
    ours = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    ).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor.float()), name
