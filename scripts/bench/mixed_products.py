"""Seconds of losses and of a finetune in float32 against products in bfloat16 (`mixed`), in turns within one run.

    python scripts/bench/mixed_products.py --base BASE --task rows.jsonl [--adapter FOLDER] [--rows 24] [--steps 12]
        [--rounds 2] [--threads 1]

The losses are those of the adapter where one is named. Prints the ratio by round, how far the losses of rows and their
mean lie apart, and how far the two updates, with machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone.encoding import EncodedRow, encode
from merge_advisor.backbone.finetune import finetune
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.backbone.precision import quick_products
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.machine_options import Machine
from merge_advisor.options import FinetuneSettings
from merge_advisor.tasks.files import read_rows
from merge_advisor.weights.updates import WeightDelta


def losses_of(backbone: Backbone, rows: Sequence[EncodedRow], delta: WeightDelta) -> np.ndarray:
    """Losses of rows as they are for choosing."""
    with placed(backbone, delta), quick_products(backbone):
        return np.array(row_losses(backbone, rows))


def trained(backbone: Backbone, rows: Sequence[EncodedRow], steps: int) -> np.ndarray:
    """The update of a LoRA of the attention's queries and values, as one vector."""
    import torch

    names = tuple(name for name in backbone.memory if name.endswith(("q_proj.weight", "v_proj.weight")))
    generator = torch.Generator().manual_seed(0)
    trainable = LoraShape(names, 8, 16.0).build(backbone, generator)
    delta = finetune(backbone, trainable, rows, FinetuneSettings(steps=steps), generator=generator).delta
    return np.concatenate([delta[name].dense().ravel() for name in sorted(delta)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    for name, value in (("--rows", 24), ("--steps", 12), ("--rounds", 2), ("--threads", 1)):
        parser.add_argument(name, type=int, default=value)
    asked = parser.parse_args()
    backbones = {dtype: load_backbone(asked.base, dtype=dtype, threads=asked.threads) for dtype in ("mixed", "float32")}
    delta: WeightDelta = {}
    if asked.adapter:
        with open_session(str(asked.base), asked.adapter.parent, machine=Machine(device="cpu")) as session:
            found = next(one for one in session.pool.candidates if one.id == asked.adapter.name)
            delta = dict(session.meter.weights.of(found))
    rows = read_rows(asked.task).rows[: asked.rows]
    texts = [(row.input + "\n", row.output or "") for row in rows]
    encoded = encode(backbones["mixed"], texts, max_length=512)
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    print(f"{datetime.date.today()},{cpu.partition(':')[2]}, {asked.threads} thread(s)")
    ways: dict[str, Callable[[Backbone], np.ndarray]] = {
        "losses": lambda backbone: losses_of(backbone, encoded, delta),
        "finetune": lambda backbone: trained(backbone, encoded, asked.steps),
    }
    for name, way in ways.items():
        seconds: dict[str, list[float]] = {dtype: [] for dtype in backbones}
        result = {}
        for _ in range(asked.rounds):
            for dtype, backbone in backbones.items():
                began = time.perf_counter()
                result[dtype] = way(backbone)
                seconds[dtype].append(time.perf_counter() - began)
        ratios = [one / other for one, other in zip(seconds["mixed"], seconds["float32"], strict=True)]
        medians = ", ".join(f"{dtype} {statistics.median(taken):.2f} s" for dtype, taken in seconds.items())
        print(f"{name}: {medians}; ratio by round {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
        apart = result["mixed"] - result["float32"]
        if name == "losses":
            rms, mean = float(np.sqrt(np.square(apart).mean())), float(result["float32"].mean())
            print(f"  rows lie {rms:.3f} nats apart (rms), their mean {apart.mean():+.4f} of {mean:.3f}")
        else:
            print(f"  distance of the updates / norm: {np.linalg.norm(apart) / np.linalg.norm(result['float32']):.1e}")


if __name__ == "__main__":
    main()
