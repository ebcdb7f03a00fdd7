"""Where the parameters of a base's files lie in the model in memory: one map of names, for whatever needs it.

Files and memory differ for whole families: GPT-2's files may lack `transformer.`, GPT-NeoX's head has another name,
the experts of a mixture are one tensor each in the files and one for all in memory, the text model of a vision-language
base has moved. transformers knows how to load them; here the same conversion is asked where each number ends up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merge_advisor.weights.by_transformers import build_skeleton

if TYPE_CHECKING:
    import torch

_SAME = frozenset({
    "cohere", "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo", "olmo2", "phi", "phi3", "qwen2",
    "qwen3", "smollm3", "stablelm", "starcoder2", "t5",
})  # fmt: skip
"""Values of `model_type` whose files and memory have the same names, so that no model has to be built to know it."""
_ROOTS = ("model.", "lm_head.", "shared.", "encoder.block.", "encoder.final", "decoder.block.", "decoder.final")
"""How the names of those begin, where they were not saved from an inner model and hold no copies that are tied."""


@dataclass(frozen=True, slots=True)
class MemoryPlace:
    """Where a parameter of the files lies: a view of a parameter in memory.

    >>> MemoryPlace("lm_head.weight", (8, 4), (4, 1), 0, whole=True).module
    'lm_head'
    """

    parameter: str
    """Name in memory."""
    shape: tuple[int, ...]
    """Of the parameter in the files."""
    stride: tuple[int, ...]
    """In entries of the parameter in memory, which is contiguous."""
    offset: int
    whole: bool
    """Whether it is the parameter in memory, in the same arrangement."""

    @property
    def module(self) -> str:
        """Name of the module in memory that it is the weight of; "" where it is none or a part of one."""
        return self.parameter.removesuffix(".weight") if self.whole and self.parameter.endswith(".weight") else ""

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a contiguous tensor of the parameter's size in memory, sharing its storage.

        Args:
            tensor: as large as the parameter in memory.
        """
        return (
            tensor if self.whole else tensor.as_strided(self.shape, self.stride, tensor.storage_offset() + self.offset)
        )


class BaseShapes(dict[str, tuple[int, ...]]):
    """Shapes of a base's parameters by name as in its files; and, where it is asked, their places in memory.

    >>> from merge_advisor.weights.base import resolve_base
    >>> shapes = resolve_base("base", cache=Path("cache")).shapes
    >>> shapes.module_of("model.layers.0.self_attn.q_proj.weight")
    'model.layers.0.self_attn.q_proj'
    """

    conv1d: bool | None = None
    """What `naming.is_conv1d` found, once for all adapters of a pool; None: it was not asked yet."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], folder: Path, config: Mapping[str, Any]) -> None:
        """Take the shapes; nothing is loaded before the names in memory are asked for.

        Args:
            shapes: by name as in the files.
            folder: of config.json.
            config: config.json.
        """
        super().__init__(shapes)
        self._folder = folder
        tied = "lm_head.weight" in self and config.get("tie_word_embeddings") is not False
        same = config.get("model_type") in _SAME and not tied
        self._same = same and all(name.startswith(_ROOTS) for name in self)

    @cached_property
    def places(self) -> dict[str, MemoryPlace]:
        """Place of each parameter that the model in memory has; those that it does not load are left out.

        Raises:
            BaseModelError: transformers cannot build the model of config.json.
        """
        if self._same:
            return {name: _whole(name, shape) for name, shape in self.items()}
        return map_parameters(build_skeleton(self._folder), self)

    @cached_property
    def of_memory(self) -> dict[str, str]:
        """By name in memory the name in the files, of parameters that are the same in both."""
        return {place.parameter: name for name, place in self.places.items() if place.whole}

    def loaded_name(self, name: str) -> str:
        """Return the name in memory of a parameter that other files of this architecture hold, as older ones do.

        Args:
            name: as in those files; one that is loaded as it is called is returned as it is.

        Raises:
            BaseModelError: transformers cannot build the model of config.json.
        """
        return name if self._same else self._rename(name)

    @cached_property
    def _rename(self) -> Callable[[str], str]:
        from transformers.core_model_loading import rename_source_key

        model = build_skeleton(self._folder)
        renamings, converters = _transforms(model)
        state = model.state_dict()
        return lambda name: str(rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0])

    def module_of(self, name: str) -> str:
        """Return the name that PEFT gives the module of a weight: as in memory, where it has one there.

        Args:
            name: the weight's, as in the files.
        """
        place = self.places.get(name)
        return place.module if place is not None and place.module else name.removesuffix(".weight")


def map_parameters(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, MemoryPlace]:
    """Return the place in memory of each parameter of some weight files, by its name there.

    Left out is what the model does not load (a copy that it ties, a part it lacks) and what lies in several of its
    parameters.

    Args:
        model: a transformers model, of numbers or on the meta device.
        shapes: by name as in the files.
    """
    memory = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    found: dict[str, MemoryPlace] = {}
    for name, shape in shapes.items():
        if memory.get(name) == shape:
            found[name] = _whole(name, shape)
    if len(found) < len(shapes):
        found |= _converted(model, shapes, memory, found)
    return {name: found[name] for name in shapes if name in found}


def _whole(parameter: str, shape: tuple[int, ...]) -> MemoryPlace:
    stride, size = [], 1
    for length in reversed(shape):
        stride.append(size)
        size *= length
    return MemoryPlace(parameter, shape, tuple(reversed(stride)), 0, whole=True)


def _converted(
    model: Any, shapes: Mapping[str, tuple[int, ...]], memory: Mapping[str, tuple[int, ...]], found: Iterable[str]
) -> dict[str, MemoryPlace]:
    """Places of what transformers renames or rearranges while it loads; the steps are those of its loader."""
    from transformers.core_model_loading import dot_natural_key, rename_source_key

    renamings, converters = _transforms(model)
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    state = model.state_dict()
    places: dict[str, MemoryPlace] = {}
    groups: dict[str, list[tuple[str, str]]] = {}
    taken = set(found)
    for name in sorted(shapes, key=dot_natural_key):
        if name in taken:
            continue
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if pattern is not None:
            groups.setdefault(renamed, []).append((name, pattern))
        elif memory.get(renamed) == shapes[name]:
            places[name] = _whole(renamed, shapes[name])
    known: dict[tuple[object, ...], list[tuple[str, MemoryPlace]]] = {}
    for target, sources in groups.items():
        # blocks are alike: what one's experts have shown holds for all
        like = (_unnumbered(target), *((_unnumbered(name), shapes[name]) for name, _ in sources))
        if like not in known:
            known[like] = _arranged(model, target, sources, shapes, deepcopy(by_pattern[sources[0][1]]))
        first = known[like]
        places |= {
            name: MemoryPlace(_like(place.parameter, target), place.shape, place.stride, place.offset, place.whole)
            for (name, _), (_, place) in zip(sources, first, strict=False)
            if len(first) == len(sources)
        }
    return {name: place for name, place in places.items() if place.parameter in memory}


def _transforms(model: Any) -> tuple[list[Any], list[Any]]:
    """What transformers renames, and what it rearranges, while it loads a model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    transforms = get_model_conversion_mapping(model)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    return renamings, [one for one in transforms if isinstance(one, WeightConverter)]


def _arranged(
    model: Any, target: str, sources: list[tuple[str, str]], shapes: Mapping[str, tuple[int, ...]], converter: Any
) -> list[tuple[str, MemoryPlace]]:
    """Places of the parameters that make one in memory, in their order; none where one lies in several.

    Each entry is numbered, and what the loader makes of the numbers says where it went.
    """
    import torch

    start = 0
    numbered: dict[str, torch.Tensor] = {}
    for name, pattern in sources:
        size = torch.Size(shapes[name]).numel()
        numbered[name] = torch.arange(start, start + size).reshape(shapes[name])
        converter.add_tensor(target, name, pattern, numbered[name])
        start += size
    made = converter.convert(target, model=model, config=model.config)
    if len(made) != 1:
        return []
    ((parameter, tensor),) = made.items()
    tensor = tensor[0] if isinstance(tensor, list) else tensor
    where = torch.full((start,), -1)
    where[tensor.flatten()] = torch.arange(tensor.numel())
    found = []
    for name, _ in sources:
        of_name = where[numbered[name]]
        offset = int(of_name.flatten()[0])
        corners = [int(of_name.select(axis, 1).flatten()[0]) - offset for axis in _long(of_name)]
        strides = dict(zip(_long(of_name), corners, strict=True))
        stride = tuple(strides.get(axis, 0) for axis in range(of_name.dim()))
        if offset < 0 or not torch.equal(
            torch.arange(tensor.numel()).as_strided(of_name.shape, stride, offset), of_name
        ):
            return []
        whole = tuple(tensor.shape) == tuple(of_name.shape) and offset == 0 and len(sources) == 1
        found.append((name, MemoryPlace(parameter, tuple(of_name.shape), stride, offset, whole)))
    return found


def _long(tensor: torch.Tensor) -> list[int]:
    return [axis for axis, length in enumerate(tensor.shape) if length > 1]


def _unnumbered(name: str) -> str:
    """A name without the number of its block, the first in it."""
    parts = name.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return name if place is None else ".".join(part if at != place else "*" for at, part in enumerate(parts))


def _like(parameter: str, target: str) -> str:
    """The name in memory with the block's number of another target."""
    number = next((part for part in target.split(".") if part.isdigit()), None)
    parts = parameter.split(".")
    place = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if number is None or place is None:
        return parameter
    return ".".join(part if at != place else number for at, part in enumerate(parts))
