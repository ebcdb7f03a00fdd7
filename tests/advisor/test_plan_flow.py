"""What a plan opens, builds and charges: each once, and at its true cost."""

import json
from pathlib import Path

import pytest

import merge_advisor as ma
from merge_advisor import advisor
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring import pool_weights, session
from merge_advisor.advisor.planning.dry_run import describe_plan
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings
from tests.support.task_files import write_task

FAST = FinetuneSettings(rank=4, lr=1e-2, steps=4)
PROBES = {"delta_activations": 5, "delta_logits": 5, "delta_meaning": 40}
"""Rows that embedding one model runs."""


def make(folder: Path, base: Path, pool: Path, embedding: str = "delta_activations", *, scored: bool = False) -> Run:
    options = PlanOptions(strategy="top_k", k=2, adaptation="none", embedding=embedding, finetune=FAST)
    return ma.plan(
        write_task(folder / "even.jsonl"), pool=pool, base=str(base), out=folder / "run", options=options,
        cache=folder / "cache", scored=scored,
    )  # fmt: skip


@pytest.mark.parametrize("embedding", PROBES)
def test_an_embedding_is_charged_what_it_runs(
    embedding: str, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    """delta_meaning runs 40 rows a model, not the five of the others."""
    rows = PROBES[embedding]
    run = make(tmp_path, tiny_llama, tiny_pool, embedding)
    assert run.plan.forwards["embed the pool"] == rows * (6 + 1)
    record = json.loads(next((tmp_path / "cache" / "shots").glob("*/training.json")).read_text())
    assert run.plan.forwards["finetune on the shots"] == record["forwards"] + rows
    foreseen = describe_plan(
        [tmp_path / "even.jsonl"], pool=tiny_pool, base=str(tiny_llama), cache=tmp_path / "cache",
        options=PlanOptions(embedding=embedding, adaptation="none", finetune=FAST),
    )  # fmt: skip
    assert foreseen["passes"]["embed the pool"] == run.plan.forwards["embed the pool"]
    assert foreseen["passes"]["finetune on the shots, at most"] >= run.plan.forwards["finetune on the shots"]


def test_a_plan_opens_one_session_from_reading_to_scoring(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    real = session.open_session

    def open_session(*arguments: object, **named: object) -> object:
        opened.append(arguments)
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(advisor, "open_session", open_session)
    monkeypatch.setattr("merge_advisor.advisor.runs.reopening.open_session", open_session)
    run = make(tmp_path, tiny_llama, tiny_pool, scored=True)
    assert run.plan.verdict is not None and len(opened) == 1


def test_the_planned_merge_is_carried_out_once(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = pool_weights.PoolWeights._composed

    def composed(self: pool_weights.PoolWeights, merge: WeightedMerge, *, repeated: bool = False) -> object:
        if not repeated:
            made.append(merge)
        return real(self, merge, repeated=repeated)

    monkeypatch.setattr(pool_weights.PoolWeights, "_composed", composed)
    make(tmp_path, tiny_llama, tiny_pool)
    assert len(made) == 1


def test_choosing_tells_how_far_it_is_and_nothing_where_all_is_stored(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    task = write_task(tmp_path / "even.jsonl")

    def told(run: str) -> list[tuple[int, int]]:
        steps: list[tuple[str, int, int]] = []
        ma.plan(
            task, pool=tiny_pool, base=str(tiny_llama), out=tmp_path / run, scored=False, cache=tmp_path / "cache",
            options=PlanOptions(k=2, adaptation="none", finetune=FAST), progress=lambda *step: steps.append(step),
        )  # fmt: skip
        return [(done, total) for what, done, total in steps if what == "choosing"]

    steps = told("first")
    assert len(steps) > 3 and steps == sorted(steps)
    assert len({total for _, total in steps}) == 1 and steps[-1][0] == steps[-1][1]
    assert told("second") == []
