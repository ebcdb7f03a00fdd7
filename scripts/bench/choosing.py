"""What to choose by where rows have choices, and on how many rows?

    python scripts/bench/choosing.py --base BASE --pool POOL --tasks DIR --out FILE [--only NAME ...] [--summary]

For each task with choices, merges that nobody chose (the base, 16 single adapters, 24 sets of four at 1/2 each, those
of its family, and apart from them its own adapter) are measured on 100 rows of the last 30% of its file. Then, over 200
draws of choosing rows: how does each measure on them order the accuracy on the other rows (Spearman), and how good is
the merge it picks? A line per merge is appended at once, and merges that are there are skipped. The measures:

    loss      of the right answer's tokens, nats per token
    choices   -log of the right choice's share of the likelihood of all choices, nats
    brier     sum of squares of the shares minus 1 for the right choice and 0 for the others (Brier 1950), 0 to 2
    right     whether the right choice is the likeliest
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, options, parsed, read_lines

from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.backbone.likelihood import answer_totals
from merge_advisor.machine_options import Machine
from merge_advisor.merges import WeightedMerge
from merge_advisor.tasks import read_rows
from merge_advisor.types import Candidate

ROWS, CHOOSING, DRAWS = 100, (5, 8, 20, 40), 200
MEASURES = ("loss", "choices", "brier", "right")


def main() -> None:
    """Measure what is missing, print the summary."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="tasks")
    arguments = parsed(parser)
    if not arguments.summary:
        families = json.loads((arguments.tasks / "families.json").read_text())
        machine = Machine(dtype=arguments.dtype, threads=1)
        with open_session(arguments.base, arguments.pool, template="alpaca", machine=machine) as session:
            for name in arguments.only or sorted(families):
                measure(session, arguments.tasks / f"{name}.jsonl", families, arguments.out)
    for task, merges in _by_task(arguments.out).items():
        summarise(task, merges)


def measure(session: Session, path: Path, families: dict[str, str], out: Path) -> None:
    """Append what the file lacks of one task; a task with rows without choices has nothing to measure."""
    rng = np.random.default_rng([7, *path.stem.encode()])
    rows = read_rows(path).rows
    rows = rows[int(0.7 * len(rows)) :]
    rows = tuple(rows[i] for i in rng.permutation(len(rows))[:ROWS])
    if not all(row.choices for row in rows):
        return
    encoded = session.model.encode_choices(rows)
    answers = [answer for row in encoded for answer in row.answers]
    backbone = session.model.backbone
    done = {json.dumps(found["members"]) for found in _by_task(out).get(path.stem, [])}
    for merge in _merges(session, path.stem, families, rng):
        members = [[candidate.id, weight] for candidate, weight in merge]
        if json.dumps(members) in done:
            continue
        totals = iter(session.meter.on_base(WeightedMerge(tuple(merge)), lambda: answer_totals(backbone, answers)))
        found: dict[str, list[float]] = {name: [] for name in MEASURES}
        for row in encoded:
            own = np.array([next(totals) for _ in row.answers])
            found["loss"].append(float(-own[row.right] / len(row.answers[row.right].completion)))
            found["choices"].append(float(np.logaddexp.reduce(own) - own[row.right]))
            shares = np.exp(own - np.logaddexp.reduce(own))
            found["brier"].append(float(np.square(shares - np.eye(len(own))[row.right]).sum()))
            found["right"].append(float(own.argmax() == row.right))
        rounded = {name: [round(value, 4) for value in values] for name, values in found.items()}
        add_line(out, {"task": path.stem, "members": members, **rounded})


def _merges(
    session: Session, task: str, families: dict[str, str], rng: np.random.Generator
) -> list[list[tuple[Candidate, float]]]:
    others = [c for c in session.pool.candidates if c.id != task]
    found: list[list[tuple[Candidate, float]]] = [[]]
    found += [[(others[i], 1.0)] for i in rng.choice(len(others), 16, replace=False)]
    found += [[(others[i], 0.5) for i in rng.choice(len(others), 4, replace=False)] for _ in range(24)]
    found += [[(c, 1.0)] for c in others if families.get(c.id) == families[task] and [(c, 1.0)] not in found]
    return [*found, *([(c, 1.0)] for c in session.pool.candidates if c.id == task)]


def summarise(task: str, merges: list[dict[str, Any]]) -> None:
    """Print how each measure on choosing rows tells the accuracy on the others; own adapter and base are not picked."""
    from scipy.stats import spearmanr

    own = [merge for merge in merges if merge["members"] == [[task, 1.0]]]
    base = next(merge for merge in merges if not merge["members"])
    others = [merge for merge in merges if merge["members"] and merge not in own]
    values = {name: np.array([merge[name] for merge in others]) for name in MEASURES}
    values["right"] = 1 - values["right"]
    rows = values["loss"].shape[1]
    reached = 1 - values["right"].mean(1)
    alone = f", own adapter {np.mean(own[0]['right']):.1%}" if own else ""
    print(
        f"{task}: {len(others)} merges, {rows} rows; base {np.mean(base['right']):.1%}{alone}, "
        f"merges {reached.min():.1%} to {reached.max():.1%}, mean {reached.mean():.1%}"
    )
    for size in CHOOSING:
        rng = np.random.default_rng(0)
        orders: dict[str, list[float]] = {name: [] for name in MEASURES}
        picked: dict[str, list[float]] = {name: [] for name in MEASURES}
        for _ in range(DRAWS):
            order = rng.permutation(rows)
            kept = 1 - values["right"][:, order[size:]].mean(1)
            for name in MEASURES:
                seen = values[name][:, order[:size]].mean(1)
                orders[name].append(float(spearmanr(-seen, kept).statistic))
                picked[name].append(float(kept[int(seen.argmin())]))
        told = "; ".join(f"{n} {np.nanmean(orders[n]):+.2f} {np.mean(picked[n]):.1%}" for n in MEASURES)
        print(f"  {size:2} rows: {told}")


def _by_task(path: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in read_lines(path):
        found.setdefault(entry["task"], []).append(entry)
    return found


if __name__ == "__main__":
    main()
