"""Bases that cannot share what they read: windows, states, positions counted in the batch, no keys and values."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from merge_advisor.backbone.answers import can_go_on
from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.likelihood import answer_totals
from merge_advisor.backbone.losses import row_losses

END = 2
_TOKENS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": END}
_SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "head_dim": 8, **_TOKENS,
}  # fmt: skip
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_TOKENS}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
KINDS: dict[str, dict[str, Any]] = {
    "mistral": _SMALL | {"sliding_window": 8},
    "qwen2": _SMALL | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gemma3_text": _SMALL | _MIXED,
    "llama4_text": _SMALL
    | {"attention_chunk_size": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "no_rope_layers": [1, 0]},
    "gpt_neo": _TOKENS
    | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
    | {"window_size": 8, "max_position_embeddings": 64},
    "mpt": _TOKENS | {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "lfm2": _SMALL | {"layer_types": ["conv", "full_attention"], "block_dim": 32},
    "jamba": _SMALL
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1, "use_mamba_kernels": False}
    | {"mamba_d_state": 4},
    "mamba": _TOKENS | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "recurrent_gemma": _TOKENS
    | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    | {"lru_width": 32, "attention_window_size": 8},
    "openai-gpt": _OLD,
}


def random_base(kind: str, std: float = 0.3) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**KINDS[kind])).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, std)
    return SimpleNamespace(
        model=model, tokenizer=SimpleNamespace(pad_token_id=0), device=torch.device("cpu"), dtype=torch.float32,
        encoder_decoder=False, closing=(), end_ids=(END,), tokens=lambda usual: usual,
    )  # fmt: skip


def loss_alone(model: Any, row: EncodedRow) -> float:
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([row.prompt + row.completion])).logits[0, len(row.prompt) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(row.completion)))


def answer_alone(model: Any, prompt: tuple[int, ...], most: int) -> list[int]:
    import torch

    ids = torch.tensor([prompt])
    found = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most, pad_token_id=0
    )
    answer: list[int] = found[0, len(prompt) :].tolist()
    return answer[: answer.index(END)] if END in answer else answer


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_one_batch_have_what_they_have_alone(kind: str) -> None:
    backbone = random_base(kind)
    rng = np.random.default_rng(0)
    front = tuple(rng.integers(3, 99, 12).tolist())
    prompts = [front + tuple(rng.integers(3, 99, size).tolist()) for size in (3, 20, 9, 9)]
    rows = [EncodedRow(prompt, tuple(rng.integers(3, 99, size).tolist())) for prompt in prompts for size in (1, 4)]
    assert not can_go_on(backbone)
    alone = [loss_alone(backbone.model, row) for row in rows]
    np.testing.assert_allclose(row_losses(backbone, rows), alone, atol=1e-4)
    totals = [-loss * len(row.completion) for loss, row in zip(alone, rows, strict=True)]
    np.testing.assert_allclose(answer_totals(backbone, rows), totals, atol=4e-4)
    wanted = [answer_alone(backbone.model, prompt, 6) for prompt in prompts]
    assert greedy(backbone, prompts, max_new_tokens=6) == wanted
    third = {answer[2] for answer in wanted[::2] if len(answer) > 2}
    stopped = greedy(backbone, prompts, max_new_tokens=6, finished=lambda answer: answer[-1] in third)
    for answer, whole in zip(stopped, wanted, strict=True):
        ends = [place for place, token in enumerate(whole) if token in third]
        assert answer == whole[: ends[0] + 1 if ends else None]
