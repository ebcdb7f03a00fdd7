"""The dequantised copy of a model: said before it is made, whole or not there, and what cannot be one is refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from merge_advisor.errors import BaseModelError, OfflineError
from merge_advisor.weights import dequantised, unpacking
from merge_advisor.weights.base import quantised_base, resolve_base
from merge_advisor.weights.files import FileError
from tests.support.hub_server import Hub
from tests.support.quantised_models import copied, say_quantised, with_bitsandbytes


@pytest.fixture(scope="module")
def nf4(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_bitsandbytes(tiny_llama, tmp_path_factory.mktemp("nf4") / "tiny-llama-bnb-4bit", "bfloat16")


def test_it_is_said_how_and_what_it_takes_before_it_is_made(nf4: Path, tmp_path: Path) -> None:
    looked_at = quantised_base(str(nf4))
    assert looked_at is not None
    said: list[tuple[str, int, int]] = []
    found = resolve_base(str(nf4), cache=tmp_path / "cache", progress=lambda *step: said.append(step))
    sentence = (
        r"its weights are quantised \(bitsandbytes nf4, 4 bits\): dequantised once, to bfloat16, a copy of 0.0001 GB "
        "in the cache"
    )
    assert looked_at.sentence == sentence.replace("\\", "")
    assert said[0] == (f"dequantising tiny-llama-bnb-4bit: {looked_at.sentence}", 0, 20) and said[-1][1:] == (20, 20)
    assert found.dequantised.startswith(f"base tiny-llama-bnb-4bit: {looked_at.sentence}; merges are written into")
    header = found.path / "model.safetensors"
    assert abs(header.stat().st_size - looked_at.size) < 4000
    again = resolve_base(str(found.path), cache=tmp_path / "cache")
    assert again.base.digest == found.base.digest and looked_at.sentence in again.dequantised
    said.clear()
    resolve_base(str(nf4), cache=tmp_path / "cache", progress=lambda *step: said.append(step))
    assert not said, "what is there is taken"


def test_plain_bases_say_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    assert quantised_base(str(tiny_llama)) is None and quantised_base("org/not-fetched") is None
    assert resolve_base(str(tiny_llama), cache=tmp_path).dequantised == ""


def test_a_full_disk_is_told_before_anything_is_written(
    nf4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: os.terminal_size((1, 1)) and type("U", (), {"free": 1000}))
    with pytest.raises(BaseModelError, match=r"a copy of 0.0001 GB in the cache, where 0.0001 GB are free; free space"):
        resolve_base(str(nf4), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_kill_in_the_middle_leaves_nothing_that_is_taken(
    nf4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, folder: Path, progress: Any) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dequantised, "_write", broken)
        with pytest.raises(KeyboardInterrupt):
            resolve_base(str(nf4), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert resolve_base(str(nf4), cache=tmp_path / "cache").shapes


def test_shards_stay_shards_and_parts_may_lie_in_another(nf4: Path, tmp_path: Path) -> None:
    import torch

    folder = shutil.copytree(nf4, tmp_path / "sharded")
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: whole[name] for name in held}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found = resolve_base(str(folder), cache=tmp_path / "cache")
    made = {name: tensor for file in shards for name, tensor in load_file(found.path / file).items()}
    of_one = copied(nf4, tmp_path / "cache")
    assert made.keys() == of_one.keys()
    assert all(torch.equal(made[name], of_one[name]) for name in made)


@pytest.mark.parametrize(("settings", "message"), [
    ({"quant_method": "aqlm"}, r"quantised \(aqlm\), of which only awq, bitsandbytes, .* are dequantised here; give "),
    ({"bits": 4}, r"quantised \(of an unknown kind, 4 bits\), of which only"),
    ({"quant_method": "gptq", "bits": 4}, r"says that its weights are quantised \(gptq, 4 bits\), its files hold none"),
    ({"quant_method": "gptq", "checkpoint_format": "marlin"}, r"GPTQ in the layout marlin is not read; take one in"),
    ({"quant_method": "awq", "version": "gemv"}, r"AWQ in the layout gemv is not read; take one in gemm"),
])  # fmt: skip
def test_what_is_not_read_says_what_to_do(
    settings: dict[str, Any], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "odd")
    say_quantised(folder, settings)
    with pytest.raises(BaseModelError, match=message) as caught:
        resolve_base(str(folder), cache=tmp_path / "cache")
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("end", "message"), [
    (".absmax", r"bitsandbytes weights are not whole \(model.layers.0.mlp.down_proj.weight.absmax is not there\)"),
    (".quant_state.bitsandbytes__nf4", r"is U8, and no scales of bitsandbytes lie beside it"),
])  # fmt: skip
def test_a_part_that_is_missing_is_named(end: str, message: str, nf4: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nf4, tmp_path / "cut")
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"model.layers.0.mlp.down_proj.weight{end}"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=message):
        resolve_base(str(folder), cache=tmp_path / "cache")


def test_parts_that_do_not_fit_leave_no_copy(nf4: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nf4, tmp_path / "cut")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight.absmax"
    tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"down_proj.weight: is not whole \(.*; fetch it again"):
        resolve_base(str(folder), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_scale_of_infinity_is_refused(nf4: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nf4, tmp_path / "bad")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight.absmax"][0] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseModelError, match=r"up_proj.weight: .* holds NaN; fetch it again"):
        resolve_base(str(folder), cache=tmp_path / "cache")


def test_a_quantised_base_of_the_hub(nf4: Path, hub_here: Hub, tmp_path: Path) -> None:
    commit = hub_here.add("acme/tiny-llama-bnb-4bit", nf4)
    with pytest.raises(OfflineError):
        resolve_base("acme/tiny-llama-bnb-4bit", offline=True, cache=tmp_path / "cache")
    found = resolve_base("acme/tiny-llama-bnb-4bit", cache=tmp_path / "cache")
    assert (found.base.id, found.base.revision) == ("acme/tiny-llama-bnb-4bit", commit)
    assert found.path.parent == tmp_path / "cache" and found.dequantised
    asked = len(hub_here.requests)
    again = resolve_base(f"acme/tiny-llama-bnb-4bit@{commit}", offline=True, cache=tmp_path / "cache")
    assert again.base == found.base and len(hub_here.requests) == asked
    looked_at = quantised_base("acme/tiny-llama-bnb-4bit")
    assert looked_at is not None and looked_at.sentence in found.dequantised


def test_scales_that_do_not_fit() -> None:
    for scales in (np.ones((3, 1), np.float32), np.ones((2, 9), np.float32), np.ones(3, np.float32)):
        with pytest.raises(ValueError, match="do not fit"):
            unpacking.spread(scales, (8, 8))


def test_a_copy_that_says_nothing_of_itself(tmp_path: Path) -> None:
    (tmp_path / "rewritten.json").write_text("{")
    with pytest.raises(FileError, match=r"rewritten\.json: not JSON"):
        dequantised.said_of_copy(tmp_path)
