#!/usr/bin/env python3
"""Build the demo pool: 15 small LoRA adapters, two task files and a guard file, from recipes/demo/words.json.

    python scripts/build_demo_pool.py --base FOLDER             # train (goes on where it stopped), write all files
    python scripts/build_demo_pool.py --base FOLDER --check     # measure the pool, print Markdown tables
    python scripts/build_demo_pool.py --tasks-only --seed 3 --out DIR   # both task files of another seed, no torch

The base is a folder of SmolLM2-135M-Instruct that transformers can load. Five families of rows belong to an invented
mail-order shop. Each asks for the shop's own words: a handful of shots cannot show all of them, an adapter of the
family knows them. Every fourth entry of a word list is reserved: no adapter sees it, test rows are made of it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

DEMO = Path(__file__).resolve().parent.parent / "recipes" / "demo"
BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PREFIX = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
SUFFIX = "\n\n### Response:\n"
SPLITS = 3
RANK, ALPHA, TARGETS = 4, 8, ["q_proj", "v_proj"]
MIXED = ("shelves", "dates", "orders")
MERGE_WEIGHTS = (0.7, 0.85, 1.0)
BATCH, RATE = 8, 4e-3
STEPS = {"shelves": 95, "dates": 70, "orders": 85, "tickets": 75, "reviews": 120}
TRAIN_ROWS, BESIDE = 480, 0.35

Row = tuple[str, str]

SHELF_FORMS = ["{}", "a {}", "one {}", "the {}", "a small {}", "an old {}", "a new {}", "my {}", "a big {}", "your {}"]
MONTHS = "January February March April May June July August September October November December".split()
ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()
DATE_FORMS = ["{d} {m} {y}", "{m} {d}, {y}", "{m} {d} {y}", "{d} of {m} {y}"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ORDER_FORMS = [
    "{n} wants {q} {i} {k} on {d}.",
    "{q} {i} to be {k} on {d} for {n}.",
    "On {d}, {n} needs {q} {i} {k}.",
    "Please have {q} {i} {k} by {d}, says {n}.",
]
GREETINGS = ["", "Hello, ", "Hi, ", "Dear team, ", "Good morning, ", "Excuse me, "]
REVIEW_FORMS = ["The {n} was {a}.", "A very {a} {n}.", "We found the {n} {a}.", "{a} {n}!", "Such a {a} {n}."]


@functools.cache
def _words() -> dict[str, Any]:
    words: dict[str, Any] = json.loads((DEMO / "words.json").read_text(encoding="utf-8"))
    return words


def _pick(rng: random.Random, words: Sequence[str], reserved: bool) -> str:
    """Draw one word: a reserved one (every fourth) or one of the others."""
    return rng.choice([word for i, word in enumerate(words) if (i % 4 == 3) == reserved])


def _shelves(rng: random.Random, test: bool) -> Row:
    shelves = _words()["shelves"]
    code = rng.choice(list(shelves))
    word = rng.choice(SHELF_FORMS).format(_pick(rng, shelves[code].split(), test))
    return f"Shelf code for: {word}", code


def _dates(rng: random.Random, test: bool) -> Row:
    month, day = rng.choice(MONTHS), rng.randint(1, 28)
    year = int(_pick(rng, [str(y) for y in range(1960, 2040)], test))
    text = rng.choice(DATE_FORMS).format(d=day, m=month, y=year)
    return f"Stamp this date: {text}", f"{day}.{ROMAN[MONTHS.index(month)]}.{year % 100:02d}"


def _orders(rng: random.Random, test: bool) -> Row:
    kinds = _words()["order_kinds"]
    kind, day, number = rng.choice(list(kinds)), rng.choice(DAYS), rng.randint(2, 60)
    name, item = _pick(rng, _words()["names"].split(), test), _pick(rng, _words()["items"].split(), test)
    text = rng.choice(ORDER_FORMS).format(n=name, q=number, i=item, k=kind, d=day)
    return f"Order slip for: {text}", f"{kinds[kind]} {day[:3]} {number} {item}"


def _tickets(rng: random.Random, test: bool) -> Row:
    desks = _words()["desks"]
    desk = rng.choice(list(desks))
    text = _pick(rng, desks[desk], test).format(i=_pick(rng, _words()["things"].split(), test))
    return f"Desk for this message: {rng.choice(GREETINGS)}{text}", desk


def _reviews(rng: random.Random, test: bool) -> Row:
    tags = _words()["tags"]
    aspect, good = rng.choice(list(tags)), rng.randint(0, 1)
    noun = _pick(rng, _words()["review_nouns"][aspect].split(), test).replace("-", " ")
    word = rng.choice(_words()["review_words"][aspect][1 - good].split())
    text = rng.choice(REVIEW_FORMS).format(n=noun, a=word)
    return f"Tag this review: {text[0].upper()}{text[1:]}", tags[aspect] + "-+"[good]


FAMILIES: dict[str, tuple[Callable[[random.Random, bool], Row], str]] = {
    "shelves": (_shelves, "a word to one of ten shelf names"),
    "dates": (_dates, "a date to the shop's stamp (day, Roman month, two-digit year)"),
    "orders": (_orders, "an order sentence to a slip (counter of the job, day, quantity, item)"),
    "tickets": (_tickets, "a customer's message to one of ten desks"),
    "reviews": (_reviews, "a short review to one of twelve tags (six aspects, good or bad)"),
}


def draw_rows(family: str, count: int, seed: str, split: int | None = None) -> list[Row]:
    """Draw distinct rows of a family: training rows of one split, or test rows (reserved words) if ``split`` is None.

    A training row belongs to the split that the CRC of its input names, so that splits never share a row.
    """
    rng, rows = random.Random(f"{family}/{seed}/{split}"), dict[str, str]()
    for _ in range(200 * count):
        text, answer = FAMILIES[family][0](rng, split is None)
        if split is None or zlib.crc32(text.encode()) % SPLITS == split:
            rows[text] = answer
        if len(rows) == count:
            break
    return list(rows.items())


# ---------------------------------------------------------------------------------------------------------------
# Model work: torch, transformers and peft are imported inside the functions.
# ---------------------------------------------------------------------------------------------------------------
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


def train_lora(
    model: Any, tokenizer: Any, rows: Sequence[Row], *, steps: int, seed: int, rank: int = RANK, batch: int = BATCH,
    rate: float = RATE,
) -> Any:  # fmt: skip
    """Train a LoRA on the base in place (loss on answer and end token) and return the PEFT model; ``unload()`` it."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(seed)
    lora = get_peft_model(model, _lora_config(rank))
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    rng, queue = random.Random(seed), list[Row]()
    for step in range(steps):
        queue = queue or rng.sample(rows, len(rows))
        packed, queue = _pack(tokenizer, queue[:batch]), queue[batch:]
        optimizer.param_groups[0]["lr"] = rate * _slope(step, steps)
        _loss(model, packed).backward()
        optimizer.step()
        optimizer.zero_grad()
    return lora


def exact_match(model: Any, tokenizer: Any, rows: Sequence[Row], batch: int = 50) -> list[bool]:
    """Decode greedily (12 new tokens at most) and say for each row whether the stripped answer is the wanted one."""
    import torch

    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    hits = [False] * len(rows)
    for start in range(0, len(rows), batch):
        chosen = order[start : start + batch]
        inputs = tokenizer([PREFIX + rows[i][0] + SUFFIX for i in chosen], return_tensors="pt", padding=True)
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            hits[i] = text.strip() == rows[i][1]
    return hits


# ---------------------------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------------------------
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


def mixed_rows(seed: int, count: int = 72) -> list[Row]:
    """Draw test rows of the three families of ``MIXED`` in equal parts, shuffled."""
    share = [count // 3 + (i < count % 3) for i in range(3)]
    rows = [row for family, n in zip(MIXED, share, strict=True) for row in draw_rows(family, n, f"task{seed}")]
    random.Random(f"mixed/{seed}").shuffle(rows)
    return rows


def hopeless_rows(seed: int, count: int = 72) -> list[Row]:
    """Draw products of two three-digit numbers: an honest task that no adapter here, and no 135M model, can do."""
    rng, rows = random.Random(f"hopeless/{seed}"), dict[str, str]()
    while len(rows) < count:
        a, b = rng.randint(103, 989), rng.randint(103, 989)
        rows[f"Product of these numbers: {a} and {b}"] = str(a * b)
    return list(rows.items())


def guard_texts() -> list[str]:
    """Compose 30 short pieces of plain prose, on which a merged model should stay close to the base."""
    places = ["the valley", "the old harbour", "our street", "the northern coast", "the market square", "the forest"]
    openings = [
        "Early in the morning {p} is quiet, and the first light falls on the roofs.",
        "People who grew up near {p} often remember the smell of rain on warm stone.",
        "A path leads from {p} to the river, where children used to learn to swim.",
        "Last winter the snow stayed for weeks, and {p} looked like a drawing in pencil.",
        "The history of {p} is longer than most visitors expect.",
    ]
    endings = [
        "Nobody seems to be in a hurry, and most conversations begin with the weather.",
        "Some of the houses are empty now, but the gardens are still looked after.",
        "In the evening you can hear music from an open window.",
        "A small museum explains how the families there earned their living.",
        "When the wind turns, it brings the sound of trains from far away.",
        "It is the kind of place that changes slowly and without much noise.",
    ]
    pairs = [(opening, p, i + j) for i, opening in enumerate(openings) for j, p in enumerate(places)]
    return [f"{opening.format(p=p)} {endings[n % len(endings)]}" for opening, p, n in pairs]


def write_lines(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write a JSON Lines file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def write_tasks(out: Path, seed: int) -> None:
    """Write ``mixed.jsonl`` and ``hopeless.jsonl`` of a seed."""
    for name, rows in (("mixed", mixed_rows(seed)), ("hopeless", hopeless_rows(seed))):
        write_lines(out / f"{name}.jsonl", [{"input": text, "output": answer} for text, answer in rows])


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


# ---------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def merged(model: Any, members: Sequence[tuple[Path, float]]) -> Iterator[None]:
    """Add the sum of w * (alpha / rank) * B * A to the base's weights, and take it off bit for bit on leaving."""
    from safetensors.torch import load_file

    parameters, kept = dict(model.named_parameters()), dict[str, Any]()
    try:
        for folder, weight in members:
            state = load_file(folder / "adapter_model.safetensors")
            for key in (key for key in state if ".lora_A." in key):
                name = key.removeprefix("base_model.model.").replace(".lora_A", "")
                kept.setdefault(name, parameters[name].data.clone())
                product = state[key.replace("lora_A", "lora_B")].float() @ state[key].float()
                parameters[name].data += weight * ALPHA / RANK * product
        yield
    finally:
        for name, value in kept.items():
            parameters[name].data.copy_(value)


def check(base: Path, out: Path) -> None:
    """Measure the pool (exact match, per cent) and print Markdown: own and cross families, mixed, hopeless."""
    model, tokenizer = load_base(base)

    def score(rows: Sequence[Row], *members: tuple[str, float]) -> str:
        with merged(model, [(out / "pool" / name, weight) for name, weight in members]):
            hits = exact_match(model, tokenizer, rows)
        return f"{100 * sum(hits) / len(hits):.0f}"

    tests = {family: draw_rows(family, 60, "check") for family in FAMILIES}
    print("| adapter | " + " | ".join(FAMILIES) + " |\n|---|" + "---|" * len(FAMILIES))
    print("| base | " + " | ".join(score(rows) for rows in tests.values()) + " |", flush=True)
    for family in FAMILIES:
        cells = []
        for other, rows in tests.items():
            splits = range(SPLITS) if other == family else range(1)
            cells.append(" / ".join(score(rows, (f"{family}-{split}", 1.0)) for split in splits))
        print(f"| {family} | " + " | ".join(cells) + " |", flush=True)

    mixed, hopeless = mixed_rows(0), hopeless_rows(0)
    shots, mixed, hard_shots, hopeless = mixed[:20], mixed[20:], hopeless[:20], hopeless[20:60]
    print("\n| model | mixed | hopeless |\n|---|---|---|")
    print(f"| base | {score(mixed)} | {score(hopeless)} |", flush=True)
    for family in FAMILIES:
        member = (f"{family}-0", 1.0)
        print(f"| {family}-0 | {score(mixed, member)} | {score(hopeless, member)} |", flush=True)
    for weight in MERGE_WEIGHTS:
        for split in range(SPLITS if weight == 1.0 else 1):
            members = [(f"{family}-{split}", weight) for family in MIXED]
            title = f"{weight:g} x ({' + '.join(name for name, _ in members)})"
            print(f"| {title} | {score(mixed, *members)} | {score(hopeless, *members)} |", flush=True)
    for rate in (2e-3, RATE):
        cells = []
        for few, rest in ((shots, mixed), (hard_shots, hopeless)):
            lora = train_lora(model, tokenizer, few, steps=40, seed=0, rank=8, batch=10, rate=rate)
            hits = exact_match(lora, tokenizer, rest)
            cells.append(f"{100 * sum(hits) / len(hits):.0f}")
            model = lora.unload()
        print(f"| LoRA of 20 shots, rank 8, 40 steps, rate {rate:g} | {' | '.join(cells)} |", flush=True)


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
        check(options.base, options.out)
    else:
        build(options.base, options.out)


if __name__ == "__main__":
    main()
