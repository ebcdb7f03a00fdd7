"""A checkpoint whose configuration makes another model of the same weights is refused; other saves of one are not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import PoolError
from merge_advisor.weights.same_computation import check_same_computation


def saved(base: Path, folder: Path, changes: dict[str, Any]) -> Path:
    folder.mkdir()
    config = json.loads((base / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_parameters.rope_theta is 1000000.0"),
        ({"rope_parameters": None, "rope_theta": 1e6}, "rope_parameters.rope_theta is 1000000.0"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_parameters.factor is 4.0, the base's is None"),
        ({"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}, "head_dim is 16, the base's is 8"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps is 0.1, the base's is 1e-06"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu, the base's is silu"),
    ],
)
def test_another_computation_is_refused_by_name(
    changes: dict[str, Any], named: str, tiny_llama: Path, tmp_path: Path
) -> None:
    if "rope_scaling" in changes:
        changes = {"rope_parameters": None, "rope_theta": 10000.0, **changes}
    with pytest.raises(PoolError, match="another model of the same weights; give the base") as refused:
        check_same_computation(saved(tiny_llama, tmp_path / "x", changes), tiny_llama)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": None, "rope_theta": 10000.0, "rope_scaling": None},  # as transformers 4 wrote it
        {"attention_bias": ..., "mlp_bias": ..., "head_dim": ...},  # defaults left out
        {"attention_dropout": 0.1, "initializer_range": 1.0, "use_cache": False, "dtype": "bfloat16"},
        {"max_position_embeddings": 4096, "vocab_size": 400, "eos_token_id": [1, 2], "unsloth_version": "1"},
    ],
)
def test_another_save_of_the_same_is_taken(changes: dict[str, Any], tiny_llama: Path, tmp_path: Path) -> None:
    check_same_computation(saved(tiny_llama, tmp_path / "x", changes), tiny_llama)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "no such thing"},
        {"rms_norm_eps": "small"},
        {"rope_parameters": {"rope_type": "yarn"}},
        {"quantization_config": 5},
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_line(
    changes: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    folder = saved(tiny_llama, tmp_path / "x", changes)
    with pytest.raises(PoolError, match=r"config.json: cannot be read as a model's \(.*\); fetch it again"):
        check_same_computation(folder, tiny_llama)


def test_a_pool_sets_such_a_checkpoint_aside(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    from merge_advisor.pool import open_pool
    from merge_advisor.weights.base import resolve_base

    weights = load_file(tiny_llama / "model.safetensors")
    for name, changes in (("same", {}), ("other", {"rms_norm_eps": 0.1})):
        folder = saved(tiny_llama, tmp_path / name, changes)
        save_file({key: (array * np.float32(1.01)) for key, array in weights.items()}, folder / "model.safetensors")
    shutil.copytree(tiny_pool / "a0", tmp_path / "a0")
    pool = open_pool(tmp_path, resolve_base(str(tiny_llama), cache=tmp_path / ".cache"))
    assert [candidate.id for candidate in pool.candidates] == ["a0", "same"]
    assert [(model.id, "rms_norm_eps" in model.reason) for model in pool.refused] == [("other", True)]
