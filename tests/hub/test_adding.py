"""`hub add`: by workers it gives what one process gives; what is refused leaves no hub behind."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.advisor import Machine, Workers
from merge_advisor.cli import main
from merge_advisor.hub import Hub
from tests.support.models import LLAMA_MODULES, write_lora
from tests.support.ray_cluster import local_cluster, needs_ray

ONE = Machine(threads=1)


@pytest.fixture(scope="module")
def many(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-one adapters, of which one cannot be embedded and two are the same."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path_factory.mktemp("many")
    for number in range(20):
        write_lora(folder / f"m{number:02}", LLAMA_MODULES, seed=number)
    shutil.copytree(folder / "m03", folder / "m20")
    weights = folder / "m07" / "adapter_model.safetensors"
    save_file({name: tensor * np.float32(1e20) for name, tensor in load_file(weights).items()}, weights)
    return folder


def rows_of(folder: Path) -> dict[str, Any]:
    """All that a hub keeps but times, and its vectors, byte for byte."""
    with Hub.open(folder) as hub:
        file = hub.catalogue.file
        found: dict[str, Any] = {
            table: file.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("bases", "spaces", "deltas", "texts")
        }
        found["entries"] = file.rows("SELECT number, base, fingerprint, kind, rank, card, place FROM entries")
        found["names"] = file.rows("SELECT base, id, version, entry, current FROM names ORDER BY 1, 2, 3")
        assert hub.check().whole
    found["vectors"] = {
        str(path.relative_to(folder)): path.read_bytes() for path in (folder / "vectors").rglob("*") if path.is_file()
    }
    return found


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(Workers(workers=2), id="local"),
        pytest.param(Workers("ray", workers=2), marks=[pytest.mark.slow, needs_ray], id="ray"),
    ],
)
def test_workers_leave_the_hub_that_one_process_leaves(
    engine: Workers, many: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    with local_cluster(cpus=3) if engine.engine == "ray" else nullcontext():
        kept = {}
        for name, beside in (("alone", None), ("beside", engine)):
            place: dict[str, Any] = {"cache": tmp_path / f"{name}-cache", "machine": ONE, "beside": beside}
            done = Hub.add_to(tmp_path / name, many, base=str(tiny_llama), **place)
            assert len(done.new) == 19 and done.aliases == ("m20",) and done.embedded == 19
            assert [item.id for item in done.refused] == ["m07"] and "not finite" in done.refused[0].reason
            place["beside"] = None  # for one model that is refused again no worker need be started
            again = Hub.add_to(tmp_path / name, many, base=str(tiny_llama), **place)
            assert (again.new, again.unchanged, again.embedded) == ((), 20, 0)
            kept[name] = rows_of(tmp_path / name)
    assert kept["alone"] == kept["beside"] and len(kept["alone"]["deltas"]) == 19
    assert list((tmp_path / "beside-cache" / "workers").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["adapters", "--base", "base", "--embedding", "delta_activation"], "delta_activation"),
        (["adapters", "--base", "base", "--embedding", "delta_activations:layr=3"], "layr"),
        (["adapters", "--base", "no-base"], "no-base"),
        (["nowhere", "--base", "base"], "nowhere"),
        (["run", "--base", "base"], "run: is a run folder"),
        (["adapters"], "no base named"),
        (["--base", "base"], "no pool named"),
        (["adapters", "--base", "base", "--include", "none*"], "none*"),
        (["adapters", "--base", "base", "--template", "nonsense"], "nonsense"),
        (["adapters", "--base", "base", "--workers", "0"], "--workers 0"),
        (["adapters", "--base", "base", "--limit", "3"], "takes no --limit"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_what_is_refused_leaves_no_hub(
    words: list[str],
    said: str,
    example_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("adapters", "base", "run"):
        (tmp_path / name).symlink_to(example_world / name)
    monkeypatch.chdir(tmp_path)
    assert main(["hub", "add", *words, "--hub", "deep/hub", "--cache", "cache", "-q"]) == 2
    assert not Path("deep").exists()
    line = capsys.readouterr().err.strip()
    assert said in line and "\n" not in line and line.startswith("merge-advisor: error: ")


def test_a_hub_that_cannot_be_made_is_refused_before_any_model_is_opened(
    example_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    add = ["hub", "add", str(example_world / "adapters"), "--base", str(example_world / "base"), "--cache", "cache"]
    for hub in ("file", "file/hub"):
        assert main([*add, "--hub", hub]) == 2
        line = f"hub {hub}: cannot be made, since {tmp_path / 'file'} is no folder; name another --hub"
        assert capsys.readouterr().err.strip() == f"merge-advisor: error: {line}"
    assert Path("file").read_text() == "mine" and not Path("cache").exists()


def test_only_add_takes_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hub", "list", "--workers", "2", "--hub", str(tmp_path)]) == 2
    assert "hub list: takes no --workers, which is for add; leave it out" in capsys.readouterr().err
