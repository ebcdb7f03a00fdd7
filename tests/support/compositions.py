"""Members that compositions merge, and how a test merges and compares them."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from merge_advisor import registry
from merge_advisor.arrays import Float32Array, Float64Array
from merge_advisor.compose import Composition
from merge_advisor.weights.checkpoint import CheckpointDelta, read_checkpoint_delta
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, WeightDelta

NAMES = registry.names("composition")
SHAPES: dict[str, tuple[int, int]] = {"q.weight": (6, 5), "v.weight": (4, 5)}

WHOLE = {
    name: f"{name}:density=1" for name in ("breadcrumbs", "dare_linear", "dare_ties", "della", "magnitude", "ties")
}
"""Specs under which one member at weight 1 is that member; the other compositions promise it as they are."""
DEGREE = {"lorahub": 2}
"""Times s the weights is s to this power times the update; 1 for the others."""
ALONE = {"ties": 1.0, "della": 1.0, "lorahub": 0.25, "model_stock": 0.0}
"""How much of a member is left at weight 0.5 of 1 where no other changes a parameter; 0.5 under the others. TIES and
DELLA give all of λ to those that agree, LoraHub multiplies, to Model Stock the members are at right angles."""
RANDOM = [name for name in NAMES if not registry.load("composition", name).deterministic]
ON_ADAPTERS = [name for name in NAMES if registry.load("composition", name).takes != "checkpoints"]
WEIGHT_SPACE = [name for name in NAMES if registry.load("composition", name).takes == "both" and name not in RANDOM]
"""What is computed on ΔW alone; a random draw depends on the bytes it is stored as."""


def adapter(
    seed: int, rank: int = 2, *, names: Sequence[str] = tuple(SHAPES), scale: float = 2.0, transposed: bool = False
) -> dict[str, LowRankUpdate]:
    """A random adapter of `SHAPES`."""
    rng = np.random.default_rng(seed)
    updates = {}
    for name in names:
        out, width = SHAPES[name][::-1] if transposed else SHAPES[name]
        a, b = rng.normal(size=(rank, width)), rng.normal(size=(out, rank))
        updates[name] = LowRankUpdate(a.astype(np.float32), b.astype(np.float32), scale, transposed)
    return updates


def checkpoint(seed: int) -> dict[str, DenseUpdate]:
    """The random task vector of a checkpoint, in memory."""
    rng = np.random.default_rng(seed)
    return {name: DenseUpdate(rng.normal(size=shape).astype(np.float32)) for name, shape in SHAPES.items()}


@cache
def _place() -> "tempfile.TemporaryDirectory[str]":
    """A folder that is gone when the tests are."""
    return tempfile.TemporaryDirectory()


@cache
def stored_checkpoint(seed: int) -> CheckpointDelta:
    """A checkpoint as it is read from files: it knows its base's weights."""
    base, folder = (Path(_place().name) / name for name in ("base", str(seed)))
    whole = {name: update.array for name, update in checkpoint(1000).items()}
    tuned = {name: whole[name] + update.array for name, update in checkpoint(seed).items()}
    for place, tensors in ((base, whole), (folder, tuned)):
        place.mkdir(exist_ok=True)
        save_file(tensors, place / "model.safetensors")
        (place / "config.json").write_text("{}")
    delta = read_checkpoint_delta(folder, base)
    assert isinstance(delta, CheckpointDelta)
    return delta


def member_of(name: str, seed: int, **settings: Any) -> WeightDelta:
    """A member that the composition takes; `settings` are those of `adapter`."""
    takes = registry.load("composition", name).takes
    return stored_checkpoint(seed) if takes == "checkpoints" else adapter(seed, **settings)


def dense(delta: WeightDelta) -> dict[str, Float64Array]:
    """name -> ΔW, float64, zeros for what the delta leaves alone."""
    return {
        name: delta[name].dense().astype(np.float64) if name in delta else np.zeros(shape)
        for name, shape in SHAPES.items()
    }


def assert_same(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]], atol: float = 1e-4) -> None:
    """Dense updates of `SHAPES` are equal up to rounding."""
    for name in SHAPES:
        np.testing.assert_allclose(left[name], right[name], atol=atol, rtol=1e-4)


def build(spec: str) -> Any:
    """The composition of a spec, `Any`: tests reach for what only some of them have (`sparsify`, `slopes`)."""
    return registry.build("composition", spec)


def compose(spec: str, members: Sequence[WeightDelta], weights: Sequence[float]) -> WeightDelta:
    """The merge under the composition of a spec."""
    composition: Composition = build(spec)
    return composition.compose(members, weights)


def matrix(seed: int, shape: tuple[int, ...] = (200, 200)) -> Float32Array:
    """A random matrix, large enough for shares and means by default."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
