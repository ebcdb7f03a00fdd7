"""The demo's two tasks with other seeds: verdicts and scores, one line each, resumable.

python scripts/bench/demo_seeds.py --base BASE [--seeds 5] --out FILE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from kept import add_line, read_lines

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Plan each task with each seed; a line per plan is appended at once, and those that are there are skipped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    done = {(found["task"], found["seed"]) for found in read_lines(arguments.out)}
    for seed in range(arguments.seeds):
        for task in ("mixed", "hopeless"):
            if (task, seed) not in done:
                found = planned(task, seed, arguments.base)
                add_line(arguments.out, found)
                print(json.dumps(found), flush=True)


def planned(task: str, seed: int, base: str) -> dict[str, object]:
    """Write the task of a seed, plan it with the demo's options, and return what is worth keeping."""
    with tempfile.TemporaryDirectory() as scratch:
        script = ROOT / "scripts" / "build_demo_pool.py"
        subprocess.run(
            [sys.executable, script, "--tasks-only", "--seed", str(seed), "--out", scratch], check=True, stdout=2
        )
        run = ma.plan(
            Path(scratch) / f"{task}.jsonl", pool=ROOT / "recipes" / "demo" / "pool.yaml", base=base,
            out=Path(scratch) / "run", options=PlanOptions(k=3, seed=seed),
        )  # fmt: skip
        score = run.scores[0]
        return {
            "task": task,
            "seed": seed,
            "verdict": str(run.plan.verdict),
            "members": [f"{member.id} {member.weight:.2f}" for member in run.recipe.members],
            "scores": {model.label: round(model.metrics[score.metric], 3) for model in score.models},
            "least_lower_bound": round(min(found.lower for found in score.comparisons), 3),
        }


if __name__ == "__main__":
    main()
