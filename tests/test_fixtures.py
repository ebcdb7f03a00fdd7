"""The tiny models are what the other tests take them for."""

from pathlib import Path


def test_tiny_adapters_move_the_output(tiny_llama: Path, tiny_pool: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokens = tokenizer("### Response:", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(tokens).logits
        after = PeftModel.from_pretrained(model, tiny_pool / "a0")(tokens).logits
    assert (after - before).abs().mean() > 0.1 * before.abs().mean()


def test_tiny_tokenizer_round_trips(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    text = "### Response:\nZürich, 007 {{ x }}"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
