"""What a finetune trains: it begins where it should, runs as the update it gives, and only its numbers move."""

from pathlib import Path

import numpy as np
import pytest
import torch

from merge_advisor.backbone.encoding import EncodedChoices, EncodedRow, encode
from merge_advisor.backbone.finetune import Pull, finetune
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.backbone.shapes import BasisShape, CoefficientShape, LoraShape, PriorShape, RefactoredShape, Shape
from merge_advisor.backbone.training_loss import Example, TrainingLoss, backward, watched_losses
from merge_advisor.options import FinetuneSettings
from merge_advisor.weights.updates import LowRankUpdate, inner_all

NAMES = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight")
QUICK = FinetuneSettings(rank=2, alpha=4.0, lr=2e-2, steps=6)


@pytest.fixture(scope="module")
def backbone(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


@pytest.fixture(scope="module")
def rows(backbone: Backbone) -> list[EncodedRow]:
    return encode(backbone, [(f"say {n}", f"{n} {n}") for n in range(6)], max_length=64)


def shape(name: str, backbone: Backbone) -> Shape:
    rng = np.random.default_rng(0)
    sizes = {weight: backbone.shapes[weight] for weight in NAMES}

    def drawn(size: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.linalg.qr(rng.normal(size=(size, count)))[0].astype(np.float32)

    if name in ("lora", "first"):
        first = {weight: drawn(width, 2).T for weight, (_, width) in sizes.items()}
        return LoraShape(NAMES, 2, 4.0, first if name == "first" else None)
    if name == "refactored":
        halves = {
            weight: (0.3 * drawn(out, 1), 0.3 * drawn(width, 1).T.copy()) for weight, (out, width) in sizes.items()
        }
        return RefactoredShape(NAMES, halves, 2, 4.0)
    if name in ("core", "output"):
        both = {weight: (drawn(out, 4), drawn(width, 4).T.copy()) for weight, (out, width) in sizes.items()}
        return BasisShape({weight: (u, v if name == "core" else None) for weight, (u, v) in both.items()}, unit=2.0)
    if name == "prior":
        roots = {
            w: (np.diag(rng.uniform(0.5, 2, out)), np.diag(rng.uniform(0.5, 2, width)))
            for w, (out, width) in sizes.items()
        }
        return PriorShape({w: (u.astype(np.float32), v.astype(np.float32)) for w, (u, v) in roots.items()}, 2, 4.0)
    terms = {
        weight: [
            LowRankUpdate(
                rng.normal(size=(2, width)).astype(np.float32), rng.normal(size=(out, 2)).astype(np.float32), 0.1
            )
            for _ in range(3)
        ]
        for weight, (out, width) in sizes.items()
    }
    return CoefficientShape(terms, unit=1.0)


SHAPES = ("lora", "first", "refactored", "core", "output", "prior", "coefficients")


@pytest.mark.parametrize("name", SHAPES)
def test_it_begins_at_no_change_and_runs_as_the_update_it_gives(
    name: str, backbone: Backbone, rows: list[EncodedRow]
) -> None:
    before = row_losses(backbone, rows)
    generator = torch.Generator().manual_seed(0)
    trainable = shape(name, backbone).build(backbone, generator)
    assert inner_all(trainable.delta(), trainable.delta()) == 0
    result = finetune(backbone, trainable, rows, QUICK, generator=generator)
    handles = trainable.attach(backbone)
    beside = row_losses(backbone, rows)
    for handle in handles:
        handle.remove()
    with placed(backbone, result.delta):
        assert row_losses(backbone, rows) == pytest.approx(beside, abs=1e-4)
    assert np.mean(beside) < np.mean(before)
    assert row_losses(backbone, rows) == before  # the base is as it was


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_seed_gives_the_same_bytes(name: str, backbone: Backbone, rows: list[EncodedRow]) -> None:
    found = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        wanted = shape(name, backbone)
        trainable = wanted.build(backbone, generator)
        delta = finetune(backbone, trainable, rows, QUICK, generator=generator).delta
        updates = [delta[weight] for weight in NAMES]
        found.append((wanted.digest, [(u.a.tobytes(), u.b.tobytes()) for u in updates if isinstance(u, LowRankUpdate)]))
    assert found[0] == found[1] and len(found[0][1]) == 2


def test_shapes_that_differ_have_other_digests(backbone: Backbone) -> None:
    digests = [shape(name, backbone).digest for name in SHAPES]
    digests += [LoraShape(NAMES, 3, 4.0).digest, LoraShape(NAMES[:1], 2, 4.0).digest, LoraShape(NAMES, 2, 8.0).digest]
    assert len(set(digests)) == len(digests)


def test_a_refactored_start_is_turned_before_anything_is_added(backbone: Backbone, rows: list[EncodedRow]) -> None:
    given = shape("refactored", backbone)
    assert isinstance(given, RefactoredShape)
    begun = {weight: LowRankUpdate(right, left) for weight, (left, right) in given.halves.items()}
    generator = torch.Generator().manual_seed(0)
    with placed(backbone, begun):
        trainable = given.build(backbone, generator)
        before = row_losses(backbone, rows)
        handles = trainable.attach(backbone)
        assert row_losses(backbone, rows) == pytest.approx(before, abs=1e-6)
        for handle in handles:
            handle.remove()
        delta = finetune(backbone, trainable, rows, QUICK, generator=generator).delta
    for weight, (left, right) in given.halves.items():
        whole = left @ right + delta[weight].dense()
        assert np.linalg.matrix_rank(whole, tol=1e-4) == 2  # both factors moved, and nothing stands beside them
        a, b = trainable.numbers[weight]
        np.testing.assert_allclose(whole, 2.0 * (b @ a).detach().numpy(), atol=1e-5)
    empty = RefactoredShape(NAMES, {}, 2, 4.0).build(backbone, torch.Generator().manual_seed(0))
    plain = shape("lora", backbone).build(backbone, torch.Generator().manual_seed(0))
    for one, other in zip(empty.parameters, plain.parameters, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ("core", "output"))
def test_a_core_never_leaves_its_directions(name: str, backbone: Backbone, rows: list[EncodedRow]) -> None:
    given = shape(name, backbone)
    assert isinstance(given, BasisShape)
    generator = torch.Generator().manual_seed(0)
    delta = finetune(backbone, given.build(backbone, generator), rows, QUICK, generator=generator).delta
    for weight, (u, v) in given.directions.items():
        dense = delta[weight].dense()
        assert abs(dense).max() > 1e-3
        np.testing.assert_allclose(u @ (u.T @ dense), dense, atol=1e-5)
        if v is not None:
            np.testing.assert_allclose((dense @ v.T) @ v, dense, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_a_pull_keeps_it_near_its_start(name: str, backbone: Backbone, rows: list[EncodedRow]) -> None:
    norms = []
    for strength in (0.0, 100.0):
        generator = torch.Generator().manual_seed(0)
        trainable = shape(name, backbone).build(backbone, generator)
        delta = finetune(backbone, trainable, rows, QUICK, generator=generator, pull=Pull(strength)).delta
        norms.append(inner_all(delta, delta))
    assert norms[1] < norms[0]


def test_the_distance_is_the_norm_of_the_update(backbone: Backbone, rows: list[EncodedRow]) -> None:
    generator = torch.Generator().manual_seed(0)
    trainable = shape("lora", backbone).build(backbone, generator)
    delta = finetune(backbone, trainable, rows, QUICK, generator=generator).delta
    found = sum(float(trainable.distance(name).detach()) for name in NAMES)
    assert found == pytest.approx(inner_all(delta, delta), rel=1e-4)


@pytest.mark.parametrize(("counts", "steps"), [(True, 0), (False, 4)])
def test_a_start_that_training_makes_worse_stays(
    counts: bool, steps: int, backbone: Backbone, rows: list[EncodedRow]
) -> None:
    growing = iter(range(1, 100))
    settings = FinetuneSettings(rank=2, alpha=4.0, lr=1e-2, epochs=40)
    generator = torch.Generator().manual_seed(0)
    trainable = shape("lora", backbone).build(backbone, generator)
    result = finetune(
        backbone, trainable, rows, settings, generator=generator, watch=lambda: [float(next(growing))],
        start_counts=counts,
    )  # fmt: skip
    assert result.steps == steps and result.taken == steps + 8  # two checks without a better loss end it
    assert (inner_all(result.delta, result.delta) == 0) == counts
    assert result.rows == (1.0,)


def choices_of(backbone: Backbone) -> list[EncodedChoices]:
    answers = ("yes", "no", "perhaps so")
    found = []
    for number in range(4):
        encoded = encode(backbone, [(f"is {number} even?", answer) for answer in answers], max_length=64)
        found.append(EncodedChoices(tuple(encoded), number % 2))
    return found


@pytest.mark.parametrize(
    "terms",
    [TrainingLoss(answer=0, choices=1), TrainingLoss(answer=0, normalised=1), TrainingLoss(answer=0, unlikelihood=1)],
)
def test_each_term_is_lowered_by_training_on_it(terms: TrainingLoss, backbone: Backbone) -> None:
    examples = choices_of(backbone)
    generator = torch.Generator().manual_seed(0)
    trainable = shape("lora", backbone).build(backbone, generator)
    handles = trainable.attach(backbone)
    before = backward(backbone, examples, terms)
    for handle in handles:
        handle.remove()
    for tensor in trainable.parameters:
        tensor.grad = None
    finetune(backbone, trainable, examples, QUICK, generator=generator, terms=terms)
    handles = trainable.attach(backbone)
    after = backward(backbone, examples, terms)
    for handle in handles:
        handle.remove()
    assert after < before


def test_the_choice_term_is_the_loss_rows_are_judged_by(backbone: Backbone) -> None:
    examples = choices_of(backbone)
    trainable = shape("lora", backbone).build(backbone, torch.Generator().manual_seed(0))
    handles = trainable.attach(backbone)
    value = backward(backbone, examples, TrainingLoss(answer=0, choices=1))
    for handle in handles:
        handle.remove()
    assert value == pytest.approx(np.mean(watched_losses(backbone, examples)), abs=1e-4)


def test_rows_with_and_without_choices_go_together(backbone: Backbone, rows: list[EncodedRow]) -> None:
    mixed: list[Example] = [*choices_of(backbone)[:2], *rows[:2]]
    apart = [*watched_losses(backbone, mixed[:2]), *watched_losses(backbone, mixed[2:])]
    assert watched_losses(backbone, mixed) == pytest.approx(apart)
    trainable = shape("lora", backbone).build(backbone, torch.Generator().manual_seed(0))
    handles = trainable.attach(backbone)
    value = backward(backbone, mixed, TrainingLoss(answer=1, choices=1))
    halves = [backward(backbone, part, TrainingLoss(answer=1, choices=1)) for part in (mixed[:2], mixed[2:])]
    for handle in handles:
        handle.remove()
    assert value == pytest.approx(np.mean(halves), abs=1e-4)
