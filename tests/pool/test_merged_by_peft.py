"""Adapters that are more than plain LoRA: what PEFT makes of them is what we place on the base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.errors import PoolError
from merge_advisor.pool import open_pool, peft_child
from merge_advisor.pool.candidate import examine_candidate
from merge_advisor.pool.merged_by_peft import PeftMerges
from merge_advisor.pool.sources import FoundModel
from merge_advisor.types import Candidate
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.hub import Snapshot
from merge_advisor.weights.opened import read_candidate
from merge_advisor.weights.updates import LowRankUpdate
from tests.support.architectures import build_model
from tests.support.models import LLAMA_MODULES, write_lora
from tests.support.peft_adapters import (
    ATTENTION,
    KINDS,
    WITH_FACTORS,
    in_this_process,
    logits,
    make_adapter,
    needs_peft,
    peft_logits,
)

QUICK = {"dora", "modules_to_save", "ia3"}
"""Kinds that are tested in every run; the others take as long again."""


def opened(folder: Path, base: LocalBase, cache: Path) -> Candidate:
    """The candidate in a folder, merged by PEFT."""
    merges = PeftMerges(base, cache, {}, run=in_this_process)
    assert needs_peft(folder, base)
    merges.prepare([folder])
    return examine_candidate(FoundModel(folder.name, folder), Snapshot(folder, ""), base, {}, merges)


def check_logits(base: LocalBase, folder: Path, candidate: Candidate, *, apart: float = 1e-5) -> None:
    """Ours with the candidate placed are plain PEFT's with the adapter beside, and not the base's."""
    import torch

    backbone = load_backbone(base.path, threads=1)
    ids = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    ids[0, :2] = torch.tensor([3, 7])  # the tokens that some of them train
    theirs = peft_logits(base.path, folder, ids)
    with torch.no_grad():
        plain = logits(backbone.model, ids)
        with placed(backbone, read_candidate(candidate, base)):
            ours = logits(backbone.model, ids)
    assert float((theirs - ours).abs().max()) < apart
    assert float((theirs - plain).abs().max()) > 1e-4


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    return resolve_base(str(tiny_llama), cache=tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def untied(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    """A base with biases and a head of its own."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=None,
    )  # fmt: skip
    return saved(Qwen2ForCausalLM(config), tiny_llama, tmp_path_factory.mktemp("untied") / "untied")


@pytest.fixture(scope="module")
def conv1d(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    """A base that stores its weights as (in, out)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    return saved(GPT2LMHeadModel(config), tiny_llama, tmp_path_factory.mktemp("conv1d") / "conv1d")


def saved(model: Any, tokenizer: Path, folder: Path) -> LocalBase:
    import torch

    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    for file in tokenizer.glob("token*"):
        shutil.copy(file, folder)
    return resolve_base(str(folder), cache=folder.parent)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_a_candidate_gives_the_logits_that_plain_peft_gives(base: LocalBase, tmp_path: Path, name: str) -> None:
    import peft

    size = 0.01 if name == "randlora" else 0.05  # its change is large, and rounds by as much
    folder = make_adapter(base.path, tmp_path / "pool" / "odd", KINDS[name](peft), size=size)
    candidate = opened(folder, base, tmp_path / "cache")
    check_logits(base, folder, candidate)
    assert candidate.kind == ("adapter" if name in WITH_FACTORS else "dense")
    assert "merged by PEFT" in candidate.notes[0]


@pytest.mark.parametrize("name", [pytest.param("qwen3_moe", marks=pytest.mark.slow), "mixtral"])
def test_experts_that_peft_trains_as_one_weight(name: str, tmp_path: Path) -> None:
    import peft

    local = resolve_base(str(build_model(name, tmp_path / "base")), cache=tmp_path)
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=targets)
    folder = make_adapter(local.path, tmp_path / "odd", config)
    candidate = opened(folder, local, tmp_path / "cache")
    check_logits(local, folder, candidate, apart=3e-5)
    delta = read_candidate(candidate, local)
    experts = [name for name in local.shapes if ".experts." in name]
    assert candidate.kind == "adapter" and candidate.rank == 2, "each expert has factors of its own"
    assert sorted(delta) == sorted(experts)


OF_TEXT = r".*language_model.*\.(q_proj|v_proj)"


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("llava", "loha"), pytest.param("llava", "dora", marks=pytest.mark.slow),
        pytest.param("gemma3", "dora", marks=pytest.mark.slow), pytest.param("gemma3", "loha", marks=pytest.mark.slow),
        ("qwen2_vl", "dora"), pytest.param("qwen2_vl", "loha", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_text_part_of_a_base_that_takes_images(architecture: str, kind: str, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForImageTextToText

    local = resolve_base(str(build_model(architecture, tmp_path / "base")), cache=tmp_path)
    config = KINDS[kind](peft)
    config.target_modules = OF_TEXT
    folder = make_adapter(local.path, tmp_path / "odd", config)
    candidate = opened(folder, local, tmp_path / "cache")
    check_logits(local, folder, candidate)
    plain = AutoModelForImageTextToText.from_pretrained(local.path)
    merged = peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(local.path), folder)
    after = dict(merged.merge_and_unload().named_parameters())
    changes = {name: (after[name] - old).detach() for name, old in plain.named_parameters()}
    delta = read_candidate(candidate, local)
    assert len(delta) == sum(bool(change.any()) for change in changes.values()) == 4
    for name, update in delta.items():
        change = changes[local.shapes.places[name].parameter].numpy()
        np.testing.assert_allclose(update.dense(), change, atol=2e-6, err_msg=name)


def test_the_child_loads_what_the_base_is_loaded_as(tiny_llama: Path, tiny_t5: Path, tmp_path: Path) -> None:
    llava = build_model("llava", tmp_path / "llava")
    named = {
        tiny_llama: "AutoModelForCausalLM", tiny_t5: "AutoModelForSeq2SeqLM", llava: "AutoModelForImageTextToText"
    }  # fmt: skip
    for folder, loader in named.items():
        asked = PeftMerges(resolve_base(str(folder), cache=tmp_path), tmp_path / "cache", {})._asked([], tmp_path)
        assert asked["loader"] == loader


OF_UNTIED: dict[str, Callable[[Any], Any]] = {
    "bias lora_only": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, bias="lora_only"),
    "bias all": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, bias="all"),
    "lora_bias": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, lora_bias=True),
    "embedding": lambda peft: peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "embedding and head": lambda peft: peft.LoraConfig(
        r=4, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]
    ),
    "beft": lambda peft: peft.BeftConfig(target_modules=["v_proj"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_UNTIED)
def test_biases_embeddings_and_heads(untied: LocalBase, tmp_path: Path, name: str) -> None:
    import peft

    folder = make_adapter(untied.path, tmp_path / "odd", OF_UNTIED[name](peft))
    candidate = opened(folder, untied, tmp_path / "cache")
    check_logits(untied, folder, candidate)
    delta = read_candidate(candidate, untied)
    assert candidate.kind == "dense"
    # factors stand for a linear layer alone: nothing else can run beside its weight
    for update in (name for name in delta if isinstance(delta[name], LowRankUpdate)):
        assert update.endswith("_proj.weight")


@pytest.mark.slow
def test_a_base_that_stores_its_weights_the_other_way_round(conv1d: LocalBase, tmp_path: Path) -> None:
    import peft

    config = peft.LoraConfig(target_modules=["c_attn"], r=2, init_lora_weights="pissa", fan_in_fan_out=True)
    folder = make_adapter(conv1d.path, tmp_path / "pissa", config, size=0.02)
    candidate = opened(folder, conv1d, tmp_path / "cache")
    check_logits(conv1d, folder, candidate)
    delta = read_candidate(candidate, conv1d)
    update = delta[next(iter(delta))]
    assert isinstance(update, LowRankUpdate)
    assert (update.transposed, update.rank, update.a.shape, candidate.kind) == (True, 4, (4, 32), "adapter")


@pytest.mark.slow
def test_an_encoder_decoder(tiny_t5: Path, tmp_path: Path) -> None:
    import peft

    base = resolve_base(str(tiny_t5), cache=tmp_path)
    config = peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"])
    folder = make_adapter(base.path, tmp_path / "ia3", config, task_type="SEQ_2_SEQ_LM", size=0.02)
    check_logits(base, folder, opened(folder, base, tmp_path / "cache"), apart=3e-5)  # its logits are up to 16


def test_tokens_that_the_base_does_not_have_are_left_out_and_said(base: LocalBase, tmp_path: Path) -> None:
    """As PEFT saves an adapter whose base was given more tokens: the whole embedding beside the factors."""
    folder = write_lora(tmp_path / "chat", LLAMA_MODULES)
    path, embedding = folder / "adapter_model.safetensors", "model.embed_tokens.weight"
    rows = load_file(base.path / "model.safetensors")[embedding]
    more = np.concatenate([rows, np.ones((2, 32), np.float32)])
    save_file(load_file(path) | {f"base_model.model.{embedding}": more}, path)
    candidate = opened(folder, base, tmp_path / "cache")
    assert candidate.kind == "adapter"  # its own rows are the base's
    assert "resized from 320 to 322 rows: the first 320 count" in candidate.notes[1]
    ours, plain = read_candidate(candidate, base), read_adapter(folder, base.shapes)
    assert ours.keys() == plain.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name].dense(), plain[name].dense(), atol=1e-5)


def test_what_has_no_place_in_the_base_or_is_no_merge_is_refused(base: LocalBase, tmp_path: Path) -> None:
    """Each in one line that says why; and what was found out once is not tried again."""
    import peft

    config = {
        "on the tied embedding": peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
        "embedding apart": peft.LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["embed_tokens"]),
        "stray": peft.LoHaConfig(r=2, target_modules=ATTENTION),
        "short": peft.LoHaConfig(r=2, target_modules=ATTENTION),
        "nan": peft.LoHaConfig(r=2, target_modules=ATTENTION),
        "unheard": peft.LoHaConfig(r=2, target_modules=ATTENTION),
        "costly": peft.LoHaConfig(r=2, target_modules=ATTENTION),
    }
    reasons = {
        "on the tied embedding": "which in this base are one weight: merged, it would change both; train it whole",
        "embedding apart": "which in this base are one",
        "stray": "PEFT passes over 1 of its tensors, e.g. base_model.model.model.layers.9.self_attn",
        "short": "lacks tensors that its configuration asks for",
        "nan": "PEFT",
        "unheard": "peft_type 'TOMORROW' is no kind that PEFT",
        "costly": "the pattern '(a+)+$' in target_modules is too costly",
    }
    folders = {name: make_adapter(base.path, tmp_path / name, one) for name, one in config.items()}
    for name, folder in folders.items():
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        first = min(tensors)
        if name == "stray":
            save_file(tensors | {first.replace("layers.0", "layers.9"): tensors[first]}, path)
        elif name == "short":
            save_file({key: array for key, array in tensors.items() if key != first}, path)
        elif name == "nan":
            save_file(tensors | {first: np.full_like(tensors[first], np.nan)}, path)
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings |= {"peft_type": "TOMORROW"} if name == "unheard" else {}
        settings |= {"target_modules": "(a+)+$"} if name == "costly" else {}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    calls: list[int] = []

    def counted(asked: Any, *others: Any) -> Any:
        calls.append(len(asked["jobs"]))
        return in_this_process(asked, *others)

    hashes: dict[str, str] = {}
    for _ in range(2):
        merges = PeftMerges(base, tmp_path / "cache", hashes, run=counted)
        merges.prepare(folders.values())
        for name, folder in folders.items():
            with pytest.raises(PoolError) as caught:
                examine_candidate(FoundModel(name, folder), Snapshot(folder, ""), base, hashes, merges)
            assert reasons[name] in str(caught.value), name
            assert str(caught.value).isprintable()
    assert calls == [len(folders) - 1]


@pytest.mark.parametrize(
    "kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT", "XLORA", "POLY", "LILY"]
)
def test_what_is_no_change_of_weights_is_refused_before_anything_starts(
    base: LocalBase, tmp_path: Path, kind: str
) -> None:
    folder = write_lora(tmp_path / "x", LLAMA_MODULES, peft_type=kind)
    assert not needs_peft(folder, base)
    with pytest.raises(PoolError, match=f"{kind} .* is no change of the base's weights .* train it as LoRA"):
        open_pool(folder, base, cache=tmp_path / "cache")


def test_a_child_that_dies_is_told_and_the_next_goes_on(base: LocalBase, tmp_path: Path) -> None:
    import peft

    names = ("first", "second")
    folders = [
        make_adapter(base.path, tmp_path / name, peft.LoHaConfig(r=2, target_modules=ATTENTION), seed=seed)
        for seed, name in enumerate(names)
    ]

    def dies(asked: Any, *others: Any) -> Any:
        if len(asked["jobs"]) == 2:
            return [], "the process that merges died (-9: no reason given); try again"
        return in_this_process(asked, *others)

    merges = PeftMerges(base, tmp_path / "cache", {}, run=dies)
    merges.prepare(folders)
    with pytest.raises(PoolError, match="PEFT did not merge it: the process that merges died"):
        merges.delta_of(folders[0])
    assert len(merges.delta_of(folders[1])) == 4
    assert merges.hashes.keys() == {key for key in merges.hashes if "|" in key and "peft" not in key}  # not for good


def test_what_peft_draws_for_an_adapter_does_not_depend_on_the_others(
    base: LocalBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    drawn: list[float] = []

    def draw(*_: Any) -> Any:
        drawn.append(float(torch.rand(1)))
        return [], {"0.dense": torch.zeros(1)}

    monkeypatch.setattr(peft_child, "merged_updates", draw)
    for name in "xy":
        folder = write_lora(tmp_path / name, LLAMA_MODULES)
        peft_child.report_on((base.path, ""), folder, tmp_path / f"{name}.safetensors", {})
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_a_pool_of_many_kinds_through_a_process_of_its_own(base: LocalBase, tmp_path: Path, tiny_pool: Path) -> None:
    import peft
    import torch

    pool, mark = tmp_path / "pool", tmp_path / "executed"
    shutil.copytree(tiny_pool / "a0", pool / "plain")
    for name in ("boft", "dora", "loha"):
        make_adapter(base.path, pool / name, KINDS[name](peft))
    shutil.copytree(pool / "dora", pool / "dora again")
    write_lora(pool / "prompts", LLAMA_MODULES, peft_type="PROMPT_TUNING")

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
            return Path.touch, (mark,)

    torch.save({"weight": Evil()}, pool / "loha" / "adapter_model.bin")  # beside safetensors, and never read
    steps: list[tuple[str, int, int]] = []
    hashes: dict[str, str] = {}

    def tell(*step: Any) -> None:
        steps.append(step)

    found = open_pool(pool, base, cache=tmp_path / "cache", hashes=hashes, progress=tell)
    assert [(c.id, c.kind) for c in found.candidates] == [
        ("boft", "dense"), ("dora", "dense"), ("loha", "adapter"), ("plain", "adapter"),
    ]  # fmt: skip
    assert [item.id for item in found.refused] == ["dora again", "prompts"]
    assert "same weights as dora" in found.refused[0].reason
    assert steps[-1] == ("merging adapters by PEFT", 3, 3)
    assert not mark.exists()
    for candidate in found.candidates:
        check_logits(base, Path(candidate.path), candidate)
    steps.clear()
    assert open_pool(pool, base, cache=tmp_path / "cache", hashes=hashes, progress=tell) == found
    assert steps == []
