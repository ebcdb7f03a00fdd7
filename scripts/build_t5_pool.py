#!/usr/bin/env python3
"""Build a small T5 in FLAN-T5's layout and a LoRA adapter for each of 27 text tasks, as LoraHub publishes them.

    python scripts/build_t5_pool.py --out DIR             # train base and adapters (goes on where it stopped), measure
    python scripts/build_t5_pool.py --out DIR --only swap_two no_vowels hyphens --base-steps 300   # a cut

DIR gets base/ (safetensors, tokenizer), published/<task>/ (`adapter_config.json`, `adapter_model.bin`), tasks/ (JSONL
rows no adapter was trained on), families.json and measured.json; the table of exact matches goes to stdout. Published
are pickles, as in the original; `merge-advisor convert DIR/published --out DIR/pool` makes a pool of them. What the
rows are: t5_rows.py beside this. Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import t5_rows
from t5_rows import BASE, FAMILIES, POOL, Row, draw, rows_of

NAME = "merge-advisor/t5-text-tasks"
"""What the adapters call their base."""
WIDTH, HEADS, INNER, LAYERS = 128, 4, 256, 3
BASE_STEPS, BATCH, RATE = 1000, 96, 2e-3
POOL_SHARE = 0.08
"""Share of the base's rows that ask for tasks of the pool: it has met them all and masters few."""
RANK, ALPHA, TARGETS = 16, 32, ("q", "v")
STEPS, LORA_BATCH, LORA_RATE = 150, 32, 4e-3
TRAIN_ROWS, TASK_ROWS = 1500, 120


def build_tokenizer() -> Any:
    """Make a Unigram tokenizer as T5's: a piece for each word of an instruction, one letter at a time elsewhere."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)]
    words = sorted({word for text in t5_rows.instructions() for word in text.split()})
    # a word costs less than its letters, and single letters cost the same
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(letter, -4.0) for letter in letters] + [("▁" + word, -4.0) for word in words]
    found = Tokenizer(models.Unigram(pieces, unk_id=2))
    found.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    found.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=found, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=512
    )


def new_model(vocabulary: int) -> Any:
    """Make an untrained T5 v1.1 (gated GELU, no tied embeddings, no dropout)."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary, d_model=WIDTH, d_kv=WIDTH // HEADS, d_ff=INNER, num_layers=LAYERS,
        num_decoder_layers=LAYERS, num_heads=HEADS, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def pack(tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Pad rows to one batch; labels of padding do not count."""
    prompts = tokenizer([text for text, _ in rows], return_tensors="pt", padding=True)
    labels = tokenizer([answer for _, answer in rows], return_tensors="pt", padding=True)["input_ids"]
    return {
        "input_ids": prompts["input_ids"],
        "attention_mask": prompts["attention_mask"],
        "labels": labels.masked_fill(labels == 0, -100),
    }


def train_base(folder: Path, steps: int) -> None:
    """Train the base on its own tasks and a share of the pool's; the folder appears whole or not at all."""
    import torch

    tokenizer = build_tokenizer()
    model = new_model(len(tokenizer))
    own, others = list(BASE), list(POOL)
    streams = {name: rows_of(name, "base") for name in (*own, *others)}
    rng = random.Random("base")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    slope = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 100, 1.02 - step / steps))
    began = time.time()
    for step in range(steps):
        names = [rng.choice(others if rng.random() < POOL_SHARE else own) for _ in range(BATCH)]
        loss = model(**pack(tokenizer, [next(streams[name]) for name in names])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        slope.step()
        if step % 50 == 49:
            print(f"base {step + 1}/{steps} loss {loss:.3f} {time.time() - began:.0f} s", file=sys.stderr)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.half().save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def train_adapter(backbone: Any, name: str, folder: Path) -> None:
    """Train one adapter with the package's own finetune; write it as LoraHub's are, weights in a pickle."""
    import torch

    from merge_advisor.backbone.finetune import finetune_lora
    from merge_advisor.options import FinetuneSettings
    from merge_advisor.weights.updates import LowRankUpdate

    settings = FinetuneSettings(rank=RANK, alpha=ALPHA, lr=LORA_RATE, batch_size=LORA_BATCH, steps=STEPS)
    rows = encoded(backbone, draw(name, TRAIN_ROWS, "pool"))
    targets = [key for key in backbone.memory if key.split(".")[-2] in TARGETS]
    delta = finetune_lora(backbone, rows, targets, settings, seed=0).delta
    tensors = {}
    for key, update in delta.items():
        assert isinstance(update, LowRankUpdate)
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        for side, array in (("A", update.a), ("B", update.b)):
            tensors[f"{stem}.lora_{side}.weight"] = torch.from_numpy(array).half()
    config = {
        "base_model_name_or_path": NAME, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "lora_alpha": ALPHA, "lora_dropout": 0.1, "modules_to_save": None,
        "peft_type": "LORA", "r": RANK, "target_modules": list(TARGETS), "task_type": "SEQ_2_SEQ_LM",
    }  # fmt: skip
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    torch.save(tensors, partial / "adapter_model.bin")
    (partial / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    partial.rename(folder)


def encoded(backbone: Any, rows: Sequence[Row]) -> list[Any]:
    """Turn rows into ids under the template of the input alone."""
    from merge_advisor.backbone.encoding import encode

    return encode(backbone, rows, max_length=256)


def measure(backbone: Any, published: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Exact match of base, own adapter and the best adapter of another task, on rows no adapter was trained on."""
    import torch

    from merge_advisor import templates, types
    from merge_advisor.backbone.place import placed
    from merge_advisor.evaluators.fast import row_values
    from merge_advisor.weights.updates import LowRankUpdate

    deltas = {}
    for name in names:
        state = torch.load(published / name / "adapter_model.bin", weights_only=True)
        stems = [key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")]
        deltas[name] = {
            stem.removeprefix("base_model.model.") + ".weight": LowRankUpdate(
                state[f"{stem}.lora_A.weight"].float().numpy(), state[f"{stem}.lora_B.weight"].float().numpy(),
                ALPHA / RANK,
            )
            for stem in stems
        }  # fmt: skip
    found = {}
    for name in names:
        rows = [types.Row(*row) for row in draw(name, 40, "measure", draw(name, TRAIN_ROWS, "pool"))]
        values = {}
        for label in ("", *names):
            with placed(backbone, deltas.get(label, {})):
                scores = row_values(backbone, rows, templates.get("bare"), "exact_match")
            values[label] = sum(scores) / len(scores)
        other = max((label for label in names if label != name), key=lambda label: values[label], default="")
        found[name] = {
            "family": FAMILIES[name], "base": values[""], "own": values[name], "other": other,
            "other_match": values[other],
        }  # fmt: skip
    return found


def write_tasks(out: Path, names: Sequence[str]) -> None:
    """Write rows no adapter was trained on, a file for each task, and the families."""
    (out / "tasks").mkdir(parents=True, exist_ok=True)
    for name in names:
        rows = draw(name, TASK_ROWS, "task", draw(name, TRAIN_ROWS, "pool"))
        text = "".join(json.dumps({"input": asked, "output": answer}) + "\n" for asked, answer in rows)
        (out / "tasks" / f"{name}.jsonl").write_text(text, encoding="utf-8")
    kept = {name: FAMILIES[name] for name in names}
    (out / "families.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def build(out: Path, names: Sequence[str], base_steps: int) -> None:
    """Train what is not there yet, write the tasks, measure and print."""
    from merge_advisor.backbone.model import load_backbone

    out.mkdir(parents=True, exist_ok=True)
    if not (out / "base").exists():
        train_base(out / "base", base_steps)
    backbone = load_backbone(out / "base", threads=int(os.environ.get("OMP_NUM_THREADS", "2")))
    began = time.time()
    for number, name in enumerate(names, 1):
        if not (out / "published" / name).exists():
            train_adapter(backbone, name, out / "published" / name)
            print(f"adapter {number}/{len(names)} {name} {time.time() - began:.0f} s", file=sys.stderr)
    (out / "published" / "pool.yaml").write_text(f"version: 1\nbase: {NAME}\ntemplate: bare\n", encoding="utf-8")
    write_tasks(out, names)
    found = measure(backbone, out / "published", names)
    (out / "measured.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("| task | family | base | own adapter | best other adapter |\n|---|---|---|---|---|")
    for name, row in found.items():
        other = f"{100 * row['other_match']:.0f} ({row['other']})"
        print(f"| {name} | {row['family']} | {100 * row['base']:.0f} | {100 * row['own']:.0f} | {other} |")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(POOL), choices=list(POOL), metavar="TASK")
    parser.add_argument("--base-steps", type=int, default=BASE_STEPS)
    options = parser.parse_args()
    build(options.out, options.only, options.base_steps)


if __name__ == "__main__":
    main()
