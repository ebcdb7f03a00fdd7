"""Do the benchmark's statistics keep their promises? On simulated benchmarks with known truth.

python scripts/bench/bench_statistics.py [--benchmarks 1000] [--only PART]

1. Interval rules on one difference a family, true mean 0, in eight shapes: coverage, and width against Student's t; and
   how often the rule of `contrast` (interval and sign-flip test) finds a difference there.
2. Whole benchmarks through `contrast`: an answer to a row is right where a latent number is above 0. It is the sum of
   the task, the row's difficulty (held-out rows are the same in all draws), and for each arm its own effects of family,
   task, draw and row, and noise; arms differ in a shift that moves accuracy from 45% by exactly the true gain. All
   parts are normal and add up to variance 1, so the truth is known without error.
3. The interval of Kendall's tau on promises with known tau, tasks nested in families.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.contrasts import contrast
from merge_advisor.benchmark.analysis.prediction import agreement
from merge_advisor.benchmark.values import Contrast, Question, Result, Unit

ALL_TASKS = (7, 6, 6, 6, 5, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1)
"""Tasks of each of the 18 families of the 59 BIG-bench tasks."""
SOME_TASKS = (2,) * 6 + (1,) * 12
"""24 tasks of the same families."""
SHIPPED_TASKS = (3, 2, 2, 2, 2, 2, 2, 1, 1)
"""The 17 tasks of nine families that recipes/bench-bigbench-smollm2.yaml reports on."""
DESIGNS = ((SOME_TASKS, 40), (ALL_TASKS, 40), (SHIPPED_TASKS, 80))
"""Tasks of each family, and held-out rows a task."""
LEVEL, GAINS, SMALLEST = 0.45, (0.0, 1.0, 2.0, 4.0), 1.0
QUESTION = Question("a", "b")


class Spread(NamedTuple):
    """Standard deviations of the true difference between two arms, in points."""

    family: float
    task: float
    draw: float


SPREADS = {"small": Spread(0.5, 1, 2), "typical": Spread(2, 3, 4), "large": Spread(4, 6, 6)}
TASK, DIFFICULTY, ROW = 0.5, 0.6, 0.3
"""Latent standard deviations: tasks and rows (shared by arms), an arm's own liking of a row (shared by its draws)."""


def accuracies(
    sizes: tuple[int, ...], gain: float, spread: Spread, *, draws: int = 6, rows: int = 40, rng: np.random.Generator
) -> np.ndarray:
    """One benchmark: (tasks, draws, 2) shares of right answers; the first arm is truly better by `gain` points."""
    from scipy.special import ndtri

    start = float(ndtri(LEVEL))
    shift = np.array([float(ndtri(LEVEL + gain / 100)) - start, 0.0])
    slope = np.exp(-(start**2) / 2) / np.sqrt(2 * np.pi)
    family, task, draw = (value / 100 / slope / np.sqrt(2) for value in spread)  # of one arm, latent
    noise = np.sqrt(1 - TASK**2 - DIFFICULTY**2 - ROW**2 - family**2 - task**2 - draw**2)
    member, n = np.repeat(np.arange(len(sizes)), sizes), sum(sizes)
    able = start + shift + TASK * rng.normal(size=(n, 1)) + task * rng.normal(size=(n, 2))
    able = able + family * rng.normal(size=(len(sizes), 2))[member]
    able = able[:, None] + draw * rng.normal(size=(n, draws, 2))
    row = DIFFICULTY * rng.normal(size=(n, 1, rows, 1)) + ROW * rng.normal(size=(n, 1, rows, 2))
    right: np.ndarray = able[:, :, None] + row + noise * rng.normal(size=(n, draws, rows, 2)) > 0
    return np.asarray(right.mean(2))


def results(sizes: tuple[int, ...], shares: np.ndarray) -> list[Result]:
    """The results of arms a and b that a ledger would hold."""
    tasks = [(f"f{family:02}", f"f{family:02}t{place}") for family, size in enumerate(sizes) for place in range(size)]
    return [
        Result(Unit(task, family, draw), arm, QUESTION.view, QUESTION.k, accuracy=float(shares[number, draw, side]))
        for number, (family, task) in enumerate(tasks)
        for draw in range(shares.shape[1])
        for side, arm in enumerate("ab")
    ]


def benchmarks(
    count: int, sizes: tuple[int, ...], gain: float, spread: Spread, *, rows: int = 40, seed: int = 0
) -> Iterator[tuple[np.ndarray, Contrast]]:
    """Simulated benchmarks: (tasks, draws) differences in points, and what `contrast` says about them."""
    for number in range(count):
        shares = accuracies(sizes, gain, spread, rows=rows, rng=np.random.default_rng([seed, number]))
        yield 100 * (shares[..., 0] - shares[..., 1]), contrast(QUESTION, results(sizes, shares), SMALLEST)


def independent(differences: np.ndarray) -> float:
    """Two-sided p of a t test that takes every difference for an independent one."""
    from scipy.special import stdtr

    values = differences.ravel()
    return float(2 * stdtr(len(values) - 1, -abs(values.mean()) / (values.std(ddof=1) / np.sqrt(len(values)))))


SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed (exponential)": lambda rng, size: rng.exponential(size=size) - 1,
    "very skewed (log-normal)": lambda rng, size: rng.lognormal(size=size) - np.exp(0.5),
    "heavy tails (t, 3 d.f.)": lambda rng, size: rng.standard_t(3, size=size),
    "half are 0": lambda rng, size: rng.normal(size=size) * (rng.random(size) < 0.5),
    "four in five are 0": lambda rng, size: rng.normal(size=size) * (rng.random(size) < 0.2),
    "-1, 0 or 1": lambda rng, size: rng.choice([-1.0, 0, 0, 0, 1], size=size),
    "unequal numbers of tasks": lambda rng, size: (
        rng.normal(size=size) / np.sqrt(rng.integers(1, 9, size=size)) + 0.3 * rng.normal(size=size)
    ),
}


def rules(values: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Lower and upper ends by rule, of (samples, n) differences."""
    from scipy.special import stdtrit

    n = values.shape[1]
    mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(n)
    away, shares = (values - mean[:, None]).T, resampling.bootstrap_counts(n, 0)[:1999] / n
    shift = shares @ away
    spread = np.sqrt(np.maximum(shares @ away**2 - shift**2, 0) / (n - 1))
    spread[spread < 1e-7 * error] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(shift == 0, 0.0, shift / spread)
        low, high = np.quantile(ratio, [0.025, 0.975], axis=0, method="nearest")
        halves = {"Student's t": np.full(len(mean), float(stdtrit(n - 1, 0.975)))}
        halves["symmetric"] = np.quantile(np.abs(ratio), 0.95, axis=0, method="higher")
        for floor in (0.1, 0.25, 0.5):
            floored = np.abs(shift) / np.maximum(spread, floor * error)
            halves[f"symmetric, se* ≥ {floor} se"] = np.quantile(floored, 0.95, axis=0)
        found = {name: (mean - half * error, mean + half * error) for name, half in halves.items()}
        found["equal-tailed"] = (mean - high * error, mean - low * error)
    for name, ends in found.items():
        found[name] = (np.where(error == 0, mean, ends[0]), np.where(error == 0, mean, ends[1]))
    shipped = np.array([resampling.bootstrap_interval(row) for row in values])
    return {**found, "as shipped": (shipped[:, 0], shipped[:, 1])}


def interval_rules(samples: int) -> None:
    """Print coverage and width by rule."""
    sizes = (3, 6, 8, 12, 18, 24)
    table: dict[str, dict[tuple[str, int], tuple[float, float, float]]] = {}
    for shape, draw in SHAPES.items():
        for n in sizes:
            found = rules(draw(np.random.default_rng(n), (samples, n)))
            with np.errstate(invalid="ignore"):
                width = np.median(np.subtract(*reversed(found["Student's t"])))
                for rule, (low, high) in found.items():
                    covered = 100 * float(np.mean((low <= 1e-12) & (high >= -1e-12)))
                    wide = float(np.median(high - low) / width) if width else float("nan")
                    endless = 100 * float(np.mean(~np.isfinite(high - low)))
                    table.setdefault(rule, {})[shape, n] = (covered, wide, endless)
    print("| rule | " + " | ".join(f"{shape}" for shape in SHAPES) + " | 3 families | width, 6 / 12 / 24 | endless |")
    print("|" + "---|" * (len(SHAPES) + 4))
    for rule, cells in table.items():
        shown = [" ".join(f"{cells[shape, n][0]:.0f}" for n in sizes[1:]) for shape in SHAPES]
        fewest = min(cells[shape, 3][0] for shape in SHAPES)
        widths = " / ".join(f"{np.mean([cells[s, n][1] for s in list(SHAPES)[:4]]):.2f}" for n in (6, 12, 24))
        endless = max(cell[2] for (_, n), cell in cells.items() if n >= 6)
        print(f"| {rule} | " + " | ".join(shown) + f" | {fewest:.0f} | {widths} | {endless:.0f}% |")


def false_findings(samples: int) -> None:
    """Print how often interval and sign-flip test both find a difference where the true mean is 0."""
    sizes = (6, 8, 12, 18, 24)
    print("| families | " + " | ".join(SHAPES) + " |\n|" + "---|" * (len(SHAPES) + 1))
    for n in sizes:
        shown = []
        for draw in SHAPES.values():
            wrong = [0, 0]
            for values in draw(np.random.default_rng([n, 1]), (samples, n)):
                low, high = resampling.bootstrap_interval(values) or (0.0, 0.0)
                if not low <= 0 <= high and resampling.sign_flip_test(values) < resampling.ALPHA:
                    wrong[int(low > 0)] += 1
            shown.append(f"{100 * wrong[1] / samples:.1f} + {100 * wrong[0] / samples:.1f}%")
        print(f"| {n} | " + " | ".join(shown) + " |")


def whole_benchmarks(count: int) -> None:
    """Print errors, coverage and power of `contrast` on whole benchmarks."""
    heads = "tasks | spread | true gain | better | worse | equivalent | undecided | disagree | interval alone | "
    heads += "sign-flip alone | coverage | interval's width | p < .05 were tasks independent | were draws"
    print(f"| {heads} |\n|" + "---|" * 14)
    for sizes, rows in DESIGNS:
        for name, spread in SPREADS.items():
            for gain in GAINS:
                found = list(benchmarks(count, sizes, gain, spread, rows=rows))
                said = [one for _, one in found]
                shares = [np.mean([one.standing == s for one in said]) for s in STANDINGS]
                shares.append(np.mean([not one.agree for one in said]))
                shares.append(np.mean([not low <= 0 <= high for low, high in map(ends, said)]))
                shares.append(np.mean([one.sign_flip < 0.05 for one in said]))
                shares.append(np.mean([low <= gain <= high for low, high in map(ends, said)]))
                shown = [f"{100 * share:.1f}%" for share in shares]
                shown.append(f"{np.median([high - low for low, high in map(ends, said)]):.1f} points")
                by_task = [independent(each.mean(1)) < 0.05 for each, _ in found]
                by_draw = [independent(each) < 0.05 for each, _ in found]
                shown += [f"{100 * np.mean(sure):.1f}%" for sure in (by_task, by_draw)]
                print(f"| {sum(sizes)} | {name} | {gain:.0f} | " + " | ".join(shown) + " |", flush=True)


STANDINGS = ("better", "worse", "equivalent", "undecided")


def ends(found: Contrast) -> tuple[float, float]:
    """Its interval."""
    assert found.lower is not None and found.upper is not None
    return found.lower, found.upper


def promises(sizes: tuple[int, ...], rho: float, rng: np.random.Generator) -> list[Result]:
    """Results whose predicted and measured gains correlate by `rho` in families and tasks: tau is 2 asin(rho) / π."""
    factor = np.linalg.cholesky([[1.0, rho], [rho, 1.0]])
    found = []
    for family, size in enumerate(sizes):
        shared = 0.7 * factor @ rng.normal(size=2)
        for place in range(size):
            predicted, measured = shared + np.sqrt(0.51) * factor @ rng.normal(size=2)
            unit = Unit(f"f{family}t{place}", f"f{family}")
            found.append(Result(unit, "base", "own-out", 4, loss=9.0))
            found.append(Result(unit, "a", "own-out", 4, loss=9.0 - float(measured), predicted=float(predicted)))
    return found


def tau_intervals(count: int) -> None:
    """Print how often the interval of tau holds the truth."""
    print("| tasks | true tau | mean tau | coverage | mean width | interval above 0 |\n|" + "---|" * 6)
    for sizes in (SOME_TASKS, ALL_TASKS):
        for rho in (0.0, 0.4, 0.8):
            truth = 2 * np.arcsin(rho) / np.pi
            said = [agreement(promises(sizes, rho, np.random.default_rng([7, i])), ["a"]) for i in range(count)]
            told = np.array([[one.tau, one.lower, one.upper] for one in said], dtype=float)
            covered = 100 * np.mean((told[:, 1] <= truth) & (truth <= told[:, 2]))
            above, wide = 100 * np.mean(told[:, 1] > 0), np.mean(told[:, 2] - told[:, 1])
            print(
                f"| {sum(sizes)} | {truth:.2f} | {told[:, 0].mean():.2f} | {covered:.1f}% | {wide:.2f} | {above:.1f}% |"
            )


PARTS = {
    "rules": interval_rules, "findings": false_findings, "benchmarks": whole_benchmarks, "tau": tau_intervals,
}  # fmt: skip


def main() -> None:
    """Simulate and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=int, default=1000)
    parser.add_argument("--only", choices=list(PARTS), help="one of the tables (default: all)")
    options, start = parser.parse_args(), time.perf_counter()
    print(f"{datetime.date.today()}, {platform.machine()}, {options.benchmarks} benchmarks a row\n")
    for name, part in PARTS.items():
        if options.only not in (None, name):
            continue
        part(options.benchmarks)
        print(f"\n({time.perf_counter() - start:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
