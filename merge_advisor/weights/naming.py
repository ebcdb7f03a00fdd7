"""Names of parameters: how an adapter's or checkpoint's names meet those of a base, by names and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name, as in the base's safetensors files, -> shape."""

_UNPREFIXED = {"gpt2", "bloom", "gpt_neo", "gptj", "codegen", "falcon", "gpt_bigcode", "mpt"}


def find_parameter(name: str, shapes: Shapes) -> str | None:
    """Return the base's name for a parameter, or None.

    The names are equal, or one carries a prefix that the other lacks (`transformer.h.0…` and `h.0…`); of several base
    names that end in `name` none is taken.
    """
    tail = name
    while tail.count("."):
        if tail in shapes:
            return tail
        tail = tail.split(".", 1)[1]
    longer = [found for found in shapes if found.endswith(f".{name}")]
    return longer[0] if len(longer) == 1 else None


def conv1d_base(shapes: Shapes) -> bool:
    """True where the base stores its weights as (in, out), as GPT-2's Conv1D does: a bias is as long as its output."""
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 2 and shape[0] != shape[1]:
            bias = shapes.get(f"{name.removesuffix('.weight')}.bias")
            if bias in ((shape[0],), (shape[1],)):
                return bias == (shape[1],)
    return False


def model_prefix(config: Mapping[str, Any], shapes: Shapes) -> str:
    """Return what to put before the base's names to get those of the model in memory: "transformer." or nothing.

    Older checkpoints (GPT-2, BLOOM) were saved from the inner model; PEFT names modules from the outer one.
    """
    bare = config.get("model_type") in _UNPREFIXED and not any(name.startswith("transformer.") for name in shapes)
    return "transformer." if bare else ""


def short(name: str) -> str:
    """Cut a name from somebody else's file for a message: printable, at most 80 characters."""
    return (name if name.isprintable() else ascii(name)[1:-1])[:80]


_BLOCK = re.compile(r"(?:^|\.)(?:layers|blocks|block|layer|h)\.(\d+)\.")


def block_of(name: str) -> tuple[str, int] | None:
    """Return the transformer block a parameter belongs to: the name up to its number, and the number; None outside.

    The first of `layers.N.`, `blocks.N.`, `block.N.`, `layer.N.` and `h.N.` counts. In an encoder-decoder both stacks
    count from 0.
    """
    found = _BLOCK.search(name)
    return (name[: found.end()], int(found[1])) if found else None


def count_blocks(names: Iterable[str]) -> int:
    """Return the number of transformer blocks of a model (of its deeper stack) by the names of its parameters."""
    return 1 + max((block[1] for name in names if (block := block_of(name))), default=-1)


def layer_factor(name: str, layers: Sequence[float], count: int) -> float:
    """Return a parameter's factor: of G = len(layers) groups, block i of `count` is in i·G // count; 1 outside."""
    block = block_of(name)
    return layers[min(block[1], count - 1) * len(layers) // count] if block and layers else 1.0
