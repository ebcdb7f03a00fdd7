"""Interference of real adapters before and after each composition: cross terms, sign conflict, overlap.

    python scripts/bench/interference.py --base BASE ADAPTER ADAPTER [...] [--compositions exact,ties,...]

"before" is the weighted sum itself (`exact`), with equal weights 1/k; the other rows measure what a composition leaves
of each member (`merge_advisor.compose.crossing`). `norm` is the merge's against the weighted sum's.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from pathlib import Path

from merge_advisor import registry
from merge_advisor.compose.crossing import crossing, parts_of
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.tensorfile import open_folder

SPECS = (
    "exact", "magnitude:density=0.2", "ties:density=0.2", "ties:density=0.4", "ties:density=1", "breadcrumbs",
    "dare_linear", "dare_ties", "della",
)  # fmt: skip


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
    whole = crossing(parts_of(registry.build("composition", "exact"), members, weights)).norm
    print(f"{platform.machine()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    print(f"{', '.join(folder.name for folder in arguments.adapters)}, weights 1/{len(members)}\n")
    print("| composition | cross terms | sign conflict | overlap | norm |\n|---|---|---|---|---|")
    for spec in arguments.compositions:
        found = crossing(parts_of(registry.build("composition", spec), members, weights))
        cells = (found.cross_terms, found.sign_conflict, found.overlap, found.norm / whole)
        print(f"| `{spec}` | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
