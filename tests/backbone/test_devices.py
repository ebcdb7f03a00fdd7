"""Where a base is computed, in what, with how many threads; and what happens where memory runs out."""

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from merge_advisor.adapt.values import TrainingRequest
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.advisor.measuring.trainer import Trainer
from merge_advisor.backbone import devices, forward, losses
from merge_advisor.backbone.devices import memory_free, settle
from merge_advisor.backbone.encoding import TOKENS_PER_BATCH, EncodedRow, encode
from merge_advisor.backbone.finetune import finetune, finetune_lora
from merge_advisor.backbone.gradients import loss_and_gradient
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.memory import memory_needed, within_memory
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.backbone.trainable_lora import TrainableLora
from merge_advisor.errors import BaseModelError
from merge_advisor.machine_options import Machine
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Row
from merge_advisor.weights.updates import digest_of_delta

TEXTS = [(f"say {number} and then a few words more", f"{number}") for number in range(12)]


@pytest.fixture
def model(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine that says it has these devices, cores and load."""

    def build(*there: str, load: float = 0.0, found: int = 8, bf16: bool = True) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(platform, "system", lambda: "Darwin" if "mps" in there else "Linux")
        monkeypatch.setattr(devices, "_NODES", ("/dev/null",) if there else ())
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in there)
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 100 * load / found)
        monkeypatch.setattr(psutil, "cpu_count", lambda: found)
        monkeypatch.setattr(devices, "cores", lambda: found)

    return build


@pytest.mark.parametrize(
    ("there", "config", "expected"),
    [
        ((), {"dtype": "bfloat16"}, ("cpu", "float32")),
        (("cuda",), {"dtype": "bfloat16"}, ("cuda", "bfloat16")),
        (("cuda",), {"torch_dtype": "float16"}, ("cuda", "float16")),
        (("cuda",), {}, ("cuda", "float32")),
        (("cuda",), {"dtype": "float8_e4m3fn"}, ("cuda", "float32")),
        (("mps",), {"dtype": "float16"}, ("mps", "float16")),
        (("xpu",), {"dtype": "bfloat16"}, ("xpu", "bfloat16")),
    ],
)
def test_the_best_device_and_the_base_s_own_dtype(
    there: tuple[str, ...], config: dict[str, str], expected: tuple[str, str], machine_with: Callable[..., None]
) -> None:
    machine_with(*there)
    found, said = settle(Machine(), config)
    assert (found.device, found.dtype, found.threads, said) == (*expected, None, "")


def test_a_cpu_with_units_for_it_mixes(machine_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with()
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: True)
    assert settle(Machine(), {"dtype": "float16"})[0].dtype == "mixed"
    assert settle(Machine(dtype="float32"), {})[0].dtype == "float32"
    machine_with("cuda")
    assert settle(Machine(), {"dtype": "float16"})[0].dtype == "float16"


def test_what_is_named_stands(machine_with: Callable[..., None]) -> None:
    machine_with("cuda", load=7.0)
    asked = Machine(device="cpu", dtype="bfloat16", threads=3)
    assert settle(asked, {"dtype": "float16"}) == (asked, "")


def test_a_gpu_without_bfloat16_takes_float16(machine_with: Callable[..., None]) -> None:
    machine_with("cuda", bf16=False)
    assert settle(Machine(), {"dtype": "bfloat16"})[0].dtype == "float16"


@pytest.mark.parametrize(("load", "found", "threads"), [(0.2, 8, None), (3.1, 8, 5), (20.0, 8, 1), (4.0, 1, None)])
def test_cores_that_are_busy_are_left_alone(
    load: float, found: int, threads: int | None, machine_with: Callable[..., None]
) -> None:
    machine_with(load=load, found=found)
    settled, said = settle(Machine(), {})
    assert settled.threads == threads
    assert said.startswith(f"{threads} of {found} cores, the others are busy") == (threads is not None)


def test_the_environment_has_a_say_in_threads(
    machine_with: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_with(load=6.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert settle(Machine(), {}) == (Machine(device="cpu", dtype="float32"), "")


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps", "xpu", "tpu"])
def test_a_device_that_is_not_there_is_refused(device: str, tiny_llama: Path) -> None:
    with pytest.raises(BaseModelError, match=f"device '{device}' is not there"):
        load_backbone(tiny_llama, device=device)


class Memory:
    """Lets through what has at most so many padded tokens in a batch, and counts what it refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        self.refused = 0
        self.largest = 0
        whole = forward.batch_logits

        def counted(backbone: Backbone, rows: Sequence[EncodedRow]) -> Any:
            size = len(rows) * max(map(len, rows))
            if size > tokens:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            self.largest = max(self.largest, size)
            return whole(backbone, rows)

        monkeypatch.setattr(losses, "batch_logits", counted)


def test_batches_are_halved_until_they_fit(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encode(model, TEXTS, max_length=64)
    names = [name for name in model.places if name.endswith("q_proj.weight")]
    expected, slopes = loss_and_gradient(model, rows, names)
    memory = Memory(monkeypatch, tokens=100)
    found, halved = within_memory(model, lambda: loss_and_gradient(model, rows, names))
    assert memory.refused and memory.largest <= 100 and model.batch_share < 1
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(abs(halved[name] - slopes[name]).max() < 1e-5 for name in names)
    refused = memory.refused
    assert within_memory(model, lambda: loss_and_gradient(model, rows, names))[0] == found
    assert memory.refused == refused, "what fitted is remembered"


def test_a_finetune_goes_on_with_the_same_batch(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encode(model, TEXTS, max_length=64)
    settings = FinetuneSettings(steps=3, batch_size=8)

    def trained() -> Any:
        names = [name for name in model.places if name.endswith("q_proj.weight")]
        lora = TrainableLora(model, names, rank=2, alpha=4, generator=torch.Generator().manual_seed(0))
        return finetune(model, lora, rows, settings, generator=torch.Generator().manual_seed(1)).delta

    expected = trained()
    memory = Memory(monkeypatch, tokens=100)
    found = trained()
    assert memory.refused
    for name, update in expected.items():
        assert abs(found[name].dense() - update.dense()).max() < 1e-4 * abs(update.dense()).max() + 1e-7


def test_memory_that_runs_out_where_rows_are_watched_changes_nothing(
    model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = encode(model, TEXTS, max_length=64)
    names = [name for name in model.places if name.endswith("q_proj.weight")]
    settings, calls = FinetuneSettings(epochs=6, batch_size=4), []

    def trained() -> Any:
        return finetune_lora(model, rows[:8], names, settings, seed=0, watch=rows[8:])

    def broken(backbone: Backbone, watched: Sequence[EncodedRow]) -> list[float]:
        calls.append(len(watched))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return row_losses(backbone, watched)

    expected = trained()
    monkeypatch.setattr("merge_advisor.backbone.finetune.row_losses", broken)
    found = trained()
    assert len(calls) == len(expected.watched) + 1
    assert found.watched == expected.watched and digest_of_delta(found.delta) == digest_of_delta(expected.delta)


def test_a_finetune_that_begins_again_draws_the_same(
    tiny_llama: Path, tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tuple(Row(prompt, answer) for prompt, answer in TEXTS)
    shape = LoraShape(("model.layers.0.self_attn.q_proj.weight",), rank=2, alpha=4.0)
    request = TrainingRequest(shape, rows, settings=FinetuneSettings(steps=3))
    errors: list[Exception] = []

    def may_fail(*given: Any, **named: Any) -> Any:
        result = finetune(*given, **named)
        if errors:
            raise errors.pop()
        return result

    def trained(cache: Path) -> str:
        with open_session(str(tiny_llama), tiny_pool, cache=cache) as session:
            return Trainer(session.meter, session.cache, {}).train(request).candidate.fingerprint

    monkeypatch.setattr("merge_advisor.backbone.finetune.finetune", may_fail)
    calm = trained(tmp_path / "calm")
    errors.append(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))
    assert trained(tmp_path / "full") == calm and not errors


def test_one_row_that_does_not_fit_is_one_line(model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encode(model, TEXTS, max_length=64)
    Memory(monkeypatch, tokens=3)
    with pytest.raises(BaseModelError, match="memory of cpu is too small even for batches of one row"):
        within_memory(model, lambda: loss_and_gradient(model, rows, []))


def test_other_errors_are_not_hidden(model: Backbone) -> None:
    def broken() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(model, broken)
    assert model.batch_share == 1.0


def test_batches_are_counted_as_they_are_made() -> None:
    without, with_logits = (memory_needed({}, "float32", changed=0, vocabulary=size) for size in (0, 10))
    assert with_logits - without == 3 * TOKENS_PER_BATCH * 10 * 4


def test_memory_is_counted(model: Backbone) -> None:
    size = sum(parameter.numel() for parameter in model.memory.values())
    whole = memory_needed(model.shapes, "float32", changed=0, vocabulary=0)
    assert whole == 4 * size
    assert memory_needed(model.shapes, "bfloat16", changed=0, vocabulary=0) == 2 * size
    assert memory_needed(model.shapes, "float32", changed=10, vocabulary=0) == whole + 80
    free = memory_free("cpu")
    assert free is not None and free > 0
    assert memory_free("mps") is None
