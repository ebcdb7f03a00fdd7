"""What `auto` has to know of each use of rows and pool, from a benchmark of tried families.

    python scripts/bench/experience.py OUT [OUT ...]

OUT is the folder of a benchmark that has the arms auto, shots, trained, merge, prompted shots and prompted merge, or
some of them, and the controls base and icl (as `recipes/bench-adaptations-tried.yaml`). Prints, for each number of rows
learned from and each way: its tasks, its gain over `shots` on the held-out rows (mean over families and its standard
error), the spread over tasks without the noise of the rows, by how much more the cross-fitted rows had promised, and
the tasks that it won. They stand in `merge_advisor/adapt/experience.py`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from merge_advisor.adapt.experience import ROW_SPREAD
from merge_advisor.benchmark.running.ledger import Ledger
from merge_advisor.benchmark.values import Result

ARMS = {
    "base": "base",
    "prompt": "icl",
    "prompt on shots": "prompted shots",
    "prompt on merge": "prompted merge",
    "merge": "merge",
    "continue from merge": "trained",
    "basis from merge": "trained",
}
"""Arm or control that is each way, by its name in `auto`."""


def gains(results: list[Result], way: str) -> list[tuple[str, float, float | None]]:
    """Return family, gain over `shots` in nats, and by how much more was promised (None where nothing was), by unit."""
    found = []
    by_arm: dict[str, dict[tuple[str, int], Result]] = defaultdict(dict)
    for result in results:
        by_arm[result.arm][result.unit.task, result.unit.shot_draw] = result
    for unit, one in sorted(by_arm[ARMS[way]].items()):
        shots, auto = by_arm["shots"].get(unit), by_arm["auto"].get(unit)
        if shots is None or shots.judged is None or one.judged is None:
            continue
        gain = shots.judged - one.judged
        said = {name: loss for name, loss, _ in auto.options} if auto is not None else {}
        promised = said["shots"] - said[way] - gain if way in said else None
        if promised is None and one.predicted is not None and shots.predicted is not None:
            promised = one.predicted - shots.predicted - gain
        found.append((one.unit.family, gain, promised))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for folder in parser.parse_args().folders:
        setup = json.loads((folder / "setup.json").read_text())
        tasks = setup["tasks"]
        with Ledger(folder) as ledger:
            results = [result for result in ledger.results() if result.status == "done"]
        heldout = tasks["heldout"]
        print(f"{tasks['shots'] + tasks['tuning']} rows")
        for way in ARMS:
            found = gains(results, way)
            if not found:
                continue
            values = np.array([gain for _, gain, _ in found])
            families = defaultdict(list)
            for family, gain, _ in found:
                families[family].append(gain)
            means = np.array([np.mean(part) for part in families.values()])
            error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else float("nan")
            spread = (
                np.sqrt(max(values.var(ddof=1) - ROW_SPREAD**2 / heldout, 0.0)) if len(values) > 1 else float("nan")
            )
            promised = [more for *_, more in found if more is not None]
            more = f"{np.mean(promised):+.3f}" if promised else ""
            won = int((values > 0).sum())
            print(f"| {way} | {len(values)} | {means.mean():+.3f} ({error:.3f}) | {spread:.2f} | {more} | {won} |")


if __name__ == "__main__":
    main()
