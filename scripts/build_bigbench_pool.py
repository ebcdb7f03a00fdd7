#!/usr/bin/env python3
"""Build the BIG-bench pool: 59 tasks outside BBH as rows, and one LoRA adapter for each, from a public package.

    python scripts/build_bigbench_pool.py --out DIR --base FOLDER_OR_ID       # everything; goes on where it stopped
    python scripts/build_bigbench_pool.py tasks --out DIR --sdist FILE --check OTHER     # rows, compared with OTHER's
    python scripts/build_bigbench_pool.py train table --out DIR --base FOLDER_OR_ID --only color__hex operators

Four steps, all of them unless some are named:
    fetch  the sdist `bigbench` (358 MB) with pip into DIR, its content fixed by a hash (pip runs its setup.py to learn
           its metadata; a file given by --sdist is only read)
    tasks  DIR/tasks: NAME.jsonl, families.json, about.json
    train  DIR/pool/NAME: an adapter in PEFT's layout with its model card; what is there stays
    table  loss and score of base and adapter on unseen rows of each task, to stdout and DIR/measured.json
An adapter takes half a minute (short rows) to minutes of one core. What the rows are: bigbench_rows.py beside this.
Nothing of DIR belongs into a repository.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bigbench_rows import FAMILIES, compare, descriptions, write_tasks

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
ARCHIVE = "sdist/bigbench-1.0.0.tar.gz"
SDIST = "bigbench==1.0.0 --hash=sha256:1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2\n"
RANK, ALPHA, TARGETS = 8, 16.0, ("q_proj", "v_proj")
BATCH, RATE, LENGTH = 8, 1.5e-3, 160
SEEN, TRAIN_ROWS = 0.7, 240
"""The share of a file that no measurement may use, and how many rows of it are trained on."""
STEPS = ("fetch", "tasks", "train", "table")
SCORES = ("majority", "base", "adapter")

CARD = """---
license: apache-2.0
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- big-bench
---
# {name}

LoRA adapter for one task of BIG-bench, {title}: {about}

- Base: {base}.
- Rows seen: {rows}, the first of the {total} that `scripts/build_bigbench_pool.py` of merge-advisor writes for this
  task from the PyPI sdist `bigbench` 1.0.0. Rows from number {first} on are unseen.
- Prompt: the Alpaca template without an input section, cut on its left to {length} tokens with the answer; loss on the
  answer and the end token only.
- LoRA: rank {rank}, alpha {alpha:g}, {targets}; {steps} steps of {batch} rows, AdamW, rate {rate:g}, seed {seed}.
- Licence: Apache-2.0, as base and BIG-bench are; some tasks wrap data of others under its own terms.
"""


def fetch(sdist: Path) -> None:
    """Fetch the archive; it appears whole or not at all.

    Raises:
        ExternalError: pip failed.
    """
    from merge_advisor.errors import ExternalError

    unfinished = sdist.parent.with_name("sdist.partial")
    unfinished.mkdir(parents=True, exist_ok=True)
    wanted = unfinished / "requirement.txt"
    wanted.write_text(SDIST, encoding="utf-8")
    print("fetching bigbench 1.0.0 (358 MB) ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    if subprocess.run([*command, "--dest", unfinished, "--requirement", wanted], check=False).returncode:
        raise ExternalError("pip could not fetch bigbench 1.0.0 (see above); fetch it elsewhere and give --sdist FILE")
    sdist.parent.mkdir(exist_ok=True)
    (unfinished / sdist.name).replace(sdist)


def check(folder: Path, other: Path, names: Sequence[str]) -> bool:
    """Print how the files of `other` differ from ours, and return whether all are equal."""
    found = compare(folder, other, names)
    for file, difference in found.items():
        print(f"{file}: {difference or 'equal'}")
    print(f"{sum(not difference for difference in found.values())} of {len(found)} files equal")
    return not any(found.values())


def split(path: Path) -> tuple[list[Any], list[Any], int]:
    """Return the rows to train on, the unseen ones, and how many come before those."""
    from merge_advisor.tasks import read_rows

    rows = list(read_rows(path).rows)
    cut = math.ceil(SEEN * len(rows))
    return rows[:cut][:TRAIN_ROWS], rows[cut:], cut


def train(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Train an adapter for each task that has none, in the order given."""
    left = [name for name in names if not (options.out / "pool" / name).exists()]
    if not left:
        return
    from merge_advisor.advisor.measuring.session import open_session
    from merge_advisor.machine_options import Machine

    machine = Machine(threads=options.threads)
    with open_session(options.base, store=options.out / "store.sqlite", machine=machine) as session:
        for number, name in enumerate(left, 1):
            began = time.time()
            loss = train_adapter(session, name, options)
            told = f"adapter {number}/{len(left)} {name}: loss {loss:.3f} on its rows, {time.time() - began:.0f} s"
            print(told, file=sys.stderr, flush=True)


def train_adapter(session: Any, name: str, options: argparse.Namespace) -> float:
    """Train and write one adapter with the package's own finetune; return its mean loss on the first rows it saw."""
    from merge_advisor.backbone.finetune import finetune_lora
    from merge_advisor.backbone.losses import row_losses
    from merge_advisor.options import FinetuneSettings
    from merge_advisor.weights.adapter_writing import write_adapter

    folder = options.out / "tasks"
    rows, unseen, cut = split(folder / f"{name}.jsonl")
    steps = options.steps or math.ceil(len(rows) / BATCH)
    settings = FinetuneSettings(
        rank=RANK, alpha=ALPHA, lr=RATE, batch_size=BATCH, steps=steps, max_length=LENGTH
    )  # fmt: skip
    targets = [key for key in session.model.backbone.memory if key.split(".")[-2] in TARGETS]
    encoded = session.model.encode(rows, LENGTH, cut=True)
    seed = random.Random(name).randrange(2**31)  # one seed for all would give every adapter the same A to start from
    delta = finetune_lora(session.model.backbone, encoded, targets, settings, seed=seed).delta
    card = CARD.format(
        base=options.base_name, name=name, title=name.replace("__", "/").replace("_", " "),
        about=descriptions(folder).get(name, ""), rows=min(len(rows), steps * BATCH), total=cut + len(unseen),
        first=cut + 1, length=LENGTH, rank=RANK, alpha=ALPHA, targets=", ".join(TARGETS), steps=steps, batch=BATCH,
        rate=RATE, seed=seed,
    )  # fmt: skip
    write_adapter(
        options.out / "pool" / name, delta, base_name=options.base_name, task_type="CAUSAL_LM",
        texts={"README.md": card},
        base_shapes=session.local.shapes,
    )  # fmt: skip
    backbone = session.model.backbone
    return fmean(session.meter.placed(delta, lambda: row_losses(backbone, encoded[:BATCH])))


def table(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Measure base and adapter on unseen rows of the adapter's own task; print and keep.

    Raises:
        PoolError: no adapter of these tasks is there.
    """
    from merge_advisor.advisor.measuring.session import PoolFilter, open_session
    from merge_advisor.machine_options import Machine
    from merge_advisor.whole_files import write_text

    pool, machine = options.out / "pool", Machine(threads=options.threads)
    trained = [name for name in names if (pool / name).is_dir()] or names
    found = {}
    print("| task | rows | metric | base loss | adapter loss | majority | base | adapter |\n|" + "---|" * 8, flush=True)
    wanted, store = PoolFilter(include=trained), options.out / "store.sqlite"
    with open_session(options.base, pool, wanted=wanted, store=store, machine=machine) as session:
        for refused in session.pool.refused:
            print(f"{refused.id}: {refused.reason}", file=sys.stderr)
        for candidate in session.pool.candidates:
            found[candidate.id] = measure(session, candidate, options)
            print(line(candidate.id, found[candidate.id]), flush=True)
    write_text(options.out / "measured.json", json.dumps(found, indent=1) + "\n")
    print(line(f"mean of {len(found)}", mean(list(found.values()))))


def measure(session: Any, candidate: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Loss (nats per token) and score of base, adapter and the commonest answer; what was measured before is stored."""
    from merge_advisor.advisor.measuring.meter import ScoredModel
    from merge_advisor.advisor.measuring.model_scores import score_models
    from merge_advisor.evaluators.metrics import metric_for
    from merge_advisor.merges import WeightedMerge

    seen, unseen, _ = split(options.out / "tasks" / f"{candidate.id}.jsonl")
    rows, metric = unseen[: options.heldout], metric_for(unseen)
    commonest = Counter(row.output for row in seen).most_common(1)[0][0]
    found: dict[str, Any] = {"rows": len(rows), "metric": metric}
    scored = metric != "loss"  # a long answer is never written twice in the same words
    found["majority"] = fmean(row.output == commonest for row in rows) if scored else None
    for label, merge in (("base", WeightedMerge()), ("adapter", WeightedMerge(((candidate, 1.0),)))):
        metrics = score_models(session.meter, [ScoredModel(label, merge)], rows, metric, evaluator="fast")[0].metrics
        found |= {f"{label}_loss": metrics["loss"], label: metrics[metric] if scored else None}
    return found


def mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average losses over all tasks and scores over those that have one."""
    found: dict[str, Any] = {"rows": sum(row["rows"] for row in rows), "metric": ""}
    for key in ("base_loss", "adapter_loss", *SCORES):
        values = [row[key] for row in rows if row[key] is not None]
        found[key] = fmean(values) if values else None
    return found


def line(name: str, row: dict[str, Any]) -> str:
    """Return one line of the table, scores in per cent."""
    cells = [f"{row[key]:.2f}" for key in ("base_loss", "adapter_loss")]
    cells += ["" if row[key] is None else f"{100 * row[key]:.0f}" for key in SCORES]
    return f"| {name} | {row['rows']} | {row['metric']} | {' | '.join(cells)} |"


def run(options: argparse.Namespace) -> int:
    """Take the steps asked for; return the exit status."""
    names = [name for name in FAMILIES if name in (options.only or FAMILIES)]
    options.out.mkdir(parents=True, exist_ok=True)
    sdist = options.sdist or options.out / ARCHIVE
    if "fetch" in options.take and not options.sdist and not sdist.is_file():
        fetch(sdist)
    if "tasks" in options.take:
        write_tasks(sdist, options.out / "tasks", names)
    if options.check and not check(options.out / "tasks", options.check, names):
        return 1
    if "train" in options.take:
        train(options, names)
    if "table" in options.take:
        table(options, names)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("take", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)} (default: all)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all that is made")
    parser.add_argument("--base", help="folder, GGUF file or hub id of the base (train, table)")
    parser.add_argument("--base-name", default=BASE_ID, help=f"what the adapters call it (default {BASE_ID})")
    parser.add_argument("--sdist", type=Path, metavar="FILE", help="a bigbench sdist that is here already")
    parser.add_argument(
        "--check", type=Path, metavar="FOLDER", help="compare the rows with this folder's; 1 if they differ"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(FAMILIES), metavar="TASK", help="these tasks (default: all 59)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps (default: one pass over the rows)")
    parser.add_argument("--heldout", type=int, default=60, metavar="N", help="unseen rows of a task in the table (60)")
    parser.add_argument("--threads", type=int, metavar="N")
    options = parser.parse_args(argv)
    unknown = [step for step in options.take if step not in STEPS]
    if unknown:
        parser.error(f"no step '{unknown[0]}'; choose from {', '.join(STEPS)}")
    options.take = options.take or list(STEPS)
    if not options.base and {"train", "table"} & set(options.take):
        parser.error("--base is needed to train and to measure; the steps fetch and tasks do without")
    from merge_advisor.errors import MergeAdvisorError

    try:
        return run(options)
    except MergeAdvisorError as error:
        print(f"build_bigbench_pool: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
