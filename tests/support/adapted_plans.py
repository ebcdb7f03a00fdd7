"""Small plans on a tiny base, one for each adaptation and folder."""

from pathlib import Path

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.options import FinetuneSettings

FAST = FinetuneSettings(rank=4, lr=1e-2, epochs=3)


def planned(place: Path, base: Path, pool: Path, spec: str, name: str = "", *, scored: bool = True) -> Run:
    """The plan of `even.jsonl` with an adaptation; the one that is there already, where there is."""
    out = place / (name or spec.replace(":", "-").replace("=", "-").replace(",", "-"))
    if (out / "plan.json").is_file():
        return read_run(out)
    return ma.plan(
        place / "even.jsonl", pool=pool, base=str(base), out=out, cache=place / "cache",
        options=PlanOptions(k=2, finetune=FAST, adaptation=spec), scored=scored,
    )  # fmt: skip
