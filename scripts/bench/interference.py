"""Interference of real adapters before and after each composition: cross terms, sign conflict, overlap.

    python scripts/bench/interference.py --base BASE ADAPTER ADAPTER [...] [--compositions exact ties ...]

"before" is the weighted sum itself (`exact`), with equal weights 1/k; the other rows measure what a composition leaves
of each member (its parts, which add up to the merge). `norm` is the merge's against the weighted sum's.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge_advisor import registry
from merge_advisor.arrays import Float32Array
from merge_advisor.compose import Composition
from merge_advisor.compose.sparse import SparseComposition
from merge_advisor.errors import SpecError
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import WeightDelta

SPECS = (
    "exact", "magnitude:density=0.2", "ties:density=0.2", "ties:density=0.4", "ties:density=1", "breadcrumbs",
    "dare_linear", "dare_ties", "della",
)  # fmt: skip

Parts = Mapping[str, Sequence[Float32Array]]
"""Parameter name -> what a merge holds of each member that changes it; they add up to the merge."""


@dataclass(frozen=True, slots=True)
class Interference:
    """Interference among the parts c₁ … c_k of one merge, over all parameters together."""

    cross_terms: float
    """2·Σ_{i<j}⟨cᵢ, cⱼ⟩ / ‖Σ cᵢ‖²: share of the merge's squared norm that no part has by itself; below 0 where parts
    cancel more than they add."""
    sign_conflict: float
    """Share of Σ|cᵢ| at entries where the part's sign opposes that of the sum, 0..1."""
    overlap: float
    """Share of Σ|cᵢ| at entries that two parts or more change, 0..1."""
    norm: float
    """‖Σ cᵢ‖, Frobenius."""


def parts_of(composition: Composition, members: Sequence[WeightDelta], weights: Sequence[float]) -> Parts:
    """Return what a composition leaves of each member.

    Raises:
        SpecError: its result is no sum over the members (it multiplies sums, or cuts the sum).
    """
    pairs = [(member, weight) for member, weight in zip(members, weights, strict=True) if weight]
    names = sorted({name for member, _ in pairs for name in member})
    if composition.linear:
        return {name: [m[name].times(weight).dense() for m, weight in pairs if name in m] for name in names}
    if not isinstance(composition, SparseComposition):
        raise SpecError(f"composition {composition.name}: its result is no sum over the members; choose another one")
    found: dict[str, list[Float32Array]] = {}
    for name in names:
        blocks = [parts for _, parts in composition.row_blocks(name, pairs)]
        found[name] = [np.concatenate(member) for member in zip(*blocks, strict=True)]
    return found


def interference(parts: Parts) -> Interference:
    """Measure parts that are added; of one part alone, or of none, all is 0."""
    squares = own = opposed = shared = mass = 0.0
    for _, arrays in sorted(parts.items()):
        total = np.sum(arrays, axis=0, dtype=np.float32)
        many = np.sum([array != 0 for array in arrays], axis=0) > 1
        squares += float(np.sum(np.square(total, dtype=np.float64)))
        for array in arrays:
            sizes = np.abs(array)
            own += float(np.sum(np.square(array, dtype=np.float64)))
            mass += float(sizes.sum(dtype=np.float64))
            opposed += float(sizes[array * total < 0].sum(dtype=np.float64))
            shared += float(sizes[many].sum(dtype=np.float64))
    return Interference(
        cross_terms=(squares - own) / squares if squares else 0.0,
        sign_conflict=opposed / mass if mass else 0.0,
        overlap=shared / mass if mass else 0.0,
        norm=squares**0.5,
    )


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--compositions", nargs="+", default=SPECS, help="specs (default: all that add up parts)")
    arguments = parser.parse_args()
    shapes = {name: info.shape for name, (_, info) in open_folder(arguments.base).items()}
    members = [dict(read_adapter(folder, shapes)) for folder in arguments.adapters]
    weights = [1 / len(members)] * len(members)
    whole = interference(parts_of(registry.build("composition", "exact"), members, weights)).norm
    print(f"{platform.machine()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    print(f"{', '.join(folder.name for folder in arguments.adapters)}, weights 1/{len(members)}\n")
    print("| composition | cross terms | sign conflict | overlap | norm |\n|---|---|---|---|---|")
    for spec in arguments.compositions:
        found = interference(parts_of(registry.build("composition", spec), members, weights))
        cells = (found.cross_terms, found.sign_conflict, found.overlap, found.norm / whole)
        print(f"| `{spec}` | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
