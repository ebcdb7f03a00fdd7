"""Which devices a base lies on, and what of it on which: decided from numbers alone.

A base that is too large for one GPU is spread over several: its layers stay whole, each device holds some that follow
one another, and what a forward computes goes from device to device (transformers' `device_map`, by accelerate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from merge_advisor.backbone.devices import BYTES
from merge_advisor.weights.by_transformers import build_skeleton
from merge_advisor.weights.parameter_map import map_parameters

_SHARE = 0.9
"""Of what is free on each of several devices: the rest is for activations, which a batch can have less of."""


@dataclass(frozen=True, slots=True)
class BasePiece:
    """A part of a base that lies on one device as a whole: a layer, an embedding, a norm.

    >>> BasePiece(("model.layers.0",), 4_000_000).takes_ids
    False
    """

    names: tuple[str, ...]
    """Of its module; of several that share a weight."""
    size: int
    """Bytes of its weights, and of what is placed on them."""
    takes_ids: bool = False
    """Whether it is the embedding of the tokens: on its device a forward begins and losses are computed."""
    gives_logits: bool = False
    """Whether logits come from it."""


@dataclass(frozen=True, slots=True)
class DeviceMap:
    """What lies where, and what that takes.

    >>> DeviceMap({"model": "cuda:0"}, {"cuda:0": 9}, {"cuda:0": 8}).fits
    False
    """

    modules: Mapping[str, str]
    """Module name -> device, as transformers' `device_map`."""
    needed: Mapping[str, int]
    """By device, about how many bytes choosing and training take there; only of devices that hold something."""
    free: Mapping[str, int]
    """By device, how many are free."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that hold something, in the order of a forward."""
        return tuple(self.needed)

    @property
    def name(self) -> str:
        """The devices as the option names them, "cuda" for the first one alone."""
        return "cuda" if self.devices == ("cuda:0",) else ",".join(self.devices)

    @property
    def lines(self) -> tuple[str, ...]:
        """Of each device, what that takes and what is free."""
        return tuple(
            f"{device} about {needed / 1e9:.1f} of {self.free[device] / 1e9:.1f} GB free"
            for device, needed in self.needed.items()
        )

    @property
    def fits(self) -> bool:
        """Whether the memory does; of several devices with a tenth of it left for activations."""
        share = 1.0 if len(self.needed) == 1 else _SHARE
        return all(needed <= share * self.free[device] for device, needed in self.needed.items())


def choose_devices(pieces: Sequence[BasePiece], free: Mapping[str, int], logits: int) -> DeviceMap:
    """Return where a base goes that may go anywhere: on the first device that does, else on the fewest that do.

    Those with most memory are taken first; where not even all do, all are taken.

    >>> layers = [BasePiece((f"layers.{n}",), 10) for n in range(4)]
    >>> choose_devices(layers, {"cuda:0": 30, "cuda:1": 50}, 0).devices
    ('cuda:1',)
    >>> choose_devices(layers, {"cuda:0": 30, "cuda:1": 9, "cuda:2": 30}, 0).needed
    {'cuda:0': 20, 'cuda:2': 20}

    Args:
        pieces: of the base, in the order of a forward.
        free: by device, bytes that are free; at least one device.
        logits: bytes of the logits of a batch.
    """
    for device in free:
        alone = spread_pieces(pieces, {device: free[device]}, logits)
        if alone.fits:
            return alone
    by_memory = sorted(free, key=lambda device: -free[device])  # equal ones in their order
    for count in range(2, len(free)):
        taken = {device: free[device] for device in free if device in by_memory[:count]}
        spread = spread_pieces(pieces, taken, logits)
        if spread.fits:
            return spread
    return spread_pieces(pieces, free, logits)


def spread_pieces(pieces: Sequence[BasePiece], free: Mapping[str, int], logits: int) -> DeviceMap:
    """Return a base spread over devices, so that the fullest is as empty as can be, and the others are alike.

    >>> layers = [BasePiece((f"layers.{n}",), 10) for n in range(4)]
    >>> spread_pieces(layers, {"cuda:0": 100, "cuda:1": 300}, 0).needed
    {'cuda:0': 10, 'cuda:1': 30}

    Args:
        pieces: of the base, in the order of a forward.
        free: by device, bytes that are free; at least one device. All may be used, those without a piece are left out.
        logits: bytes of the logits of a batch: three such arrays lie where losses are computed, one where they are
            made.
    """
    weights = [piece for piece in pieces if _counts(piece)]
    ends = _cuts(weights, list(free.values()), logits)
    modules: dict[str, str] = {}
    needed: dict[str, int] = {}
    first = next(iter(free))
    for device, start, end in zip(free, [0, *ends], ends, strict=False):
        part = weights[start:end]
        if part:
            modules |= {name: device for piece in part for name in piece.names}
            needed[device] = _bytes_of(part, logits)
            first = device if any(piece.takes_ids for piece in part) else first
    # what has no weights (rotary positions) is asked once a forward, with what has not left the first device yet
    modules |= {name: first for piece in pieces if not _counts(piece) for name in piece.names}
    return DeviceMap(modules, needed, {device: free[device] for device in needed})


def base_pieces(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, changed: Collection[str] = ()
) -> tuple[BasePiece, ...]:
    """Return the pieces of a base in the order of a forward; what transformers does not split stays whole.

    Args:
        folder: of the base's config.json.
        shapes: of its parameters, by name as in the files.
        dtype: of its weights in memory.
        changed: names of the weights that candidates change.

    Raises:
        BaseModelError: transformers cannot build it.
    """
    model = build_skeleton(folder)
    places = map_parameters(model, shapes)
    beside: dict[str, int] = {}
    for name in changed:
        if name in places:
            parameter = places[name].parameter
            beside[parameter] = beside.get(parameter, 0) + math.prod(places[name].shape) * beside_bytes(dtype)
    ids, logits = model.get_input_embeddings(), model.get_output_embeddings()
    pieces: list[BasePiece] = []
    owner: dict[int, int] = {}  # of each parameter, the piece that counts it
    for name, module in _whole_modules(model, "", set(model._no_split_modules or ())):
        tensors = dict(module.named_parameters(prefix=name)) if hasattr(module, "named_parameters") else {name: module}
        at = min((owner[id(tensor)] for tensor in tensors.values() if id(tensor) in owner), default=len(pieces))
        own = [key for key, tensor in tensors.items() if id(tensor) not in owner]
        owner |= {id(tensors[key]): at for key in own}
        size = sum(tensors[key].numel() * BYTES[dtype] + beside.get(key, 0) for key in own)
        shared = pieces[at] if at < len(pieces) else BasePiece((), 0)  # tied weights are one, on one device
        pieces[at : at + 1] = [
            BasePiece(
                (*shared.names, name), shared.size + size, shared.takes_ids or _holds(module, ids),
                shared.gives_logits or _holds(module, logits),
            )
        ]  # fmt: skip
    return tuple(pieces)


def beside_bytes(dtype: str) -> int:
    """Return the bytes that lie beside each entry of a weight that candidates change.

    >>> beside_bytes("bfloat16")
    4

    Args:
        dtype: of the base's weights.
    """
    # in float32 base + update lies beside the weights; the gradient of choosing has as many entries
    return 8 if dtype == "float32" else 4


def _cuts(pieces: Sequence[BasePiece], free: Sequence[int], logits: int) -> list[int]:
    """Where each device's pieces end."""

    @cache
    def fill(device: int, start: int, end: int) -> float:
        return _bytes_of(pieces[start:end], logits) / max(free[device], 1) if start < end else 0.0

    least, _ = _best(len(pieces), len(free), fill, max)
    # with the fullest device no fuller than it must be, squares are least where all are alike
    _, ends = _best(
        len(pieces), len(free), lambda *part: fill(*part) ** 2 if fill(*part) <= least else float("inf"), sum
    )
    return ends


def _best(
    pieces: int,
    devices: int,
    cost: Callable[[int, int, int], float],
    together: Callable[[tuple[float, float]], float],
) -> tuple[float, list[int]]:
    """The least cost of cutting pieces into one part a device (some may be empty), and where the parts end."""
    best: list[tuple[float, list[int]]] = [(cost(0, 0, end), [end]) for end in range(pieces + 1)]
    for device in range(1, devices):
        cuts = [
            [(together((best[start][0], cost(device, start, end))), [*best[start][1], end]) for start in range(end + 1)]
            for end in range(pieces + 1)
        ]
        best = [min(found, key=lambda one: one[0]) for found in cuts]
    return best[pieces]


def _counts(piece: BasePiece) -> bool:
    return piece.size > 0 or piece.takes_ids or piece.gives_logits


def _bytes_of(pieces: Sequence[BasePiece], logits: int) -> int:
    arrays = 3 if any(piece.takes_ids for piece in pieces) else int(any(piece.gives_logits for piece in pieces))
    return sum(piece.size for piece in pieces) + arrays * logits


def _whole_modules(module: Any, name: str, unsplit: set[str]) -> Iterator[tuple[str, Any]]:
    """Modules that are not split, by name, and tensors beside such modules; what has no numbers is left out."""
    children = list(module.named_children())
    own_tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    splits = any(type(inner).__name__ in unsplit for inner in module.modules())
    # accelerate moves what goes into modules, not what goes into a tensor beside them
    if type(module).__name__ in unsplit or not children or (own_tensors and not splits):
        if any(True for _ in (*module.parameters(), *module.buffers())):
            yield name, module
        return
    prefix = f"{name}." if name else ""
    for own, tensor in own_tensors:
        yield prefix + own, tensor
    for child, inner in children:
        yield from _whole_modules(inner, prefix + child, unsplit)


def _holds(module: Any, wanted: Any) -> bool:
    return wanted is not None and hasattr(module, "modules") and any(inner is wanted for inner in module.modules())
