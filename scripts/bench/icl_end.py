"""What an answer's end weighs in the loss of a base with examples in its prompt.

    python scripts/bench/icl_end.py --base BASE --tasks DIR --out eval/icl_end.jsonl --rows 5 20 --only NAME ...
    python scripts/bench/icl_end.py --out eval/icl_end.jsonl --summary

Of each task the first N rows of a shuffled file are examples and 30 others are asked. A line for each task and N holds
the loss per token with the end token alone as the end (as all models are asked), with any end that scoring takes (as
models with examples in their prompt are asked), of the answer without an end, and how many answers are right.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from kept import add_line, options, read_lines

from merge_advisor.advisor.measuring.session import default_cache
from merge_advisor.backbone.closing import closing_ids
from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import load_backbone
from merge_advisor.evaluators.fast import row_values
from merge_advisor.evaluators.metrics import answer_end, encode_rows
from merge_advisor.tasks.files import read_rows
from merge_advisor.templates import get
from merge_advisor.weights.base import resolve_base

ASKED = 30


def main() -> None:
    """Measure what is not there yet, and print it all."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[5, 20], help="examples in the prompt")
    parser.add_argument("--only", nargs="+", default=[], help="names of the tasks")
    parser.add_argument("--template", default="plain")
    given = parser.parse_args()
    done = {(line["task"], line["rows"]) for line in read_lines(given.out)}
    if not given.summary:
        backbone = load_backbone(resolve_base(given.base, cache=default_cache()).path, dtype=given.dtype, threads=1)
        for name in given.only:
            rows = list(read_rows(given.tasks / f"{name}.jsonl").rows)
            random.Random(0).shuffle(rows)
            for count in given.rows:
                if (name, count) in done:
                    continue
                asked = rows[count : count + ASKED]
                template = get(given.template).with_examples((row.asked, row.output) for row in rows[:count])
                ends = closing_ids(backbone, answer_end(asked, template))
                encoded = encode_rows(backbone, asked, template)
                bare = [EncodedRow(row.prompt, row.completion[:-1]) for row in encoded]
                add_line(given.out, {
                    "task": name, "rows": count, "dtype": given.dtype, "ends": len(ends),
                    "end token": float(np.mean(row_losses(backbone, encoded))),
                    "any end": float(np.mean(row_losses(replace(backbone, closing=ends), encoded))),
                    "answer alone": float(np.mean(row_losses(backbone, bare))),
                    "right": float(np.mean(row_values(backbone, asked, template, "exact_match"))),
                })  # fmt: skip
    print("| task | examples | right | end token alone | any end | answer alone |\n|---|---|---|---|---|---|")
    for line in read_lines(given.out):
        losses = " | ".join(f"{line[name]:.2f}" for name in ("end token", "any end", "answer alone"))
        print(f"| {line['task']} | {line['rows']} | {line['right']:.0%} | {losses} |")


if __name__ == "__main__":
    main()
