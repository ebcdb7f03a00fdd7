"""Candidates on the base and off, hidden states, losses, gradients, the LoRA of the shots."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from merge_advisor.backbone.encoding import EncodedRow, batches, encode
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.generate import generate
from merge_advisor.backbone.gradients import loss_and_gradient
from merge_advisor.backbone.losses import row_losses, text_losses
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed, placed_together
from merge_advisor.backbone.probes import probe_hidden
from merge_advisor.embeddings import PROBES
from merge_advisor.errors import BaseModelError, InputError, PoolError, TaskError
from merge_advisor.options import FinetuneSettings
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.text_ends import adds_begin_token
from merge_advisor.weights.updates import DenseUpdate, LowRankUpdate, digest_of_delta, inner, inner_all
from tests.support.models import END, parameter_shapes

ROWS = [
    ("### Instruction: say yes\n", "yes"),
    ("the cat\n", "sat on the mat"),
    ("a longer prompt than this, no?\n", "no"),
]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


@pytest.fixture(scope="module")
def t5(tiny_t5: Path) -> Backbone:
    return load_backbone(tiny_t5, threads=1)


def random_delta(
    backbone: Backbone, seed: int, names: tuple[str, ...] = ("q_proj", "v_proj"), rank: int = 3, scale: float = 0.5
) -> dict[str, LowRankUpdate]:
    rng = np.random.default_rng(seed)
    return {
        name: LowRankUpdate(
            rng.normal(0, 0.2, (rank, shape[1])).astype(np.float32),
            rng.normal(0, 0.2, (shape[0], rank)).astype(np.float32),
            scale,
        )
        for name, shape in parameter_shapes(backbone).items()
        if name.removesuffix(".weight").endswith(names)
    }


def test_a_b_a_is_bit_equal_and_leaves_no_trace(llama: Backbone, tiny_pool: Path) -> None:
    a, b = (read_adapter(tiny_pool / name, parameter_shapes(llama)) for name in ("a0", "b0"))
    before = {name: parameter.data.clone() for name, parameter in llama.memory.items()}
    base = probe_hidden(llama, PROBES)
    seen = []
    for delta in (a, b, a):
        with placed(llama, delta):
            seen.append(probe_hidden(llama, PROBES))
    assert np.array_equal(seen[0], seen[2])
    assert np.abs(seen[0] - seen[1]).max() > 1e-2
    assert np.array_equal(base, probe_hidden(llama, PROBES))
    assert all((parameter.data == before[name]).all() for name, parameter in llama.memory.items())


def test_an_error_inside_the_block_takes_the_candidate_off(llama: Backbone) -> None:
    base = probe_hidden(llama, PROBES[:1])
    with pytest.raises(ZeroDivisionError), placed(llama, random_delta(llama, 1)):
        raise ZeroDivisionError
    assert np.array_equal(base, probe_hidden(llama, PROBES[:1]))


def test_probes_in_one_batch_equal_single_forwards(llama: Backbone) -> None:
    """The paper takes each probe alone, without padding."""
    import torch

    together = probe_hidden(llama, PROBES)[0]
    for row, probe in zip(together, PROBES, strict=True):
        ids = llama.tokenizer(probe, return_tensors="pt").input_ids
        with torch.no_grad():
            alone = llama.model(ids, output_hidden_states=True).hidden_states[-1][0, -1].numpy()
        np.testing.assert_allclose(row, alone, atol=2e-6)


def test_half_precision_runs_the_factors_beside_the_weight(tiny_llama: Path) -> None:
    full, half = load_backbone(tiny_llama), load_backbone(tiny_llama, dtype="bfloat16")
    delta = random_delta(full, 3)
    features = []
    for backbone in (full, half):
        base = probe_hidden(backbone, PROBES).mean(1)[0]
        originals = {name: parameter.data_ptr() for name, parameter in backbone.memory.items()}
        with placed(backbone, delta):
            features.append(probe_hidden(backbone, PROBES).mean(1)[0] - base)
            same = all(backbone.memory[name].data_ptr() == place for name, place in originals.items())
        assert same == (backbone is half)  # float32 swaps weights, bfloat16 never touches them
    cosine = features[0] @ features[1] / np.linalg.norm(features[0]) / np.linalg.norm(features[1])
    assert cosine > 0.99


def test_several_adapters_in_one_forward(llama: Backbone) -> None:
    deltas = [random_delta(llama, 1), random_delta(llama, 2, names=("v_proj",), rank=5), random_delta(llama, 3)]
    with placed_together(llama, deltas):
        together = probe_hidden(llama, PROBES, copies=3)
    for delta, rows in zip(deltas, together, strict=True):
        with placed(llama, delta):
            np.testing.assert_allclose(rows, probe_hidden(llama, PROBES)[0], atol=5e-6)


def test_dense_updates_and_wrong_shapes(llama: Backbone) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    shape = parameter_shapes(llama)[name]
    update = DenseUpdate(np.full(shape, 0.01, np.float32))
    base = probe_hidden(llama, PROBES[:1])
    with placed(llama, {name: update}):
        assert np.abs(probe_hidden(llama, PROBES[:1]) - base).max() > 1e-3
    with (
        pytest.raises(PoolError, match="another base or size"),
        placed(llama, {name: DenseUpdate(np.zeros((2, 2), np.float32))}),
    ):
        pass
    with pytest.raises(PoolError, match="belongs to another base"), placed(llama, {"nothing.weight": update}):
        pass


def test_transposed_updates_are_laid_as_the_base_stores_them(llama: Backbone) -> None:
    name = "model.layers.0.self_attn.v_proj.weight"
    rng = np.random.default_rng(0)
    out, width = parameter_shapes(llama)[name]
    update = LowRankUpdate(
        rng.normal(size=(2, out)).astype(np.float32), rng.normal(size=(width, 2)).astype(np.float32), 0.3, True
    )
    assert update.shape == (out, width)
    with placed(llama, {name: update}):
        seen = llama.memory[name].data.numpy().copy()
    np.testing.assert_allclose(seen - llama.memory[name].data.numpy(), update.dense(), atol=1e-5)


def test_row_losses_equal_the_models_own(llama: Backbone) -> None:
    import torch

    rows = encode(llama, ROWS, max_length=128)
    found = row_losses(llama, rows)
    for row, loss in zip(rows, found, strict=True):
        ids = torch.tensor([row.prompt + row.completion])
        labels = ids.clone()
        labels[0, : len(row.prompt)] = -100
        with torch.no_grad():
            expected = float(llama.model(ids, labels=labels).loss)
        assert loss == pytest.approx(expected, abs=1e-5)


PREAMBLE = "Below is an instruction that describes a task.\n### Instruction: "


def test_a_shared_preamble_changes_no_loss_no_gradient_and_no_answer(llama: Backbone) -> None:
    import torch

    from merge_advisor.backbone.generate import greedy
    from merge_advisor.backbone.prefix import shared_prefix

    rows = encode(llama, [(PREAMBLE + prompt, answer) for prompt, answer in ROWS], max_length=128)
    prompts = [row.prompt for row in rows]
    assert shared_prefix(llama, prompts) >= len(llama.tokenizer(PREAMBLE[:-1])["input_ids"]) - 1 > 8
    assert shared_prefix(llama, prompts[:1]) == 0 and shared_prefix(llama, [(1, 2, 3), (1, 2, 4)]) == 0
    assert shared_prefix(llama, [prompts[0], prompts[0]]) == len(prompts[0]) - 1
    alone = [row_losses(llama, [row])[0] for row in rows]
    np.testing.assert_allclose(row_losses(llama, rows), alone, atol=2e-6)
    name = "model.layers.0.self_attn.v_proj.weight"
    together = loss_and_gradient(llama, rows, [name])[1][name]
    apart = np.mean([loss_and_gradient(llama, [row], [name])[1][name] for row in rows], axis=0)
    np.testing.assert_allclose(together, apart, atol=1e-6)
    for prompt, answer in zip(prompts, greedy(llama, prompts, max_new_tokens=6), strict=True):
        with torch.no_grad():
            ids = llama.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=6)[
                0, len(prompt) :
            ].tolist()
        assert answer == (ids[: ids.index(llama.end_id)] if llama.end_id in ids else ids)


def test_row_losses_of_an_encoder_decoder(t5: Backbone) -> None:
    import torch

    rows = encode(t5, ROWS, max_length=128)
    for row, loss in zip(rows, row_losses(t5, rows), strict=True):
        with torch.no_grad():
            out = t5.model(input_ids=torch.tensor([row.prompt]), labels=torch.tensor([row.completion]))
        assert loss == pytest.approx(float(out.loss), abs=1e-5)


def test_encoder_decoder_features_move(t5: Backbone) -> None:
    base = probe_hidden(t5, PROBES)
    assert base.shape == (1, 5, 32)
    rng = np.random.default_rng(0)
    name = "decoder.block.0.layer.1.EncDecAttention.v.weight"
    delta = {
        name: LowRankUpdate(rng.normal(size=(2, 32)).astype(np.float32), rng.normal(size=(32, 2)).astype(np.float32))
    }
    with placed(t5, delta):
        assert np.abs(probe_hidden(t5, PROBES) - base).max() > 1e-3
    assert np.array_equal(base, probe_hidden(t5, PROBES))


def test_gradient_predicts_the_change_of_the_loss(llama: Backbone) -> None:
    rows = encode(llama, ROWS, max_length=128)
    delta = {name: update.times(1e-3) for name, update in random_delta(llama, 5).items()}
    gradient = loss_and_gradient(llama, rows, sorted(delta))[1]
    predicted = sum(float((gradient[name] * update.dense()).sum()) for name, update in delta.items())
    before = float(np.mean(row_losses(llama, rows)))
    with placed(llama, delta):
        after = float(np.mean(row_losses(llama, rows)))
    assert after - before == pytest.approx(predicted, rel=0.1)
    assert not any(parameter.requires_grad for parameter in llama.memory.values())


@pytest.mark.parametrize("which", ["llama", "t5"])
def test_finetuning_lowers_the_loss_and_repeats_bit_for_bit(which: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(which)
    rows = encode(backbone, ROWS, max_length=128)
    targets = [
        name for name in backbone.memory if name.removesuffix(".weight").endswith(("q_proj", "v_proj", ".q", ".v"))
    ]
    settings = FinetuneSettings(rank=4, lr=2e-2, steps=40, batch_size=2)
    deltas = [finetune_lora(backbone, rows, targets, settings, seed=7).delta for _ in range(2)]
    assert digest_of_delta(deltas[0]) == digest_of_delta(deltas[1])
    before = np.mean(row_losses(backbone, rows))
    with placed(backbone, deltas[0]):
        assert np.mean(row_losses(backbone, rows)) < 0.7 * before
    assert np.mean(row_losses(backbone, rows)) == before


@pytest.mark.parametrize("which", ["llama", "t5"])
def test_watched_rows_tell_when_to_stop(which: str, request: pytest.FixtureRequest) -> None:
    """Rows learnt by heart make others worse: the LoRA that is kept is the one of the least watched loss."""
    backbone = request.getfixturevalue(which)
    rows = encode(backbone, ROWS, max_length=128)
    watch = encode(backbone, [("the cat\n", "ran away from the dog"), ("a dog, no?\n", "cat")], max_length=128)
    targets = [
        name for name in backbone.memory if name.removesuffix(".weight").endswith(("q_proj", "v_proj", ".q", ".v"))
    ]
    settings = FinetuneSettings(rank=4, lr=5e-2, epochs=60)
    found = finetune_lora(backbone, rows, targets, settings, seed=1, watch=watch)
    assert found.steps < found.taken < settings.steps_for(len(rows), watched=True) == 60
    with placed(backbone, found.delta):
        assert np.mean(row_losses(backbone, watch)) == pytest.approx(min(found.watched), rel=1e-4)
    assert found.watched[-1] > min(found.watched) == found.watched[-3]
    exact = finetune_lora(backbone, rows, targets, replace(settings, steps=7), seed=1, watch=watch)
    assert (exact.steps, exact.taken, exact.watched) == (7, 7, ())


def test_steps_of_a_finetune() -> None:
    settings = FinetuneSettings()
    assert settings.steps_for(20) == 10 and settings.steps_for(20, watched=True) == 40
    assert settings.steps_for(5) == 8 and settings.steps_for(2) == 8
    assert FinetuneSettings(epochs=1).steps_for(20) == 5
    assert FinetuneSettings(steps=3).steps_for(20, watched=True) == 3


def test_a_finetune_that_diverges_says_so(llama: Backbone) -> None:
    rows = encode(llama, ROWS, max_length=128)
    targets = ["model.layers.0.self_attn.q_proj.weight"]
    with pytest.raises(InputError, match="lower `lr`"):
        finetune_lora(llama, rows, targets, FinetuneSettings(lr=1e30, steps=5), seed=0)
    with pytest.raises(InputError, match="below 1"):
        FinetuneSettings(epochs=0)
    for wrong in ({"steps": 0}, {"lr": float("nan")}, {"lr": float("inf")}, {"alpha": float("nan")}):
        with pytest.raises(InputError, match="give positive, smaller ones"):
            FinetuneSettings(**wrong)


def test_encoding_cuts_the_prompt_on_the_left_and_refuses_long_answers(llama: Backbone) -> None:
    long = "x " * 500
    row = encode(llama, [(long + "end\n", "yes")], max_length=32)[0]
    whole = llama.tokenizer(long + "end\n", add_special_tokens=False)["input_ids"]
    assert len(row) == 32 and list(row.prompt) == whole[-len(row.prompt) :]
    assert row.completion[-1] == llama.end_id
    with pytest.raises(TaskError, match="row 7f: its answer takes"):
        encode(llama, [("a", long)], max_length=32, names=["row 7f"])


@pytest.mark.parametrize("written", ["", END])
def test_a_begin_token_comes_once_whoever_writes_it(llama: Backbone, written: str) -> None:
    """The tokenizer puts one before every text, and a chat template writes it as text."""
    begun = beginning(llama)
    row = encode(begun, [(f"{written}the cat", "sat")], max_length=64)[0]
    begin = begun.tokenizer.bos_token_id
    assert row.prompt == (begin, *encode(llama, [("the cat", "sat")], max_length=64)[0].prompt)
    # no cut takes it away
    short = encode(begun, [(f"{written}{'x ' * 500}", "sat")], max_length=32)[0]
    assert len(short) == 32 and short.prompt[0] == begin and begin not in short.prompt[1:]


def beginning(llama: Backbone) -> Backbone:
    """The same base with a tokenizer that begins and ends texts with a token of its own, as Llama 3's begins them."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.bos_token = END
    around = [(END, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{END} $A {END}", special_tokens=around)
    return replace(llama, tokenizer=tokenizer)


def test_what_the_tokenizer_adds_before_a_text_is_asked_of_it(llama: Backbone, tmp_path: Path) -> None:
    begun = beginning(llama)
    assert llama.lead == () and begun.lead == (begun.tokenizer.bos_token_id,)
    for backbone, adds in ((llama, False), (begun, True)):
        backbone.tokenizer.save_pretrained(tmp_path / str(adds))
        assert adds_begin_token(tmp_path / str(adds)) == adds
    config = tmp_path / "True" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"add_bos_token": False}))
    assert not adds_begin_token(tmp_path / "True")
    (tmp_path / "sentencepiece").mkdir()
    (tmp_path / "sentencepiece" / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    assert adds_begin_token(tmp_path / "sentencepiece") and not adds_begin_token(tmp_path)


def test_plain_texts_begin_alike(llama: Backbone) -> None:
    begun = beginning(llama)
    ids = llama.tokenizer("the cat sat", add_special_tokens=False)["input_ids"]
    row = EncodedRow((begun.tokenizer.bos_token_id,), tuple(ids))
    assert text_losses(begun, ["the cat sat"]) == pytest.approx(row_losses(begun, [row]))
    assert text_losses(llama, ["the cat sat"]) == pytest.approx(
        row_losses(llama, [EncodedRow(tuple(ids[:1]), tuple(ids[1:]))])
    )


def test_batches_hold_like_lengths_and_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge_advisor.backbone.encoding.TOKENS_PER_BATCH", 100)
    rows = [EncodedRow((1,) * length, (2,)) for length in (5, 90, 7, 40, 300, 6)]
    found = list(batches(rows))
    assert sorted(index for batch in found for index in batch) == list(range(6))
    assert all(max(len(rows[i]) for i in batch) * len(batch) <= 100 or len(batch) == 1 for batch in found)


def test_text_losses_and_generation(llama: Backbone, t5: Backbone) -> None:
    assert all(np.isfinite(text_losses(llama, ["the cat sat on the mat", "a"])))
    assert all(np.isfinite(text_losses(t5, ["the cat sat on the mat"])))
    assert isinstance(generate(llama, "the cat", max_new_tokens=4), str)
    assert isinstance(generate(t5, "the cat", max_new_tokens=4), str)


def test_inner_products_without_the_dense_matrices(llama: Backbone) -> None:
    a, b = random_delta(llama, 1), random_delta(llama, 2, rank=5)
    name = next(iter(a))
    assert inner(a[name], b[name]) == pytest.approx(float((a[name].dense() * b[name].dense()).sum()), rel=1e-4)
    assert inner_all(a, a) == pytest.approx(sum(float((u.dense() ** 2).sum()) for u in a.values()), rel=1e-4)


def test_what_cannot_be_loaded(tmp_path: Path, tiny_llama: Path) -> None:
    with pytest.raises(BaseModelError, match="dtype 'int8' is unknown"):
        load_backbone(tiny_llama, dtype="int8")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_backbone(tmp_path)


SMALL = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "packs"),
    [("gpt2", True), ("qwen3", True), ("phi3", True), ("falcon", True), ("gptj", True), ("bloom", False)],
)
def test_short_rows_in_one_sequence_have_the_losses_they_have_alone(kind: str, packs: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from merge_advisor.backbone.losses import batch_losses
    from merge_advisor.backbone.packing import can_pack
    from merge_advisor.backbone.prefix import can_share

    torch.manual_seed(0)
    extra = {"rotary_dim": 4} if kind == "gptj" else {"head_dim": 8} if kind == "qwen3" else {}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL, **extra)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    backbone: Any = SimpleNamespace(
        model=model, tokenizer=SimpleNamespace(pad_token_id=0), device=torch.device("cpu"), closing=(),
        dtype=torch.float32,
        encoder_decoder=False,
    )  # fmt: skip
    assert can_share(backbone) and can_pack(backbone) == packs
    rng = np.random.default_rng(0)
    front = tuple(rng.integers(3, 99, 9).tolist())
    rows = [
        EncodedRow(front + tuple(rng.integers(3, 99, one).tolist()), tuple(rng.integers(3, 99, two).tolist()))
        for one, two in ((3, 2), (6, 4), (1, 1), (6, 3))
    ]
    widths = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with torch.inference_mode():
        together = batch_losses(backbone, rows)
    hook.remove()
    assert widths == ([(1, 9 + sum(len(row) - 9 for row in rows))] if packs else [(1, 9), (4, 10)])
    alone = np.array([float(batch_losses(backbone, [row])) for row in rows])
    np.testing.assert_allclose(together.numpy(), alone, atol=5e-6)
