"""What the cases of several kinds of input are made from: files of the world, and words of commands."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tests.support.run_files import unchecked

MODEL = "@"
"""Stands for the name of a case's own model in the paths of a case that shares a command with others."""
POOL = ["--pool", "pool", "--base", "base"]
PLAN = ["plan", "--task", "examples.jsonl", "--dry-run", "--offline", "--threads", "1"]
CONFIG_KEYS = (
    "rope_scaling", "rope_parameters", "quantization_config", "auto_map", "model_type", "architectures",
    "torch_dtype", "dtype", "text_config",
    "layer_types", "head_dim", "num_key_value_heads", "vocab_size", "eos_token_id", "max_position_embeddings",
    "sliding_window", "id2label",
)  # fmt: skip


@functools.cache
def of_world(world: Path, name: str) -> bytes:
    """The bytes of a file of the world."""
    return (world / name).read_bytes()


@functools.cache
def json_of_world(world: Path, name: str) -> Any:
    """What a JSON file of the world says."""
    return json.loads(of_world(world, name))


@functools.cache
def unchecked_of_world(world: Path, name: str) -> Any:
    """What a file of a run says, without its checksum, which would tell all: as of before there were any."""
    return unchecked(world / name)


@functools.cache
def safetensors_of(world: Path) -> tuple[Any, bytes]:
    """Header and numbers of an adapter's weights."""
    data = of_world(world, "adapters/a0/adapter_model.safetensors")
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def adapter_files(world: Path, **changed: bytes) -> dict[str, bytes]:
    """The files of a case\'s own model, with some in place of the world\'s."""
    files = {
        name: of_world(world, f"adapters/a0/{name}") for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    return {f"pool/{MODEL}/{name}": data for name, data in {**files, **changed}.items()}
