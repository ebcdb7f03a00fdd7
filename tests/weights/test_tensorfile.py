"""Safetensors without torch: what the library wrote is read equal, what is damaged is refused by name."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from merge_advisor.weights.tensorfile import TensorFileError, open_folder, read_header, read_tensor


def build(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: Sequence[int] = (2,), offsets: Sequence[int] = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_reads_what_the_library_wrote(
    tmp_path: Path, dtype: type[np.float16] | type[np.float32] | type[np.float64]
) -> None:
    rng = np.random.default_rng(0)
    wanted = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=()), "empty": np.zeros((0, 5)), "ä b": np.ones(7)}
    wanted = {name: np.asarray(array, dtype=dtype) for name, array in wanted.items()}
    path = tmp_path / "model.safetensors"
    save_file(wanted, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.keys() == wanted.keys()
    for name, info in header.items():
        found = read_tensor(path, info)
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted[name].astype(np.float32))
        found[...] = 0  # a copy of one's own, writable


def test_bfloat16_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.tensor([1.0, -0.1, 3e38, 1e-40, float("inf"), 0.0]).to(torch.bfloat16).reshape(2, 3)
    save_torch({"x": values}, tmp_path / "x.safetensors")
    info = read_header(tmp_path / "x.safetensors")["x"]
    assert np.array_equal(read_tensor(tmp_path / "x.safetensors", info), values.float().numpy())


def test_float64_beyond_float32_becomes_infinite(tmp_path: Path) -> None:
    save_file({"x": np.array([1e300])}, tmp_path / "x.safetensors")
    assert np.isinf(read_tensor(tmp_path / "x.safetensors", read_header(tmp_path / "x.safetensors")["x"]))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_whole_numbers_are_refused(tmp_path: Path, dtype: type[np.int64] | type[np.uint8]) -> None:
    save_file({"x": np.zeros(3, dtype=dtype)}, tmp_path / "x.safetensors")
    info = read_header(tmp_path / "x.safetensors")["x"]
    with pytest.raises(TensorFileError, match=r"x\.safetensors: .* weights are not read; save them as float32"):
        read_tensor(tmp_path / "x.safetensors", info)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short"),
        (b"\x01\x02", "cut short"),
        (b"\xff" * 8 + b"{}", "cut short"),
        (build({"x": entry()}, b"\0" * 8)[:-1], "cut short or grown"),
        (build({"x": entry()}, b"\0" * 9), "cut short or grown"),
        (build(b"{nonsense"), "bad safetensors header"),
        (build(b"\xff\xfe"), "bad safetensors header"),
        (build(b"[" * 100_000), "nested too deep"),
        (build([1]), "no object"),
        (build({"x": 3}), "is not described by"),
        (build({"x": entry() | {"more": 1}}, b"\0" * 8), "is not described by"),
        (build({"x": entry("F3")}, b"\0" * 8), "unknown dtype 'F3'"),
        (build({"x": entry(shape=(-2,))}, b"\0" * 8), "no lists of whole numbers"),
        (build({"x": entry(shape=(True, 2))}, b"\0" * 8), "no lists of whole numbers"),
        (build({"x": entry(shape=(3,))}, b"\0" * 8), "do not match its shape"),
        (build({"x": entry(offsets=(8, 0))}, b"\0" * 8), "do not match its shape"),
        (build({"x": entry(offsets=(4, 12))}, b"\0" * 12), "overlap or leave a hole"),
        (build({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12), "overlap or leave a hole"),
        (build(b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8), "there twice"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match=message) as caught:
        read_header(path)
    assert str(caught.value).startswith("model.safetensors: ")
    assert "\n" not in str(caught.value)
    assert "fetch it again" in str(caught.value)


WHOLE = save({"a": np.ones((2, 3), np.float32), "b": np.zeros(5, np.float16)})


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, len(WHOLE)), place=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255))
def test_any_damage_ends_in_an_error_or_in_tensors_inside_the_file(
    tmp_path_factory: pytest.TempPathFactory, cut: int, place: int, byte: int
) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(bytes(damaged[:cut]))
    try:
        header = read_header(path)
    except TensorFileError:
        return
    for info in header.values():
        if info.is_float:
            assert read_tensor(path, info).shape == info.shape


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"gone\.safetensors: cannot be read \(No such file"):
        read_header(tmp_path / "gone.safetensors")


def test_cut_short_after_the_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": np.ones(100, np.float32)}, path)
    info = read_header(path)["x"]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TensorFileError, match="cut short while it was read"):
        read_tensor(path, info)


def write_shards(folder: Path, **listed: str) -> None:
    save_file({"a": np.ones(2, np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, folder / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"} | listed
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def test_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    found = open_folder(tmp_path)
    assert {name: read_tensor(*place).tolist() for name, place in found.items()} == {"a": [1, 1], "b": [0, 0, 0]}


@pytest.mark.parametrize(
    "shard", ["../model-00001-of-00002.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "a\0.safetensors"]
)
def test_shards_stay_in_the_folder(tmp_path: Path, shard: str) -> None:
    write_shards(tmp_path, a=shard)
    with pytest.raises(TensorFileError, match="not a file of this folder"):
        open_folder(tmp_path)


def test_shards_that_disagree_with_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path, c="model-00001-of-00002.safetensors")
    with pytest.raises(TensorFileError, match="'c' is not in the shard it names"):
        open_folder(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(TensorFileError, match=r"model-00002-of-00002\.safetensors: cannot be read"):
        open_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(TensorFileError, match="no weight_map"):
        open_folder(tmp_path)


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=r"model\.safetensors: not there"):
        open_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(TensorFileError, match=r"pytorch_model\.bin: pickle weights are never opened; convert it"):
        open_folder(tmp_path)
