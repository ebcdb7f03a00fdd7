"""Adapters of every kind that PEFT merges, made by PEFT with random weights, and PEFT's own models of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merge_advisor.errors import PoolError
from merge_advisor.pool import peft_child
from merge_advisor.pool.candidate import examine_candidate
from merge_advisor.pool.sources import FoundModel
from merge_advisor.progress import Progress
from merge_advisor.weights.adapter_config import NotPlainLoraError
from merge_advisor.weights.base import LocalBase
from merge_advisor.weights.hub import Snapshot

ATTENTION = ["q_proj", "v_proj"]

KINDS: dict[str, Callable[[Any], Any]] = {
    "dora": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, use_dora=True),
    "modules_to_save": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["norm"]),
    "trained tokens": lambda peft: peft.LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=[3, 7]),
    "target_parameters": lambda peft: peft.LoraConfig(r=4, target_parameters=["mlp.down_proj.weight"]),
    "pissa": lambda peft: peft.LoraConfig(r=2, target_modules=ATTENTION, init_lora_weights="pissa"),
    "adalora": lambda peft: peft.AdaLoraConfig(target_modules=ATTENTION, total_step=10),
    "boft": lambda peft: peft.BOFTConfig(target_modules=ATTENTION, boft_block_size=4),
    "c3a": lambda peft: peft.C3AConfig(target_modules=ATTENTION, block_size=4),
    "fourierft": lambda peft: peft.FourierFTConfig(target_modules=ATTENTION, n_frequency=20),
    "hra": lambda peft: peft.HRAConfig(target_modules=ATTENTION, r=4),
    "ia3": lambda peft: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "ln tuning": lambda peft: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "loha": lambda peft: peft.LoHaConfig(r=2, alpha=4, target_modules=ATTENTION),
    "lokr": lambda peft: peft.LoKrConfig(r=2, alpha=4, target_modules=ATTENTION),
    "miss": lambda peft: peft.MissConfig(r=4, target_modules=ATTENTION),
    "oft": lambda peft: peft.OFTConfig(target_modules=ATTENTION, oft_block_size=4),
    "randlora": lambda peft: peft.RandLoraConfig(r=4, target_modules=ATTENTION),
    "tokens alone": lambda peft: peft.TrainableTokensConfig(token_indices=[3, 7]),
    "vblora": lambda peft: peft.VBLoRAConfig(target_modules=ATTENTION, num_vectors=16, vector_length=4, r=4),
    "vera": lambda peft: peft.VeraConfig(target_modules=["q_proj"], r=8),
}
"""Name -> configuration, given the module `peft`; all for `tiny_llama`."""
WITH_FACTORS = {"target_parameters", "pissa", "hra", "loha", "miss", "vblora", "vera"}
"""Those whose change of every weight has factors."""


def make_adapter(
    base: Path, folder: Path, config: Any, *, seed: int = 0, size: float = 0.05, task_type: str = "CAUSAL_LM"
) -> Path:
    """Write an adapter as PEFT saves it, its trained weights moved at random."""
    import peft
    import torch

    config.task_type = task_type
    torch.manual_seed(seed)
    with warnings.catch_warnings(action="ignore"):
        model = peft.get_peft_model(_load(base), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * size)
        model.save_pretrained(folder)
    return folder


def peft_logits(base: Path, folder: Path, ids: Any) -> Any:
    """What plain PEFT gives with the adapter beside the base."""
    import peft
    import torch

    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        return logits(peft.PeftModel.from_pretrained(_load(base), folder).eval(), ids)


def logits(model: Any, ids: Any) -> Any:
    """What a model gives; an encoder-decoder is asked to read and to write the same."""
    return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})).logits


def _load(base: Path) -> Any:
    import torch
    import transformers

    from merge_advisor.weights.by_transformers import model_class

    return model_class(transformers.AutoConfig.from_pretrained(base)).from_pretrained(base, dtype=torch.float32)


def in_this_process(
    asked: Mapping[str, Any], scratch: Path, limit: float, progress: Progress
) -> tuple[list[dict[str, Any]], str]:
    """Do what the child process does, here: importing PEFT once is enough for all tests."""
    with warnings.catch_warnings(action="ignore"):
        base = (Path(asked["base"]), asked["loader"])
        jobs = [(Path(source), Path(target)) for source, target in asked["jobs"]]
        return [peft_child.report_on(base, source, target, asked["parts"]) for source, target in jobs], ""


def needs_peft(folder: Path, base: LocalBase) -> bool:
    """Whether a folder holds an adapter that is more than plain LoRA, and that PEFT may be able to merge."""
    try:
        examine_candidate(FoundModel(folder.name, folder), Snapshot(folder, ""), base, {})
    except NotPlainLoraError:
        return True
    except PoolError:
        return False
    return False
