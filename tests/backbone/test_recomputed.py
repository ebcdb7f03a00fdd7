"""What a pass keeps for the way back, and that keeping less gives the same bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone import precision
from merge_advisor.backbone.choice_loss import choice_loss_and_gradient
from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.forward import batch_logits, log_likelihoods
from merge_advisor.backbone.gradients import loss_and_gradient
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.backbone.precision import quick_products
from merge_advisor.backbone.recomputed import recomputed_blocks
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Row
from merge_advisor.weights.updates import DenseUpdate
from tests.support.architectures import ARCHITECTURES, build_model

ROWS = [EncodedRow((5, 6, 7 + number), (9 + number, 3)) for number in range(4)]
LONG = [EncodedRow(tuple(range(5, 55)), (9 + number, 3)) for number in range(3)]
SETTINGS = FinetuneSettings(rank=2, steps=3, batch_size=2)
CHOICES = [EncodedChoices((EncodedRow((5, 6, 7), (8, 1)), EncodedRow((5, 6, 7), (9, 10, 1))), 0)]


def flat(gradient: dict[str, Any]) -> bytes:
    return b"".join(np.ascontiguousarray(gradient[name]).tobytes() for name in sorted(gradient))


def attention_names(backbone: Backbone) -> list[str]:
    return [name for name in backbone.places if name.endswith(("q_proj.weight", "v_proj.weight"))]


@pytest.mark.parametrize("dtype", ["float32", "mixed"])
@pytest.mark.parametrize("rows", [ROWS, LONG], ids=["packed", "behind a cache"])
def test_a_gradient_is_the_same_when_blocks_run_again(tiny_llama: Path, dtype: str, rows: list[EncodedRow]) -> None:
    backbone = load_backbone(tiny_llama, dtype=dtype, threads=1)
    names = attention_names(backbone)
    delta = {names[0]: DenseUpdate(np.full(backbone.places[names[0]].shape, 0.01, np.float32))}
    with placed(backbone, delta), quick_products(backbone):
        losses, gradient = loss_and_gradient(backbone, rows, names)
        chosen = choice_loss_and_gradient(backbone, CHOICES, names)
        with recomputed_blocks(backbone):
            again, other = loss_and_gradient(backbone, rows, names)
            chosen_again = choice_loss_and_gradient(backbone, CHOICES, names)
    assert again == losses and flat(other) == flat(gradient)
    assert chosen_again[0] == chosen[0] and flat(chosen_again[1]) == flat(chosen[1])
    assert "forward" not in vars(backbone.model.model.layers[0])  # the model is as it was


def test_an_encoder_decoder_gives_the_same(tiny_t5: Path) -> None:
    backbone = load_backbone(tiny_t5, threads=1)
    names = [name for name in backbone.places if name.endswith((".q.weight", ".v.weight"))]
    losses, gradient = loss_and_gradient(backbone, ROWS, names)
    with recomputed_blocks(backbone):
        again, other = loss_and_gradient(backbone, ROWS, names)
    assert again == losses and flat(other) == flat(gradient)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "inner" not in name])
def test_every_architecture_gives_the_same(name: str, tmp_path: Path) -> None:
    backbone = load_backbone(build_model(name, tmp_path / "base"), threads=1)
    names = [one for one, place in backbone.places.items() if place.module and len(place.shape) == 2]
    losses, gradient = loss_and_gradient(backbone, ROWS, names)
    with recomputed_blocks(backbone):
        again, other = loss_and_gradient(backbone, ROWS, names)
    assert again == losses and flat(other) == flat(gradient)


def test_the_gradient_of_a_plan_keeps_the_input_of_each_block_and_no_more(
    tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    rows = [Row(f"say {number}", f"{number}") for number in range(4)]
    with open_session(str(tiny_llama), tiny_pool, cache=tmp_path) as session:
        names = attention_names(session.model.backbone)
        inside: list[int] = []
        handles = [
            layer.mlp.register_forward_pre_hook(lambda *_: inside.append(1))
            for layer in session.model.backbone.model.model.layers
        ]
        session.meter.gradient(rows, names)
        for handle in handles:
            handle.remove()
    assert len(inside) == 2 * len(handles)  # forward, and once more on the way back


def test_no_rounded_copy_of_a_frozen_weight_is_kept(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(tiny_llama, dtype="mixed", threads=1)
    shapes = {place.shape for place in backbone.places.values() if len(place.shape) == 2}
    shapes |= {shape[::-1] for shape in shapes}
    kept: list[Any] = []
    real = torch.autograd.graph.saved_tensors_hooks

    def recording(pack: Callable[[torch.Tensor], Any], unpack: Callable[[Any], torch.Tensor]) -> Any:
        def packed(tensor: torch.Tensor) -> Any:
            held = pack(tensor)
            if tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes:
                kept.append(held)
            return held

        return real(packed, unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", recording)

    def trained() -> tuple[bytes, list[bool]]:
        kept.clear()
        lora = finetune_lora(backbone, ROWS, attention_names(backbone), SETTINGS, seed=0).delta
        return flat({name: lora[name].dense() for name in lora}), [isinstance(one, torch.Tensor) for one in kept]

    factors, copies = trained()
    # three steps; seven weights a block and the head, but for q, k and v of the first block: nothing before is trained
    assert len(copies) == 3 * (2 * 7 + 1 - 3) and not any(copies)
    monkeypatch.setattr(precision, "casts_again", lambda backbone: real(lambda one: one, lambda one: one))
    assert trained()[0] == factors


def test_a_layer_has_its_own_weight_again_whatever_happens(tiny_llama: Path) -> None:
    backbone = load_backbone(tiny_llama, dtype="mixed", threads=1)
    layer = backbone.model.model.layers[1].mlp.up_proj
    weight = layer.weight
    broken = layer.register_forward_hook(lambda *_: 1 / 0)
    with quick_products(backbone), pytest.raises(ZeroDivisionError):
        batch_logits(backbone, ROWS)
    broken.remove()
    assert layer.weight is weight and not layer._forward_pre_hooks and not layer._forward_hooks


def test_likelihoods_are_taken_of_positions_that_count_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 11, generator=rng)
    labels = torch.tensor([[5, 1, -100, -100], [-100, -100, 7, 1], [-100, 2, -100, -100]])
    seen: list[int] = []
    real = torch.nn.functional.cross_entropy

    def counted(flat: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        seen.append(len(flat))
        return real(flat, *given, **named)

    expected = -real(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).sum(1)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", counted)
    assert log_likelihoods(logits, labels).tolist() == expected.tolist() and seen == [5]
    # of two tokens that close an answer, either will do
    either = logits.log_softmax(-1)[..., [1, 3]].logsumexp(-1)
    closed = log_likelihoods(logits, labels, closing=(1, 3))
    assert torch.allclose(closed[0], logits[0, 0].log_softmax(-1)[5] + either[0, 1])
