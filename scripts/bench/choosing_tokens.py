"""May long rows be cut for choosing? The order of a pool's adapters by whole rows, and by the end of each row alone.

    python scripts/bench/choosing_tokens.py --base BASE --pool POOL --tasks DIR --only NAME ... --out FILE
    python scripts/bench/choosing_tokens.py --out FILE --summary

Of each task the 12 longest rows among its last 30% (none of them seen by an adapter), under the alpaca template: the
loss of every adapter but the task's own on each, whole and with its prompt cut on its left to fewer tokens, and the
first-order gain of every adapter by the gradient of all rows. What does a cut keep of the order, what does the best
adapter by cut rows keep of the gain that the best by whole rows has, what the best of the 8 that the gradient of cut
rows ranks first, and how many tokens does it run?
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, options, parsed, read_lines

from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.backbone.gradients import loss_and_gradient
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.place import placed
from merge_advisor.backbone.precision import quick_products
from merge_advisor.machine_options import Machine
from merge_advisor.tasks.files import read_rows
from merge_advisor.weights.updates import WeightDelta, along

LIMITS = (1024, 160, 112)
"""Tokens of a row, the template's among them; the first cuts none."""
ROWS, UNSEEN, TOP = 12, 0.3, 8


def main() -> None:
    """Measure what is missing, print the summary."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="tasks")
    arguments = parsed(parser)
    if not arguments.summary:
        machine = Machine(device="cpu", dtype=arguments.dtype, threads=1)
        with open_session(arguments.base, str(arguments.pool), template="alpaca", machine=machine) as session:
            for name in arguments.only:
                if name not in {entry["task"] for entry in read_lines(arguments.out)}:
                    add_line(arguments.out, measured(session, arguments.tasks / f"{name}.jsonl"))
    print(summary(read_lines(arguments.out)))


def measured(session: Session, path: Path) -> dict[str, Any]:
    """Losses and first-order gains of every adapter but the task's own, by limit."""
    rows = read_rows(path).rows
    unseen = rows[len(rows) - int(UNSEEN * len(rows)) :]
    kept = sorted(unseen, key=lambda row: -len(str(row.asked)) - len(row.output))[:ROWS]
    model, pool = session.meter.model, session.pool
    # an adapter of the pools here has the name of its task, perhaps with a number behind it
    others = [c for c in pool.candidates if path.stem not in c.id]
    found: dict[str, Any] = {"task": path.stem, "ids": [c.id for c in others], "limits": {}}
    for limit in LIMITS:
        encoded = model.encode(kept, limit)

        def losses(delta: WeightDelta, encoded: Any = encoded) -> list[float]:
            with placed(model.backbone, delta), quick_products(model.backbone):
                return [round(loss, 4) for loss in row_losses(model.backbone, encoded)]

        deltas = [session.weights.of(candidate) for candidate in others]
        with quick_products(model.backbone):
            names = sorted({name for one in deltas for name in one})
            gradient = loss_and_gradient(model.backbone, encoded, names)[1]
        found["limits"][str(limit)] = {
            "tokens": sum(map(len, encoded)),
            "base": losses({}),
            "losses": [losses(delta) for delta in deltas],
            "gains": [round(-sum(along(delta[name], gradient[name]) for name in delta), 4) for delta in deltas],
        }
    return found


def summary(entries: Sequence[dict[str, Any]]) -> str:
    """A row for each task and limit."""
    columns = (
        "task",
        "tokens a row",
        "run",
        "rank correlation",
        "best adapter keeps of the best gain",
        "best of the 8",
    )
    text = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for entry in entries:
        whole = entry["limits"][str(LIMITS[0])]
        means = np.mean(whole["losses"], axis=1)
        gain = np.mean(whole["base"]) - means
        for limit in LIMITS:
            cut = entry["limits"][str(limit)]
            by_cut = np.mean(cut["losses"], axis=1)
            short = np.argsort(-np.array(cut["gains"]))[:TOP]
            text.append(
                f"| {entry['task']} | {whole['tokens'] / ROWS:.0f} | {cut['tokens'] / whole['tokens']:.0%} of tokens "
                f"({limit}) | {_rank_correlation(by_cut, means):.2f} | {gain[by_cut.argmin()] / gain.max():.0%} | "
                f"{gain[short].max() / gain.max():.0%} |"
            )
    return "\n".join(text)


def _rank_correlation(one: Any, other: Any) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1])


if __name__ == "__main__":
    main()
