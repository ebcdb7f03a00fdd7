"""Products in bfloat16 while choosing and training; scores, embeddings and all that is kept stay float32."""

from pathlib import Path

import numpy as np
import pytest
import torch

import merge_advisor as ma
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.backbone.devices import multiplies_bfloat16
from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.finetune import finetune, watcher
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.precision import quick_products
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.errors import BaseModelError
from merge_advisor.machine_options import Machine
from merge_advisor.merges import WeightedMerge
from merge_advisor.options import FinetuneSettings, PlanOptions
from merge_advisor.types import Row
from tests.support.task_files import write_task

ROWS = [Row(f"is {number} even?", ("yes", "no")[number % 2]) for number in range(6)]
ENCODED = [EncodedRow((5, 6, 7 + number), (9 + number, 3)) for number in range(4)]
MIXED = Machine(device="cpu", dtype="mixed", threads=1)
EXACT = Machine(device="cpu", dtype="float32", threads=1)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("processor : 0\nflags\t\t: fpu sse2 avx512_bf16 avx512_vnni\n", True),
        ("processor : 0\nflags\t\t: fpu amx_tile amx_bf16\n\nprocessor : 1\nflags\t\t: fpu\n", True),
        ("processor : 0\nflags\t\t: fpu sse2 avx512f avx512_vnni\n", False),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", False),  # nothing is known of how fast an Arm is
        ("", False),
    ],
)
def test_units_are_asked_of_linux(text: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    (tmp_path / "cpuinfo").write_text(text)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is there


@pytest.mark.parametrize(
    ("allowed", "there"),
    [("AVX512_CORE", False), ("avx2", False), ("AVX512_CORE_BF16", True), ("AVX512_CORE_AMX", True), ("DEFAULT", True)],
)
def test_units_that_onednn_may_not_use_do_not_count(
    allowed: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx512_bf16\n")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is there


def test_another_system_has_no_units_we_know_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert multiplies_bfloat16(tmp_path / "absent") is False


def test_only_a_mixed_base_changes_and_only_in_the_block(tiny_llama: Path) -> None:
    mixed, exact = (load_backbone(tiny_llama, dtype=dtype, threads=1) for dtype in ("mixed", "float32"))
    assert mixed.dtype == torch.float32 and mixed.mixed and not exact.mixed
    wanted = row_losses(exact, ENCODED)
    assert row_losses(mixed, ENCODED) == wanted
    with quick_products(exact):
        assert row_losses(exact, ENCODED) == wanted
    with quick_products(mixed):
        quick = row_losses(mixed, ENCODED)
    assert quick != wanted and quick == pytest.approx(wanted, abs=0.05)
    assert row_losses(mixed, ENCODED) == wanted


def trained(backbone: Backbone) -> tuple[list[float], dict[str, np.ndarray]]:
    """The watched losses of a short finetune, and its update."""
    names = tuple(name for name in backbone.places if name.endswith("q_proj.weight"))
    generator = torch.Generator().manual_seed(0)
    lora = LoraShape(names, rank=2, alpha=4.0).build(backbone, generator)
    settings = FinetuneSettings(lr=0.02, batch_size=2)
    found = finetune(backbone, lora, ENCODED[:2], settings, generator=generator, watch=watcher(backbone, ENCODED[2:]))
    return list(found.watched), {name: update.dense() for name, update in found.delta.items()}


def test_training_goes_the_same_way_and_gives_float32(tiny_llama: Path) -> None:
    losses, updates = zip(
        *(trained(load_backbone(tiny_llama, dtype=dtype, threads=1)) for dtype in ("mixed", "float32")), strict=True
    )
    assert losses[0] != losses[1] and losses[0][:2] == pytest.approx(losses[1][:2], abs=0.1)
    assert len(set(losses[0])) == len(losses[0])  # each check sees the factors as they are by then
    for name, update in updates[0].items():
        assert update.dtype == np.float32
        cosine = (update * updates[1][name]).sum() / np.linalg.norm(update) / np.linalg.norm(updates[1][name])
        assert cosine > 0.9


def test_a_finetune_on_a_cpu_leaves_float32_products_whole(tiny_llama: Path) -> None:
    backbone = load_backbone(tiny_llama, dtype="float32", threads=1)
    generator = torch.Generator().manual_seed(0)
    lora = LoraShape(("model.layers.0.self_attn.q_proj.weight",), rank=2, alpha=4.0).build(backbone, generator)
    seen = []

    def watch() -> list[float]:
        seen.append((torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")))
        return [1.0]

    finetune(backbone, lora, ENCODED[:2], FinetuneSettings(batch_size=2), generator=generator, watch=watch)
    assert set(seen) == {("highest", False)}


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_accelerator_does_not_mix(device: str, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge_advisor.backbone.model.check_devices", lambda device: (device,))
    with pytest.raises(BaseModelError, match=f"dtype 'mixed' is for a CPU; leave out `dtype` on {device}"):
        load_backbone(tiny_llama, device=device, dtype="mixed")


def opened(tiny_llama: Path, tiny_pool: Path, store: Path, machine: Machine) -> Session:
    return open_session(str(tiny_llama), tiny_pool, cache=store.parent, store=store, machine=machine)


def test_losses_for_choosing_are_kept_apart(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    found: dict[str, list[float]] = {}
    for machine in (MIXED, EXACT, MIXED):
        with opened(tiny_llama, tiny_pool, tmp_path / "store.sqlite", machine) as session:
            merge = WeightedMerge(((session.pool.candidates[0], 0.5),))
            losses = session.meter.losses(merge, ROWS)
            assert found.setdefault(machine.dtype, losses) == losses
    assert found["mixed"] != found["float32"]
    assert found["mixed"] == pytest.approx(found["float32"], abs=0.05)


def test_embeddings_are_those_of_float32(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    found = [
        ma.embed(pool=tiny_pool, base=str(tiny_llama), cache=tmp_path / machine.dtype, machine=machine)
        for machine in (MIXED, EXACT)
    ]
    assert found[0].space == found[1].space and np.array_equal(found[0].array, found[1].array)


def test_a_plan_scores_in_float32_and_says_what_it_mixed(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "even.jsonl", choices=True)
    runs = [
        ma.plan(
            task, pool=tiny_pool, base=str(tiny_llama), out=tmp_path / machine.dtype, cache=tmp_path / "cache",
            machine=machine, options=PlanOptions(strategy="top_k", k=1, adaptation="none"),
        )
        for machine in (MIXED, EXACT)
    ]  # fmt: skip
    bases = [run.scores[0].model("base") for run in runs]
    assert bases[0].metrics == bases[1].metrics
    assert ", mixed" in runs[0].plan.environment.machine
