"""`--dry-run` counts with the rules that results are charged by, and needs nothing but the setup."""

import json
from pathlib import Path
from typing import Any

import pytest

from merge_advisor import registry
from merge_advisor.advisor.planning.choosing_cost import choosing_cost
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.running.dry_run import bench_passes, describe_bench, finetune_forwards, spent_by
from merge_advisor.benchmark.running.units import result_keys
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.cli import main
from merge_advisor.errors import InputError
from tests.support.bench_setups import SETUP, TASKS, write_world

ROWS = SETUP["tasks"]["tuning"] + SETUP["tasks"]["shots"]
STRATEGIES = [*registry.names("strategy"), "shot_loss:greedy=true", "rerank:first=delta", "rerank:first=text",
              "best_single:by=gradient", "random:sets=5", "gradient:distinct=true",
              "cluster:method=kmeans"]  # fmt: skip


def test_with_nothing_there(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    for file in (tmp_path / "tasks").iterdir():
        file.unlink()
    (tmp_path / "tasks").rmdir()
    found = describe_bench(path)
    assert (found["tasks"], found["models"]) == (5, 5)  # the names in families.json; one model a task
    assert found["bytes"] == {"base": None, "pool": None} and found["hours"] > 0
    text = "\n".join(found["lines"])
    for absent in (
        "tasks: no such folder",
        "estimated for the 5 tasks",
        "base tiny-llama: not a folder",
        "pool: not there",
    ):
        assert absent in text
    (tmp_path / "families.json").unlink()
    assert describe_bench(path)["tasks"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["setup.yaml"]  # nothing was written


def test_a_pool_that_nothing_can_be_used_of(tmp_path: Path, tiny_pool: Path) -> None:
    """All of it are links that lead out of it, which nobody asked to follow."""
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a").symlink_to(tiny_pool / "a0")
    found = describe_bench(write_world(tmp_path), pool=str(tmp_path / "pool"))
    told = [line for line in found["absent"] if "none of its 1 models can be used; estimated with one a task" in line]
    assert len(told) == 1 and found["models"] == 3


def test_with_everything_there(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    path = write_world(tmp_path)
    found = describe_bench(path, base=str(tiny_llama), pool=str(tiny_pool), rate=10.0)
    assert (found["tasks"], found["models"], found["absent"]) == (3, 6, [])
    assert found["bytes"]["pool"] == sum(file.stat().st_size for file in tiny_pool.rglob("*") if file.is_file())
    assert found["results"] == 3 * 4 * (7 + 3)
    assert found["hours"] == pytest.approx(sum(found["passes"].values()) / 36000)
    rows, scale = ROWS, 8
    assert found["passes"]["embed the pool"] == 5 * 7
    nearest = describe_bench(
        path, base=str(tiny_llama), pool=str(tiny_pool), only=["nearest/*", "shots_lora/*", "base/*", "icl/*"]
    )
    finetune = nearest["passes"]["finetune on the shots"] / (3 * 2)
    assert nearest["passes"] == {  # both selection draws are one choice; the base is one in all, icl in those
        "embed the pool": 35, "finetune on the shots": 6 * finetune, "choose and tune": 3 * 2 * scale * rows,
        "score": 5 * 3 * (2 + 2 + 1 + 2),
    }  # fmt: skip
    chance = describe_bench(
        path, base=str(tiny_llama), pool=str(tiny_pool), only=["random-adapters/*", "best-single-oracle/*"]
    )
    assert (
        chance["passes"]["score"] == 5 * 3 * (2 * 2 + 6) and chance["passes"]["choose and tune"] == 3 * 4 * scale * rows
    )


def test_a_strategy_is_counted_once_whatever_the_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(strategy: str, *of: Any) -> Any:
        asked.append(strategy)
        return choosing_cost(strategy, *of)

    monkeypatch.setattr("merge_advisor.benchmark.running.dry_run.choosing_cost", counted)
    told = describe_bench(write_world(tmp_path, draws={"shots": 20, "selections": 20}))
    assert told["results"] > 10_000 and len(asked) == 3  # the arm that matches another's cost asks for that one's


def test_a_wrong_setup_is_refused_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no arm or control"):
        describe_bench(write_world(tmp_path, primary={"better": "x", "than": "random", "k": 2}))


@pytest.mark.slow
def test_no_arm_spends_more_than_foreseen(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    hub = {"sampler": "lorahub", "trials": 6, "objective": "lorahub"}
    arms: list[dict[str, Any]] = [{"name": spec, "strategy": spec} for spec in STRATEGIES]
    arms += [
        {"name": "joined", "strategy": "rerank", "shots_lora": True},
        {"name": "match", "strategy": "random", "match": "joined", "shots_lora": True},
        {"name": "tuned", "strategy": "top_k", "tuner": {"sampler": "auto", "trials": 6}},
        {"name": "hub", "strategy": "random", "tuner": hub},
        {"name": "ranked hub", "strategy": "rerank", "tuner": hub},
        {"name": "matched hub", "strategy": "random", "tuner": hub, "match": "ranked hub"},
    ]
    path = write_world(tmp_path, arms=arms, controls=["shots_lora"], k=[3],
                       primary={"better": "joined", "than": "match", "k": 3},
                       draws={"shots": 1, "selections": 2}, views=["own-in", "own-out"])  # fmt: skip
    found = measure_setup(path, tmp_path / "out", base=str(tiny_llama), pool=str(tiny_pool), cache=tmp_path / "cache")
    assert not found.failed, found.failed[0].reason
    setup, _ = read_setup(path)
    finetune = {r.unit.task: r.forwards for r in found.results if r.arm == "shots_lora"}
    by_name = {arm.name: arm for arm in setup.arms}
    most = bench_passes(setup, list(result_keys(setup, list(TASKS))), 6)["finetune on the shots"] // len(TASKS)
    assert max(finetune.values()) <= most
    merges: dict[tuple[str, str, str], set[str]] = {}
    for result in found.results:
        if result.arm == "shots_lora":
            continue
        foreseen = spent_by(by_name[result.arm], setup, 6, 3)
        assert result.forwards <= foreseen.choosing + most * foreseen.finetune, result.arm
        paid = finetune[result.unit.task] if foreseen.finetune else 0
        assert foreseen.choosing > 0 and result.forwards > paid, result.arm
        merges.setdefault((result.arm, result.unit.task, result.view), set()).add(result.merge)
    for (arm, _, _), different in merges.items():
        assert len(different) == 1 or spent_by(by_name[arm], setup, 6, 3).by_chance, arm


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_world(tmp_path)
    assert main(["bench", str(path), "--dry-run", "--rate", "100"]) == 0
    out = capsys.readouterr().out
    assert "hours at 100 a second" in out and out.endswith("dry run: nothing was loaded or written\n")
    assert main(["bench", str(path), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == 3
    assert main(["bench", str(path)]) == 2
    assert "give --out DIR, or --dry-run" in capsys.readouterr().err
    assert main(["bench", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("embedding", "rows"), [("delta_activations", 5), ("delta_meaning", 40)])
def test_an_embedding_is_charged_the_rows_it_runs(
    embedding: str, rows: int, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    """Of the pool once, and of the shots' LoRA for every arm that uses the task delta: equal budgets rest on it."""
    path = write_world(tmp_path, embedding=embedding)
    found = describe_bench(path, base=str(tiny_llama), pool=str(tiny_pool), only=["nearest/*"])
    assert found["passes"]["embed the pool"] == rows * 7
    without = describe_bench(path, base=str(tiny_llama), pool=str(tiny_pool), only=["shots_lora/*"])
    setup, _ = read_setup(path)
    assert without["passes"]["finetune on the shots"] == 3 * 2 * (finetune_forwards(setup) + rows)
