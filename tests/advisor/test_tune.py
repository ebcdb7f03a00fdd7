"""`tune`, end to end on a tiny base: what a run folder holds afterwards, and what cannot be tuned."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor.advisor import Machine, PlanOptions, TuneOptions
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.cli import main
from merge_advisor.errors import InputError, RunError, SpecError, TaskError
from merge_advisor.options import FinetuneSettings
from merge_advisor.report.values import TrialReport, TuningReport
from tests.support.task_files import write_task

FAST = FinetuneSettings(rank=4, lr=1e-2, steps=12)
ONE = Machine(threads=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, tiny_pool: Path) -> Path:
    """A planned run with choices, and one for two tasks, in a folder with a cache."""
    folder = tmp_path_factory.mktemp("tune")
    shared: dict[str, Any] = {
        "pool": tiny_pool,
        "base": str(tiny_llama),
        "cache": folder / "cache",
        "scored": False,
        "machine": ONE,
    }
    options = PlanOptions(k=3, adaptation="none", finetune=FAST, strategy="top_k")
    ma.plan(write_task(folder / "even.jsonl", choices=True), out=folder / "run", options=options, **shared)
    other = folder / "letters.jsonl"
    other.write_text("".join(json.dumps({"input": f"say {c}", "output": c * 2}) + "\n" for c in "abcdefghijklmnop"))
    ma.plan([folder / "even.jsonl", other], out=folder / "two", options=options, **shared)
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A fresh copy of the planned run."""
    return shutil.copytree(place / "run", tmp_path / "run")


def tune(run: Path, place: Path, **options: Any) -> Run:
    scored = options.pop("scored", False)
    guard = options.pop("guard", None)
    return ma.tune(run, options=TuneOptions(**options), scored=scored, guard=guard, cache=place / "cache", machine=ONE)


def tuning_of(run: Run) -> TuningReport:
    assert run.tuning is not None
    return run.tuning


def winner_of(run: Run) -> TrialReport:
    won = tuning_of(run).won
    assert won is not None
    return won


def value_of(trial: TrialReport | None) -> float:
    assert trial is not None and trial.value is not None
    return trial.value


def test_a_tuned_run(run: Path, place: Path) -> None:
    before = read_run(run)
    found = tune(run, place, trials=12, scored=True)
    assert found.planned == before.recipe and tuning_of(found).planned == tuple(m.weight for m in before.recipe.members)
    assert [trial.label for trial in tuning_of(found).trials[:4]] == ["plan", "uniform", "anchor", "base"]
    assert 12 <= len(tuning_of(found).trials) <= 13 and winner_of(found).weights
    assert {"study.sqlite", "tune.json", "plan", "report.html", "report.md"} <= {path.name for path in run.iterdir()}
    assert (run / "plan" / "recipe.json").is_file() and (run / "plan" / "adapter").is_dir()
    winner = dict(zip(tuning_of(found).members, winner_of(found).weights, strict=True))
    assert {m.id: m.weight for m in found.recipe.members} == {name: w for name, w in winner.items() if w}
    labels = [model.label for model in found.scores[0].models]
    assert "merge" in labels and ("plan" in labels) == (found.recipe.digest != before.recipe.digest)
    told = (run / "report.md").read_text()
    assert "## Tuning" in told and "held-out" in told and "tuned weight" in told
    assert "Tuning" in (run / "report.html").read_text()
    heldout = next(line for line in told.splitlines() if "held-out" in line and line.startswith("| even"))
    assert all(cell.strip() for cell in heldout.split("|")[5:7])


def test_the_winner_is_never_worse_on_the_tuning_rows(run: Path, place: Path) -> None:
    found = tune(run, place, trials=14)
    losses = {trial.label: value_of(trial) for trial in tuning_of(found).trials[:4]}
    assert value_of(tuning_of(found).won) <= min(losses.values()) + 1e-6
    assert tuning_of(found).reference == min(losses, key=lambda label: losses[label])


def test_formats_are_those_of_the_winner(run: Path, place: Path, tiny_llama: Path) -> None:
    """The adapter in the folder is the tuned merge, the one under plan/ the planned one."""
    from merge_advisor.advisor.runs.reopening import find_members
    from merge_advisor.merges import merge_of
    from merge_advisor.weights.adapter import read_adapter

    found = tune(run, place, trials=12)
    with open_session(str(tiny_llama), found.plan.environment.paths["pool"], cache=place / "cache") as session:
        assert found.planned is not None
        members = find_members(session.pool, session.local, found.folder, found.planned)
        for recipe, folder in ((found.recipe, run / "adapter"), (found.planned, run / "plan" / "adapter")):
            wanted = session.weights.carry_out(merge_of(recipe, members)).delta
            written = read_adapter(folder, session.local.shapes)
            for name in wanted:
                np.testing.assert_allclose(written[name].dense(), wanted[name].dense(), atol=1e-5)


def test_called_again_it_goes_on_and_starts_from_the_plan(run: Path, place: Path) -> None:
    first = tune(run, place, trials=8)
    again = tune(run, place, trials=8)
    assert again.recipe == first.recipe and again.tuning == first.tuning and again.planned == first.planned
    more = tune(run, place, trials=12)
    assert tuning_of(more).trials[:8] == tuning_of(first).trials[:8] and more.planned == first.planned
    undisturbed = shutil.copytree(place / "run", run.parent / "other")
    assert tune(undisturbed, place, trials=12).recipe == more.recipe


@pytest.mark.parametrize("objective", ["accuracy", "delta", "lm-eval:acc", "lm-eval:exact_match"])
def test_other_objectives(run: Path, place: Path, objective: str) -> None:
    found = tune(run, place, trials=7, objective=objective)
    assert tuning_of(found).won is not None and f"of {objective}" in tuning_of(found).goal
    assert all(trial.label != "gradient" for trial in tuning_of(found).trials)


def test_auto_tunes_what_the_plan_was_chosen_by(run: Path, place: Path) -> None:
    """The rows have choices; LoraHub's goals are of the loss whatever the rows are."""
    for options, told in (
        ({}, "mean over 8 tuning rows of choices (nats a row)"),
        ({"goal": "lorahub"}, "lorahub over 8 tuning rows of loss (nats per token)"),
        ({"objective": "lorahub-clean"}, "lorahub-clean over 8 tuning rows of loss (nats per token)"),
    ):
        found = tune(run, place, trials=9, force=True, **options)
        assert told in tuning_of(found).goal and any(trial.label == "auto" for trial in tuning_of(found).trials)
    assert "choice loss" not in (run / "report.md").read_text()
    tune(run, place, trials=9, force=True, sampler="gradient")
    told = (run / "report.md").read_text()
    assert "choice loss" in told and "nats a row" in told


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "gradient", "gp"])
def test_every_sampler_on_a_run(run: Path, place: Path, sampler: str) -> None:
    assert len(tuning_of(tune(run, place, trials=8, sampler=sampler)).trials) >= 8


def test_what_may_be_varied(run: Path, place: Path) -> None:
    found = tune(
        run, place, trials=14, sampler="random", compositions=("ties:density=0.5",), drop=True, layers=2,
        scale=(0.5, 2.0), density=(0.2, 0.9),
    )  # fmt: skip
    tried = {trial.composition.partition(":")[0] for trial in tuning_of(found).trials}
    assert tried == {"exact", "ties"}
    assert any(0 in trial.weights for trial in tuning_of(found).trials[4:])
    with pytest.raises(SpecError, match="cannot search"):
        tune(run, place, trials=6, sampler="cmaes", compositions=("ties",), force=True)


def test_two_tasks(place: Path, tmp_path: Path) -> None:
    run = shutil.copytree(place / "two", tmp_path / "two")
    worst = tune(run, place, trials=8, goal="worst", scored=True)
    assert len(worst.scores) == 2 and len(tuning_of(worst).tasks) == 2
    front = tune(run, place, trials=10, goal="pareto", force=True)
    assert all(len(trial.values) == 2 for trial in tuning_of(front).trials[:10])
    with pytest.raises(SpecError, match="pareto"):
        tune(shutil.copytree(place / "run", tmp_path / "one"), place, trials=6, goal="pareto")


def test_a_guard_forbids(run: Path, place: Path, tmp_path: Path) -> None:
    guard = tmp_path / "guard.jsonl"
    guard.write_text("".join(json.dumps({"text": f"the quick brown fox {n}"}) + "\n" for n in range(6)))
    found = tune(run, place, trials=9, guard=guard)
    assert tuning_of(found).won is not None


def test_what_cannot_be_tuned(run: Path, place: Path, tmp_path: Path) -> None:
    for options, error, words in (
        ({"trials": 0}, InputError, "more than 0"),
        ({"minutes": -1.0}, InputError, "more than 0"),
        ({"sampler": "magic"}, SpecError, "unknown"),
        ({"objective": "beauty"}, SpecError, "unknown"),
        ({"objective": "lorahub", "goal": "worst"}, SpecError, "a goal of its own"),
        ({"goal": "most"}, SpecError, "unknown"),
        ({"layers": 99}, SpecError, "blocks"),
        ({"sampler": "gradient", "objective": "accuracy"}, SpecError, "gradient"),
    ):
        with pytest.raises(error, match=words):
            tune(run, place, **{"trials": 6, "force": True, **options})
    with pytest.raises(RunError, match="no run folder"):
        tune(tmp_path / "nothing", place)
    assert read_run(run).planned is None


def test_a_study_of_something_else_is_refused(run: Path, place: Path) -> None:
    tune(run, place, trials=5)
    with pytest.raises(RunError, match="seed"):
        tune(run, place, trials=6, seed=7)
    assert tuning_of(tune(run, place, trials=6, seed=7, force=True)).won
    (run / "study.sqlite").write_bytes(b"not a database at all, whatever its name says" * 40)
    with pytest.raises(RunError, match=r"study\.sqlite"):
        tune(run, place, trials=6)


def test_one_row_is_not_enough(place: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    ma.plan(
        place / "even.jsonl", pool=tiny_pool, base=str(tiny_llama), out=tmp_path / "run", cache=place / "cache",
        options=PlanOptions(k=2, adaptation="none", finetune=FAST, strategy="top_k", tuning=1), scored=False,
    )  # fmt: skip
    with pytest.raises(TaskError, match="one row"):
        tune(tmp_path / "run", place)


def test_a_changed_pool_is_told(run: Path, place: Path, tiny_pool: Path, tmp_path: Path) -> None:
    pool = shutil.copytree(tiny_pool, tmp_path / "pool")
    for member in read_run(run).recipe.members:
        if (pool / member.id).is_dir():
            shutil.rmtree(pool / member.id)
    with pytest.raises(RunError, match="not in the pool"):
        ma.tune(run, pool=pool, cache=place / "cache")


def test_a_run_that_was_killed_while_it_was_written_is_read_as_planned(run: Path, place: Path) -> None:
    before = (run / "plan.json").read_bytes()
    found = tune(run, place, trials=8)
    (run / "plan.json").write_bytes(before)  # as if killed before the last file
    again = read_run(run)
    assert again.recipe == found.planned and again.tuning is None
    assert tune(run, place, trials=8).recipe == found.recipe


def test_the_command(run: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", str(run), "--cache", str(place / "cache"), "--no-score"]
    assert main([*arguments, "--trials", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["members"]
    assert main([*arguments, "--trials", "6", "--bounds", "wide"]) == 2
    assert "LOW:HIGH" in capsys.readouterr().err
    assert main([*arguments, "--forward-budget", "0"]) == 2
    merge = ["merge", str(run), "--out", str(run.parent / "model"), "--adapter"]
    assert main([*merge, "--cache", str(place / "cache")]) == 0


@pytest.mark.slow
def test_killed_with_9_it_ends_as_undisturbed(run: Path, place: Path, tmp_path: Path) -> None:
    """The command, killed at random moments of its start, its search and its end (twenty times at most).

    With as many threads: another number of them adds in another order, and the last digits differ.
    """
    other = shutil.copytree(place / "run", tmp_path / "other")
    wanted = tune(other, place, trials=120, sampler="tpe")
    rng = np.random.default_rng(0)
    command = [
        sys.executable, "-m", "merge_advisor", "tune", str(run), "--trials", "120", "--sampler", "tpe", "--no-score",
        "--cache", str(tmp_path / "cache"), "-q", "--threads", "1",
    ]  # fmt: skip
    kills = 0
    while kills < 20:
        with subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL) as child:
            time.sleep(float(rng.uniform(3, 8)))
            if child.poll() is not None:
                break
            child.send_signal(signal.SIGKILL)
        kills += 1
    subprocess.run(command, check=True, capture_output=True)
    assert kills > 1
    assert read_run(run).recipe == wanted.recipe
    tuning = read_run(run).tuning
    assert tuning is not None and wanted.tuning is not None
    assert [t.values for t in tuning.trials] == [t.values for t in wanted.tuning.trials]


@pytest.mark.parametrize("sampler", ["gradient", "cmaes", "tpe"])
def test_members_that_are_all_the_same(
    sampler: str, place: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    """Three adapters equal but for rounding (equal ones count once in a pool): only the sum of the weights matters."""
    from safetensors.numpy import load_file, save_file

    for number, name in enumerate("abc"):
        folder = shutil.copytree(tiny_pool / "a0", tmp_path / "pool" / name)
        file = folder / "adapter_model.safetensors"
        save_file({key: value * np.float32(1 + 1e-6 * number) for key, value in load_file(file).items()}, file)
    planned = ma.plan(
        place / "even.jsonl", pool=tmp_path / "pool", base=str(tiny_llama), out=tmp_path / "run",
        cache=place / "cache", scored=False, machine=ONE,
        options=PlanOptions(
            k=3, adaptation="none", finetune=FAST, strategy="top_k", choose_by="loss", exclude=("shots_lora",)
        ),
    )  # fmt: skip
    assert len(planned.recipe.members) == 3
    found = tune(tmp_path / "run", place, trials=10, sampler=sampler, objective="loss")
    by_sum: dict[float, list[float]] = {}
    for trial in tuning_of(found).trials:
        if trial.whole:
            by_sum.setdefault(round(sum(trial.weights), 3), []).append(value_of(trial))
    for values in by_sum.values():
        assert max(values) - min(values) < 5e-3
    losses = {trial.label: value_of(trial) for trial in tuning_of(found).trials[:4]}
    assert losses["uniform"] == pytest.approx(losses["anchor"], abs=1e-4)
    assert value_of(tuning_of(found).won) <= min(losses.values()) + 1e-6
