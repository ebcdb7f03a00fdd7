"""How often the task delta of a few shots finds the right domain, for several finetune settings.

    python scripts/bench/task_embedding.py --base BASE --pool POOL --domains DIR [--draws 20] [--shots 20] --out FILE

The pool holds adapters named <domain>-<i>; the folder holds <domain>.jsonl. Shots are drawn from rows no adapter of the
pool was trained on (--from, --to). A line per draw is appended to FILE at once, and draws that are there are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, read_lines

from merge_advisor import templates
from merge_advisor.backbone.encoding import encode
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.embeddings.activations import DeltaActivations
from merge_advisor.options import FinetuneSettings
from merge_advisor.weights.adapter import read_adapter


def main() -> None:
    """Measure; print the accuracy of each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--domains", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--shots", type=int, default=20)
    parser.add_argument("--from", dest="first", type=int, default=528)
    parser.add_argument("--to", type=int, default=811)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", nargs="*", default=["{}"], help="JSON objects of finetune settings")
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.base, threads=arguments.threads)
    shapes = backbone.shapes
    embedding = DeltaActivations()
    base = embedding.features(backbone)
    rows = {
        path.stem: read_lines(path)[arguments.first : arguments.to + 1] for path in arguments.domains.glob("*.jsonl")
    }
    pool = {}
    for folder in sorted(arguments.pool.iterdir()):
        if folder.name.rpartition("-")[0] in rows and folder.name.rpartition("-")[2].isdigit():
            with placed(backbone, read_adapter(folder, shapes)):
                pool[folder.name] = embedding.features(backbone) - base
    targets = sorted(read_adapter(next(iter(arguments.pool.iterdir())), shapes))
    done = {(r["settings"], r["shots"], r["draw"], r["domain"]) for r in read_lines(arguments.out)}
    alpaca = templates.get("alpaca")
    for draw in range(arguments.draws):
        for text in arguments.settings:
            settings = FinetuneSettings(**json.loads(text))
            for domain in sorted(rows):
                if (text, arguments.shots, draw, domain) in done:
                    continue
                start = time.perf_counter()
                rng = np.random.default_rng([draw, sorted(rows).index(domain)])
                chosen = rng.choice(len(rows[domain]), arguments.shots, replace=False)
                picked = [rows[domain][i] for i in chosen]
                texts = [(alpaca.prompt(r["input"]), alpaca.completion(r["output"])) for r in picked]
                encoded = encode(backbone, texts, max_length=settings.max_length, cut=True)
                with placed(backbone, finetune_lora(backbone, encoded, targets, settings, seed=draw).delta):
                    delta = embedding.features(backbone) - base
                likeness = {name: _cosine(delta, other) for name, other in pool.items()}
                best = max(likeness, key=lambda name: likeness[name])
                wrong = max(value for name, value in likeness.items() if not name.startswith(domain))
                right = max(value for name, value in likeness.items() if name.startswith(domain))
                record = {
                    "settings": text, "shots": arguments.shots, "draw": draw, "domain": domain, "nearest": best,
                    "right": round(right, 4), "wrong": round(wrong, 4),
                    "seconds": round(time.perf_counter() - start, 2),
                }  # fmt: skip
                add_line(arguments.out, record)
    summarise(read_lines(arguments.out))


def summarise(records: list[dict[str, Any]]) -> None:
    """Print accuracy, margins and time by setting and domain, as Markdown."""
    groups: dict[tuple[object, object], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["settings"], record["shots"]), []).append(record)
    for (settings, shots), found in groups.items():
        print(f"\n{shots} shots, settings {settings}: {_share(found)} find their domain\n")
        print("| domain | nearest is right | cosine, own domain | cosine, best other | least lead | seconds |")
        print("|---" * 6 + "|")
        for domain in sorted({record["domain"] for record in found}):
            own = [record for record in found if record["domain"] == domain]
            right, wrong, seconds = (np.array([record[key] for record in own]) for key in ("right", "wrong", "seconds"))
            cells = f"{_share(own)} | {right.mean():.3f} | {wrong.mean():.3f} | {(right - wrong).min():+.3f}"
            print(f"| {domain} | {cells} | {np.median(seconds):.0f} |")
        for record in found:
            if not str(record["nearest"]).startswith(str(record["domain"])):
                print(f"\ndraw {record['draw']} of {record['domain']} is nearest to {record['nearest']}")


def _share(records: list[dict[str, Any]]) -> str:
    return f"{sum(str(r['nearest']).startswith(str(r['domain'])) for r in records)} of {len(records)}"


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


if __name__ == "__main__":
    main()
