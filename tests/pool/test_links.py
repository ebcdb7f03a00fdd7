"""Links that lead out of a pool are followed only when asked, whatever is behind them; those within it always are."""

import shutil
from pathlib import Path

import pytest

from merge_advisor.errors import PoolError
from merge_advisor.pool import open_pool
from merge_advisor.pool.converting import convert
from merge_advisor.types import Pool
from merge_advisor.weights.base import LocalBase

OUT = "is a link that leads out of the pool; copy it in, name its own place in a manifest, or give `follow_links=True`"
WEIGHTS = "adapter_model.safetensors"


def opened(where: Path, base: LocalBase, *, follow_links: bool = False) -> tuple[list[str], dict[str, str]]:
    try:
        found = open_pool(where, base, cache=where.parent / ".cache", follow_links=follow_links)
    except PoolError as error:
        assert "none of its" in str(error)
        return [], {"all": str(error)}
    return ids(found), {item.id: item.reason for item in found.refused}


def ids(pool: Pool) -> list[str]:
    return [candidate.id for candidate in pool.candidates]


@pytest.fixture
def inside(tiny_pool: Path, tmp_path: Path) -> Path:
    """A pool of one adapter, and others beside it: `out`, a folder of two, and one packed."""
    shutil.copytree(tiny_pool / "a0", tmp_path / "pool" / "a0")
    for name in ("a1", "a2"):
        shutil.copytree(tiny_pool / name, tmp_path / "out" / name)
    shutil.make_archive(str(tmp_path / "packed"), "zip", tiny_pool / "b0")
    return tmp_path / "pool"


def test_a_folder_that_is_a_link_out(inside: Path, base: LocalBase) -> None:
    for name, target in {"one": "out/a1", "many": "out", "packed.zip": "packed.zip"}.items():
        (inside / name).symlink_to(inside.parent / target)
    found, refused = opened(inside, base)
    assert found == ["a0"] and set(refused) == {"one", "many", "packed"}
    assert all(reason.startswith(OUT) for reason in refused.values())
    assert opened(inside, base, follow_links=True) == (["a0", "many/a1", "many/a2", "packed"], {"one": SAME})


SAME = "same weights as many/a1; remove one of the two"


@pytest.mark.parametrize("file", [WEIGHTS, "adapter_config.json", "README.md"])
def test_a_file_that_is_a_link_out(file: str, inside: Path, tiny_pool: Path, base: LocalBase) -> None:
    shutil.copytree(tiny_pool / "b1", inside / "b1")
    (inside / "b1" / file).unlink()
    (inside / "b1" / file).symlink_to(tiny_pool / "b1" / file)
    found, refused = opened(inside, base)
    assert found == ["a0"] and refused["b1"].startswith(f"{file} {OUT}")
    assert opened(inside, base, follow_links=True) == (["a0", "b1"], {})


def test_links_within_a_pool_are_followed(inside: Path, tiny_pool: Path, base: LocalBase) -> None:
    shutil.copytree(tiny_pool / "b1", inside / ".store" / "b1")
    (inside / "b1").symlink_to(".store/b1")
    shutil.copytree(tiny_pool / "b2", inside / "b2")
    (inside / "b2" / "README.md").unlink()
    (inside / "b2" / "README.md").symlink_to("../a0/README.md")
    assert opened(inside, base) == (["a0", "b1", "b2"], {})


def test_a_pool_may_be_a_link_and_so_may_one_model(inside: Path, base: LocalBase) -> None:
    (inside.parent / "other").symlink_to(inside)
    (inside.parent / "model").symlink_to(inside / "a0")
    (inside.parent / "elsewhere").mkdir()
    (inside.parent / "elsewhere" / "b0.zip").symlink_to(inside.parent / "packed.zip")
    assert opened(inside.parent / "other", base) == (["a0"], {})
    assert opened(inside.parent / "model", base) == (["model"], {})
    assert opened(inside.parent / "elsewhere" / "b0.zip", base) == (["b0"], {})


def test_what_a_manifest_names_may_be_a_link(inside: Path, base: LocalBase) -> None:
    (inside / "one").symlink_to(inside.parent / "out" / "a1")
    (inside / "m.yaml").write_text(f"version: 1\nmodels:\n- path: one\n- path: {inside.parent / 'out' / 'a2'}\n")
    assert opened(inside / "m.yaml", base) == (["a2", "one"], {})
    # but not a file in what it names
    (inside.parent / "out" / "a2" / WEIGHTS).rename(inside.parent / "weights")
    (inside.parent / "out" / "a2" / WEIGHTS).symlink_to(inside.parent / "weights")
    found, refused = opened(inside / "m.yaml", base)
    assert found == ["one"] and refused["a2"].startswith(f"{WEIGHTS} {OUT}")


def test_a_manifest_in_the_pool_that_is_a_link_out(inside: Path, base: LocalBase) -> None:
    (inside.parent / "m.yaml").write_text("version: 1\ntemplate: plain\n")
    (inside / "pool.yaml").symlink_to(inside.parent / "m.yaml")
    with pytest.raises(PoolError, match=r"pool.yaml: is a link that leads out of the pool; .*`follow_links=True`"):
        open_pool(inside, base)
    assert open_pool(inside, base, follow_links=True).template == "plain"


def cached(root: Path, tiny_pool: Path, name: str) -> Path:
    """A model in the hub's cache: links to its blobs."""
    model = root / f"models--org--{name}"
    snapshot = model / "snapshots" / "c1"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for file in (tiny_pool / name).iterdir():
        shutil.copyfile(file, model / "blobs" / f"{name}-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/{name}-{file.name}")
    return snapshot


def test_the_hubs_cache_is_read_whole_or_by_a_snapshot(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    one, other = cached(hub, tiny_pool, "a0"), cached(hub, tiny_pool, "b0")
    assert opened(hub, base) == (["org/a0", "org/b0"], {})
    assert opened(one.parent.parent, base) == (["org/a0"], {})
    assert opened(other, base) == (["c1"], {})
    (tmp_path / "m.yaml").write_text(f"version: 1\nmodels:\n- path: {one}\n  id: x\n")
    assert opened(tmp_path / "m.yaml", base) == (["x"], {})
    # a snapshot whose files are another model's is none of the hub's
    (one / WEIGHTS).unlink()
    (one / WEIGHTS).symlink_to(other / WEIGHTS)
    found, refused = opened(one.parent.parent, base)
    assert not found and f"{WEIGHTS} {OUT}" in refused["all"]


def test_links_to_nothing_and_to_themselves_are_as_they_were(inside: Path, base: LocalBase) -> None:
    (inside / "gone").symlink_to(inside.parent / "nowhere")
    (inside / "round").symlink_to("round")
    (inside / "a0" / "notes.txt").symlink_to("/nowhere/else")
    found, refused = opened(inside, base)
    assert found == ["a0"]
    assert refused == dict.fromkeys(("gone", "round"), "is a link to nothing; correct or remove it")


def test_convert_follows_them_only_when_asked(inside: Path, tmp_path: Path) -> None:
    (inside / "one").symlink_to(inside.parent / "out" / "a1")
    report = convert(inside, tmp_path / "first")
    assert report.written == ("a0",) and [item.id for item in report.refused] == ["one"]
    assert report.refused[0].reason.startswith(OUT)
    assert convert(inside, tmp_path / "second", follow_links=True).written == ("a0", "one")
