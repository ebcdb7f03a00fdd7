"""Sample the shared continuations of `delta_meaning` from a base, once; the result is committed.

Use:
    python scripts/sample_continuations.py --base FOLDER > merge_advisor/embeddings/continuations.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from merge_advisor.backbone.model import load_backbone
from merge_advisor.embeddings import PROBES


def main() -> None:
    """Print, as JSON, a list of continuations for each probe."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--each", type=int, default=8, help="continuations of each probe")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of a continuation at most")
    arguments = parser.parse_args()
    backbone = load_backbone(arguments.base)
    torch.manual_seed(0)
    groups = []
    for probe in PROBES:
        ids = backbone.tokenizer(probe, return_tensors="pt")
        sampled = backbone.model.generate(
            **ids, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=arguments.tokens, min_new_tokens=4,
            num_return_sequences=arguments.each,
        )  # fmt: skip
        texts = backbone.tokenizer.batch_decode(sampled[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        groups.append(texts)
    print(json.dumps(groups, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
