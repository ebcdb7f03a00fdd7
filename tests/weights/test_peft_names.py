"""What PEFT loads whole: decided by names, checked against PEFT itself."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import resolve_base
from merge_advisor.weights.peft_names import peft_loads
from tests.support.merges import by_plain_peft, weights_of
from tests.support.models import LLAMA_MODULES, write_lora

RENAMES: dict[str, Callable[[str], str]] = {
    "as PEFT has it": lambda key: key,
    "no prefix": lambda key: key.removeprefix("base_model.model."),
    "no inner model": lambda key: key.replace("base_model.model.model.", "base_model.model."),
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled inside": lambda key: key.replace("base_model.model.model.", "base_model.model._orig_mod.model."),
    "checkpointed": lambda key: key.replace("0.self_attn.", "0._checkpoint_wrapped_module.self_attn."),
    "sharded": lambda key: key.replace(".layers.", "._fsdp_wrapped_module.layers."),
    "the adapter's name": lambda key: re.sub(r"\.lora_([AB])\.", r".lora_\1.default.", key),
}  # fmt: skip


def loaded_whole(base: Path, folder: Path, tmp_path: Path) -> bool:
    """Whether plain PEFT gives base + the update that is read here."""
    shapes = resolve_base(str(base), cache=tmp_path / "cache").shapes
    delta, before, after = read_adapter(folder, shapes), weights_of(base), by_plain_peft(base, folder)
    return all(np.allclose(after[name], before[name] + delta[name].dense(), atol=1e-5) for name in delta)


def renamed(place: Path, rename: Callable[[str], str], **settings: Any) -> Path:
    folder = write_lora(place, LLAMA_MODULES, seed=3, **settings)
    path = folder / "adapter_model.safetensors"
    save_file({rename(key): array for key, array in load_file(path).items()}, path)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RENAMES)
def test_keys(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = renamed(tmp_path / "x", RENAMES[name])
    shapes = resolve_base(str(tiny_llama), cache=tmp_path / "cache").shapes
    wanted = read_adapter(renamed(tmp_path / "twin", str), shapes)
    found = read_adapter(folder, shapes)
    assert all(np.array_equal(found[weight].dense(), wanted[weight].dense()) for weight in wanted)
    assert peft_loads(folder, shapes) == (name == "as PEFT has it")
    # with the adapter's name in its keys PEFT loads it under that name alone
    assert loaded_whole(tiny_llama, folder, tmp_path) == (name in ("as PEFT has it", "the adapter's name"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("settings", "whole"),
    [
        ({"target_modules": ["v_proj"]}, False),
        ({"target_modules": sorted(LLAMA_MODULES)}, True),
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": r".*self_attn\.[qv]_proj"}, True),
        ({"target_modules": r".*\.0\.self_attn\.[qv]_proj"}, False),
        ({"layers_to_transform": [1]}, False),
        ({"exclude_modules": ["q_proj"]}, False),
        ({"alpha_pattern": {"q_proj": 32}}, True),
    ],
)
def test_configurations(settings: dict[str, Any], whole: bool, tiny_llama: Path, tmp_path: Path) -> None:
    folder = renamed(tmp_path / "x", lambda key: key, **settings)
    base = resolve_base(str(tiny_llama), cache=tmp_path / "cache")
    assert peft_loads(folder, base.shapes) == whole == loaded_whole(tiny_llama, folder, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("init", "layers", "whole"),
    [
        (False, [0], False), (None, [0], False), (False, [0, 1], True), (True, [0], True), ("gaussian", [0], True),
    ],
)  # fmt: skip
def test_modules_that_the_file_lacks_have_to_begin_at_zero(
    init: Any, layers: list[int], whole: bool, tiny_llama: Path, tmp_path: Path
) -> None:
    modules = {name: shape for name, shape in LLAMA_MODULES.items() if int(name.split(".")[2]) in layers}
    folder = write_lora(tmp_path / "x", modules, init_lora_weights=init)
    local = resolve_base(str(tiny_llama), cache=tmp_path / "cache")
    before, after = weights_of(tiny_llama), by_plain_peft(tiny_llama, folder)
    others = [f"{name}.weight" for name in LLAMA_MODULES if name not in modules]
    assert all(np.allclose(after[name], before[name]) for name in others) == whole == peft_loads(folder, local.shapes)


def test_an_expression_that_may_take_for_ever_is_not_run(tiny_llama: Path, tmp_path: Path) -> None:
    base = resolve_base(str(tiny_llama), cache=tmp_path / "cache")
    for expression in (r"(.*)*x", "[", "a" * 400):
        assert not peft_loads(renamed(tmp_path / str(hash(expression)), str, target_modules=expression), base.shapes)
