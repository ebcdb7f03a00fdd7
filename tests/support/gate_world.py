"""A folder for gates: a tiny base, models that are clearly worse or nearly the same, rows with choices, a guard."""

import json
from pathlib import Path

from tests.support.models import LLAMA_MODULES, write_lora
from tests.support.task_files import write_task


def build_gate_world(folder: Path, base: Path) -> Path:
    """Write it: `base`, `slight` (next to no change), `strong` (another model), `pool`, `task.jsonl`, `guard.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base").symlink_to(base)
    write_lora(folder / "slight", LLAMA_MODULES, seed=9, std=0.01)
    write_lora(folder / "strong", LLAMA_MODULES, seed=3, std=0.6)
    write_task(folder / "task.jsonl", 90, choices=True)
    texts = [json.dumps({"text": f"the quick brown fox number {n} jumps over {n * n} dogs"}) for n in range(40)]
    (folder / "guard.jsonl").write_text("\n".join(texts) + "\n")
    return folder
