"""Start-up: `--help` against bare python, and a plan with everything stored, as whole processes in turns.

python scripts/bench/startup.py --base BASE --pool POOL --task FILE [--rounds 7]
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str]) -> float:
    """Wall seconds of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        plan = [sys.executable, "-m", "merge_advisor", "plan", "--task", arguments.task, "--pool", arguments.pool,
                "--base", arguments.base, "--cache", f"{scratch}/cache", "--out", f"{scratch}/run", "--force",
                "--no-score"]  # fmt: skip
        cold = seconds(plan)
        ways = {"python": [sys.executable, "-c", "pass"], "--help": [sys.executable, "-m", "merge_advisor", "--help"],
                "plan, all stored": plan}  # fmt: skip
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, command in ways.items():
                found[name].append(seconds(command))
        print(
            f"{datetime.date.today()}, {platform.machine()}; plan cold {cold:.1f} s; pool {Path(arguments.pool).name}"
        )
        for name, times in found.items():
            print(f"{name:18s} median {statistics.median(times):.3f} s ({min(times):.3f}-{max(times):.3f})")


if __name__ == "__main__":
    main()
