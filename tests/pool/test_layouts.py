"""Adapters in archives, shards, MLX's layout, run folders and at addresses; and what is refused by name."""

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.errors import OfflineError, PoolError
from merge_advisor.pool import open_pool
from merge_advisor.pool.archives import archive_stem, unpacked
from merge_advisor.pool.layouts import folder_layout, in_peft_layout
from merge_advisor.pool.merged_by_peft import PeftMerges
from merge_advisor.types import Pool
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.opened import read_candidate
from merge_advisor.weights.updates import LowRankUpdate
from tests.support.peft_adapters import in_this_process


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    return resolve_base(str(tiny_llama), cache=tmp_path_factory.mktemp("base"))


def the_same(found: Pool, base: LocalBase, tiny_pool: Path) -> bool:
    """Whether the only candidate changes the base as `a0` does."""
    wanted = open_pool(tiny_pool / "a0", base).candidates[0]
    (candidate,) = found.candidates
    ours, theirs = read_candidate(candidate, base), read_candidate(wanted, base)
    return ours.keys() == theirs.keys() and all(
        np.allclose(ours[name].dense(), theirs[name].dense(), atol=1e-6) for name in theirs
    )


def pack(folder: Path, archive: Path, *, within: str = "") -> Path:
    """Pack the files of a folder, perhaps below another one."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for file in folder.iterdir():
                packed.write(file, within + file.name)
    else:
        with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as tape:
            for file in folder.iterdir():
                tape.add(file, within + file.name)
    return archive


@pytest.mark.parametrize(("name", "within"), [("law.zip", ""), ("law.tar.gz", "law-v2/"), ("law.tar", "a/b/")])
def test_an_adapter_in_an_archive(base: LocalBase, tmp_path: Path, tiny_pool: Path, name: str, within: str) -> None:
    (tmp_path / "pool").mkdir()
    pack(tiny_pool / "a0", tmp_path / "pool" / name, within=within)
    found = open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
    assert the_same(found, base, tiny_pool)
    assert (found.candidates[0].id, found.candidates[0].notes) == ("law", (f"unpacked from {name}",))
    assert found.candidates[0].fingerprint == open_pool(tiny_pool / "a0", base).candidates[0].fingerprint
    assert open_pool(tmp_path / "pool", base, cache=tmp_path / "cache") == found
    with pytest.raises(PoolError, match=f"{name}: has to be unpacked, which needs a folder"):
        open_pool(tmp_path / "pool", base)


def test_an_archive_beside_its_own_folder_is_told(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    shutil.copytree(tiny_pool / "a0", tmp_path / "pool" / "law")
    pack(tiny_pool / "a0", tmp_path / "pool" / "law.zip")
    found = open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
    assert [candidate.id for candidate in found.candidates] == ["law"]
    assert [(item.id, item.reason) for item in found.refused] == [
        ("law.zip", "same weights as law; remove one of the two")
    ]


def hostile(archive: Path, how: str) -> None:
    def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, io.BytesIO]:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, 2 if kind == tarfile.REGTYPE else 0
        return info, io.BytesIO(b"{}")

    if how == "zip out":
        with zipfile.ZipFile(archive.with_suffix(".zip"), "w") as packed:
            packed.writestr("../../evil.json", "{}")
    elif how == "zip link":
        item = zipfile.ZipInfo("adapter_config.json")
        item.external_attr = 0o120777 << 16
        with zipfile.ZipFile(archive.with_suffix(".zip"), "w") as packed:
            packed.writestr(item, "/etc/passwd")
    elif how == "bomb":
        with zipfile.ZipFile(archive.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("adapter_config.json", b"0" * 5_000_000)
    elif how == "damaged":
        archive.with_suffix(".zip").write_bytes(b"PK\3\4 and no more")
    else:
        member = {
            "out": entry("../evil.json"),
            "absolute": entry("/tmp/evil.json"),
            "link": entry("adapter_config.json", tarfile.SYMTYPE, "/etc/passwd"),
            "hard link": entry("adapter_config.json", tarfile.LNKTYPE, "other"),
            "device": entry("adapter_config.json", tarfile.CHRTYPE),
            "long name": entry("x" * 300),
        }[how]
        with tarfile.open(archive, "w") as tape:
            tape.addfile(*member)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("out", "leads out of it"),
        ("absolute", "leads out of it"),
        ("zip out", "leads out of it"),
        ("link", "is a link or a device"),
        ("hard link", "is a link or a device"),
        ("zip link", "is a link or a device"),
        ("device", "is a link or a device"),
        ("bomb", "unpacks to more than archive_bytes, 1 MiB; .*set MERGE_ADVISOR_LIMITS=archive_bytes=2MiB"),
        ("damaged", "cannot be unpacked"),
        ("long name", "cannot be unpacked .File name too long.; fetch it again"),
    ],
)
def test_a_hostile_archive_leaves_nothing_behind(
    tmp_path: Path, how: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGE_ADVISOR_LIMITS", "archive_bytes=1MiB")
    (tmp_path / "in").mkdir()
    hostile(tmp_path / "in" / "x.tar", how)
    (archive,) = (tmp_path / "in").iterdir()
    with pytest.raises(PoolError, match=reason) as caught:
        unpacked(archive, tmp_path / "cache", {})
    assert str(caught.value).startswith(archive.name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_a_flipped_byte_of_a_packed_archive_is_the_archive_s_fault(
    base: LocalBase, tmp_path: Path, tiny_pool: Path, packing: str
) -> None:
    """The readers of Python raise an error of the system for some, as if our own disk were broken."""
    shutil.copytree(tiny_pool / "a0", tmp_path / "pool" / "a0")
    archive = tmp_path / "pool" / f"law.tar.{packing}"
    plain = tmp_path / "law.tar"
    with tarfile.open(plain, "w") as tape:
        tape.add(tiny_pool / "b0", "b0")
    packed = {"gz": gzip.compress(plain.read_bytes()), "bz2": bz2.compress(plain.read_bytes())}
    whole = packed.get(packing) or lzma.compress(plain.read_bytes())
    for at in (len(whole) // 2, len(whole) - 6):
        archive.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
        assert [one.id for one in found.candidates] == ["a0"]
        assert "law.tar" in found.refused[0].reason and "fetch it again" in found.refused[0].reason


def test_names_that_are_no_utf8_are_kept_in_a_store(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    """Of the folder of a pool, and of an archive, which is set aside for it: the memo of hashes is a table of texts."""
    pool = tmp_path / "p\udcff"
    shutil.copytree(tiny_pool / "a0", pool / "a0")
    with tarfile.open(pool / "b\udcfd.tar", "w") as tape:
        tape.add(tiny_pool / "b0", "b0")
    for kept in (False, True):
        with open_session(str(tiny_llama), pool, cache=tmp_path / "cache") as session:
            assert [one.id for one in session.pool.candidates] == ["a0"]
            assert "cannot be printed; rename it" in session.pool.refused[0].reason
            named = [key for key in session.memo.store.hashes if key.startswith("bytes ")]
            assert len(named) == len(set(named)) >= 2, kept


def test_what_an_archive_holds_beside_one_model_is_told(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    (tmp_path / "pool").mkdir()
    with zipfile.ZipFile(tmp_path / "pool" / "two.zip", "w") as packed:
        for name in ("a0", "b0"):
            for file in (tiny_pool / name).iterdir():
                packed.write(file, f"{name}/{file.name}")
    with zipfile.ZipFile(tmp_path / "pool" / "none.zip", "w") as packed:
        packed.writestr("notes.txt", "nothing")
    with pytest.raises(PoolError) as caught:
        open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
    assert "two.zip: holds 2 models (a0, b0); unpack it there" in str(caught.value)
    assert "none.zip: holds no model" in str(caught.value)


def test_names_of_archives() -> None:
    assert [archive_stem(name) for name in ("a.ZIP", "a.tgz", "a.tar.gz", ".zip", "a.gz")] == [
        "a",
        "a",
        "a",
        None,
        None,
    ]


def test_an_adapter_in_shards(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    folder = shutil.copytree(tiny_pool / "a0", tmp_path / "pool" / "sharded")
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    names = [f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {key: names[number % 2] for number, key in enumerate(tensors)}
    for name in names:
        save_file({key: tensors[key] for key in tensors if where[key] == name}, folder / name)
    index = folder / "adapter_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    found = open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
    assert the_same(found, base, tiny_pool)
    assert found.candidates[0].notes == ("read from its shards layout",)
    assert (found.candidates[0].licence, found.candidates[0].source) == ("apache-2.0", "sharded")
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    with pytest.raises(PoolError, match=r"names '\.\./\.\./secret\.safetensors', no shard of this folder"):
        open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")


def as_mlx(source: Path, folder: Path, **settings: Any) -> Path:
    """Write an adapter as mlx_lm does: factors the other way round, and a scale that is no alpha / r."""
    folder.mkdir(parents=True)
    tensors = {}
    for key, array in load_file(source / "adapter_model.safetensors").items():
        module, side = key.removeprefix("base_model.model.").removesuffix(".weight").rsplit(".lora_", 1)
        tensors[f"{module}.lora_{side.lower()}"] = np.ascontiguousarray(array.T)
    save_file(tensors, folder / "adapters.safetensors")
    config = {
        "fine_tune_type": "lora", "num_layers": 2, "model": "org/tiny-llama",
        "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0},
    } | settings  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_of_mlx(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    folder = as_mlx(tiny_pool / "a0", tmp_path / "pool" / "mlx")
    found = open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")
    assert the_same(found, base, tiny_pool)
    # y = Wx + scale · (x A) B, as mlx_lm computes it
    tensors, name = load_file(folder / "adapters.safetensors"), "model.layers.0.self_attn.v_proj"
    update = read_candidate(found.candidates[0], base)[f"{name}.weight"]
    assert isinstance(update, LowRankUpdate)
    x = np.random.default_rng(0).normal(size=(3, 32))
    theirs = 2.0 * (x @ tensors[f"{name}.lora_a"]) @ tensors[f"{name}.lora_b"]
    np.testing.assert_allclose(x @ update.dense().T, theirs, rtol=1e-4, atol=1e-5)


def test_a_dora_of_mlx(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    folder = as_mlx(tiny_pool / "a0", tmp_path / "mlx", fine_tune_type="dora")
    path = folder / "adapters.safetensors"
    tensors, before = load_file(path), load_file(base.path / "model.safetensors")
    modules = {key.rpartition(".")[0] for key in tensors}
    sizes = {module: np.full(before[f"{module}.weight"].shape[0], 0.7, np.float32) for module in modules}
    save_file(tensors | {f"{module}.m": size for module, size in sizes.items()}, path)
    written = in_peft_layout(folder, folder_layout(folder), tmp_path / "layouts", {})
    merges = PeftMerges(base, tmp_path / "merged", {}, run=in_this_process)
    merges.prepare([written])
    delta = merges.delta_of(written)
    assert {name.removesuffix(".weight") for name in delta} == modules
    for module, size in sizes.items():  # mlx_lm's DoRALinear
        weight = before[f"{module}.weight"]
        adapted = weight + 2.0 * (tensors[f"{module}.lora_a"] @ tensors[f"{module}.lora_b"]).T
        wanted = size[:, None] * adapted / np.linalg.norm(adapted, axis=1, keepdims=True)
        np.testing.assert_allclose(weight + delta[f"{module}.weight"].dense(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"fine_tune_type": "full"}, r"fuse it \(mlx_lm\.fuse\)"),
        ({"lora_parameters": None}, r"fuse it \(mlx_lm\.fuse\)"),
        ({"lora_parameters": {"rank": 4}}, r"lora_parameters\.scale is 'None', not a number"),
    ],
)
def test_what_mlx_writes_beside_factors(
    base: LocalBase, tmp_path: Path, tiny_pool: Path, settings: dict[str, Any], reason: str
) -> None:
    as_mlx(tiny_pool / "a0", tmp_path / "pool" / "mlx", **settings)
    with pytest.raises(PoolError, match=reason):
        open_pool(tmp_path / "pool", base, cache=tmp_path / "cache")


def as_gguf(source: Path, file: Path, *, kind: str = "adapter", architecture: str = "llama") -> Path:
    """Write an adapter of `tiny_llama` as llama.cpp's convert_lora_to_gguf.py does."""
    import gguf

    writer = gguf.GGUFWriter(file, architecture)
    writer.add_string("general.type", kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    short = {"q_proj": "attn_q", "v_proj": "attn_v"}
    for key, array in load_file(source / "adapter_model.safetensors").items():
        part = key.split(".")
        if part[6] == "q_proj" and part[7] == "lora_B":  # 4 heads: from halves to pairs, as its LlamaModel.permute
            array = array.reshape(4, 2, 4, -1).swapaxes(1, 2).reshape(array.shape)
        writer.add_tensor(f"blk.{part[4]}.{short[part[6]]}.weight.{part[7].lower()}", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_lora_in_gguf(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    as_gguf(tiny_pool / "a0", pool / "law.gguf")
    found = open_pool(pool, base, cache=tmp_path / "cache")
    assert the_same(found, base, tiny_pool)
    assert (found.candidates[0].id, found.candidates[0].notes) == ("law", ("read from its GGUF file",))
    as_gguf(tiny_pool / "a0", pool / "model.gguf", kind="model")
    as_gguf(tiny_pool / "a0", pool / "other.gguf", architecture="mamba")
    reasons = {item.id: item.reason for item in open_pool(pool, base, cache=tmp_path / "cache").refused}
    assert "model.gguf: a whole model in GGUF, which is no candidate" in reasons["model"]
    assert "of architecture mamba, whose names are not known here; give the PEFT folder" in reasons["other"]


def test_what_is_no_candidate_is_named(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(tiny_pool / "a0", pool / "fine")
    (pool / "picture").mkdir()
    save_file({"unet.down.0.lora_A.weight": np.ones((1, 1), np.float32)}, pool / "picture" / "pytorch.safetensors")
    (pool / "law.gguf").write_bytes(b"GGUF")
    save_file({"x": np.ones(1, np.float32)}, pool / "loose.safetensors")
    reasons = {item.id: item.reason for item in open_pool(pool, base, cache=tmp_path / "cache").refused}
    assert reasons.keys() == {"picture", "law", "pool"}
    assert "an adapter of an image model" in reasons["picture"]
    assert "law.gguf: cannot be read as GGUF" in reasons["law"]
    assert "has neither adapter_config.json nor config.json" in reasons["pool"]


def test_a_run_folder_counts_as_its_merge_alone(
    base: LocalBase, tmp_path: Path, example_world: Path, tiny_pool: Path
) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(tiny_pool / "a1", pool / "a1")
    shutil.copytree(example_world / "run", pool / "merged before")
    found = open_pool(pool, base, cache=tmp_path / "cache")
    assert [candidate.id for candidate in found.candidates] == ["a1", "merged before"]
    assert found.candidates[1].notes[0] == "the merge of the run there (adapter/); its parts are left out"
    assert found.candidates[1].path == str(pool / "merged before" / "adapter")
    shutil.rmtree(pool / "merged before" / "adapter")
    (item,) = open_pool(pool, base, cache=tmp_path / "cache").refused
    assert item.reason == "is a run whose merge has no adapter/; write it by `merge(run, out)` and list that folder"


def test_a_pool_at_an_address(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a0", "a1"):
        memory.put(str(tiny_pool / name), f"/bucket/pool/{name}", recursive=True)
    memory.pipe("/bucket/pool/a0/optimizer.safetensors", b"not wanted")
    found = open_pool("memory://bucket/pool", base, cache=tmp_path / "cache")
    assert [(c.id, c.fingerprint) for c in found.candidates] == [
        (c.id, c.fingerprint) for c in open_pool(tiny_pool, base, include=["a0", "a1"]).candidates
    ]
    assert not list((tmp_path / "cache").rglob("optimizer*"))
    assert open_pool(f"file://{tiny_pool}", base, cache=tmp_path / "cache").candidates
    with pytest.raises(PoolError, match="nothing of a model is there"):
        open_pool("memory://bucket/empty", base, cache=tmp_path / "cache")
    with pytest.raises(OfflineError, match="would have to be fetched"):
        open_pool("s3://bucket/pool", base, cache=tmp_path / "cache", offline=True)
