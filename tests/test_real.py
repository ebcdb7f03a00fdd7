"""Slow: the real base (SmolLM2-135M-Instruct), the shipped demo pool, and pools kept beside a development checkout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.arrays import Float32Array
from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.embeddings import PROBES
from merge_advisor.embeddings.activations import DeltaActivations
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import LocalBase, resolve_base

pytestmark = pytest.mark.slow
DEMO = Path(__file__).parents[1] / "recipes" / "demo"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def local(real_base: Path, cache: Path) -> LocalBase:
    return resolve_base(str(real_base), cache=cache / "base")


def cosine(a: Float32Array, b: Float32Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def our_deltas(local: LocalBase, folders: Sequence[Path]) -> list[Float32Array]:
    backbone = load_backbone(local.path)
    embedding = DeltaActivations()
    base = embedding.features(backbone)
    found = []
    for folder in folders:
        with placed(backbone, read_adapter(folder, local.shapes)):
            found.append(embedding.features(backbone) - base)
    return found


def peft_deltas(local: LocalBase, folders: Sequence[Path]) -> list[Float32Array]:
    """The plain loop of the public scripts, each adapter taken off again: probes alone, `output_hidden_states`."""
    import torch
    from peft import PeftModel

    backbone = load_backbone(local.path)
    model, tokenizer = backbone.model, backbone.tokenizer

    def mean_state(model: Any) -> Float32Array:
        states = []
        for probe in PROBES:
            batch = tokenizer(probe, return_tensors="pt", truncation=True, max_length=256)
            with torch.no_grad():
                states.append(model(**batch, output_hidden_states=True).hidden_states[-1][0, -1].numpy())
        return np.asarray(np.mean(states, axis=0))

    base, found = mean_state(model), []
    for folder in folders:
        wrapped = PeftModel.from_pretrained(model, folder)
        found.append(mean_state(wrapped) - base)
        model = wrapped.unload()
    return found


def adapters_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if (path / "adapter_config.json").is_file())


def test_every_demo_adapter_equals_the_plain_peft_loop(local: LocalBase) -> None:
    folders = adapters_of(DEMO / "pool")
    assert len(folders) >= 12
    for folder, ours, expected in zip(folders, our_deltas(local, folders), peft_deltas(local, folders), strict=True):
        assert cosine(ours, expected) >= 0.99999, folder.name


@pytest.mark.parametrize("pool", ["pool-smollm2", "pool-bigbench"])
def test_every_shared_adapter_equals_the_plain_peft_loop(pool: str, local: LocalBase, shared: Path) -> None:
    folders = adapters_of(shared / pool)
    for folder, ours, expected in zip(folders, our_deltas(local, folders), peft_deltas(local, folders), strict=True):
        assert cosine(ours, expected) >= 0.99999, folder.name


def test_deltas_of_the_shared_pool_cluster_by_domain(local: LocalBase, shared: Path) -> None:
    from sklearn.metrics import silhouette_score

    folders = [path for path in adapters_of(shared / "pool-smollm2") if not path.name.startswith("mix")]
    deltas = dict(zip([path.name for path in folders], our_deltas(local, folders), strict=True))
    domains = {name: delta for name, delta in deltas.items() if not name.startswith("task20")}
    labels = [name.rpartition("-")[0] for name in domains]
    assert silhouette_score(np.stack(list(domains.values())), labels, metric="cosine") > 0.8
    for name, delta in deltas.items():
        if name.startswith("task20-"):
            nearest = max(domains, key=lambda other: cosine(delta, domains[other]))
            assert nearest.startswith(name.removeprefix("task20-"))


def test_the_demo_pool_clusters_by_family(local: LocalBase) -> None:
    folders = adapters_of(DEMO / "pool")
    deltas = dict(zip([path.name for path in folders], our_deltas(local, folders), strict=True))
    hits = 0
    for name, delta in deltas.items():
        others = {other: cosine(delta, found) for other, found in deltas.items() if other != name}
        hits += max(others, key=lambda other: others[other]).rpartition("-")[0] == name.rpartition("-")[0]
    assert hits >= 13  # 14 of 15 as built: dates-1 lies between two families


def plan_of_demo(task: str, real_base: Path, cache: Path, out: Path) -> Run:
    return ma.plan(
        DEMO / "tasks" / f"{task}.jsonl", pool=DEMO / "pool.yaml", base=str(real_base), out=out, cache=cache,
        options=PlanOptions(k=3, adaptation="none"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def mixed(real_base: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return plan_of_demo("mixed", real_base, cache, tmp_path_factory.mktemp("demo") / "mixed")


def test_the_demo_task_that_a_merge_serves(mixed: Run) -> None:
    assert mixed.plan.verdict == "merge", mixed.plan.reason
    score = mixed.scores[0]
    alone = [model.metrics["exact_match"] for model in score.models if model.label not in ("merge", "uniform")]
    assert score.model("merge").metrics["exact_match"] > max(alone)
    families = {member.id.rpartition("-")[0] for member in mixed.recipe.members if member.id != "shots_lora"}
    assert len(families) >= 2


def test_the_demo_task_that_nothing_serves(real_base: Path, cache: Path, tmp_path: Path) -> None:
    run = plan_of_demo("hopeless", real_base, cache, tmp_path / "hopeless")
    assert run.plan.verdict == "no-gain", run.plan.reason


def test_the_demo_merge_by_us_by_peft_and_by_mergekit(
    mixed: Run, local: LocalBase, cache: Path, tmp_path: Path
) -> None:
    """The same weights to 1e-5 from our file, the PEFT folder in plain PEFT, and mergekit on the run's own YAML."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from merge_advisor.weights.tensorfile import open_folder, read_tensor

    ours = open_folder(ma.merge(mixed.folder, tmp_path / "ours", cache=cache))
    by_mergekit = open_folder(ma.merge(mixed.folder, tmp_path / "mergekit", engine="mergekit", cache=cache))
    base = AutoModelForCausalLM.from_pretrained(local.path, dtype=torch.float32)
    by_peft = PeftModel.from_pretrained(base, mixed.folder / "adapter").merge_and_unload().state_dict()
    assert set(by_mergekit) <= set(by_peft)
    for name, (path, info) in ours.items():
        found = read_tensor(path, info)
        assert np.abs(found - by_peft[name].numpy()).max() < 1e-5, name
        assert np.abs(found - read_tensor(*by_mergekit[name])).max() < 1e-5, name


def test_a_plan_from_the_command_line_with_options(
    real_base: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from merge_advisor.cli import main

    code = main([
        "plan", "--task", str(DEMO / "tasks" / "mixed.jsonl"), "--pool", str(DEMO / "pool.yaml"), "--base",
        str(real_base), "--cache", str(cache), "--out", str(tmp_path / "run"), "--no-score", "--strategy",
        "anchor_diverse:objective=facility", "--adaptation", "none", "--k", "3", "--rank", "4", "--json", "-q",
    ])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and len(found["recipe"]["members"]) <= 4
    assert found["recipe"]["rank"] == 4 and 0 < found["plan"]["rank_error"] < 1
    assert not (tmp_path / "run" / "mergekit.yaml").exists()  # mergekit cannot cut to a rank


def test_bfloat16_deltas_agree(local: LocalBase) -> None:
    full, half = load_backbone(local.path), load_backbone(local.path, dtype="bfloat16")
    folders = adapters_of(DEMO / "pool")[:3]
    embedding = DeltaActivations()
    for folder in folders:
        seen = []
        for backbone in (full, half):
            base = embedding.features(backbone)
            with placed(backbone, read_adapter(folder, local.shapes)):
                seen.append(embedding.features(backbone) - base)
        assert cosine(*seen) > 0.99, folder.name
