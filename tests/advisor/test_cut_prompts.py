"""Rows whose prompts are cut are counted in the plan, from memory too."""

import json
from pathlib import Path

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions


def test_a_plan_says_how_many_prompts_are_cut(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    rows = [{"input": f"{n} " * (400 if n % 3 == 0 else 2) + "?", "output": f"{n % 2}"} for n in range(12)]
    task = tmp_path / "long.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for out in ("one", "two"):  # the second time nothing is encoded
        run = ma.plan(
            task, pool=tiny_pool, base=str(tiny_llama), out=tmp_path / out, cache=tmp_path / "cache", scored=False,
            options=PlanOptions(k=1, adaptation="none", strategy="top_k"),
        )  # fmt: skip
        (note,) = [note for note in run.plan.tasks[0].notes if "longer" in note]
        assert note.startswith("4 of 12 rows are longer than 512 tokens, the longest ")
        assert note.endswith(": the beginnings of their prompts are cut off")
        assert note in (run.folder / "report.md").read_text()
