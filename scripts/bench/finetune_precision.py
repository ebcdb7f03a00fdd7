"""Seconds of a finetune with float32 products against torch's "medium" precision, in turns within one run.

    python scripts/bench/finetune_precision.py --base BASE --task rows.jsonl [--rows 12] [--steps 12] [--rounds 2]
        [--threads 1]

On a CPU with AMX "medium" takes bfloat16 products and is faster; on one without, it imitates them. Prints medians, the
ratio by round, and how far the two updates lie apart, with machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from merge_advisor.backbone import finetune as room
from merge_advisor.backbone.encoding import EncodedRow, encode
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.options import FinetuneSettings
from merge_advisor.tasks.files import read_rows
from merge_advisor.weights.updates import WeightDelta


def trained(backbone: Backbone, rows: Sequence[EncodedRow], steps: int, *, medium: bool) -> WeightDelta:
    """A LoRA of the attention's queries and values."""
    import torch

    names = tuple(name for name in backbone.memory if name.endswith(("q_proj.weight", "v_proj.weight")))
    generator = torch.Generator().manual_seed(0)
    trainable = LoraShape(names, 8, 16.0).build(backbone, generator)
    room._multiplies_bfloat16 = lambda: medium
    return room.finetune(backbone, trainable, rows, FinetuneSettings(steps=steps), generator=generator).delta


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True)
    for name, value in (("--rows", 12), ("--steps", 12), ("--rounds", 2), ("--threads", 1)):
        parser.add_argument(name, type=int, default=value)
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.base, threads=arguments.threads)
    rows = read_rows(arguments.task).rows[: arguments.rows]
    texts = [(row.input, row.output or "") for row in rows]
    encoded = encode(backbone, texts, max_length=512)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    deltas = {}
    for _ in range(arguments.rounds):
        for medium in (True, False):
            began = time.perf_counter()
            deltas[medium] = trained(backbone, encoded, arguments.steps, medium=medium)
            seconds[medium].append(time.perf_counter() - began)
    one, other = ({name: update.dense() for name, update in deltas[medium].items()} for medium in (True, False))
    apart = sum(float(np.square(one[name] - other[name]).sum()) for name in one)
    norm = sum(float(np.square(update).sum()) for update in other.values())
    ratios = [plain / medium for plain, medium in zip(seconds[False], seconds[True], strict=True)]
    print(f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {arguments.threads} thread(s)")
    print(f'"medium" {statistics.median(seconds[True]):.2f} s, float32 {statistics.median(seconds[False]):.2f} s')
    print(f"ratio by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"distance of the updates / norm: {np.sqrt(apart / norm):.1e}")


if __name__ == "__main__":
    main()
