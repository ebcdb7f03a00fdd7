"""`merge-advisor convert`: pickles become safetensors in a child process, or are refused in one line."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from merge_advisor.cli import main
from merge_advisor.errors import InputError, OfflineError, PoolError
from merge_advisor.pool import open_pool, unpickling
from merge_advisor.pool.converting import convert
from merge_advisor.weights.base import resolve_base
from tests.support.hub_server import Hub
from tests.support.models import T5_MODULES, write_lora


def publish(folder: Path, seed: int = 0, *, zipped: bool = True) -> dict[str, NDArray[Any]]:
    """Write an adapter as a pickle; returns its tensors."""
    import torch

    write_lora(folder, T5_MODULES, seed=seed, base="tiny-t5", task_type="SEQ_2_SEQ_LM", card="# card\n")
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    state = {name: torch.from_numpy(array).half() for name, array in tensors.items()}
    torch.save(state, folder / "adapter_model.bin", _use_new_zipfile_serialization=zipped)
    return {name: array.numpy() for name, array in state.items()}


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def spoil(folder: Path, how: str, mark: Path) -> None:
    import torch

    file = folder / "adapter_model.bin"
    state = torch.load(file, weights_only=True)
    first = next(iter(state))
    if how == "program":
        torch.save(state | {first: Evil(mark)}, file)
    elif how == "bare program":
        file.write_bytes(pickle.dumps({first: Evil(mark)}))
    elif how == "cut short":
        file.write_bytes(file.read_bytes()[:-2000])
    elif how == "number":
        torch.save(state | {first: 3}, file)
    elif how == "whole numbers":
        torch.save(state | {first: torch.ones(4, 4, dtype=torch.int64)}, file)
    elif how == "list":
        torch.save(list(state.values()), file)
    elif how == "blown up":
        torch.save(state | {first: torch.ones(1).expand(2**20, 2**20)}, file)
    elif how == "whole weight":
        torch.save(state | {"base_model.model.final_layer_norm.weight": torch.ones(4)}, file)
    elif how == "half a pair":
        torch.save({name: tensor for name, tensor in state.items() if name != first}, file)
    elif how == "no config":
        (folder / "adapter_config.json").unlink()
    elif how == "no weights":
        file.unlink()


SPOILT = {
    "program": "it holds more than tensors (Trying to load unsupported GLOBAL posix.system",
    "bare program": "it holds more than tensors",
    "cut short": "torch cannot read it",
    "number": "holds int under",
    "whole numbers": "is no dense float tensor",
    "list": "holds list and no state dict",
    "blown up": "its tensors claim",
    "half a pair": "has one of lora_A and lora_B only",
    "no config": "adapter_config.json: cannot be read",
    "no weights": "has neither adapter_model.bin nor adapter_model.safetensors",
}


def test_a_folder_becomes_a_pool(tmp_path: Path, tiny_t5: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All bad ones at once: one child process reads what it can, each refusal has its reason."""
    source, out, mark = tmp_path / "published", tmp_path / "pool", tmp_path / "executed"
    wanted = {"a": publish(source / "a", 0), "z": publish(source / "z", 1, zipped=False)}
    wanted["whole"] = publish(source / "whole", 3)  # more than plain LoRA: PEFT merges it
    spoil(source / "whole", "whole weight", mark)
    wanted["whole"]["base_model.model.final_layer_norm.weight"] = np.ones(4, np.float32)
    write_lora(source / "safe", T5_MODULES, seed=2, base="tiny-t5", task_type="SEQ_2_SEQ_LM")
    (source / "pool.yaml").write_text("version: 1\ntemplate: plain\ndescriptions: {a: Does things.}\n")
    for how in SPOILT:
        publish(source / how)
        spoil(source / how, how, mark)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}

    assert main(["convert", str(source), "--out", str(out), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["copied"]) == (["a", "safe", "whole", "z"], ["safe"])
    reasons = {item["id"]: item["reason"] for item in told["refused"]}
    assert set(reasons) == set(SPOILT)
    for how, reason in reasons.items():
        assert SPOILT[how] in reason, how
        assert reason.isprintable(), how
    assert not mark.exists()
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}

    assert sorted(path.name for path in out.iterdir()) == ["a", "pool.yaml", "safe", "whole", "z"]
    for name, tensors in wanted.items():
        found = load_file(out / name / "adapter_model.safetensors")
        assert found.keys() == tensors.keys()
        assert all(np.array_equal(found[key], tensors[key]) for key in found)
        note = json.loads((out / name / "converted.json").read_text())
        assert note["sha256"] == hashlib.sha256((source / name / "adapter_model.bin").read_bytes()).hexdigest()
        assert (note["source"], note["revision"], note["version"]) == (name, None, 1)
        assert (out / name / "README.md").read_text() == "# card\n"
    base = resolve_base(str(tiny_t5), cache=tmp_path)
    pool = open_pool(out, base)
    assert [c.id for c in pool.candidates] == ["a", "safe", "z"]
    assert (pool.template, pool.candidates[0].description) == ("plain", "Does things.")
    assert [item.id for item in pool.refused] == ["whole"]  # without a cache PEFT is not asked

    with pytest.raises(PoolError, match=r"`convert\(source, out=DIR\)`"):
        open_pool(source / "a", base)


def test_one_adapter_becomes_one_adapter(tmp_path: Path) -> None:
    publish(tmp_path / "a")
    found = convert(tmp_path / "a", tmp_path / "out")
    assert (found.written, found.refused) == (("a",), ())
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    with pytest.raises(InputError, match="is there already"):
        convert(tmp_path / "a", tmp_path / "out")


def test_nothing_is_written_where_nothing_can_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "bad")
    spoil(tmp_path / "bad", "program", tmp_path / "executed")
    assert main(["convert", str(tmp_path / "bad"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none of its 1 adapters can be converted: bad: adapter_model.bin: not converted: it holds more" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]


@pytest.mark.parametrize(
    "act",
    [
        "import socket; socket.socket()",
        "import os; os.system('true')",
        "import subprocess; subprocess.run(['true'])",
        "open(sys.argv[2], 'w')",
        "import os; os.open(sys.argv[2], os.O_CREAT | os.O_RDWR)",
        "import os; os.remove(sys.argv[1])",
    ],
)
def test_the_child_may_neither_talk_nor_write_nor_start_programs(tmp_path: Path, act: str) -> None:
    """What is left of it should torch's reader have a hole."""
    program = f"import runpy, sys\nchild = runpy.run_path(sys.argv[1])\nsys.addaudithook(child['_forbid'])\n{act}\n"
    victim = tmp_path / "unpickling.py"
    victim.write_bytes(Path(unpickling.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", program, str(victim), str(tmp_path / "made")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RefusedError: it tried" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["unpickling.py"]


def test_hub_ids(tmp_path: Path, tiny_t5: Path) -> None:
    """The hub's pickle is fetched by `convert` alone; the manifest it writes keeps the hub's ids."""
    publish(tmp_path / "m0", 0)
    publish(tmp_path / "m1", 1)
    step = (
        "import json, sys\n"
        "from merge_advisor.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )  # fmt: skip
    with Hub() as hub:
        commit = hub.add("acme/flan-m0", tmp_path / "m0")
        hub.add("acme/flan-m1", tmp_path / "m1")
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        environment.pop("HF_HUB_CACHE", None)
        command = [sys.executable, "-c", step]
        embed = ["embed", "--pool", "acme/flan-m0", "--base", str(tiny_t5), "--out", str(tmp_path / "d.npz")]
        refused = subprocess.run([*command, *embed], env=environment, capture_output=True, text=True, check=False)
        assert refused.returncode == 2
        assert "rewrite that by `merge-advisor convert" in refused.stderr
        assert not any("adapter_model.bin" in path for _, path in hub.requests)

        listed = tmp_path / "ids.txt"
        listed.write_text("acme/flan-m0\nacme/flan-m1\nacme/gone\n")
        convert = ["convert", str(listed), "--out", str(tmp_path / "pool"), "--json"]
        done = subprocess.run([*command, *convert], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stderr
        told = json.loads(done.stdout)
        assert told["written"] == ["acme/flan-m0", "acme/flan-m1"]
        assert "no such model on the hub" in told["refused"][0]["reason"]
    note = json.loads((tmp_path / "pool" / "flan-m0" / "converted.json").read_text())
    assert (note["source"], note["revision"]) == ("acme/flan-m0", commit)
    pool = open_pool(tmp_path / "pool", resolve_base(str(tiny_t5), cache=tmp_path))
    assert [candidate.id for candidate in pool.candidates] == ["acme/flan-m0", "acme/flan-m1"]


def test_offline_and_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    with pytest.raises(OfflineError, match="fetching is off"):
        convert("acme/absent", tmp_path / "out", offline=True)
    with pytest.raises(PoolError, match="not there"):
        convert(tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whatever_pools_send_here_is_taken(tiny_t5: Path, tmp_path: Path) -> None:
    """Archives, addresses, shards and MLX's layout, as in a pool."""
    from safetensors.numpy import save_file

    tensors = publish(tmp_path / "src" / "law")
    (tmp_path / "pool").mkdir()
    archive = shutil.make_archive(str(tmp_path / "pool" / "law"), "zip", tmp_path / "src")
    sharded, mlx = tmp_path / "pool" / "sharded", tmp_path / "pool" / "mlx"
    shutil.copytree(tmp_path / "src" / "law", sharded)
    (sharded / "adapter_model.bin").unlink()
    names = {}
    for number, key in enumerate(sorted(tensors), 1):
        names[key] = f"adapter_model-{number:05}-of-{len(tensors):05}.safetensors"
        save_file({key: tensors[key]}, sharded / names[key])
    (sharded / "adapter_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    mlx.mkdir()
    module = next(iter(T5_MODULES))
    save_file(
        {f"{module}.lora_a": np.ones((32, 4)), f"{module}.lora_b": np.ones((4, 32))}, mlx / "adapters.safetensors"
    )
    (mlx / "adapter_config.json").write_text(json.dumps({"lora_parameters": {"scale": 2.0}}))
    (tmp_path / "pool" / "x.gguf").write_bytes(b"GGUF")
    sources: list[str | Path] = [tmp_path / "pool", f"file://{tmp_path}/pool"]
    for number, source in enumerate(sources):
        report = convert(source, tmp_path / f"out{number}")
        assert report.written == ("law", "mlx", "sharded") and report.copied == ("mlx", "sharded")
        assert [(item.id, "is read with its base" in item.reason) for item in report.refused] == [("x", True)]
        for name in ("law", "sharded"):
            found = load_file(tmp_path / f"out{number}" / name / "adapter_model.safetensors")
            assert all(np.allclose(found[key], tensors[key]) for key in tensors), name
        note = json.loads((tmp_path / f"out{number}" / "law" / "converted.json").read_text())
        assert note["source"] == "law.zip"
    alone = convert(archive, tmp_path / "alone")
    assert alone.written == ("law",) and (tmp_path / "alone" / "adapter_model.safetensors").is_file()
    pool = open_pool(tmp_path / "out0", resolve_base(str(tiny_t5), cache=tmp_path / "cache"))
    assert sorted(candidate.id for candidate in pool.candidates) == ["law", "mlx", "sharded"]
