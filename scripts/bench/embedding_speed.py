"""Seconds per adapter: ours against a plain PEFT loop, in turns within one run, and whether the vectors agree.

    python scripts/bench/embedding_speed.py --base BASE --pool POOL [--adapters 8] [--rounds 3] [--threads 2]

The PEFT loop is what the public scripts do, with the adapter taken off again: load it, five single forwards with
`output_hidden_states`, unload. Ours: base + s·B·A into a buffer, one right-padded batch of five, no logits. The third
column is ours in bfloat16 (factors beside the weight). Prints medians and ratios by round, with machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.embeddings import PROBES
from merge_advisor.embeddings.activations import DeltaActivations
from merge_advisor.weights.adapter import read_adapter


def by_peft(backbone: Backbone, folder: Path) -> np.ndarray:
    """Mean last-token state over the probes, the plain way."""
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(backbone.model, folder)
    states = []
    with torch.no_grad():
        for probe in PROBES:
            batch = backbone.tokenizer(probe, return_tensors="pt", truncation=True, max_length=256)
            states.append(model(**batch, output_hidden_states=True).hidden_states[-1][0, -1].float().numpy())
    model.unload()
    return np.asarray(np.mean(states, axis=0))


def by_us(backbone: Backbone, folder: Path) -> np.ndarray:
    """The same by placing the adapter."""
    shapes = backbone.shapes
    with placed(backbone, read_adapter(folder, shapes)):
        return DeltaActivations().features(backbone)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    folders = [path for path in sorted(arguments.pool.iterdir()) if (path / "adapter_config.json").is_file()]
    folders = folders[: arguments.adapters]
    full = load_backbone(arguments.base, threads=arguments.threads)
    half = load_backbone(arguments.base, threads=arguments.threads, dtype="bfloat16")
    plain = load_backbone(arguments.base, threads=arguments.threads)
    ways: dict[str, Callable[[Path], np.ndarray]] = {
        "peft": lambda folder: by_peft(plain, folder),
        "ours": lambda folder: by_us(full, folder),
        "ours bf16": lambda folder: by_us(half, folder),
    }
    bare = {"peft": DeltaActivations().features(plain), "ours": DeltaActivations().features(full),
            "ours bf16": DeltaActivations().features(half)}  # fmt: skip
    vectors: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():  # warm-up, and the vectors
        vectors[name] = [way(folder) - bare[name] for folder in folders]
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for folder in folders:
                way(folder)
            seconds[name].append((time.perf_counter() - start) / len(folders))
    print(f"{datetime.date.today()}, {platform.machine()}, {arguments.threads} threads, {len(folders)} adapters")
    for name in ways:
        ratios = [ours / peft for ours, peft in zip(seconds[name], seconds["peft"], strict=True)]
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            for a, b in zip(vectors[name], vectors["peft"], strict=True)
        ]
        print(
            f"{name:10s} {statistics.median(seconds[name]):.3f} s an adapter, ratio to peft "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}), least cosine {min(cosines):.7f}"
        )


if __name__ == "__main__":
    main()
