"""Adapters trained beside another vocabulary than the base's: rows of both count, and what PEFT saves twice is one."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.advisor.runs.renderings import _copied, _needs_copy
from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.errors import PoolError
from merge_advisor.pool.candidate import examine_candidate
from merge_advisor.pool.fitted_rows import fitted_adapter
from merge_advisor.pool.merged_by_peft import PeftMerges
from merge_advisor.pool.sources import FoundModel
from merge_advisor.types import Candidate
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.hub import Snapshot
from merge_advisor.weights.opened import read_candidate
from tests.support.models import build_tokenizer
from tests.support.peft_adapters import ATTENTION, in_this_process, needs_peft, peft_logits

ROWS = 320


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("untied") / "untied"
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return resolve_base(str(folder), cache=folder.parent)


def ids() -> Any:
    import torch

    chosen = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    chosen[0, 0] = 3
    return chosen


def resized(base: Path, folder: Path, more: int, config: Any, *, save: Any = "auto") -> Any:
    """Have PEFT save an adapter that was trained beside a base of more tokens; what it gives for the base's own."""
    import peft
    import torch
    from transformers import LlamaForCausalLM

    with warnings.catch_warnings(action="ignore"):
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        model.resize_token_embeddings(ROWS + more, mean_resizing=False)
        config.task_type = "CAUSAL_LM"
        tuned = peft.get_peft_model(model, config).eval()
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        tuned.peft_config["default"].base_model_name_or_path = str(base)
        tuned.save_pretrained(folder, save_embedding_layers=save)
        with torch.no_grad():
            return tuned(input_ids=ids()).logits[..., :ROWS]


def opened(folder: Path, base: LocalBase, cache: Path) -> Candidate:
    merges = PeftMerges(base, cache, {}, run=in_this_process)
    if needs_peft(folder, base):
        merges.prepare([folder])
    return examine_candidate(FoundModel(folder.name, folder), Snapshot(folder, ""), base, {}, merges)


def check(base: LocalBase, candidate: Candidate, wanted: Any) -> None:
    import torch

    backbone = load_backbone(base.path, threads=1)
    with torch.no_grad(), placed(backbone, read_candidate(candidate, base)):
        ours = backbone.model(input_ids=ids()).logits
    shared = min(ours.shape[-1], wanted.shape[-1])
    assert float((ours[..., :shared] - wanted[..., :shared]).abs().max()) < 1e-4


GROWN: dict[str, Callable[[Any], Any]] = {
    "whole modules": lambda peft: peft.LoraConfig(
        r=4, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]
    ),
    "new tokens": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=[ROWS, ROWS + 1]),
    "old and new tokens": lambda peft: peft.LoraConfig(
        r=4, target_modules=ATTENTION, trainable_token_indices={"embed_tokens": [ROWS, 3, ROWS + 1]}
    ),
    "lora on the embedding": lambda peft: peft.LoraConfig(r=4, target_modules=[*ATTENTION, "embed_tokens"]),
    "lora on the head": lambda peft: peft.LoraConfig(r=4, target_modules=[*ATTENTION, "lm_head"]),
    "dora on the head": lambda peft: peft.LoraConfig(r=4, target_modules=[*ATTENTION, "lm_head"], use_dora=True),
}


@pytest.mark.parametrize("name", GROWN)
def test_rows_of_new_tokens_are_left_out_and_said(name: str, untied: LocalBase, tmp_path: Path) -> None:
    import peft

    wanted = resized(untied.path, tmp_path / "x", 2, GROWN[name](peft))
    candidate = opened(tmp_path / "x", untied, tmp_path / "cache")
    check(untied, candidate, wanted)
    assert "resized from 320 to 322 rows: the first 320 count, the others are left out" in str(candidate.notes)


@pytest.mark.parametrize(
    ("more", "tokens"), [(2, [ROWS, ROWS + 1]), (2, [ROWS, 3]), (2, {"embed_tokens": [3, ROWS]}), (0, [3, 7])]
)
def test_tokens_of_a_tied_base_which_peft_saves_for_its_head_as_well(
    more: int, tokens: Any, base: LocalBase, tmp_path: Path
) -> None:
    import peft

    config = peft.LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=tokens)
    wanted = resized(base.path, tmp_path / "x", more, config, save=True)
    check(base, opened(tmp_path / "x", base, tmp_path / "cache"), wanted)


def test_what_trains_new_tokens_alone_is_nothing_here(base: LocalBase, tmp_path: Path) -> None:
    import peft

    resized(base.path, tmp_path / "x", 2, peft.TrainableTokensConfig(token_indices=[ROWS]))
    with pytest.raises(PoolError, match="trains tokens alone that the base does not have; give the base it had"):
        opened(tmp_path / "x", base, tmp_path / "cache")


@pytest.mark.parametrize("dora", [False, True])
def test_rows_that_only_the_base_has_are_its_own(dora: bool, base: LocalBase, tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(r=4, target_modules=ATTENTION, use_dora=dora)
    wanted = resized(base.path, tmp_path / "x", -8, config, save=True)
    candidate = opened(tmp_path / "x", base, tmp_path / "cache")
    check(base, candidate, wanted)
    assert ("its vocabulary has 312 of the base's 320 rows" in str(candidate.notes)) == dora
    assert bool(candidate.delta_path) == dora  # equal rows beside plain LoRA are no change at all


def test_whole_modules_that_peft_saves_three_times_are_one(untied: LocalBase, tmp_path: Path) -> None:
    import peft

    wanted = resized(untied.path, tmp_path / "x", 0, GROWN["whole modules"](peft), save=True)
    path = tmp_path / "x" / "adapter_model.safetensors"
    assert sum("lm_head" in key for key in load_file(path)) == 3
    candidate = opened(tmp_path / "x", untied, tmp_path / "cache")
    check(untied, candidate, wanted)
    tensors = load_file(path)
    tensors["base_model.model.lm_head.modules_to_save.weight"] += 1  # not what PEFT would load
    save_file(tensors, path)
    with pytest.raises(PoolError, match="PEFT passes over 1 of its tensors"):
        opened(tmp_path / "x", untied, tmp_path / "cache")


def test_other_programs_are_given_the_form_that_peft_loads(untied: LocalBase, tmp_path: Path) -> None:
    import peft

    wanted = resized(untied.path, tmp_path / "x", 2, GROWN["whole modules"](peft))
    candidate = opened(tmp_path / "x", untied, tmp_path / "cache")
    assert candidate.kind == "dense" and _needs_copy(candidate, untied)
    copy = tmp_path / _copied(candidate, untied, tmp_path)
    assert float((peft_logits(untied.path, copy, ids()) - wanted).abs().max()) < 1e-4
    config = peft.LoraConfig(r=4, target_modules=ATTENTION, use_dora=True)
    resized(untied.path, tmp_path / "own", 0, config)
    assert not _needs_copy(opened(tmp_path / "own", untied, tmp_path / "cache"), untied)


def test_half_precision_and_other_tensors_stay_as_they_are(untied: LocalBase, tmp_path: Path) -> None:
    folder, target = tmp_path / "x", tmp_path / "target"
    for place in (folder, target):
        place.mkdir()
    rng = np.random.default_rng(0)
    key = "base_model.model.model.embed_tokens.weight"
    tensors: dict[str, Any] = {key: rng.normal(size=(ROWS + 1, 32)).astype(np.float16), "other": np.arange(5)}
    save_file(tensors, folder / "adapter_model.safetensors")
    assert fitted_adapter(folder, {"r": 4}, untied, target) is not None
    found = load_file(target / "adapter_model.safetensors")
    assert np.array_equal(found[key], tensors[key][:ROWS]) and found[key].dtype == np.float16
    assert np.array_equal(found["other"], tensors["other"])
    assert json.loads((target / "adapter_config.json").read_text()) == {"r": 4}


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 2)])
@pytest.mark.parametrize("part", ["lora_embedding_A", "weight", "token_adapter.trainable_tokens_delta"])
def test_what_is_no_matrix_is_left_for_peft_to_refuse(
    part: str, shape: tuple[int, ...], untied: LocalBase, tmp_path: Path
) -> None:
    tensors = {f"base_model.model.model.embed_tokens.{part}": np.ones(shape, np.float32)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert fitted_adapter(tmp_path, {"trainable_token_indices": [3, ROWS]}, untied, tmp_path) is None


@pytest.mark.parametrize("dora", [False, True])
def test_the_embedding_of_a_tied_base_is_trained_with_its_head_or_not_at_all(
    dora: bool, base: LocalBase, untied: LocalBase, tmp_path: Path
) -> None:
    """What the refusal names as remedies does work."""
    import peft

    def config() -> Any:
        return peft.LoraConfig(r=4, target_modules=[*ATTENTION, "embed_tokens"], use_dora=dora)

    resized(base.path, tmp_path / "apart", 0, config())
    with pytest.raises(PoolError, match=r"in this base are one weight: .* ensure_weight_tying.* head of its own"):
        opened(tmp_path / "apart", base, tmp_path / "cache")
    together = peft.LoraConfig(
        r=4, target_modules=ATTENTION, use_dora=dora, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    wanted = resized(base.path, tmp_path / "tied", 0, together)
    check(base, opened(tmp_path / "tied", base, tmp_path / "cache"), wanted)
    wanted = resized(untied.path, tmp_path / "untied", 0, config())
    check(untied, opened(tmp_path / "untied", untied, tmp_path / "cache"), wanted)
