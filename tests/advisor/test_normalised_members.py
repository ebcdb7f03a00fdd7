"""Members whose own files PEFT would not load whole: every file of a run gives the model that was scored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.errors import ExternalError
from merge_advisor.formats.compare_models import differences
from merge_advisor.formats.full_model import write_full_model
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import resolve_base
from merge_advisor.whole_files import whole_folder
from tests.support.merges import by_plain_peft, weights_of
from tests.support.task_files import write_task


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_pool: Path) -> Path:
    """A pool of two: one as PEFT saves it, one that was saved from a compiled model."""
    folder = tmp_path_factory.mktemp("normalised")
    shutil.copytree(tiny_pool / "a0", folder / "pool" / "plain")
    odd = shutil.copytree(tiny_pool / "b0", folder / "pool" / "compiled, of b")
    path = odd / "adapter_model.safetensors"
    save_file({f"_orig_mod.{key}": array for key, array in load_file(path).items()}, path)
    return folder


@pytest.fixture(scope="module")
def run(place: Path, tiny_llama: Path) -> Run:
    return ma.plan(
        write_task(place / "even.jsonl", 12), pool=place / "pool", base=str(tiny_llama), out=place / "run",
        cache=place / "cache", scored=False,
        options=PlanOptions(strategy="rerank:few=2", k=2, adaptation="none", include=("plain", "compiled, of b")),
    )  # fmt: skip


def test_it_is_written_again_and_pointed_at(run: Run, place: Path, tiny_llama: Path) -> None:
    assert {member.id for member in run.recipe.members if member.weight} >= {"compiled, of b"}
    (copied,) = (run.folder / "members").iterdir()
    assert copied.name.startswith("compiled-of-b-")
    shapes = resolve_base(str(tiny_llama), cache=place / "cache").shapes
    wanted, found = read_adapter(place / "pool" / "compiled, of b", shapes), by_plain_peft(tiny_llama, copied)
    before = weights_of(tiny_llama)
    for name in wanted:
        np.testing.assert_allclose(found[name], before[name] + wanted[name].dense(), atol=1e-5)
    config = yaml.safe_load((run.folder / "mergekit.yaml").read_text())
    assert f"members/{copied.name}" in json.dumps(config)
    assert str((place / "pool" / "plain").resolve()) in json.dumps(config)


@pytest.mark.slow
def test_mergekit_gives_the_same_model(run: Run, place: Path, tiny_llama: Path) -> None:
    where = {"pool": place / "pool", "base": str(tiny_llama), "cache": place / "cache"}
    ma.merge(run.folder, place / "ours", **where)  # type: ignore[arg-type]
    ma.merge(run.folder, place / "theirs", engine="mergekit", **where)  # type: ignore[arg-type]
    ours, theirs = weights_of(place / "ours"), weights_of(place / "theirs")
    assert all(np.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


def test_another_model_of_mergekits_is_refused_and_removed(
    run: Run, place: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_advisor.formats import run_mergekit

    def drops_everything(text: str, out: Path, *, threads: int | None, finish: Callable[[Path], object]) -> None:
        write_full_model(tiny_llama, {}, place / "dropped")
        with whole_folder(out) as partial:
            shutil.copytree(place / "dropped", partial, dirs_exist_ok=True)
            finish(partial)

    monkeypatch.setattr(run_mergekit, "run_mergekit", drops_everything)
    with pytest.raises(ExternalError, match=r"another model: \d+ of \d+ weights differ, .* by 100\.0% of its change"):
        ma.merge(
            run.folder, place / "wrong", engine="mergekit", pool=place / "pool", base=str(tiny_llama),
            cache=place / "cache",
        )  # fmt: skip
    assert not (place / "wrong").exists()


def test_differences_are_shares_of_the_change(place: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    delta = read_adapter(tiny_pool / "a0", resolve_base(str(tiny_llama), cache=place / "cache").shapes)
    write_full_model(tiny_llama, delta, tmp_path / "whole")
    assert max(differences(tiny_llama, delta, tmp_path / "whole").values()) < 1e-4
    half = {name: update.times(0.5) for name, update in delta.items()}
    apart = differences(tiny_llama, half, tmp_path / "whole")
    assert all(apart[name] == pytest.approx(1, abs=1e-3) for name in delta)
    assert all(value == 0 for name, value in apart.items() if name not in delta)
    fewer = dict(list(delta.items())[1:])
    assert differences(tiny_llama, fewer, tmp_path / "whole")[next(iter(delta))] == float("inf")
