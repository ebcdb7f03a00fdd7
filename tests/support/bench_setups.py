"""A small benchmark on the tiny models: task files, a setup, and what a setup may change."""

import copy
import json
from pathlib import Path
from typing import Any, Required, TypedDict

from merge_advisor.machine_options import Machine

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SETUP: dict[str, Any] = {
    "version": 1,
    "name": "tiny",
    "base": "tiny-llama",
    "pool": "pool",
    "tasks": {
        "path": "tasks", "families": "families.json", "own": {"colour": "a0"}, "seen": 0.25, "shots": 3, "tuning": 2,
        "heldout": 5,
    },
    "arms": [
        {"name": "default", "strategy": "rerank:pool=3"},
        {"name": "random", "strategy": "random", "match": "default"},
        {"name": "nearest", "strategy": "top_k"},
    ],
    "primary": {"better": "default", "than": "random", "k": 2},
    "smallest_gain": 1.0,
    "controls": ["base", "icl", "majority", "majority-oracle", "random-adapters", "shots_lora", "best-single-oracle"],
    "k": [2],
    "draws": {"shots": 2, "selections": 2},
    "template": "plain",
    "finetune": {"epochs": 2, "rank": 4},
}  # fmt: skip
TASKS: dict[str, tuple[str, ...] | None] = {
    "colour": ("red", "green", "blue"),
    "count": None,
    "parity": ("odd", "even"),
}


class Places(TypedDict, total=False):
    """Where a benchmark of these tests finds its models, as `measure_setup` takes it."""

    base: Required[str]
    pool: Required[str]
    cache: Required[Path]
    machine: Machine


def rows_of(name: str, count: int = 24) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        row: dict[str, Any] = {"input": f"{name} {LETTERS[number % 26]} {number}"}
        labels = TASKS[name]
        row["output"] = labels[number % len(labels)] if labels else f"{number * 7}"
        if labels:
            row["choices"] = list(labels)
        rows.append(row)
    return rows


def write_world(folder: Path, **changes: Any) -> Path:
    """Write tasks, families and setup.yaml; changes replace the setup's keys. Returns the setup's path."""
    (folder / "tasks").mkdir(exist_ok=True)
    for name in TASKS:
        text = "".join(json.dumps(row) + "\n" for row in rows_of(name))
        (folder / "tasks" / f"{name}.jsonl").write_text(text)
    families = {"colour": "words", "count": "numbers", "parity": "numbers", "a0": "words", "b0": "numbers"}
    (folder / "families.json").write_text(json.dumps(families))
    setup = copy.deepcopy(SETUP) | changes
    path = folder / "setup.yaml"
    path.write_text(json.dumps(setup))  # JSON is YAML
    return path
