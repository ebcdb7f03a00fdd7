"""Milliseconds of one merge in memory, by composition: every parameter's ΔW computed once, in turns.

"again" is a merge of the same members with masks kept from the one before, as a search has them.

    python scripts/bench/composition_speed.py --base BASE [--modules q_proj,v_proj] [--rounds 5] ADAPTER ADAPTER [...]

One thread (set OMP_NUM_THREADS=1). CPU seconds of the process, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from merge_advisor import registry
from merge_advisor.compose import MergeRule
from merge_advisor.compose.mask_cache import MaskCache
from merge_advisor.compose.sparse import SparseComposition
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import WeightDelta


def main() -> None:
    """Measure and print the least and the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--modules", default="q_proj,v_proj", help="kinds of modules that are merged")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    shapes = {name: info.shape for name, (_, info) in open_folder(arguments.base).items()}
    kinds = set(arguments.modules.split(","))
    members = [
        {name: update for name, update in read_adapter(folder, shapes).items() if name.split(".")[-2] in kinds}
        for folder in arguments.adapters
    ]
    names = [
        name for name in registry.names("composition") if registry.load("composition", name).takes != "checkpoints"
    ]
    rules = {name: registry.build("composition", name) for name in names}
    again = {name: MaskCache(rule) for name, rule in rules.items() if isinstance(rule, SparseComposition)}
    for rule in again.values():
        milliseconds(rule, members)
    taken: dict[str, list[list[float]]] = {name: [[], []] for name in names}
    for _ in range(arguments.rounds):
        for name, rule in rules.items():
            taken[name][0].append(milliseconds(rule, members))
            if name in again:
                taken[name][1].append(milliseconds(again[name], members))
    print(f"{platform.machine()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}")
    print(f"{len(members)} adapters, {len(members[0])} parameters ({arguments.modules}), {arguments.rounds} rounds\n")
    print("| composition | ms (least) | ms (median) | again (median) |\n|---|---|---|---|")
    for name, (first, second) in taken.items():
        later = f"{median(second):.0f}" if second else ""
        print(f"| `{name}` | {min(first):.0f} | {median(first):.0f} | {later} |")


def milliseconds(rule: MergeRule, members: Sequence[WeightDelta]) -> float:
    """CPU time of one merge at equal weights."""
    start = time.process_time()
    merged = rule.compose(members, [1 / len(members)] * len(members))
    for parameter in merged:
        merged[parameter].dense()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main()
