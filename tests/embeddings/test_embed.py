"""Deltas: every registered embedding keeps the contract, and Delta Activations equal the plain PEFT loop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor import registry
from merge_advisor.arrays import Float32Array
from merge_advisor.backbone import forward, prefix
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.embeddings import PROBES
from merge_advisor.embeddings.activations import DeltaActivations
from merge_advisor.errors import BaseModelError, SpaceMismatchError
from merge_advisor.spaces import Space, same_space
from merge_advisor.weights.adapter import read_adapter
from tests.support.architectures import ARCHITECTURES, build_model
from tests.support.models import parameter_shapes, write_lora

NAMES = registry.names("embedding")


@pytest.fixture(scope="module")
def bases(tiny_llama: Path, tiny_t5: Path) -> dict[str, Backbone]:
    return {"llama": load_backbone(tiny_llama, threads=1), "t5": load_backbone(tiny_t5, threads=1)}


@pytest.fixture(scope="module")
def adapters(tiny_pool: Path, tiny_t5_pool: Path) -> dict[str, list[Path]]:
    return {"llama": sorted(tiny_pool.iterdir()), "t5": sorted(tiny_t5_pool.iterdir())}


def cosine(a: Float32Array, b: Float32Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def plain_peft_loop(folder: Path, base: Path, seq2seq: bool = False) -> Float32Array:
    """What the public scripts do, one candidate on a fresh base, each probe alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(base, dtype=torch.float32)

    def mean_state(model: Any) -> Float32Array:
        states = []
        for probe in PROBES:
            batch = tokenizer(probe, return_tensors="pt", truncation=True, max_length=256)
            with torch.no_grad():
                if seq2seq:
                    start = torch.tensor([[model.config.decoder_start_token_id]])
                    out = model(input_ids=batch.input_ids, decoder_input_ids=start, output_hidden_states=True)
                    states.append(out.decoder_hidden_states[-1][0, -1].numpy())
                else:
                    states.append(model(batch.input_ids, output_hidden_states=True).hidden_states[-1][0, -1].numpy())
        mean: Float32Array = np.mean(states, axis=0)
        return mean

    before = mean_state(model)
    return mean_state(PeftModel.from_pretrained(model, folder)) - before


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_delta_activations_equal_the_plain_peft_loop(
    kind: str, bases: Any, adapters: Any, tiny_llama: Path, tiny_t5: Path
) -> None:
    backbone = bases[kind]
    base = DeltaActivations().features(backbone)
    for folder in adapters[kind]:
        with placed(backbone, read_adapter(folder, parameter_shapes(backbone))):
            delta = DeltaActivations().features(backbone) - base
        expected = plain_peft_loop(folder, tiny_llama if kind == "llama" else tiny_t5, seq2seq=kind == "t5")
        assert cosine(delta, expected) >= 0.99999, folder.name
        np.testing.assert_allclose(delta, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("name", NAMES)
def test_every_embedding(name: str, kind: str, bases: Any, adapters: Any) -> None:
    backbone, embedding = bases[kind], registry.build("embedding", name)
    if embedding.refusal(backbone.encoder_decoder):
        assert (name, kind) == ("delta_activations_encoder", "llama")
        return
    base = embedding.features(backbone)
    assert base.shape == (embedding.dim(backbone.model.config.to_dict()),) and base.dtype == np.float32
    seen = []
    for folder in (*adapters[kind][:2], adapters[kind][0]):
        with placed(backbone, read_adapter(folder, parameter_shapes(backbone))):
            seen.append(embedding.features(backbone) - base)
    assert np.array_equal(seen[0], seen[2]) and np.isfinite(seen[0]).all()
    assert np.linalg.norm(seen[0]) > 1e-3 and not np.allclose(seen[0], seen[1])
    assert np.array_equal(base, embedding.features(backbone))
    assert embedding.probes() and embedding.source and embedding.layer and embedding.pooling


@pytest.mark.parametrize("name", NAMES)
def test_what_an_embedding_costs_is_the_rows_that_go_through_the_model(
    name: str, bases: dict[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    # rows packed into one sequence, or sharing a prefix, could not be counted one by one
    monkeypatch.setattr(forward, "PACKED_TOKENS", 0)
    monkeypatch.setattr(prefix, "SHORTEST_PREFIX", 10**9)
    embedding = registry.build("embedding", name)
    assert embedding.forwards == (40 if name == "delta_meaning" else 5)
    for backbone in bases.values():
        if embedding.refusal(backbone.encoder_decoder):
            continue
        rows: list[int] = []

        def count(module: object, args: tuple[Any, ...], kwargs: dict[str, Any], rows: list[int] = rows) -> None:
            rows.append(len(kwargs["input_ids"]))

        reader = backbone.model.get_encoder() if backbone.encoder_decoder else backbone.model.base_model
        handle = reader.register_forward_pre_hook(count, with_kwargs=True)
        try:
            embedding.features(backbone)
        finally:
            handle.remove()
        assert sum(rows) == embedding.forwards


@pytest.mark.parametrize("name", [name for name in NAMES if name != "delta_activations_encoder"])
def test_deltas_find_the_family(name: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    found = ma.embed(pool=tiny_pool, base=str(tiny_llama), embedding=name, cache=tmp_path)
    unit = found.array / np.linalg.norm(found.array, axis=1, keepdims=True)
    likeness = unit @ unit.T - 2 * np.eye(len(unit))
    assert [found.ids[i][0] for i in likeness.argmax(1)] == [identity[0] for identity in found.ids]


def test_an_embedding_that_needs_an_encoder(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="has no encoder; use delta_activations"):
        ma.embed(pool=tiny_pool, base=str(tiny_llama), embedding="delta_activations_encoder", cache=tmp_path)


def test_spaces_never_mix() -> None:
    one = Space("base", "delta_activations", "probes", "last", "mean", "float32", 3)
    other = Space("base", "delta_activations", "probes", "last", "mean", "bfloat16", 3)
    same_space(one, one)
    with pytest.raises(SpaceMismatchError, match="dtype: float32 and bfloat16"):
        same_space(one, other)


def test_a_base_that_takes_images_is_embedded_by_its_text(tmp_path: Path) -> None:
    base = build_model("llava", tmp_path / "llava")
    write_lora(tmp_path / "pool" / "x", ARCHITECTURES["llava"], seed=1, std=0.2)
    found = ma.embed(pool=tmp_path / "pool", base=str(base), cache=tmp_path / "cache")
    assert found.array.shape == (1, 32) and np.abs(found.array).max() > 1e-3
