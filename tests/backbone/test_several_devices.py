"""A base that is spread over two devices computes what it computes on one, to the bit, and mixes no devices.

The devices are pretended (`tests.support.pretended_devices`): whoever leaves a tensor on the wrong one is refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge_advisor import templates
from merge_advisor.backbone import model as model_module
from merge_advisor.backbone.choice_loss import choice_loss_and_gradient, choice_losses
from merge_advisor.backbone.device_map import base_pieces, spread_pieces
from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow, encode
from merge_advisor.backbone.finetune import Pull, finetune, finetune_lora
from merge_advisor.backbone.generate import generate, greedy
from merge_advisor.backbone.gradients import loss_and_gradient
from merge_advisor.backbone.likelihood import answer_totals, losses_and_greedy
from merge_advisor.backbone.long_prefix import read_prefix
from merge_advisor.backbone.losses import batch_losses, row_losses, text_losses
from merge_advisor.backbone.memory import within_memory
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.module_inputs import input_moments
from merge_advisor.backbone.place import placed, placed_together
from merge_advisor.backbone.probes import encoder_hidden, last_logits, probe_hidden
from merge_advisor.backbone.training_loss import TrainingLoss, watched_losses
from merge_advisor.errors import BaseModelError
from merge_advisor.evaluators.fast import Fast
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.evaluators.metrics import backbone_of
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Row
from merge_advisor.weights.tensorfile import open_folder
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate
from tests.backbone.test_trainable import NAMES, shape
from tests.support.architectures import ARCHITECTURES, build_model
from tests.support.pretended_devices import DevicesMixed, pretended_devices

HERE = ("cpu:1", "cpu:2")
PROBES = ["the quick brown fox", "yes or no?", "0123456789 and a cat sat on the mat"]


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # pretended devices are of one thread; transformers would load in several
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    monkeypatch.setattr(model_module, "check_devices", lambda device: tuple(device.split(",")))
    with pretended_devices():
        yield


@cache
def loaded(path: Path, dtype: str, spread: bool) -> Backbone:
    if not spread:
        return load_backbone(path, dtype=dtype, threads=1)
    shapes = {name: info.shape for name, (_, info) in open_folder(path).items()}
    pieces = base_pieces(path, shapes, dtype)
    # between the first two layers, of an encoder where there is one; by size the embedding of so small a base is half
    names = [piece.names[0] for piece in pieces]
    cut = next(at for at, name in enumerate(names) if name.endswith(".0") and "vision" not in name)
    sizes = [replace(piece, size=bool(piece.size)) for piece in pieces]
    found = spread_pieces(sizes, {HERE[0]: cut + 1, HERE[1]: sum(piece.size for piece in sizes) - cut - 1}, 0)
    backbone = load_backbone(path, device=found.name, dtype=dtype, threads=1, modules=found.modules)
    assert {str(parameter.device) for parameter in backbone.memory.values()} == set(HERE)
    return backbone


def same(path: Path, compute: Callable[[Backbone], Any], dtype: str = "float32", *, tolerance: float = 0.0) -> None:
    """What is computed on two devices equals what is computed on one: to the bit, unless a tolerance is given."""
    one, two = (flat(compute(loaded(path, dtype, spread))) for spread in (False, True))
    assert one and len(one) == len(two)
    for first, second in zip(one, two, strict=True):
        assert np.allclose(first, second, rtol=tolerance, atol=tolerance / 100)
    assert any(np.size(value) and np.any(value) for value in one)


def flat(value: Any) -> list[Any]:
    """Arrays and numbers of whatever was computed."""
    if isinstance(value, torch.Tensor):
        return [value.detach().float().cpu().numpy()]
    if isinstance(value, dict):
        return [part for name in sorted(value) for part in flat(value[name])]
    if isinstance(value, (LowRankUpdate, DenseUpdate)):
        return [value.dense()]
    if isinstance(value, (list, tuple)) and not all(isinstance(part, (int, float)) for part in value):
        return [part for item in value for part in flat(item)]
    return [np.asarray(value)]


def rows_of(backbone: Backbone, front: str = "") -> list[EncodedRow]:
    return encode(backbone, [(f"{front}say {n} twice" + " x" * n, f"{n} {n}") for n in range(7)], max_length=400)


def choices_of(backbone: Backbone, front: str = "") -> list[EncodedChoices]:
    texts = [(f"{front}is {n} it?", answer) for n in range(3) for answer in ("yes", "no", "perhaps, or not")]
    rows = encode(backbone, texts, max_length=400)
    return [EncodedChoices(tuple(rows[at : at + 3]), right=at % 2) for at in (0, 3, 6)]


def answers_of(backbone: Backbone, front: str = "") -> list[EncodedRow]:
    return [answer for row in choices_of(backbone, front) for answer in row.answers]


FRONTS = {"alike": "a preamble of some words, always the same: ", "long": "a word or two of it, " * 30}
MEASURED: dict[str, Callable[[Backbone, str], Any]] = {
    "losses": lambda backbone, front: row_losses(backbone, rows_of(backbone, front)),
    "one batch": lambda backbone, front: batch_losses(backbone, rows_of(backbone, front)),
    "one row": lambda backbone, front: batch_losses(backbone, rows_of(backbone, front)[:1]),
    "answers": lambda backbone, front: answer_totals(backbone, answers_of(backbone, front)),
    "choices": lambda backbone, front: choice_losses(backbone, choices_of(backbone, front)),
    "foreseen": lambda backbone, front: losses_and_greedy(backbone, rows_of(backbone, front)),
    "greedy": lambda backbone, front: greedy(
        backbone, [row.prompt for row in rows_of(backbone, front)], max_new_tokens=5,
        prefix=read_prefix(backbone, [row.prompt for row in rows_of(backbone, front)]),
    ),
    "probes": lambda backbone, front: probe_hidden(backbone, [front + probe for probe in PROBES], copies=2),
    "logits": lambda backbone, front: last_logits(backbone, [front + probe for probe in PROBES]),
    "texts": lambda backbone, front: text_losses(backbone, [front + probe for probe in PROBES]),
}  # fmt: skip


@pytest.mark.parametrize("front", ["", *FRONTS])
@pytest.mark.parametrize("measured", MEASURED)
def test_a_decoder_measures_the_same(measured: str, front: str, tiny_llama: Path) -> None:
    same(tiny_llama, lambda backbone: MEASURED[measured](backbone, FRONTS.get(front, "")))


def test_wide_batches_run_padded_and_measure_the_same(tiny_llama: Path) -> None:
    def widths(backbone: Backbone, front: str) -> Any:
        rows = rows_of(backbone, front) * 12  # too many tokens for one sequence
        return batch_losses(backbone, rows)

    for front in ("", FRONTS["alike"]):
        same(tiny_llama, lambda backbone, front=front: widths(backbone, front))  # type: ignore[misc]


@pytest.mark.parametrize("measured", MEASURED)
def test_an_encoder_decoder_measures_the_same(measured: str, tiny_t5: Path) -> None:
    same(tiny_t5, lambda backbone: MEASURED[measured](backbone, ""))
    same(tiny_t5, lambda backbone: encoder_hidden(backbone, PROBES))


@pytest.mark.parametrize("measured", ["losses", "answers", "greedy", "probes", "texts"])
def test_half_precision_measures_the_same(measured: str, tiny_llama: Path) -> None:
    same(tiny_llama, lambda backbone: MEASURED[measured](backbone, FRONTS["alike"]), dtype="bfloat16")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "inner" not in name])
def test_every_architecture_measures_the_same(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = build_model(name, tmp_path_factory.mktemp("spread"))
    for measured in ("losses", "answers", "greedy", "probes"):
        same(path, lambda backbone, measured=measured: MEASURED[measured](backbone, FRONTS["alike"]))  # type: ignore[misc]

    def trained(backbone: Backbone) -> Any:
        names = [name for name in backbone.places if backbone.module(name) is not None][::3]
        return loss_and_gradient(backbone, rows_of(backbone), names)

    same(path, trained)


def update(backbone: Backbone, name: str, seed: int) -> LowRankUpdate:
    rng = np.random.default_rng(seed)
    rows, columns = backbone.shapes[name]
    a, b = rng.normal(size=(2 + seed, columns)), rng.normal(size=(rows, 2 + seed))
    return LowRankUpdate(a.astype(np.float32), b.astype(np.float32), 0.1)


def is_linear(backbone: Backbone, name: str) -> bool:
    return type(backbone.module(name)).__name__ in ("Linear", "Conv1D") and len(backbone.shapes[name]) == 2


def everywhere(backbone: Backbone, seed: int = 0) -> dict[str, Any]:
    """An update of every linear module, of the embedding, the head, and of each norm."""
    delta: dict[str, Any] = {}
    for number, (name, size) in enumerate(backbone.shapes.items()):
        if is_linear(backbone, name):
            delta[name] = update(backbone, name, seed)
        else:
            delta[name] = DenseUpdate(np.random.default_rng(number).normal(0, 0.1, size).astype(np.float32))
    return delta


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "t5", "untied"])
def test_what_is_placed_lies_on_its_weight_s_device(
    kind: str, dtype: str, tiny_llama: Path, tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = {"llama": tiny_llama, "t5": tiny_t5}.get(kind) or build_model("phi3", tmp_path_factory.mktemp("untied"))

    def with_update(backbone: Backbone) -> Any:
        before = row_losses(backbone, rows_of(backbone))
        with placed(backbone, everywhere(backbone)):
            found = row_losses(backbone, rows_of(backbone)), probe_hidden(backbone, PROBES)
        assert found[0] != before == row_losses(backbone, rows_of(backbone))
        return found

    same(path, with_update, dtype)
    spread = loaded(path, dtype, True)
    assert all(buffer.device == spread.memory[name].device for name, buffer in spread.scratch.items())
    assert dtype == "bfloat16" or len({buffer.device for buffer in spread.scratch.values()}) == 2


def test_parts_of_a_weight_are_placed_on_its_device(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = build_model("mixtral", tmp_path_factory.mktemp("mixture"))

    def with_update(backbone: Backbone) -> Any:
        inside = [name for name, place in backbone.places.items() if not place.whole]
        delta: dict[str, Any] = {name: update(backbone, name, 1) for name in inside}
        delta[inside[0]] = DenseUpdate(delta[inside[0]].dense())
        with placed(backbone, delta):
            return row_losses(backbone, rows_of(backbone))

    for dtype in ("float32", "bfloat16"):
        same(path, with_update, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_several_adapters_run_together(dtype: str, tiny_llama: Path) -> None:
    def together(backbone: Backbone) -> Any:
        names = [name for name in backbone.shapes if is_linear(backbone, name)]
        deltas = [{name: update(backbone, name, seed) for name in names} for seed in range(3)]
        del deltas[1][names[0]]
        with placed_together(backbone, deltas):
            return probe_hidden(backbone, PROBES, copies=3)

    same(tiny_llama, together, dtype)


def test_an_adapter_of_a_head_on_a_device_of_its_own(tmp_path: Path) -> None:
    """What the head is given is moved by accelerate's hook, which runs behind torch's own."""
    path = build_model("phi3", tmp_path)
    plain = loaded(path, "bfloat16", False)
    modules = dict.fromkeys(loaded(path, "bfloat16", True).model.hf_device_map, HERE[0]) | {"lm_head": HERE[1]}
    spread = load_backbone(path, device=",".join(HERE), dtype="bfloat16", threads=1, modules=modules)
    name = "lm_head.weight"
    assert str(spread.device_of(name)) == HERE[1] and str(spread.device_of("model.norm.weight")) == HERE[0]
    settings = FinetuneSettings(rank=2, alpha=4.0, lr=2e-2, steps=2, batch_size=4)
    found = []
    for backbone in (plain, spread):
        with placed(backbone, {name: update(backbone, name, 0)}):
            losses = row_losses(backbone, rows_of(backbone))
        trained = finetune_lora(backbone, rows_of(backbone), [name], settings, seed=0).delta
        found.append((losses, trained[name].dense()))
    assert found[0][0] == found[1][0]
    assert np.any(found[0][1]) and np.array_equal(found[0][1], found[1][1])


def test_gradients_come_from_all_devices(tiny_llama: Path) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)] + ["model.norm.weight"]
    same(tiny_llama, lambda backbone: loss_and_gradient(backbone, rows_of(backbone), names))
    same(tiny_llama, lambda backbone: choice_loss_and_gradient(backbone, choices_of(backbone), names))
    same(tiny_llama, lambda backbone: input_moments(backbone, rows_of(backbone), names[:2]))


ALL_TERMS = TrainingLoss(answer=1.0, choices=0.5, normalised=0.5, unlikelihood=0.5, entropy=0.1)


@pytest.mark.parametrize("name", ["lora", "first", "refactored", "core", "output", "prior", "coefficients"])
def test_every_shape_trains_the_same(name: str, tiny_llama: Path) -> None:
    settings = FinetuneSettings(rank=2, alpha=4.0, lr=2e-2, epochs=3, batch_size=4)

    def trained(backbone: Backbone) -> Any:
        generator = torch.Generator().manual_seed(0)
        trainable = shape(name, backbone).build(backbone, generator)
        assert all(
            tensor.device == backbone.device_of(weight)
            for weight, tensors in trainable.numbers.items()
            for tensor in tensors
        )
        found = finetune(
            backbone, trainable, [*rows_of(backbone), *choices_of(backbone)], settings, generator=generator,
            watch=lambda: watched_losses(backbone, rows_of(backbone)[:3]), terms=ALL_TERMS, pull=Pull(0.1),
        )  # fmt: skip
        assert found.delta.keys() == set(NAMES) and found.taken
        return [dict(found.delta), found.watched, found.rows]

    assert {str(loaded(tiny_llama, "float32", True).device_of(weight)) for weight in NAMES} == set(HERE)
    same(tiny_llama, trained)


def test_a_lora_trains_in_half_precision_and_in_an_encoder_decoder(tiny_llama: Path, tiny_t5: Path) -> None:
    def trained(backbone: Backbone) -> Any:
        names = [name for name in backbone.places if name.endswith(("q_proj.weight", "q.weight", "wo.weight"))]
        assert len({backbone.device_of(name) for name in names}) == len(backbone.devices)
        settings = FinetuneSettings(rank=2, alpha=4.0, lr=2e-2, steps=3, batch_size=4)
        return dict(finetune_lora(backbone, rows_of(backbone), names, settings, seed=0).delta)

    same(tiny_llama, trained, "bfloat16")
    # the encoder's gradient is a sum over the decoder's layers, in another order where they are on several devices
    same(tiny_t5, trained, tolerance=1e-3)


@pytest.mark.parametrize("evaluator", [Fast(max_new_tokens=6), LmEval(max_new_tokens=6)])
def test_evaluators_score_the_same(evaluator: Any, tiny_llama: Path, tiny_t5: Path) -> None:
    template = templates.get("alpaca")
    asked = {
        "exact_match": [Row(f"say {n}", f"{n} {n}") for n in range(5)],
        "accuracy": [Row(f"is {n} it?", "yes", ("yes", "no", "perhaps")) for n in range(5)],
    }
    for path in (tiny_llama, tiny_t5):
        for metric, rows in asked.items():

            def scored(backbone: Backbone, metric: str = metric, rows: list[Row] = rows) -> Any:
                found = evaluator.score(backbone.model, backbone.tokenizer, rows, template, label="it", metric=metric)
                return [list(found.rows[name]) for name in sorted(found.rows)]

            same(path, scored)


def test_a_prompt_is_answered_the_same(tiny_llama: Path) -> None:
    one, two = (generate(loaded(tiny_llama, "float32", spread), "the quick", max_new_tokens=9) for spread in (0, 1))
    assert one and one == two


def test_rows_go_to_the_embedding_and_losses_come_from_there(tiny_t5: Path, tmp_path: Path) -> None:
    """accelerate would send what comes in to any of the devices, another one in each process."""
    for path in (tiny_t5, build_model("phi3", tmp_path)):
        spread = loaded(path, "float32", True)
        assert str(spread.device) == HERE[0]
        assert spread.model._hf_hook.execution_device == spread.device
        assert [str(device) for device in spread.devices] == list(HERE)
        assert batch_losses(spread, rows_of(spread)).device == spread.device
        spread.model._hf_hook.execution_device = torch.device(HERE[1])
        assert backbone_of(spread.model, spread.tokenizer, templates.get("plain")).device == spread.device
        assert spread.model._hf_hook.execution_device == spread.device
    assert str(spread.model.get_output_embeddings().weight.device) == HERE[1]


def test_memory_of_the_last_device_halves_the_batch(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = load_backbone(
        tiny_llama, device="cpu:1,cpu:2", threads=1, modules=loaded(tiny_llama, "float32", True).model.hf_device_map
    )
    rows = rows_of(spread)
    expected = row_losses(spread, rows)
    last, most, refused = spread.model.model.layers[1].mlp, 60, []

    def full(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        assert str(inputs[0].device) == "cpu:2"
        if inputs[0].shape[:-1].numel() > most:
            refused.append(inputs[0].shape)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 1 has none")

    monkeypatch.setattr("merge_advisor.backbone.encoding.TOKENS_PER_BATCH", 64)
    handle = last.register_forward_pre_hook(full)
    found = within_memory(spread, lambda: row_losses(spread, rows))
    assert refused and spread.batch_share < 1
    assert found == pytest.approx(expected, rel=1e-5)
    handle.remove()
    last.register_forward_pre_hook(lambda module, inputs: full(module, inputs))
    most = 1
    with pytest.raises(BaseModelError, match=r"memory of cpu:1,cpu:2 is too small even .*; give `dtype=bfloat16`"):
        within_memory(spread, lambda: row_losses(spread, rows))


def test_a_tensor_on_the_wrong_device_is_refused(tiny_llama: Path) -> None:
    """What the other tests rest on."""
    spread = loaded(tiny_llama, "float32", True)
    first, last = (spread.model.model.layers[at].mlp.up_proj for at in (0, 1))
    with pytest.raises(DevicesMixed, match="found cpu:1 and cpu:2"):
        first.weight + last.weight
    with pytest.raises(DevicesMixed, match="found cpu and cpu:2"):
        torch.nn.functional.linear(torch.ones(1, 32), last.weight)
    with pytest.raises(DevicesMixed, match="found cpu:1 and cpu:2"):
        last.weight[torch.tensor([0], device="cpu:1")]
    with pytest.raises(TypeError, match="cpu:2 cannot be read"):
        last.weight.numpy()
    with pytest.raises(DevicesMixed, match="a parameter on cpu:2"):
        last.weight.data = first.weight.data
    assert last.weight[torch.tensor([0])].device == (last.weight * torch.tensor(2.0)).device == last.weight.device


def test_hooks_of_accelerate_change_nothing(tiny_llama: Path) -> None:
    """Spread over the CPU and the CPU: the same bytes as without a map."""
    from accelerate import dispatch_model

    plain = load_backbone(tiny_llama, threads=1)
    hooked = load_backbone(tiny_llama, threads=1)
    names = [f"model.layers.{layer}" for layer in range(2)]
    where = dict.fromkeys(["model.embed_tokens", *names, "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    dispatch_model(hooked.model, where, force_hooks=True, skip_keys=hooked.model._skip_keys_device_placement)
    assert all(hasattr(hooked.model.get_submodule(name), "_hf_hook") for name in ["", *names])
    for front in ("", *FRONTS.values()):
        for compute in (MEASURED[name] for name in ("losses", "answers", "greedy", "probes")):
            one, two = (flat(compute(backbone, front)) for backbone in (plain, hooked))
            assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    one, two = (flat(loss_and_gradient(backbone, rows_of(backbone), NAMES)) for backbone in (plain, hooked))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
