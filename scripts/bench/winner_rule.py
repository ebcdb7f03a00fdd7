"""Which rule should choose the winner of a search? By simulation: true gain over the best start, by rule.

python scripts/bench/winner_rule.py [--worlds 40]

Loss of row r at weights w = parabola(w) + level of r + interaction(r, w). The parabola's optimum gains 0 to 0.5 nats on
the plan; base, anchor and uniform lie where they fall. The interaction is as smooth in w as losses are (linear plus
cosines, "smooth") or drawn anew for each point ("rough"); its sd between the plan and a point at the distance of a
gain of 0.25 is 0.2 or 0.5 nats. Searches see the mean over the tuning rows and start with
base, anchor, uniform and plan: random around the plan, a sampler of the good trials' neighbourhood, or bounded
quasi-Newton descent to the end (the strongest over-fitting there is). "Kept aside" rules search on 70% of the rows.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import platform
import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from merge_advisor.statistics import paired_interval
from merge_advisor.tuning import Point, Trial
from merge_advisor.tuning.winner import START_LABELS, choose_winner

DIMENSIONS, GAINS, SPREADS, ROWS = (3, 4, 20), (0.0, 0.05, 0.15, 0.5), (0.2, 0.5), (5, 10, 20, 40, 80)
TEXTURES = {"smooth": 0.0, "rough": 1.0}
SEARCHES = ("random", "neighbours", "descent")
TRIALS, COSINES, KEPT = 50, 48, 0.3


class World:
    """A true loss, and rows that disagree about it."""

    def __init__(self, k: int, gain: float, spread: float, rough: float, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.seed, self.plan = seed, self.rng.dirichlet(np.full(k, 2.0))
        turn, _ = np.linalg.qr(self.rng.normal(size=(k, k)))
        curve = turn * np.geomspace(1, 0.1, k) @ turn.T
        self.curve = curve * 2 / (self.plan @ curve @ self.plan)  # the plan gains 1 nat on a base at the optimum's foot
        way = self.rng.normal(size=k)
        way /= np.sqrt(0.5 * way @ self.curve @ way)
        self.optimum = self.plan + way * np.sqrt(gain)
        far, self.length = 0.5 * np.linalg.norm(way), np.linalg.norm(self.plan)
        self.waves = self.rng.normal(size=(COSINES, k)) / self.length
        self.phase = self.rng.uniform(0, 2 * np.pi, COSINES)
        smooth = spread * np.sqrt((1 - rough) / 2)
        waving = smooth / np.sqrt(2 * (1 - np.exp(-0.5 * (far / self.length) ** 2))) * np.sqrt(2 / COSINES)
        n = max(ROWS)
        self.linear, self.cosine = (
            self.rng.normal(size=(n, k)) * smooth / far,
            self.rng.normal(size=(n, COSINES)) * waving,
        )
        self.level, self.rough = self.rng.normal(size=n), spread * np.sqrt(rough / 2)

    def true(self, w: np.ndarray) -> float:
        """Loss without rows' noise."""
        away = w - self.optimum
        return float(1 + 0.5 * away @ self.curve @ away)

    def rows(self, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Loss of each row."""
        noise = self.linear[rows] @ (w - self.plan) + self.cosine[rows] @ np.cos(self.waves @ w + self.phase)
        if self.rough:
            own = np.random.default_rng(np.append(w.view(np.uint32), self.seed))
            noise = noise + self.rough * own.normal(size=len(self.level))[rows]
        losses: np.ndarray = self.true(w) + self.level[rows] + noise
        return losses

    def slope(self, w: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Gradient of the mean of the rows' smooth losses."""
        waves = (self.cosine[rows].mean(0) * np.sin(self.waves @ w + self.phase)) @ self.waves
        slope: np.ndarray = self.curve @ (w - self.optimum) + self.linear[rows].mean(0) - waves
        return slope


def search(world: World, kind: str, rows: np.ndarray) -> np.ndarray:
    """The points of a search, (trials, k), the starts first."""
    k, rng = len(world.plan), np.random.default_rng(world.seed)
    points = [np.zeros(k), np.eye(k)[0], np.full(k, 1 / k), world.plan]
    values = [float(world.rows(w, rows).mean()) for w in points]
    if kind == "descent":
        from scipy.optimize import minimize

        def value(w: np.ndarray) -> tuple[float, np.ndarray]:
            points.append(w.copy())
            return float(world.rows(w, rows).mean()), world.slope(w, rows)

        limits = {"maxfun": TRIALS // 3}
        minimize(
            value, points[int(np.argmin(values))], jac=True, method="L-BFGS-B", bounds=[(-1.5, 1.5)] * k, options=limits
        )
        return np.array(points)
    while len(points) < TRIALS:
        centre, width = world.plan, 0.5 * rng.choice([0.3, 1.0])
        if kind == "neighbours" and len(points) >= 14:
            good = np.argsort(values, kind="stable")[: max(3, len(points) // 5)]
            centre, width = points[int(rng.choice(good))], 0.2
        points.append(np.clip(centre + rng.normal(size=k) * width * world.length, -1.5, 1.5))
        values.append(float(world.rows(points[-1], rows).mean()))
    return np.array(points)


@dataclass
class Found:
    """A search's points with what rules look at."""

    points: np.ndarray
    losses: np.ndarray  # (trials, rows)

    def __post_init__(self) -> None:
        means = self.losses.mean(1)
        self.ref, self.best = int(np.argmin(means[:4])), int(np.argmin(means))
        self.start, self.top = self.points[self.ref], self.points[self.best]
        self.five = self.points[np.argsort(means, kind="stable")[:5]].mean(0)
        self.lead = self.losses[self.ref] - self.losses[self.best]
        self.honest = self.cross_validated()

    def cross_validated(self) -> np.ndarray:
        """Gain on the folds left out, by row."""
        n = self.losses.shape[1]
        fold, found = np.random.default_rng(0).permutation(n) % min(5, n), np.empty(n)
        for left_out in range(min(5, n)):
            rows = fold == left_out
            means = self.losses[:, ~rows].mean(1)
            found[rows] = (self.losses[np.argmin(means[:4])] - self.losses[np.argmin(means)])[rows]
        return found

    def toward(self, share: float, end: np.ndarray | None = None) -> np.ndarray:
        """A point on the way from the best start to the best trial, or to another end."""
        point: np.ndarray = self.start + share * ((self.top if end is None else end) - self.start)
        return point

    def james_stein(self, factor: float = 1.0) -> float:
        """Shrinkage for a parabola in k dimensions, from the lead and its standard error."""
        n, mean = len(self.lead), self.lead.mean()
        if not mean > 0:
            return 0.0
        error = self.lead.var(ddof=1) / n * (n - 1) / (n - 3)
        return float(max(0.0, 1 - factor * self.points.shape[1] * error / (4 * mean**2)))

    def beyond(self, differences: np.ndarray, errors: float | None = None) -> bool:
        """Whether a gain is beyond noise: 95%, or so many standard errors."""
        if errors is None:
            return bool(differences.any()) and paired_interval(differences, counts=False).lower > 0
        return bool(differences.mean() > errors * differences.std(ddof=1) / np.sqrt(len(differences)))


def shipped(world: World, found: Found, rows: np.ndarray, aside: np.ndarray | None = None) -> np.ndarray:
    """What `merge_advisor.tuning.winner.choose_winner` returns."""
    labels = [*START_LABELS, *["search"] * (len(found.points) - 4)]
    trials = [
        Trial(i, label, Point(tuple(w.tolist()), "exact"), tuple(told.tolist()), (float(told.mean()),), True, len(told))
        for i, (label, w, told) in enumerate(zip(labels, found.points, found.losses, strict=True))
    ]

    def measure(point: Point) -> list[float]:
        return [float(loss) for loss in world.rows(np.array(point.weights), rows)]

    def confirm(point: Point) -> list[float]:
        assert aside is not None
        return [float(loss) for loss in world.rows(np.array(point.weights), aside)]

    winner = choose_winner(
        trials, [0] * len(rows), measure, seed=world.seed, confirm=None if aside is None else confirm
    )
    return np.array(winner.point.weights)


def without_aside(world: World, found: Found, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What rules return that give all rows to the search."""
    js, ratio = found.james_stein(), float(np.clip(found.honest.mean() / max(found.lead.mean(), 1e-12), 0, 1))
    beyond, likely, above = (found.beyond(found.honest, e) for e in (None, 1.0, 0.0))
    return {
        "best start": found.start,
        "best trial": found.top,
        "mean of the five best": found.five,
        "best trial where cross-validated gain > 0": found.toward(float(above)),
        "... > 1 standard error": found.toward(float(likely)),
        "... beyond 95%": found.toward(float(beyond)),
        "half the way, beyond 95%": found.toward(0.5 * beyond),
        "half the way to the mean of five, beyond 95%": found.toward(0.5 * beyond, found.five),
        "by the ratio of cross-validated to seen gain": found.toward(ratio),
        "James-Stein": found.toward(js),
        "James-Stein x 1.5": found.toward(found.james_stein(1.5)),
        "James-Stein, cross-validated gain > 0": found.toward(js * above),
        "James-Stein, beyond 95%": found.toward(js * beyond),
        "least of James-Stein and the ratio": found.toward(min(js, ratio)),
        "as shipped": shipped(world, found, rows),
    }


def with_aside(world: World, found: Found, rows: np.ndarray, aside: np.ndarray) -> dict[str, np.ndarray]:
    """What rules return that confirm on rows kept aside."""
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    seen = np.array([world.rows(found.toward(share), aside) for share in shares])
    least = shares[int(np.argmin(seen.mean(1)))]
    ratio = float(np.clip(found.honest.mean() / max(found.lead.mean(), 1e-12), 0, 1))
    shrunk = min(found.james_stein(), ratio)
    return {
        "kept aside: best start": found.start,
        "kept aside: best trial, veto": found.toward(float(found.beyond(seen[0] - seen[-1], 0.0))),
        "kept aside: best trial, beyond 95% there": found.toward(float(found.beyond(seen[0] - seen[-1]))),
        "kept aside: its best of t in quarters": found.toward(least),
        "kept aside: James-Stein and ratio": found.toward(shrunk),
        "kept aside: mean of that and its best t": found.toward((shrunk + least) / 2),
        "kept aside: as shipped (veto)": shipped(world, found, rows, aside),
    }


def simulate(worlds: int) -> dict[str, dict[tuple[object, ...], list[float]]]:
    """True gains over the best start on all rows, by rule and (k, gain, spread, texture, n, search)."""
    table: dict[str, dict[tuple[object, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in itertools.product(DIMENSIONS, GAINS, SPREADS, TEXTURES, ROWS, SEARCHES):
        k, gain, spread, texture, n, kind = cell
        for seed in range(worlds):
            world = World(k, gain, spread, TEXTURES[texture], 1000 * k + seed)
            rows, kept = np.arange(n), max(2, round(KEPT * n))
            points = search(world, kind, rows)
            found = Found(points, np.array([world.rows(w, rows) for w in points]))
            chosen = without_aside(world, found, rows)
            if n >= 10:
                fewer = rows[:-kept]
                points = search(world, kind, fewer)
                part = Found(points, np.array([world.rows(w, fewer) for w in points]))
                chosen |= with_aside(world, part, fewer, rows[-kept:])
            for rule, w in chosen.items():
                table[rule][cell].append(world.true(found.start) - world.true(w))
    return table


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=40)
    worlds = parser.parse_args().worlds
    start = time.perf_counter()
    table = simulate(worlds)
    cells = len(table["best start"])
    seconds = time.perf_counter() - start
    print(f"{datetime.date.today()}, {platform.machine()}; {cells} cells of {worlds} worlds, {seconds:.0f} s\n")
    heads = [f"gain {gain}" for gain in GAINS] + [f"n = {n}" for n in ROWS] + list(SEARCHES) + list(TEXTURES)
    print("| rule | " + " | ".join(heads) + " | worst cell at gain 0 |\n|" + "---|" * (len(heads) + 2))
    for rule, found in table.items():
        means = {cell: float(np.mean(values)) for cell, values in found.items()}
        groups = [(1, GAINS), (4, ROWS), (5, SEARCHES), (3, tuple(TEXTURES))]
        shown = []
        for position, names in groups:
            for name in names:
                part = [mean for cell, mean in means.items() if cell[position] == name]
                shown.append(f"{np.mean(part):+.3f}" if part else "")
        worst = min(mean for cell, mean in means.items() if cell[1] == 0)
        print(f"| {rule} | " + " | ".join(shown) + f" | {worst:+.3f} |")


if __name__ == "__main__":
    main()
