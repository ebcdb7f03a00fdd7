"""Models that are not just below the pool's folder: training runs, named adapters, the hub's cache. None vanishes."""

import shutil
from pathlib import Path

import pytest

from merge_advisor.errors import PoolError
from merge_advisor.pool import open_pool
from merge_advisor.pool.sources import find_models
from merge_advisor.types import Pool
from merge_advisor.weights.base import LocalBase, resolve_base


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    return resolve_base(str(tiny_llama), cache=tmp_path_factory.mktemp("cache"))


FILES = ("adapter_config.json", "adapter_model.safetensors")


def put(tiny_pool: Path, name: str, place: Path) -> None:
    shutil.copytree(tiny_pool / name, place)


def notes(pool: Pool) -> dict[str, tuple[str, ...]]:
    return {candidate.id: candidate.notes for candidate in pool.candidates}


def test_a_training_run_is_its_newest_checkpoint(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    for step, name in ((9, "a0"), (40, "a1"), (100, "a2")):
        put(tiny_pool, name, tmp_path / "run" / f"checkpoint-{step}")
        for left in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin"):
            (tmp_path / "run" / f"checkpoint-{step}" / left).write_bytes(b"not read")
    (tmp_path / "run" / "training_args.bin").write_bytes(b"not read")
    put(tiny_pool, "b0", tmp_path / "plain")
    found = open_pool(tmp_path, base)
    assert not found.refused
    assert notes(found) == {
        "plain": (), "run": ("checkpoint-100, the newest of 3 checkpoints there, stands for it",)
    }  # fmt: skip
    run = next(candidate for candidate in found.candidates if candidate.id == "run")
    assert run.path.endswith("checkpoint-100") and run.source == "run/checkpoint-100"


def test_what_stands_beside_checkpoints_is_a_model_too(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    put(tiny_pool, "a0", tmp_path / "run" / "checkpoint-5")
    put(tiny_pool, "a1", tmp_path / "run" / "best")
    assert list(notes(open_pool(tmp_path, base))) == ["run", "run/best"]


def test_a_finished_run_stands_for_itself(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    put(tiny_pool, "a0", tmp_path / "run")
    put(tiny_pool, "a1", tmp_path / "run" / "checkpoint-10")
    assert notes(open_pool(tmp_path, base)) == {
        "run": ("models inside its folder are left out: checkpoint-10",)
    }  # fmt: skip


def test_adapters_further_down(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    put(tiny_pool, "a0", tmp_path / "law" / "my_task")
    put(tiny_pool, "a1", tmp_path / "law" / "other" / "deep")
    put(tiny_pool, "a2", tmp_path / ".cache" / "hidden")
    (tmp_path / "logs").mkdir()
    found = open_pool(tmp_path, base)
    assert notes(found) == {"law/my_task": (), "law/other/deep": ()} and not found.refused


def test_a_pool_of_checkpoints_is_a_pool(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    put(tiny_pool, "a0", tmp_path / "checkpoint-1")
    put(tiny_pool, "a1", tmp_path / "checkpoint-2")
    assert list(notes(open_pool(tmp_path, base))) == ["checkpoint-1", "checkpoint-2"]


def test_the_hubs_cache_is_a_pool(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    for repo, commits, main in (("one", ["c1", "c2"], "c2"), ("two", ["d1"], None), ("three", ["e1", "e2"], None)):
        folder = tmp_path / f"models--org--{repo}"
        for number, commit in enumerate(commits):
            put(tiny_pool, f"{'ab'[repo == 'two']}{number}", folder / "snapshots" / commit)
        (folder / "refs").mkdir()
        if main:
            (folder / "refs" / "main").write_text(main)
    found = open_pool(tmp_path, base)
    assert notes(found) == {"org/one": ("commit c2 of the hub's cache",), "org/two": ("commit d1 of the hub's cache",)}
    assert [model.id for model in found.refused] == ["org/three"]  # which commit is meant nobody says
    assert [model.id for model in find_models(tmp_path / "models--org--one").models] == ["org/one"]


def test_a_folder_without_models_says_so(tmp_path: Path, base: LocalBase) -> None:
    (tmp_path / "a" / "b" / "c" / "d").mkdir(parents=True)
    (tmp_path / "a" / "training_args.bin").write_bytes(b"not read")
    with pytest.raises(PoolError, match=r"has no models; each is a folder with adapter_config.json or config.json"):
        open_pool(tmp_path, base)


def test_what_lies_inside_the_model_that_the_pool_is_or_the_newest_checkpoint_is_said(
    tiny_pool: Path, base: LocalBase, tmp_path: Path
) -> None:
    for name, place in (("a0", "."), ("a1", "style"), ("a2", "checkpoint-3")):
        shutil.copytree(tiny_pool / name, tmp_path / "alone" / place, dirs_exist_ok=True)
    assert notes(open_pool(tmp_path / "alone", base)) == {
        "alone": ("models inside its folder are left out: checkpoint-3, style",)
    }  # fmt: skip
    for name, place in (("a0", "."), ("a1", "reference")):
        shutil.copytree(tiny_pool / name, tmp_path / "pool" / "run" / "checkpoint-10" / place, dirs_exist_ok=True)
    (note,) = notes(open_pool(tmp_path / "pool", base))["run"]
    assert note.endswith("stands for it; models inside its folder are left out: reference")


def test_what_cannot_be_read_is_named(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    put(tiny_pool, "a0", tmp_path / "a" / "b" / "c" / "deep")
    for name in ("b.7z", "c.rar", "d.tar.zst"):
        (tmp_path / name).write_bytes(b"7z")
    for place in ("mlx/adapters.npz", "run/checkpoint-3/fsdp_0/__0_0.distcp"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = open_pool(tmp_path, base, cache=tmp_path / ".cache")
    reasons = {item.id: item.reason for item in found.refused}
    assert list(notes(found)) == ["a/b/c/deep"]
    for name in ("b.7z", "c.rar", "d.tar.zst"):
        assert "unpack it there, or pack it as .zip or .tar.gz" in reasons.pop(name)
    assert reasons.pop("gone") == "is a link to nothing; correct or remove it"
    assert "MLX's older layout" in reasons.pop("mlx")
    assert "join them (accelerate merge-weights)" in reasons.pop("run/checkpoint-3/fsdp_0")
    assert not reasons


def test_a_link_back_into_the_pool_is_not_followed(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    put(tiny_pool, "a0", pool / "law" / "a0")
    put(tiny_pool, "a1", tmp_path / "beside")
    for place, target in (("loop", pool), ("again", pool / "law"), ("law/up", pool), ("law/out", tmp_path)):
        (pool / place).symlink_to(target)
    found = open_pool(pool, base)
    assert list(notes(found)) == ["law/a0"] and not found.refused


def test_a_snapshot_of_the_hubs_cache_may_hold_its_adapter_further_down(
    tiny_pool: Path, base: LocalBase, tmp_path: Path
) -> None:
    put(tiny_pool, "a0", tmp_path / "models--org--sub" / "snapshots" / "c1" / "adapters" / "one")
    for name, commit in (("a1", "d1"), ("a2", "d2")):
        put(tiny_pool, name, tmp_path / "models--org--two" / "snapshots" / commit)
    found = open_pool(tmp_path, base)
    assert notes(found) == {"org/sub/adapters/one": ("commit c1 of the hub's cache",)}
    assert [(item.id, "name the folder of one below its snapshots/" in item.reason) for item in found.refused] == [
        ("org/two", True)
    ]


@pytest.mark.parametrize("ending", ["zip", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz"])
def test_archives_that_macos_packed(ending: str, tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    put(tiny_pool, "a0", packed / "law")
    noise = ["__MACOSX/._law", *(f"{where}/._{file}" for where in ("law", "__MACOSX/law") for file in FILES)]
    for name in noise:
        (packed / name).parent.mkdir(exist_ok=True, parents=True)
        (packed / name).write_bytes(b"\0\5\26\7")
    kind = {"zip": "zip", "tgz": "gztar", "tar.bz2": "bztar", "tbz2": "bztar"}.get(ending, "xztar")
    made = shutil.make_archive(str(tmp_path / "made"), kind, packed)
    (tmp_path / "pool").mkdir()
    shutil.move(made, tmp_path / "pool" / f"law.{ending}")
    put(tiny_pool, "a1", tmp_path / "pool" / "plain")
    (tmp_path / "pool" / "plain" / "._adapter_model.safetensors").write_bytes(b"\0\5")
    (tmp_path / "pool" / "empty").mkdir()
    (tmp_path / "pool" / "empty" / "._model.safetensors").write_bytes(b"\0\5")
    found = open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
    assert list(notes(found)) == ["law", "plain"] and not found.refused
    # an archive is a pool as well
    assert list(notes(open_pool(tmp_path / "pool" / f"law.{ending}", base, cache=tmp_path / "cache"))) == ["law"]
