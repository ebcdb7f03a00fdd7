"""What long prompts begin with runs once for all rows, and every row gets what it gets alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.likelihood import answer_totals, losses_and_greedy
from merge_advisor.backbone.long_prefix import LONG_PREFIX, read_prefix
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import Backbone, load_backbone

FRONT = tuple(3 + (7 * at) % 290 for at in range(LONG_PREFIX + 20))


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


@pytest.fixture
def shapes(llama: Backbone) -> Iterator[list[tuple[int, ...]]]:
    """Rows and width of everything that the model reads."""
    seen: list[tuple[int, ...]] = []
    hook = llama.model.model.embed_tokens.register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].shape))
    yield seen
    hook.remove()


def rows_of(count: int, answers: int = 1) -> list[EncodedRow]:
    """Rows whose prompts go on in their own way behind the front, each with answers of several lengths."""
    rows = []
    for row in range(count):
        prompt = (*FRONT, *range(5 + row, 9 + 3 * (row % 5) + row))
        for answer in range(answers):
            length = 1 + (answer + row) % 4
            rows.append(EncodedRow(prompt, (*(20 + (row + 7 * answer + at) % 250 for at in range(length)), 1)))
    return rows


def alone(llama: Backbone, row: EncodedRow) -> tuple[float, tuple[int, ...]]:
    import torch

    with torch.no_grad():
        logits = llama.model(torch.tensor([row.prompt + row.completion])).logits[0, len(row.prompt) - 1 : -1]
    total = logits.log_softmax(-1)[range(len(row.completion)), row.completion].sum()
    return float(total), tuple(logits.argmax(-1).tolist())


def test_losses_are_those_of_rows_alone(llama: Backbone, shapes: list[Any]) -> None:
    rows = rows_of(60)
    losses, best = losses_and_greedy(llama, rows)
    own = sum(len(row) - len(FRONT) for row in rows)
    assert all(count == 1 for count, _ in shapes) and sum(width for _, width in shapes) <= len(FRONT) + own
    expected = [alone(llama, row) for row in rows]
    assert best == [tokens for _, tokens in expected]
    wanted = [-total / len(row.completion) for row, (total, _) in zip(rows, expected, strict=True)]
    assert losses == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert row_losses(llama, rows) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("answers", [1, 4, 200])
def test_answers_are_those_of_rows_alone(llama: Backbone, shapes: list[Any], answers: int) -> None:
    """Two hundred answers to a prompt are more than one sequence holds."""
    rows = rows_of(2 if answers == 200 else 20, answers)
    rows = rows[::2] + rows[1::2]  # in no order
    totals = answer_totals(llama, rows)
    assert all(count == 1 for count, _ in shapes) and shapes[0][1] < len(FRONT) + 20
    assert totals == pytest.approx([alone(llama, row)[0] for row in rows], rel=1e-4, abs=1e-4)


def test_generated_answers_are_those_of_prompts_alone(llama: Backbone, shapes: list[Any]) -> None:
    prompts = [row.prompt for row in rows_of(40)]
    expected = [greedy(llama, [prompt], max_new_tokens=7)[0] for prompt in prompts]
    prefix = read_prefix(llama, prompts)
    assert prefix is not None
    shapes.clear()
    assert greedy(llama, prompts, max_new_tokens=7, prefix=prefix) == expected
    assert max(width for _, width in shapes) < 600 and all(count == 1 for count, _ in shapes)
    two = greedy(llama, prompts, max_new_tokens=7, prefix=prefix, finished=lambda tokens: len(tokens) == 2)
    assert two == [tokens[:2] for tokens in expected]
    assert [keys.shape[2] for keys in (layer.keys for layer in prefix.cache.layers)] == [len(prefix.ids)] * 2


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "phi3", "falcon", "gptj"])
def test_other_decoders(kind: str) -> None:
    from types import SimpleNamespace

    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    small: dict[str, Any] = {
        "vocab_size": 330, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    extra = {"rotary_dim": 4} if kind == "gptj" else {"head_dim": 8} if kind == "qwen3" else {}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**small, **extra)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    backbone: Any = SimpleNamespace(
        model=model, tokenizer=SimpleNamespace(pad_token_id=0), device=torch.device("cpu"), closing=(),
        dtype=torch.float32,
        encoder_decoder=False, end_id=2, tokens=lambda usual: usual,
    )  # fmt: skip
    rows = rows_of(5, 3)
    assert read_prefix(backbone, [row.prompt for row in rows]) is not None
    assert answer_totals(backbone, rows) == pytest.approx([alone(backbone, row)[0] for row in rows], rel=1e-4, abs=1e-4)


def test_what_cannot_or_need_not_be_shared_is_not(llama: Backbone, tiny_t5: Path) -> None:
    prompts = [row.prompt for row in rows_of(3)]
    assert read_prefix(llama, prompts[:1]) is None
    assert read_prefix(llama, [prompt[30:] for prompt in prompts]) is None
    assert read_prefix(llama, [*prompts, (5, *prompts[0])]) is None
    assert read_prefix(load_backbone(tiny_t5, threads=1), prompts) is None  # an encoder's tokens see all others
    found = read_prefix(llama, prompts)
    assert found is not None and found.ids == FRONT + prompts[0][len(FRONT) : len(found.ids)]
