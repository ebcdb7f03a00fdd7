"""Names of parameters: which of the base's a name in an adapter or checkpoint stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from merge_advisor.weights.parameter_map import BaseShapes

Shapes = Mapping[str, tuple[int, ...]]
"""By parameter name, as in the base's safetensors files."""

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "shared.weight", "word_embeddings.weight", "embed_in.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
"""Ends of the names of embeddings and output heads in the architectures we know."""


_WRAPPERS = frozenset({
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
    "base_model", "pretrained_model", "model", "transformer", "gpt_neox", "backbone", "biogpt", "bert", "roberta",
    "rwkv", "language_model", "text_model", "llm", "thinker",
})  # fmt: skip
"""Parts that names of one parameter begin with or not: what wraps a model, inner models, and the part that reads text.
A part that is not here (`vision_tower`, `mtp`, `encoder`) is another part of a model, whose layers have the same names.
"""


def find_parameter(name: str, shapes: Shapes) -> str | None:
    """Return the base's name for a parameter, or None.

    The names are equal, or begin with other wrappers (`transformer.h.0…` and `h.0…`, `language_model.model.layers.0…`
    and `model.language_model.layers.0…`); where several base names are so alike, none is taken. Where the files have no
    such name, that of the model in memory counts as well, and what transformers' loader makes of the name.

    >>> find_parameter("transformer.h.0.mlp.weight", {"h.0.mlp.weight": (8, 8), "h.1.mlp.weight": (8, 8)})
    'h.0.mlp.weight'
    >>> find_parameter("mtp.layers.0.mlp.weight", {"layers.0.mlp.weight": (8, 8)}) is None
    True

    Args:
        name: the name in the adapter or checkpoint.
        shapes: the base's parameters; a `BaseShapes` knows the names in memory too.
    """
    found = _find(name, shapes)
    if found is not None or not isinstance(shapes, BaseShapes):
        return found
    there = _find(name, shapes.of_memory) or _find(shapes.loaded_name(name), shapes.of_memory)
    return shapes.of_memory[there] if there is not None else None


def _find(name: str, shapes: Mapping[str, Any]) -> str | None:
    tail = name  # its own wrappers come off part by part, so that the longest match counts
    while tail not in shapes:
        first, _, rest = tail.partition(".")
        if first not in _WRAPPERS or "." not in rest:
            break
        tail = rest
    else:
        return tail
    alike = [whole for whole in shapes if whole.endswith(f".{tail}") and _wraps(whole.removesuffix(f".{tail}"))]
    return alike[0] if len(alike) == 1 else None


def _wraps(prefix: str) -> bool:
    return all(part in _WRAPPERS for part in prefix.split("."))


def is_conv1d(shapes: Shapes) -> bool:
    """Return whether the base stores its weights as (in, out), as GPT-2's Conv1D does.

    The first weight that is not square and has a bias decides: a bias is as long as the output.

    >>> is_conv1d({"h.0.c_fc.weight": (32, 128), "h.0.c_fc.bias": (128,)})
    True

    Args:
        shapes: the base's parameters.
    """
    if not isinstance(shapes, BaseShapes):
        return _is_conv1d(shapes)
    if shapes.conv1d is None:
        shapes.conv1d = _is_conv1d(shapes)
    return shapes.conv1d


def _is_conv1d(shapes: Shapes) -> bool:
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 2 and shape[0] != shape[1]:
            bias = shapes.get(f"{name.removesuffix('.weight')}.bias")
            if bias in ((shape[0],), (shape[1],)):
                return bias == (shape[1],)
    return False


_BLOCK = re.compile(r"(?:^|\.)(?:layers|blocks|block|layer|h)\.(\d+)\.")


def block_of(name: str) -> tuple[str, int] | None:
    """Return the transformer block a parameter belongs to: the name up to its number, and the number; None outside.

    The first of `layers.N.`, `blocks.N.`, `block.N.`, `layer.N.` and `h.N.` counts. In an encoder-decoder both stacks
    count from 0.

    >>> block_of("model.layers.3.mlp.up_proj.weight")
    ('model.layers.3.', 3)

    Args:
        name: the parameter's name.
    """
    match = _BLOCK.search(name)
    return (name[: match.end()], int(match[1])) if match else None


def count_blocks(names: Iterable[str]) -> int:
    """Return the number of transformer blocks of a model, of its deeper stack if it has two.

    Args:
        names: the names of its parameters.
    """
    return 1 + max((block[1] for name in names if (block := block_of(name))), default=-1)


def layer_factor(name: str, layers: Sequence[float], count: int) -> float:
    """Return the factor of a parameter's layer group; 1 outside the blocks.

    Of G groups of consecutive blocks, block i of n is in group i·G // n.

    >>> layer_factor("model.layers.3.mlp.up_proj.weight", layers=[0.5, 2.0], count=4)
    2.0

    Args:
        name: the parameter's name.
        layers: a factor for each of the G groups; empty for none.
        count: n, the blocks of the base.
    """
    block = block_of(name)
    return layers[min(block[1], count - 1) * len(layers) // count] if block and layers else 1.0
