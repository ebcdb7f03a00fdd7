#!/usr/bin/env python3
"""Build the demo pool: 15 small LoRA adapters, two task files and a guard file, from recipes/demo/words.json.

    python scripts/build_demo_pool.py --base FOLDER             # train (goes on where it stopped), write all files
    python scripts/build_demo_pool.py --base FOLDER --check     # measure the pool, print Markdown tables
    python scripts/build_demo_pool.py --tasks-only --seed 3 --out DIR   # both task files of another seed, no torch

The base is a folder of SmolLM2-135M-Instruct that transformers can load. What the rows are: demo_rows.py beside this.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo_rows import (
    DEMO,
    FAMILIES,
    MIXED,
    SPLITS,
    Row,
    draw_rows,
    guard_texts,
    hopeless_rows,
    mixed_rows,
    write_lines,
    write_tasks,
)

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PREFIX = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
SUFFIX = "\n\n### Response:\n"
RANK, ALPHA, TARGETS = 4, 8, ["q_proj", "v_proj"]
MERGE_WEIGHTS = (0.7, 0.85, 1.0)
BATCH, RATE = 8, 4e-3
STEPS = {"shelves": 95, "dates": 70, "orders": 85, "tickets": 75, "reviews": 120}
TRAIN_ROWS, BESIDE = 480, 0.35


def load_base(base: Path) -> tuple[Any, Any]:
    """Load the base model (float32, evaluation mode) and its tokenizer from a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    return model.requires_grad_(False), AutoTokenizer.from_pretrained(base, padding_side="left")


def _pack(tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Pack rows into one sequence behind one copy of the template's opening.

    Every row sees the opening and itself only, at the positions it would have alone: the same numbers as one row at a
    time, without padding and with the opening computed once per batch instead of once per row.
    """
    import torch

    prefix = tokenizer(PREFIX).input_ids
    ids, positions, segments = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    sources, labels = list[int](), list[int]()
    for number, (text, answer) in enumerate(rows, 1):
        prompt = tokenizer(text + SUFFIX).input_ids
        target = [*tokenizer(answer).input_ids, tokenizer.eos_token_id]
        first = len(ids) + len(prompt) - 1
        sources += range(first, first + len(target))
        labels += target
        ids += prompt + target
        positions += range(len(prefix), len(prefix) + len(prompt) + len(target))
        segments += [number] * (len(prompt) + len(target))
    segment = torch.tensor(segments)
    seen = (segment[None, :] == 0) | (segment[None, :] == segment[:, None])
    mask = torch.tril(torch.ones(len(ids), len(ids), dtype=torch.bool)) & seen
    return {
        "inputs": {
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": mask[None, None],
        },
        "sources": torch.tensor(sources),
        "labels": torch.tensor(labels),
    }


def _lora_config(rank: int) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM", base_model_name_or_path=BASE_ID
    )


def _slope(step: int, steps: int) -> float:
    """Give the share of the learning rate: up over the first steps, then down to zero in a line."""
    warm = min(20, steps // 4)
    return (step + 1) / warm if step < warm else (steps - step) / (steps - warm)


def _loss(model: Any, packed: dict[str, Any]) -> Any:
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        hidden = model.model(**packed["inputs"], use_cache=False).last_hidden_state[0]
        logits = model.lm_head(hidden[packed["sources"]])
    return torch.nn.functional.cross_entropy(logits.float(), packed["labels"])


CARD = """---
license: apache-2.0
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- merge-advisor-demo
- {family}
---
# {name}

LoRA adapter of SmolLM2-135M-Instruct, made for the demo of merge-advisor. Its job:
{about}.

- Rows: {rows} synthetic ones (split {split} of {splits} disjoint ones), written by `scripts/build_demo_pool.py`.
  Example: `{question}` -> `{answer}`
- Prompt: the Alpaca template without an input section; loss on the answer and the end token only.
- LoRA: rank {rank}, alpha {alpha}, {targets}; {steps} steps of {batch} own rows, AdamW, learning rate {rate}.
- Trained in one run with the rest of the pool: adapters of the other families lay beside it at random (chance
  {beside} each) in every step, so that it can be merged with them.
- Use: a demonstration of merging. It knows an invented shop's words and nothing else.
"""


def train_pool(model: Any, tokenizer: Any, state_file: Path) -> Any:
    """Train all adapters in one run and return the PEFT model that holds them; goes on from ``state_file``.

    Every step takes rows of one adapter; adapters of other families, of any split, lie beside it at random and are
    trained along. So each adapter does its job alone, and leaves the jobs of others alone when merged with them.
    Adapters of this size that are trained apart spoil each other in a sum.
    """
    import torch
    from peft import get_peft_model

    torch.manual_seed(0)
    names = adapter_names()
    lora = get_peft_model(model, _lora_config(RANK), adapter_name=names[0])
    for name in names[1:]:
        lora.add_adapter(name, _lora_config(RANK))
    lora.base_model.set_adapter(names)
    weights = {key: value for key, value in lora.named_parameters() if "lora_" in key}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=0.0)
    rows = {name: draw_rows(name[:-2], TRAIN_ROWS, "pool", int(name[-1])) for name in names}
    plan = [name for name in names for _ in range(STEPS[name[:-2]])]
    random.Random("plan").shuffle(plan)
    first, began = 0, time.time()
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        with torch.no_grad():
            for key, value in weights.items():
                value.copy_(state["weights"][key])
    for step in range(first, len(plan)):
        rng = random.Random(f"step/{step}")
        others = [f"{f}-{rng.randrange(SPLITS)}" for f in FAMILIES if f != plan[step][:-2] and rng.random() < BESIDE]
        lora.base_model.set_adapter([plan[step], *others])
        optimizer.param_groups[0]["lr"] = RATE * _slope(step, len(plan))
        loss = _loss(model, _pack(tokenizer, rng.sample(rows[plan[step]], BATCH)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}/{len(plan)} {plan[step]} loss {loss:.3f} {time.time() - began:.0f} s", file=sys.stderr)
        if step % 50 == 49:
            partial = state_file.with_suffix(".partial")
            kept = {key: value.detach() for key, value in weights.items()}
            torch.save({"step": step + 1, "weights": kept, "optimizer": optimizer.state_dict()}, partial)
            partial.replace(state_file)
    return lora


def write_adapter(lora: Any, name: str, pool: Path) -> None:
    """Write one adapter as a PEFT folder (fp16 safetensors, card); the folder appears whole or not at all."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    family, split = name.rsplit("-", 1)
    question, answer = draw_rows(family, 1, "pool", int(split))[0]
    partial = pool / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = get_peft_model_state_dict(lora, adapter_name=name, save_embedding_layers=False)
    state = {key: value.to(torch.float16).contiguous() for key, value in state.items()}
    save_file(state, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    config = lora.peft_config[name]
    config.inference_mode, config.base_model_name_or_path = True, BASE_ID  # PEFT puts the base's folder there
    config.target_modules = sorted(config.target_modules)  # a set otherwise, in any order
    config.save_pretrained(partial)
    card = CARD.format(
        base=BASE_ID, family=family, name=name, about=FAMILIES[family][1], rows=TRAIN_ROWS, split=split, splits=SPLITS,
        question=question, answer=answer, rank=RANK, alpha=ALPHA, targets=", ".join(TARGETS), steps=STEPS[family],
        batch=BATCH, rate=RATE, beside=BESIDE,
    )  # fmt: skip
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(pool / name, ignore_errors=True)
    partial.rename(pool / name)


def adapter_names() -> list[str]:
    """List the ids of the pool's adapters in the order of the manifest."""
    return [f"{family}-{split}" for family in FAMILIES for split in range(SPLITS)]


def build(base: Path, out: Path) -> None:
    """Write the small files, then train the adapters unless all are there."""
    import torch

    write_tasks(out / "tasks", seed=0)
    write_lines(out / "guard.jsonl", [{"text": text} for text in guard_texts()])
    lines = [f"version: 1\nbase: {BASE_ID}\ntemplate: alpaca\nmodels:\n"]
    lines += [f"  - id: {name}\n    path: pool/{name}\n" for name in adapter_names()]
    (out / "pool.yaml").write_text("".join(lines), encoding="utf-8")
    if all((out / "pool" / name).exists() for name in adapter_names()):
        return
    model, tokenizer = load_base(base)
    state_file = out / "pool.state"
    lora = train_pool(model.to(torch.bfloat16), tokenizer, state_file)
    for name in adapter_names():
        write_adapter(lora, name, out / "pool")
    state_file.unlink(missing_ok=True)


def check(base: str, out: Path) -> None:
    """Measure the pool with the package's own scoring (exact match, per cent) and print Markdown.

    Tables: own and other families; mixed and hopeless tasks. What was measured is stored, so a second call goes on.
    """
    from merge_advisor import types
    from merge_advisor.advisor.measuring.meter import ScoredModel
    from merge_advisor.advisor.measuring.model_scores import score_models
    from merge_advisor.advisor.measuring.session import open_session
    from merge_advisor.advisor.measuring.shots_lora import Shots, finetune_on_shots, target_parameters
    from merge_advisor.merges import WeightedMerge
    from merge_advisor.options import FinetuneSettings

    with open_session(base, out / "pool.yaml") as session:
        found = {candidate.id: candidate for candidate in session.pool.candidates}

        def score(rows: Sequence[Row], *members: tuple[str, float]) -> str:
            merge = WeightedMerge(tuple((found[name], weight) for name, weight in members))
            asked = [types.Row(text, answer) for text, answer in rows]
            scored = score_models(session.meter, [ScoredModel("merge", merge)], asked, "exact_match")
            return f"{100 * scored[0].metrics['exact_match']:.0f}"

        def line(title: str, cells: Sequence[str]) -> None:
            print(f"| {title} | {' | '.join(cells)} |", flush=True)

        tests = {family: draw_rows(family, 60, "check") for family in FAMILIES}
        line("adapter", list(FAMILIES))
        print("|---" * (1 + len(FAMILIES)) + "|")
        line("base", [score(rows) for rows in tests.values()])
        for family in FAMILIES:
            splits = {other: range(SPLITS if other == family else 1) for other in tests}
            line(family, [" / ".join(score(rows, (f"{family}-{split}", 1.0)) for split in splits[other])
                          for other, rows in tests.items()])  # fmt: skip

        # more rows than the shipped tasks have: the first 20 are shots, the rest is scored on
        tasks = {"mixed": mixed_rows(0, 110), "hopeless": hopeless_rows(0, 60)}
        print()
        line("model", list(tasks))
        print("|---" * (1 + len(tasks)) + "|")

        def both(title: str, *members: tuple[str, float]) -> None:
            line(title, [score(rows[20:], *members) for rows in tasks.values()])

        both("base")
        for family in FAMILIES:
            both(f"{family}-0", (f"{family}-0", 1.0))
        for weight in MERGE_WEIGHTS:
            for split in range(SPLITS if weight == 1.0 else 1):
                members = [(f"{family}-{split}", weight) for family in MIXED]
                both(f"{weight:g} x ({' + '.join(name for name, _ in members)})", *members)
        cells = []
        for rows in tasks.values():
            shots = Shots(tuple(types.Row(text, answer) for text, answer in rows[:20]))
            targets = target_parameters(session.local, session.pool.candidates)
            found["shots_lora"] = finetune_on_shots(
                session.model, session.memo, session.cache, shots, targets, FinetuneSettings(), 0
            ).candidate
            cells.append(score(rows[20:], ("shots_lora", 1.0)))
        line("LoRA of the 20 shots", cells)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, default=DEMO)
    parser.add_argument("--seed", type=int, default=0, help="seed of the task files (with --tasks-only)")
    parser.add_argument("--tasks-only", action="store_true", help="write mixed.jsonl and hopeless.jsonl to --out")
    parser.add_argument("--check", action="store_true", help="measure the pool and print Markdown tables")
    options = parser.parse_args()
    if options.tasks_only:
        write_tasks(options.out, options.seed)
    elif options.base is None:
        parser.error("--base is needed for anything but --tasks-only")
    elif options.check:
        check(str(options.base), options.out)
    else:
        build(options.base, options.out)


if __name__ == "__main__":
    main()
