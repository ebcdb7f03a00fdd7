"""Which devices a base goes on and what of it on which, decided from numbers; and what is said of it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merge_advisor.backbone import devices, memory
from merge_advisor.backbone.device_map import BasePiece, base_pieces, choose_devices, spread_pieces
from merge_advisor.backbone.devices import check_devices, memory_free, named_devices, remedy
from merge_advisor.backbone.memory import devices_for, memory_needed
from merge_advisor.backbone.model import load_backbone
from merge_advisor.errors import BaseModelError
from merge_advisor.machine_options import Machine
from merge_advisor.weights.files import read_json
from merge_advisor.weights.tensorfile import open_folder
from tests.support.architectures import ARCHITECTURES, build_model

GB = 10**9


def llama(layers: int, layer: int, ends: int, *, tied: bool = False) -> list[BasePiece]:
    """Pieces like those of a Llama."""
    middle = [BasePiece((f"model.layers.{n}",), layer) for n in range(layers)]
    norm = [BasePiece(("model.norm",), layer // 1000), BasePiece(("model.rotary_emb",), 0)]
    if tied:
        return [BasePiece(("model.embed_tokens", "lm_head"), ends, True, True), *middle, *norm]
    first = BasePiece(("model.embed_tokens",), ends, takes_ids=True)
    return [first, *middle, *norm, BasePiece(("lm_head",), ends, gives_logits=True)]


EIGHT = llama(32, GB // 2, GB)  # 18 GB of weights, and three times 1 GB of logits


@pytest.mark.parametrize(
    ("free", "expected", "fits"),
    [
        ((80,), ("cuda:0",), True),
        ((80, 80), ("cuda:0",), True),
        ((8, 80), ("cuda:1",), True),  # another program has the first
        ((16, 16), ("cuda:0", "cuda:1"), True),
        ((16, 16, 16, 16), ("cuda:0", "cuda:1"), True),  # no more than it takes
        ((2, 16, 16), ("cuda:1", "cuda:2"), True),
        ((16, 2, 16), ("cuda:0", "cuda:2"), True),
        ((8, 8, 8, 8), ("cuda:0", "cuda:1", "cuda:2", "cuda:3"), True),
        ((21, 5), ("cuda:0", "cuda:1"), True),
        ((11, 11), ("cuda:0", "cuda:1"), False),  # the sum would do, what activations take would not
        ((4, 4), ("cuda:0", "cuda:1"), False),
        ((4,), ("cuda:0",), False),
    ],
)
def test_the_first_that_is_enough_else_the_fewest(free: tuple[int, ...], expected: tuple[str, ...], fits: bool) -> None:
    found = choose_devices(EIGHT, {f"cuda:{n}": size * GB for n, size in enumerate(free)}, GB)
    assert (found.devices, found.fits) == (expected, fits)
    assert found.name == ("cuda" if expected == ("cuda:0",) else ",".join(expected))
    assert set(found.modules) == {name for piece in EIGHT for name in piece.names}
    assert sum(found.needed.values()) >= sum(piece.size for piece in EIGHT) + 3 * GB


@given(
    st.integers(1, 40), st.integers(0, 3 * GB), st.booleans(), st.integers(0, GB),
    st.lists(st.integers(1, 50 * GB), min_size=1, max_size=6),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_layers_stay_in_order_and_the_fullest_is_as_empty_as_can_be(
    layers: int, ends: int, tied: bool, logits: int, sizes: list[int]
) -> None:
    pieces = llama(layers, GB // 3, ends, tied=tied)
    free = {f"cuda:{n}": size for n, size in enumerate(sizes)}
    found = spread_pieces(pieces, free, logits)
    order = [int(found.modules[f"model.layers.{n}"].removeprefix("cuda:")) for n in range(layers)]
    assert order == sorted(order)
    assert found.modules["model.rotary_emb"] == found.modules["model.embed_tokens"]
    assert not tied or found.modules["lm_head"] == found.modules["model.embed_tokens"]
    held = dict.fromkeys(found.devices, 0)
    for piece in pieces:
        held[found.modules[piece.names[0]]] += piece.size
    extra = {device: found.needed[device] - size for device, size in held.items()}
    assert extra[found.modules["model.embed_tokens"]] == 3 * logits
    fullest = max(found.needed[device] / free[device] for device in found.devices)
    for at, (left, right) in enumerate(pairwise(order)):
        if left != right:  # moving a border by a layer makes no device the fullest, but a fuller one
            for to, moved in ((left, at + 1), (right, at)):
                other = {**found.needed, f"cuda:{to}": found.needed[f"cuda:{to}"] + GB // 3}
                source = f"cuda:{right if to == left else left}"
                other[source] -= GB // 3
                assert moved < layers
                assert max(need / free[device] for device, need in other.items()) >= fullest * (1 - 1e-9)


def test_equal_devices_hold_alike() -> None:
    found = spread_pieces(llama(12, GB, 0), {f"cuda:{n}": 40 * GB for n in range(4)}, 0)
    counts = [
        sum(device == there for name, there in found.modules.items() if "layers" in name) for device in found.free
    ]
    assert counts == [3, 3, 3, 3]


def test_the_map_of_every_architecture_covers_it(tmp_path: Path, tiny_llama: Path, tiny_t5: Path) -> None:
    from merge_advisor.weights.by_transformers import build_skeleton

    built = [build_model(name, tmp_path / name) for name in ARCHITECTURES if "inner" not in name]
    for path in (tiny_llama, tiny_t5, *built):
        shapes = {name: info.shape for name, (_, info) in open_folder(path).items()}
        model = build_skeleton(path)
        pieces = base_pieces(path, shapes, "bfloat16")
        assert sum(piece.size for piece in pieces) == 2 * sum(tensor.numel() for tensor in model.parameters())
        names = [name for piece in pieces for name in piece.names]
        assert len(names) == len(set(names))
        for name, _ in (*model.named_parameters(), *model.named_buffers()):
            assert sum(name == piece or name.startswith(f"{piece}.") for piece in names) == 1
        whole = set(model._no_split_modules)
        assert not [
            name for name, module in model.named_modules()
            if type(module).__name__ in whole and any(piece.startswith(f"{name}.") for piece in names)
        ]  # fmt: skip
        assert [piece.takes_ids for piece in pieces].count(True) == 1
        assert [piece.gives_logits for piece in pieces].count(True) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces_take_what_the_whole_takes(dtype: str, tiny_llama: Path) -> None:
    shapes = {name: info.shape for name, (_, info) in open_folder(tiny_llama).items()}
    changed = [name for name in shapes if "q_proj" in name]
    pieces = base_pieces(tiny_llama, shapes, dtype, changed)
    count = sum(shapes[name][0] * shapes[name][1] for name in changed)
    assert sum(piece.size for piece in pieces) == memory_needed(shapes, dtype, changed=count, vocabulary=0)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine that says it has CUDA devices with so many bytes free."""

    def build(*free: int, kept: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(free))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda device: (free[int(device.partition(":")[2] or 0)], 99 * GB)
        )
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: kept)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
        monkeypatch.setattr(memory, "TOKENS_PER_BATCH", 1)  # a usual batch's logits are larger than so small a base
        monkeypatch.setattr(devices, "_NODES", ("/dev/null",) if free else ())

    return build


def decided(asked: str, path: Path, changed: Callable[[], Any] = tuple) -> Any:
    shapes = {name: info.shape for name, (_, info) in open_folder(path).items()}
    device = "cuda" if asked == "auto" else asked
    return devices_for(
        asked, Machine(device=device, dtype="float32"), path, shapes, read_json(path / "config.json"), changed
    )


def test_auto_spreads_what_one_gpu_does_not_hold(tiny_llama: Path, gpus: Callable[..., None]) -> None:
    def unread() -> Any:
        raise AssertionError("headers are read only where it matters")

    gpus(GB)
    assert decided("auto", tiny_llama, unread) is None
    gpus(GB, GB)
    assert decided("auto", tiny_llama, unread) is None
    needed = sum(decided("cuda:0,cuda:1", tiny_llama).needed.values())
    gpus(needed * 4 // 5, needed * 4 // 5)
    found = decided("auto", tiny_llama)
    assert found.devices == ("cuda:0", "cuda:1") and found.fits
    gpus(10, needed * 2)
    assert decided("auto", tiny_llama).name == "cuda:1"
    gpus(10, 10, kept=needed * 4)  # by this process, which can take it again
    assert decided("auto", tiny_llama) is None
    assert memory_free("cuda:1") == needed * 4 + 10
    gpus(1000, 1000)
    assert not decided("auto", tiny_llama).fits
    gpus(GB, GB, GB)
    assert decided("cuda:2,cuda:1", tiny_llama).devices == ("cuda:2", "cuda:1")
    assert decided("cuda", tiny_llama) is None and decided("cuda:1", tiny_llama) is None


@pytest.mark.parametrize("device", ["cuda:0,cuda:0", "cuda,cuda:1", "cuda:0,cpu", "cuda:0,", "cuda:0,cuda:x"])
def test_devices_that_cannot_be_taken_together_are_refused(device: str, tiny_llama: Path) -> None:
    for refused in (named_devices, check_devices, lambda name: load_backbone(tiny_llama, device=name)):
        with pytest.raises(BaseModelError, match=r"CUDA devices by number, each once; for example cuda:0,cuda:1"):
            refused(device)


def test_a_device_beyond_the_last_is_refused(gpus: Callable[..., None], tiny_llama: Path) -> None:
    gpus(GB, GB)
    with pytest.raises(BaseModelError, match=r"'cuda:2' is not there \(torch sees no such .*, but cuda:0, cuda:1\)"):
        decided("cuda:0,cuda:2", tiny_llama)
    with pytest.raises(BaseModelError, match="'cuda:x' is not there"):
        check_devices("cuda:x")


@pytest.mark.parametrize(
    ("device", "dtype", "ways"),
    [
        ("cuda", "float32", "give `dtype=bfloat16`, or more devices (`device=cuda:0,cuda:1`), or `device=cpu`"),
        ("cuda:0,cuda:1", "bfloat16", "give more devices, or `device=cpu`"),
        ("mps", "float16", "give `device=cpu`"),
        ("cpu", "float32", "give `dtype=bfloat16`"),
        ("cpu", "bfloat16", "take a smaller base"),
    ],
)
def test_the_remedy_is_one_that_is_left(device: str, dtype: str, ways: str) -> None:
    assert remedy(device, dtype) == ways


def test_weights_that_do_not_fit_are_one_line(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(BaseModelError, match=r"memory of cpu is too small for its weights in float32; give `dtype=bf"):
        load_backbone(tiny_llama)


def test_a_dry_run_and_doctor_say_the_devices(
    tiny_llama: Path, tiny_pool: Path, gpus: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from merge_advisor.advisor.measuring.session import open_session
    from merge_advisor.advisor.planning.dry_run import machine_line
    from merge_advisor.cli.doctor import diagnose

    def line(device: str = "auto") -> str:
        machine = Machine(device=device)
        with open_session(str(tiny_llama), tiny_pool, machine=machine, cache=tmp_path / "cache") as session:
            assert session.model.machine.device == (
                session.model.device_map.name if session.model.device_map else "cuda"
            )
            return machine_line(session, session.pool.candidates)

    gpus(5 * GB, 5 * GB)
    assert line().startswith("on cuda in float32: about 0.0 GB of memory, 5.0 GB are free")
    asked = line(device="cuda:0,cuda:1")
    assert asked == "on cuda:0,cuda:1 in float32: cuda:0 about 0.0 of 5.0 GB free, cuda:1 about 0.0 of 5.0 GB free"
    gpus(130_000, 130_000)
    assert line() == "on cuda:0,cuda:1 in float32: cuda:0 about 0.0 of 0.0 GB free, cuda:1 about 0.0 of 0.0 GB free"
    gpus(1000, 1000)
    short = "it may not fit: give `dtype=bfloat16`, or more devices, or `device=cpu`, or fewer candidates"
    assert line().endswith(f"; {short}")

    def compute() -> str:
        return str(next(finding["says"] for finding in diagnose(tmp_path) if finding["what"] == "compute"))

    assert "GPUs: cuda:0 Tesla (0.0 GB free), cuda:1 Tesla (0.0 GB free), plans run on cuda, or on several" in compute()
    (tmp_path / "merge-advisor.toml").write_text(f'base = "{tiny_llama}"\n')
    assert "the base alone takes in float32 on cuda:0 about 0.0 of 0.0 GB free, cuda:1" in compute()
    assert "which may not fit: give `dtype=bfloat16`" in compute()
    gpus(5 * GB, 5 * GB)
    assert "which may not fit" not in compute()
    (tmp_path / "merge-advisor.toml").write_text('device = "cuda:0,cuda:7"\n')
    assert "'cuda:7' is not there" in compute()
