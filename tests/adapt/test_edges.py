"""Every adaptation on unusual rows and pools: it works, and its recipe is the model that was scored; or is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor import registry
from merge_advisor.advisor.measuring.in_context import with_rows
from merge_advisor.advisor.measuring.meter import BASE, ScoredModel
from merge_advisor.advisor.measuring.model_scores import FINAL, score_models
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.measuring.trainer import Trainer
from merge_advisor.advisor.runs.prompt_folder import rows_shown
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.advisor.scoring.score_model import score_model
from merge_advisor.cli import main
from merge_advisor.formats.full_model import write_full_model
from merge_advisor.types import Row
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import resolve_base
from merge_advisor.write_points import FAIL_AT
from tests.support.architectures import build_model
from tests.support.models import LLAMA_MODULES, write_lora

pytestmark = pytest.mark.slow  # a minute of small plans in all

SPECS = (
    "auto", "basis:folds=2", "coefficients:folds=2", "continue:folds=2", "mix:folds=2", "prompt:folds=2",
    "prompt:folds=2,on=mean", "prompt:folds=2,on=merge", "prompt:folds=2,on=shots", "shots:folds=2",
)  # fmt: skip
VARIANTS = (
    "basis:form=first,source=inputs,folds=2", "basis:form=output,folds=2", "basis:form=prior,start=merge,folds=2",
    "coefficients:folds=2,objective=entropy", "continue:folds=2,form=refactored",
)  # fmt: skip
EVEN = tuple(Row(f"is {number} even?", ("yes", "no")[number % 2]) for number in range(9))


@dataclass(frozen=True)
class Edge:
    """Rows and pool out of the ordinary."""

    rows: tuple[Row, ...] = EVEN
    learned: tuple[int, int] = (4, 2)
    """Shots and tuning rows; the others are held out."""
    pool: str = "pool"
    base: str = "llama"
    given: tuple[str, ...] = ("--strategy", "top_k", "--k", "2")
    folds: int = 2
    refused: dict[str, str] = field(default_factory=dict)
    """What an adaptation that cannot be says; "any" of them."""


EDGES = {
    "one row": Edge(learned=(1, 0), refused={"any": "rows: shots 1 is too few; give at least 2"}),
    "two rows": Edge(learned=(2, 0)),
    "rows of one input": Edge(  # which stay in one part, so there are no tuning rows
        (*(Row("is it even?", word) for word in ("yes", "no", "so", "na", "ay", "or")), *EVEN[6:]), learned=(6, 0)
    ),
    "folds of one row": Edge(learned=(3, 1), folds=4),
    "outputs that are all equal": Edge(tuple(Row(row.input, "yes") for row in EVEN)),
    "rows longer than the context": Edge(
        tuple(Row(f"{number} " * 900 + "?", f"{number % 2}") for number in range(9)),
        refused={"prompt": "not one of 3 examples fits into its prompt"},
    ),
    "choices of one token": Edge(tuple(Row(row.input, row.output[0], ("y", "n")) for row in EVEN)),
    "no tuning rows": Edge(learned=(6, 0)),
    "a pool of one": Edge(given=("--strategy", "top_k", "--k", "4", "--include", "a0")),
    "full checkpoints": Edge(
        pool="checkpoints", refused={"coefficients": "no adapter of the pool changes the weights that are trained"}
    ),
    "mixed ranks and modules": Edge(pool="mixed", given=("--strategy", "all", "--k", "3")),
    "an encoder-decoder": Edge(
        pool="t5 pool", base="t5", given=("--strategy", "top_k", "--k", "2", "--template", "bare")
    ),
}


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_pool: Path, tiny_t5: Path, tiny_t5_pool: Path
) -> dict[str, Path]:
    """Bases and pools by name, and a cache for all plans."""
    folder = tmp_path_factory.mktemp("edges")
    mixed, full = folder / "mixed", folder / "checkpoints"
    shutil.copytree(tiny_pool / "a0", mixed / "a0")
    write_lora(mixed / "wide", {"model.layers.1.mlp.up_proj": (64, 32)}, seed=9, rank=7)
    some = {name: size for name, size in LLAMA_MODULES.items() if "layers.0" in name}
    write_lora(mixed / "thin", some, seed=8, rank=1)
    local = resolve_base(str(tiny_llama), cache=folder / "cache" / "base")
    for name in ("a0", "b0"):
        write_full_model(local.path, read_adapter(tiny_pool / name, local.shapes), full / name)
    return {
        "folder": folder, "cache": folder / "cache", "llama": tiny_llama, "pool": tiny_pool, "t5": tiny_t5,
        "t5 pool": tiny_t5_pool, "mixed": mixed, "checkpoints": full,
    }  # fmt: skip


Planned = Callable[..., tuple[int, Path]]


@pytest.fixture
def plan(places: dict[str, Path], tmp_path: Path) -> Planned:
    """Plan as the command line does; returns its exit code and the run folder."""

    def planned(edge: Edge, spec: str, name: str = "run", *more: str, cache: Path | None = None) -> tuple[int, Path]:
        shots, tuning = edge.learned
        for part, rows in (("rows", edge.rows[: max(2, shots + tuning)]), ("heldout", edge.rows[6:])):
            plain = [{"input": row.input, "output": row.output, "choices": row.choices} for row in rows]
            kept = [{key: value for key, value in row.items() if value} for row in plain]
            (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        given = ["plan", "--task", str(tmp_path / "rows.jsonl"), "--heldout", str(tmp_path / "heldout.jsonl"),
                 "--pool", str(places[edge.pool]), "--base", str(places[edge.base]), "--out", str(tmp_path / name),
                 "--cache", str(cache or places["cache"]), "-q",
                 "--shots", str(shots), "--tuning", str(tuning), "--adaptation", spec, "--lora-rank", "2",
                 "--lora-lr", "1e-2", "--lora-epochs", "2", "--threads", "1", *edge.given, *more]  # fmt: skip
        return main(given), tmp_path / name

    return planned


def test_every_adaptation_is_here() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} | {"none"} == set(registry.names("adaptation"))


OF_POOLS = ("full checkpoints", "mixed ranks and modules", "an encoder-decoder")


@pytest.mark.parametrize(
    ("name", "spec"),
    [*((name, spec) for name in EDGES for spec in SPECS), *((name, spec) for name in OF_POOLS for spec in VARIANTS)],
)
def test_it_works_or_is_one_line(
    name: str, spec: str, plan: Planned, places: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edge, adaptation = EDGES[name], spec.partition(":")[0]
    asked = spec.replace("folds=2", f"folds={edge.folds}")
    # the metric by which rows are judged; without choices nothing has to be generated for the loss
    code, folder = plan(edge, asked, "run", *(() if edge.rows[0].choices else ("--metric", "loss")))
    said = capsys.readouterr().err.strip().splitlines()
    if refused := edge.refused.get("any") or edge.refused.get(adaptation):
        assert code == 2 and len(said) == 1 and refused in said[0]
        assert not folder.exists()
        return
    assert code == 0 and not said, said
    run = read_run(folder)
    found = run.plan.adaptation
    assert found is not None and found.asked == asked and found.reason
    # every row learned from is judged, held out of the training behind it
    assert [len(part) for part in (run.tasks[0].shots, run.tasks[0].tuning)] == list(edge.learned)
    assert len(found.losses) == sum(edge.learned) and np.isfinite(found.losses).all()
    assert found.predicted is not None and np.isfinite(found.predicted)
    assert bool(found.options) == (adaptation == "auto")
    reproduce(run, places, tmp_path)


def reproduce(run: Run, places: dict[str, Path], folder: Path) -> None:
    """What the recipe is carried out to loses on the held-out rows what the score says; a prompt is that of `icl`."""
    table = run.scores[0]
    if run.prompted:
        assert (run.folder / "prompt" / "0.txt").read_text().count("{input}") == 1
    if run.prompted and run.is_base:
        assert table.model("merge").rows == table.model("icl").rows != table.model("base").rows
        return
    model = ma.merge(run.folder, folder / "model", cache=places["cache"])
    if run.prompted:
        task, examples = run.tasks[0], table.examples
        assert examples is not None and table.model("merge").rows != table.model("icl").rows
        with open_session(str(model), template=run.plan.template, cache=places["cache"]) as session:
            shown = with_rows(session.model.template, rows_shown(task, examples))
            asked = ScoredModel("merge", BASE, shown)
            found = score_models(session.meter, [asked], task.heldout, "loss", evaluator=FINAL)[0]
        assert found.metrics["loss"] == pytest.approx(table.model("merge").metrics["loss"], abs=1e-4)
        return
    alone = score_model(
        model, [folder / "heldout.jsonl"], metric="loss", template=run.plan.template, cache=places["cache"]
    )
    assert alone["heldout"][0].metrics["loss"] == pytest.approx(table.model("merge").metrics["loss"], abs=1e-4)


@pytest.mark.parametrize("spec", ("basis:folds=0", "coefficients:folds=0", "continue:folds=0", "shots:folds=0"))
def test_without_folds_and_tuning_rows_nothing_is_promised(
    spec: str, plan: Planned, places: dict[str, Path], tmp_path: Path
) -> None:
    code, folder = plan(EDGES["no tuning rows"], spec, "run", "--metric", "loss")
    run = read_run(folder)
    found = run.plan.adaptation
    assert code == 0 and found is not None and not found.losses and found.predicted is None
    reproduce(run, places, tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a run folder; the report names its place, `cost.txt` and a block of plan.json time and machine."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(("report.", "cost.txt"))
    }
    plan = json.loads(found["plan.json"])
    del plan["environment"]
    return found | {"plan.json": json.dumps(plan, sort_keys=True).encode()}


@pytest.mark.parametrize("spec", (*SPECS, *VARIANTS))
def test_the_same_inputs_and_seed_give_the_same_bytes(spec: str, plan: Planned, tmp_path: Path) -> None:
    folders = [plan(Edge(), spec, name, "--no-score", cache=tmp_path / f"cache-{name}")[1] for name in ("one", "two")]
    one, other = map(contents, folders)
    assert one.keys() == other.keys() and [name for name in one if one[name] != other[name]] == []
    assert "shots_lora/adapter_model.safetensors" in one


def test_a_plan_that_was_killed_in_its_training_goes_on_from_what_it_trained(
    plan: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, given = "basis:form=prior,start=merge,folds=2", list[str]()

    def noted(words: list[str]) -> int:
        given.extend(words)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.adapt.test_edges.main", noted)
        _, folder = plan(Edge(), spec, "run", "--no-score", cache=tmp_path / "cache")
    killed = subprocess.run(
        [sys.executable, "-m", "merge_advisor", *given], env=os.environ | {FAIL_AT: "folder in place residual"},
        capture_output=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL and not folder.exists()
    trained: list[tuple[Row, ...]] = []

    def finetune(self: Trainer, request: Any, real: Any = Trainer._finetune) -> Any:
        trained.append(request.rows)
        return real(self, request)

    monkeypatch.setattr(Trainer, "_finetune", finetune)
    assert plan(Edge(), spec, "run", "--no-score", cache=tmp_path / "cache")[0] == 0
    assert len(trained) == 1  # of two folds
    assert plan(Edge(), spec, "undisturbed", "--no-score", cache=tmp_path / "other")[0] == 0
    assert len(trained) == 3 and contents(folder) == contents(tmp_path / "undisturbed")


def test_checkpoints_of_a_base_that_stores_its_weights_the_other_way_round(
    plan: Planned, places: dict[str, Path], tmp_path: Path
) -> None:
    base, pool = build_model("gpt2", tmp_path / "gpt2"), tmp_path / "checkpoints"
    for seed in (1, 2):
        build_model("gpt2", pool / f"c{seed}", seed)
    places |= {"gpt2": base, "gpt2 pool": pool}
    code, folder = plan(Edge(pool="gpt2 pool", base="gpt2"), "basis:form=first,folds=2", "run", "--metric", "loss")
    assert code == 0
    reproduce(read_run(folder), places, tmp_path)


def test_a_rate_that_is_far_too_high_is_one_line(plan: Planned, capsys: pytest.CaptureFixture[str]) -> None:
    code, folder = plan(Edge(), "continue:folds=2,rate=1e30")
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and "lower " in said and not folder.exists()
