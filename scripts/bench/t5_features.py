"""Which representation finds a task's own adapter, or its family, on an encoder-decoder.

    python scripts/bench/t5_features.py --pool DIR [--draws 3] [--shots 5 20 20x100] --out FILE

DIR is what build_t5_pool.py makes: base/, pool/ (published/ after `merge-advisor convert`), tasks/, families.json. The
task delta is that of a LoRA finetuned on the shots as `plan` does it, or (`20x100`) for so many steps. Each registered
embedding asks its generic probes; `decoder, own probes` and `encoder, own probes` are the same two features on prompts
the base was trained on. A line per draw and task is appended to FILE at once, those that are there are skipped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, read_lines

from merge_advisor import registry, templates
from merge_advisor.backbone.encoding import encode
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.backbone.probes import encoder_hidden, probe_hidden
from merge_advisor.options import FinetuneSettings
from merge_advisor.weights.adapter import read_adapter

NAMES = ("delta_activations", "delta_activations_encoder", "delta_logits", "delta_meaning")
OWN_PROBES = (
    "Repeat the text: nabo tig ul",
    "Give the first word: fopi len asu",
    "Give the last word: dem tara",
    "Write the text in capitals: gol vibe",
    "Spell the word: mutil",
)
BARE = templates.get("bare")


@dataclass(frozen=True)
class OwnProbes:
    """A feature of encoder or decoder on `OWN_PROBES`, mean over them."""

    decoder: bool

    def features(self, backbone: Backbone) -> np.ndarray:
        """Return (d,) float32."""
        if self.decoder:
            return np.asarray(probe_hidden(backbone, OWN_PROBES)[0].mean(axis=0))
        return np.asarray(encoder_hidden(backbone, OWN_PROBES).mean(axis=0))


def main() -> None:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--shots", nargs="*", default=["5", "20", "20x100"], metavar="SHOTS[xSTEPS]")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    backbone = load_backbone(options.pool / "base", threads=1)
    shapes = backbone.shapes
    embeddings: dict[str, Any] = {name: registry.build("embedding", name) for name in NAMES}
    embeddings |= {"decoder, own probes": OwnProbes(True), "encoder, own probes": OwnProbes(False)}
    base = {name: embedding.features(backbone) for name, embedding in embeddings.items()}
    families = json.loads((options.pool / "families.json").read_text())
    adapters = {task: read_adapter(options.pool / "pool" / task, shapes) for task in families}
    pool: dict[str, dict[str, Any]] = {name: {} for name in embeddings}
    for task, delta in adapters.items():
        with placed(backbone, delta):
            for name, embedding in embeddings.items():
                pool[name][task] = embedding.features(backbone) - base[name]
    targets = sorted(next(iter(adapters.values())))
    done = {(r["embedding"], r["shots"], r["draw"], r["task"]) for r in read_lines(options.out)}
    for draw in range(options.draws):
        for shots in options.shots:
            count, steps = (int(part or 0) for part in f"{shots}x".split("x")[:2])
            settings = FinetuneSettings(steps=steps or None)
            for task in families:
                missing = [name for name in embeddings if (name, shots, draw, task) not in done]
                if not missing:
                    continue
                rows = read_lines(options.pool / "tasks" / f"{task}.jsonl")
                order = np.random.default_rng([draw, sorted(families).index(task)]).permutation(len(rows))[:count]
                texts = [(BARE.prompt(rows[i]["input"]), BARE.completion(rows[i]["output"])) for i in order]
                encoded = encode(backbone, texts, max_length=256)
                trained = finetune_lora(backbone, encoded, targets, settings, seed=draw)
                with placed(backbone, trained.delta):
                    deltas = {name: embeddings[name].features(backbone) - base[name] for name in missing}
                for name in missing:
                    record = {"embedding": name, "shots": shots, "draw": draw, "task": task}
                    add_line(options.out, record | _found(deltas[name], pool[name], task, families))
    summarise(read_lines(options.out), families)


def _found(delta: np.ndarray, pool: dict[str, np.ndarray], task: str, families: dict[str, str]) -> dict[str, Any]:
    """Rank of the own adapter (1 is nearest), and whether the nearest other one is of the family; both centred too."""
    found: dict[str, Any] = {}
    mean = np.mean([pool[name] for name in sorted(pool)], axis=0)
    for suffix, away in (("", 0.0), ("_centred", 1.0)):
        likeness = {name: _cosine(delta - away * mean, other - away * mean) for name, other in pool.items()}
        ranked = sorted(likeness, key=lambda name: (-likeness[name], name))
        nearest = next(name for name in ranked if name != task)
        found[f"rank{suffix}"] = ranked.index(task) + 1
        found[f"family{suffix}"] = families[nearest] == families[task]
    return found


def summarise(records: list[dict[str, Any]], families: dict[str, str]) -> None:
    """Print, by embedding and shots, how often the own adapter is nearest and the nearest other one of the family."""
    sizes = [list(families.values()).count(family) for family in families.values()]
    chance = np.mean([(size - 1) / (len(families) - 1) for size in sizes])
    print(f"chance: own {100 / len(families):.0f}, own among 5 {500 / len(families):.0f}, family {100 * chance:.0f}\n")
    print("| embedding | shots | own nearest | own among 5 | family nearest | the same, centred | task deltas |")
    print("|---" * 7 + "|")
    for name in dict.fromkeys(record["embedding"] for record in records):
        for shots in dict.fromkeys(record["shots"] for record in records):
            own = [r for r in records if (r["embedding"], r["shots"]) == (name, shots)]
            if own:
                cells = [_shares(own, suffix) for suffix in ("", "_centred")]
                print(f"| {name} | {shots} | {' | '.join(cells[0])} | {' / '.join(cells[1])} | {len(own)} |")


def _shares(records: list[dict[str, Any]], suffix: str) -> list[str]:
    ranks = np.array([record[f"rank{suffix}"] for record in records])
    family = np.array([record[f"family{suffix}"] for record in records])
    return [f"{100 * share:.0f}" for share in ((ranks == 1).mean(), (ranks <= 5).mean(), family.mean())]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


if __name__ == "__main__":
    main()
