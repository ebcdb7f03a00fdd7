"""The entropy of what a model says: as defined, lowered by training on it, and blind to outputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from merge_advisor.advisor.measuring.prompted_model import PromptedModel
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone.finetune import finetune
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.backbone.training_loss import ENTROPY_ALONE, Example, TrainingLoss, backward
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import Row

CHOICES = ("yes", "no", "the mat and the dog")
# of several lengths, so that they are padded or packed
ASKED = [Row("is " + "very " * number + "even?", "", CHOICES) for number in range(5)]
OPEN = [Row(row.input, "") for row in ASKED]


def value_of(model: PromptedModel, rows: list[Row], terms: TrainingLoss = ENTROPY_ALONE) -> float:
    """The mean training loss of rows; nothing is attached, so a parameter is told to want its gradient."""
    weight = next(iter(model.backbone.memory.values()))
    weight.requires_grad_(True)
    try:
        return backward(model.backbone, encoded(model, rows), terms)
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def encoded(model: PromptedModel, rows: list[Row]) -> list[Example]:
    found: list[Example] = []
    for row in rows:
        found += model.encode_choices([row]) if row.choices else model.encode([row])
    return found


def logits_of(model: PromptedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        if model.encoder_decoder:
            return model.backbone.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([answer])).logits[0]
        ids = torch.tensor([[*prompt, *answer]])
        return model.backbone.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]


def entropy(shares: torch.Tensor) -> float:
    return float(torch.special.entr(shares.double()).sum())


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_t5"])
def test_with_choices_it_is_that_of_their_shares_of_the_likelihood(
    base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with open_session(str(request.getfixturevalue(base)), None, template="plain", cache=tmp_path) as session:
        wanted = []
        for row in session.model.encode_choices(ASKED):
            totals = [
                logits_of(session.model, answer.prompt, answer.completion)
                .log_softmax(-1)[range(len(answer.completion)), answer.completion]
                .sum()
                for answer in row.answers
            ]
            wanted.append(entropy(torch.stack(totals).softmax(0)))
        assert value_of(session.model, ASKED) == pytest.approx(np.mean(wanted), abs=1e-4)
        assert 0 < np.mean(wanted) < np.log(len(CHOICES))


@pytest.mark.parametrize("base", ["tiny_llama", "tiny_t5"])
def test_without_choices_it_is_that_of_the_answers_first_token(
    base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with open_session(str(request.getfixturevalue(base)), None, template="plain", cache=tmp_path) as session:
        rows = session.model.encode(OPEN)
        wanted = [entropy(logits_of(session.model, row.prompt, row.completion)[0].softmax(-1)) for row in rows]
        assert value_of(session.model, OPEN) == pytest.approx(np.mean(wanted), abs=1e-4)
        both = value_of(session.model, [*ASKED[:2], *OPEN[:2]])
        halves = [value_of(session.model, ASKED[:2]), value_of(session.model, OPEN[:2])]
        assert both == pytest.approx(np.mean(halves), abs=1e-4)


def test_what_the_outputs_are_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with open_session(str(tiny_llama), None, template="plain", cache=tmp_path) as session:
        for rows, output in ((ASKED, "no"), (OPEN, "a longer answer than none")):
            known = [replace(row, output=output) for row in rows]
            assert value_of(session.model, known) == pytest.approx(value_of(session.model, rows), abs=1e-5)


@pytest.mark.parametrize("rows", [ASKED, OPEN])
def test_training_on_it_lowers_it_to_one_answer_where_nothing_holds_it(
    rows: list[Row], tiny_llama: Path, tmp_path: Path
) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    with open_session(str(tiny_llama), None, template="plain", cache=tmp_path) as session:
        backbone, generator = session.model.backbone, torch.Generator().manual_seed(0)
        names = (name, name.replace("q_proj", "v_proj"), name.replace("layers.0", "layers.1"))
        trainable = LoraShape(names, 4, 8.0).build(backbone, generator)
        settings = FinetuneSettings(lr=5e-2, steps=40)
        before = value_of(session.model, rows)
        finetune(
            backbone, trainable, encoded(session.model, rows), settings, generator=generator, terms=ENTROPY_ALONE
        )  # fmt: skip
        handles = trainable.attach(backbone)
        after = value_of(session.model, rows)
        for handle in handles:
            handle.remove()
    assert after < 0.9 * before


def test_labelled_rows_are_checked_as_often_as_they_are_many(tiny_llama: Path, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    rows = [Row(f"say {number}", "") for number in range(60)]
    with open_session(str(tiny_llama), None, template="plain", cache=tmp_path) as session:
        checks = {}
        for check_rows in (None, 24, 1):
            generator = torch.Generator().manual_seed(0)
            falling = ([float(loss)] for loss in range(100, 0, -1))
            found = finetune(
                session.model.backbone, LoraShape((name,), 2, 4.0).build(session.model.backbone, generator),
                encoded(session.model, rows), FinetuneSettings(epochs=2), generator=generator, terms=ENTROPY_ALONE,
                watch=falling.__next__, check_rows=check_rows,
            )  # fmt: skip
            assert found.taken == 30
            checks[check_rows] = len(found.watched)
    assert checks == {None: 2, 24: 5, 1: 8}  # each pass, each 6 steps, each 4 steps; and at the end
