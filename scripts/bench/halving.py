"""How few rows find the best single adapter? Rows for the gradient's shortlist, and rounds of successive halving.

    python scripts/bench/halving.py --base BASE --pool POOL --tasks DIR --only NAME ... --out FILE [--dtype bfloat16]
    python scripts/bench/halving.py --out FILE --summary

For each task, on the choosing rows of the first draw of `recipes/bench-bigbench-smollm2.yaml`: the loss of every single
adapter but its own, row by row, and the first-order gain of each by the gradient of each row. Over 200 orders of the
rows: what does a shortlist by the gradient on a few rows, and successive halving among it, lose of what the best single
gains on all 20 rows (the regret), and what does it cost? A line per task is appended at once, and tasks that are there
are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, options, parsed, read_lines

from merge_advisor.advisor.measuring.meter import loss_kind_of
from merge_advisor.advisor.measuring.session import Session, open_session
from merge_advisor.advisor.planning.choosing_losses import rows_in
from merge_advisor.benchmark.running.arms import halving_passes
from merge_advisor.benchmark.running.rows import read_bench_tasks
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.machine_options import Machine
from merge_advisor.merges import WeightedMerge
from merge_advisor.select.halving import HALVING_SHARES, NO_HALVING, best_of
from merge_advisor.types import BACKWARD, Task

SETUP = Path(__file__).parents[2] / "recipes" / "bench-bigbench-smollm2.yaml"
ROWS, ORDERS = 20, 200
SCREENS = (4, 8, 20)
"""Rows the gradient is taken on."""
TOPS = (8, 16)
"""Lengths of the shortlist."""
HALVINGS = (NO_HALVING, HALVING_SHARES, (0.25, 1.0), (0.25, 0.5, 1.0))
"""Shares of the rows that the rounds are run over."""


def main() -> None:
    """Measure what is missing, print the summary."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="tasks")
    arguments = parsed(parser)
    if not arguments.summary:
        setup, places = read_setup(SETUP, base=arguments.base, pool=str(arguments.pool), tasks=str(arguments.tasks))
        tasks = {task.name: task for task in read_bench_tasks(setup, places)}
        machine = Machine(dtype=arguments.dtype, threads=1)
        with open_session(places.base, places.pool, template=setup.template or None, machine=machine) as session:
            for name in arguments.only:
                if name not in {entry["task"] for entry in read_lines(arguments.out)}:
                    add_line(arguments.out, measure(session, tasks[name].draw(setup, 0)))
    summarise(read_lines(arguments.out))


def measure(session: Session, task: Task) -> dict[str, Any]:
    """Losses and first-order gains of every adapter but the task's own, row by row."""
    rows = task.choosing
    by = loss_kind_of(rows)
    others = [c for c in session.pool.candidates if c.id != task.name]
    meter = session.meter
    gains = [meter.gains(others, [row], kind=by).tolist() for row in rows]
    base = meter.losses(WeightedMerge(), rows, by)
    losses = [meter.losses(WeightedMerge(((candidate, 1.0),)), rows, by) for candidate in others]
    return {
        "task": task.name, "measure": by, "ids": [c.id for c in others], "base": _rounded(base),
        "losses": [_rounded(row) for row in losses], "gains": [_rounded(row) for row in np.transpose(gains)],
    }  # fmt: skip


def summarise(entries: list[dict[str, Any]]) -> None:
    """Print cost and regret of every way, by task and on average."""
    ways = [(screen, top, shares) for top in TOPS for screen in SCREENS for shares in HALVINGS]
    table = np.array([[regret(entry, *way) for way in ways] for entry in entries])
    for entry in entries:
        means = np.mean(entry["losses"], axis=1)
        print(f"{entry['task']}: base {np.mean(entry['base']):.3f}, best single {means.min():.3f}, median "
              f"{np.median(means):.3f} ({entry['measure']})")  # fmt: skip
    for number, (screen, top, shares) in enumerate(ways):
        told = f"halving over {shares}" if len(shares) > 1 else "all rows"
        values = ", ".join(f"{value:.1%}" for value in table[:, number])
        print(f"gradient on {screen:2} rows, best {top:2}, {told}: {cost(screen, top, shares):3} passes, "
              f"{table[:, number].mean():.1%} lost ({values})")  # fmt: skip


def regret(entry: dict[str, Any], screen: int, top: int, shares: tuple[float, ...]) -> float:
    """What is lost of the best single's gain over the base, mean over the orders of the rows."""
    losses, gains = np.array(entry["losses"]), np.array(entry["gains"])
    means = losses.mean(1)
    found = []
    for seed in range(ORDERS):
        order = np.random.default_rng(seed).permutation(ROWS)
        shortlist = np.argsort(-gains[:, order[:screen]].mean(1), kind="stable")[:top]

        def loss(place: int, share: float, order: np.ndarray = order) -> float:
            return float(losses[place, order[: rows_in(share, ROWS)]].mean())

        found.append(means[best_of(shortlist.tolist(), loss, shares)[0]])
    return float((np.mean(found) - means.min()) / (np.mean(entry["base"]) - means.min()))


def cost(screen: int, top: int, shares: tuple[float, ...]) -> int:
    """Forward passes over one row, those with a backward pass counted as `BACKWARD`."""
    return BACKWARD * screen + halving_passes(top, ROWS, shares)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


if __name__ == "__main__":
    main()
