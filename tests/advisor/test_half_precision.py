"""Bases in bfloat16 and float16: embedded, planned on and merged, and what is written is in their dtype."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.errors import InputError
from merge_advisor.formats.full_model import to_own_dtype, write_full_model
from merge_advisor.machine_options import Machine
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import DenseUpdate
from tests.embeddings.test_embed import plain_peft_loop


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def base(dtype: str, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("half") / "half"
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=getattr(torch, dtype)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    rows = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(30)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ma.plan(
        folder / "task.jsonl", pool=str(tiny_pool), base=str(base), out=folder / "run", scored=False,
        options=PlanOptions(strategy="random", k=2, adaptation="none"), cache=folder / "cache",
    )  # fmt: skip
    return folder / "run"


def test_deltas_are_those_of_a_plain_peft_loop(base: Path, tiny_pool: Path, tmp_path: Path) -> None:
    found = ma.embed(pool=tiny_pool, base=str(base), cache=tmp_path)
    for name, delta in zip(found.ids, found.array, strict=True):
        np.testing.assert_allclose(delta, plain_peft_loop(tiny_pool / name, base), atol=1e-4)


def test_every_format_is_written(run: Path, base: Path, tiny_pool: Path) -> None:
    assert {"mergekit.yaml", "adapter"} <= {path.name for path in run.iterdir()}
    ma.plan(
        run.parent / "task.jsonl", pool=str(tiny_pool), base=str(base), out=run.parent / "factors", scored=False,
        options=PlanOptions(strategy="random", k=2, adaptation="none", composition="lorahub"),
        cache=run.parent / "cache",
    )  # fmt: skip
    assert (run.parent / "factors" / "lorahub.json").is_file()


def dtypes_of(folder: Path) -> set[str]:
    return {info.dtype for _, info in open_folder(folder).values()}


def wanted(run: Path, base: Path, tmp_path: Path) -> Any:
    """Base and change summed in float32, as `merge` in float32 writes them."""
    where: Any = {"cache": run.parent / "cache"}
    said: list[str] = []
    whole = ma.merge(run, tmp_path / "float32", machine=Machine(dtype="float32"), on_note=said.append, **where)
    assert not said and dtypes_of(whole) == {"F32"}
    assert json.loads((whole / "config.json").read_text())["dtype"] == "float32"
    plain, summed = load_file(base / "model.safetensors"), load_file(whole / "model.safetensors")
    assert any(float((summed[name] - plain[name].float()).abs().max()) > 1e-3 for name in plain)
    return plain, summed


def test_a_merge_has_the_dtype_of_its_base_and_says_what_rounding_takes(
    run: Path, base: Path, dtype: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    said: list[str] = []
    out = ma.merge(run, tmp_path / "out", on_note=said.append, cache=run.parent / "cache")
    plain, summed = wanted(run, base, tmp_path)
    found = load_file(out / "model.safetensors")
    changed = lost = 0.0
    for name, tensor in found.items():
        assert tensor.dtype == getattr(torch, dtype) and torch.equal(tensor, summed[name].to(tensor.dtype)), name
        changed += float((summed[name] - plain[name].float()).square().sum())
        lost += float((summed[name] - tensor.float()).square().sum())
    share = f"{(lost / changed) ** 0.5:.1%}"
    (note,) = said
    assert note.startswith(f"written in {dtype}, as the base is: rounding takes {share} of the change (Frobenius norm)")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == getattr(torch, dtype)


@pytest.mark.slow
def test_mergekit_merges_to_the_same(run: Path, base: Path, dtype: str, tmp_path: Path) -> None:
    said: list[str] = []
    out = ma.merge(run, tmp_path / "out", engine="mergekit", on_note=said.append, cache=run.parent / "cache")
    own = ma.merge(run, tmp_path / "own", cache=run.parent / "cache")
    assert dtypes_of(out) == dtypes_of(own) == {{"bfloat16": "BF16", "float16": "F16"}[dtype]}
    ours, theirs = load_file(own / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in ours.items():  # sums in another order may round to the neighbour
        assert float((tensor.float() - theirs[name].float()).abs().max()) <= 2**-7 * float(tensor.abs().max()), name
    assert said[0].startswith(f"written in {dtype}, as the base is; ")
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype


def test_a_weight_beyond_float16_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float16).save_pretrained(tmp_path / "base")
    name = "model.norm.weight"
    delta = {name: DenseUpdate(np.full(32, 1e5, np.float32))}
    with pytest.raises(InputError, match=r"model.norm.weight: base \+ merge is beyond float16; .*dtype=float32"):
        write_full_model(tmp_path / "base", delta, tmp_path / "out", own_dtype=True)
    assert not (tmp_path / "out").exists()
    assert write_full_model(tmp_path / "base", delta, tmp_path / "out") == 0
    with pytest.raises(InputError, match="is beyond float16"):
        to_own_dtype(tmp_path / "out", tmp_path / "base")
    assert dtypes_of(tmp_path / "out") == {"F32"}
