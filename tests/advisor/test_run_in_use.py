"""One process at a time changes a run folder; who else would is told who does, and nothing is half of two."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions, TuneOptions, merge_run
from merge_advisor.advisor.runs.run_folder import Run, read_run, write_values
from merge_advisor.advisor.scoring import score_run
from merge_advisor.cli import main
from merge_advisor.errors import RunError
from merge_advisor.machine_options import Machine
from merge_advisor.merges import merge_of
from merge_advisor.tuning.lock import run_lock

ONE = Machine(threads=1)


@pytest.fixture
def run(example_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(example_world / "run", tmp_path / "run"))


def plan(world: Path, out: Path, **more: Any) -> Run:
    return ma.plan(
        world / "examples.jsonl", pool=world / "adapters", base=str(world / "base"), out=out, metric="loss",
        options=PlanOptions(strategy="top_k", k=1, adaptation="none"), machine=ONE, cache=out.parent / "cache", **more,
    )  # fmt: skip


def test_who_uses_it_is_said(
    run: Path, example_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where: dict[str, Any] = {"cache": tmp_path / "cache", "machine": ONE}
    before = sorted(path.name for path in run.iterdir())
    with run_lock(run, "tunes it"):
        says = r"run: is in use by process \d+ on .* since .* UTC, which tunes it; wait for it to end, or stop it$"
        changes: list[Callable[[], Run]] = [
            lambda: ma.score(run, **where),
            lambda: ma.tune(run, options=TuneOptions(trials=5), **where),
            lambda: plan(example_world, run, force=True),
        ]
        for change in changes:
            with pytest.raises(RunError, match=says):
                change()
        assert main(["score", str(run)]) == main(["tune", str(run)]) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2 and all("which tunes it" in line for line in told)
    assert sorted(path.name for path in run.iterdir()) == sorted({*before, ".run.lock"})
    with run_lock(run, "scores it"):
        pass


def test_a_plan_has_its_run_to_itself_until_it_is_scored(
    example_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, score = [], score_run.score_open_run

    def beside(*given: Any, **more: Any) -> Run:
        with pytest.raises(RunError, match="which plans it") as refused:
            ma.score(tmp_path / "run", machine=ONE)
        seen.append(refused)
        return score(*given, **more)

    monkeypatch.setattr(score_run, "score_open_run", beside)
    assert plan(example_world, tmp_path / "run").scores and len(seen) == 1


def test_a_merge_of_a_run_that_is_tuned_meanwhile_is_not_written(
    run: Path, example_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned_meanwhile(*given: Any) -> Any:
        found = read_run(run)
        recipe = replace(found.recipe, members=tuple(replace(one, weight=0.25) for one in found.recipe.members))
        write_values(run, replace(found.plan, recipe_digest=recipe.digest), recipe, found.tasks)
        return merge_of(*given)

    monkeypatch.setattr(merge_run, "merge_of", tuned_meanwhile)
    with pytest.raises(RunError, match="run: was tuned while it was read; merge it again"):
        ma.merge(run, tmp_path / "model", cache=tmp_path / "cache", machine=ONE)
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    assert ma.merge(run, tmp_path / "model", cache=tmp_path / "cache", machine=ONE) == tmp_path / "model"


def test_who_shares_waits_for_its_turn(run: Path) -> None:
    order = []

    def second() -> None:
        with run_lock(run, "writes a tuned recipe", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with run_lock(run, "scores it"):
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_is_no_run_is_left_as_it_is(tmp_path: Path) -> None:
    for change in (ma.score, ma.tune):
        with pytest.raises(RunError, match=r"nothing: is no run folder \(no plan.json\)"):
            change(tmp_path / "nothing", machine=ONE)
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_used_without(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.warns(UserWarning, match="flock not supported"), run_lock(run, "scores it"):
        assert not (run / ".run.lock.holder").exists()
