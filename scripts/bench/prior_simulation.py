"""When is a pool worth it? One weight, linear, exact: what helps how many examples, by how the task lies to the pool.

python scripts/bench/prior_simulation.py --out FILE [--figure FILE] [--worlds 32] [--seed 0] [--only NAME] [--summary]

An adapter of the pool is an update of one weight (96 x 96) of length 1: a share of its energy lies in K directions of
the output and K of the input side that all adapters use, U C_j V' (C_j K x K, adapters of a family have 0.3 of it in
common); the rest is private, random of rank 8. The task is a further adapter of no family of the pool. Its part in the
span of the pool's updates (what a merge can hold) and its part outside are weighed anew so that the share in the span
is the one asked for, or left as drawn. An example is an input x and y = W x + noise, x normal with variances 1/i, the
noise as strong as the signal. Excess risk is the squared error of W x on new x, as a share of that of the base (W = 0).

Every estimator is a ridge, its penalty chosen by cross-validation on the examples themselves (five folds; what it
starts from is fitted anew within each fold), so that no rule sees a row that judges it:

    shots               all of W, from zero: what finetuning with early stopping comes to
    shots halved        half of it
    merge               one weight for each adapter of the pool
    continue            shots, from the merge instead of zero
    basis               W = U C V', the pool's own top K directions on both sides, K x K numbers
    basis from merge    the same, added to the merge
    prior               shots with the pool's covariances of both sides as prior, each mixed with rho of the identity
    mix                 s shots + t merge, s and t by least squares on the folds left out

and the controls: basis of random directions; continue from the pool's mean, and from the mean of four random adapters,
at the one scale that fits the examples; and shots at the least penalty there is ("to the end"), whole and halved.

A world is a pool, a task and 200 examples, of which the first m are used; all shares and m see the same worlds (a
quarter of them with the pool of 500). FILE gets a line for each setting, with what a held-out adapter looks like there,
and one for each share and m: for every estimator its mean excess risk, the geometric mean of its ratio to that of
`shots` world by world, and the standard error of that mean's logarithm. A setting that is there is not simulated again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kept import add_line, read_lines
from prior_report import draw, summarise

Array = np.ndarray[Any, np.dtype[np.float64]]
Indices = np.ndarray[Any, np.dtype[np.intp]]

EXAMPLES = (5, 10, 20, 40, 80, 200)
SHARES = (0.0, 0.05, 0.1, 0.3, 0.8)
"""Of the task's energy in the span of the pool; the task as drawn comes before them."""
KIN, FAMILY, RANK, TOP, FOLDS, SET = 0.3, 3.2, 8, 8, 5, 4
"""What a family has in common, adapters of a family, rank of private parts, directions that are measured, folds, random
members."""
PENALTIES: Array = np.array([4.0**power for power in range(-4, 7)])
"""Times coefficients / outputs: at 1 it is right where all of the task is of this kind and noise equals signal."""
RHOS = (0.1, 0.4, 1.0)


@dataclass(frozen=True)
class Setting:
    """A kind of pool and task."""

    name: str
    directions: int = 8
    """K, of each side."""
    private: float = 0.7
    """Share of an adapter's energy outside the shared directions."""
    pool: int = 58
    relative: bool = False
    """The task is of a family of the pool."""
    strange: bool = False
    """The task uses none of the shared directions."""
    noise: float = 1.0
    """Its energy as a share of the signal's."""
    decay: float = 1.0
    """Variances of x are i ** -decay."""
    size: int = 96


SETTINGS = (
    Setting("centre"),
    Setting("strange task", strange=True),
    Setting("a relative in the pool", relative=True),
    Setting("K = 2", directions=2),
    Setting("K = 32", directions=32),
    Setting("private 0.3", private=0.3),
    Setting("private 0.95", private=0.95),
    Setting("pool of 8", pool=8),
    Setting("pool of 500", pool=500),
    Setting("noise x 8", noise=8.0),
    Setting("variances 1/i^0.3", decay=0.3),
)


@dataclass(frozen=True)
class World:
    """A pool, tasks of every share and their examples."""

    pool: Array  # (n, out, in)
    tasks: Array  # (tasks, out, in)
    inputs: Array  # (rows, in)
    targets: Array  # (tasks, rows, out)
    spectrum: Array  # (in,)
    told: Array  # (rows, out, n): what each adapter does to each input
    random_sides: tuple[Array, Array]
    random_set: Indices
    span: float
    """Energy of the task as drawn in the span of the pool."""
    sides: tuple[float, float]
    """Its energy in the pool's top directions of the output and the input side."""


def draw_world(setting: Setting, seed: Sequence[int], shares: Sequence[float] = SHARES) -> World:
    """Draw a world: the task as drawn, then one of each share."""
    rng, size, n, k = np.random.default_rng(seed), setting.size, setting.pool, setting.directions
    spectrum = np.arange(1.0, size + 1) ** -setting.decay
    spectrum *= size / spectrum.sum()
    u, v = _directions(rng, size, k), _directions(rng, size, k)
    families = max(2, round(n / FAMILY))
    family = np.append(np.arange(n) % families, 0 if setting.relative else families)
    cores = np.sqrt(KIN) * rng.normal(size=(families + 1, k, k))[family]
    cores += np.sqrt(1 - KIN) * rng.normal(size=(n + 1, k, k))
    private = np.append(np.full(n, setting.private), 1.0 if setting.strange else setting.private)[:, None, None]
    own = rng.normal(size=(n + 1, size, RANK)) @ rng.normal(size=(n + 1, RANK, size))
    updates = _unit(np.sqrt(1 - private) * _unit(u @ cores @ v.T) + np.sqrt(private) * _unit(own))
    pool, drawn = updates[:-1], updates[-1]
    flat = pool.reshape(n, -1)
    inside = (np.linalg.lstsq(flat @ flat.T, flat @ drawn.ravel(), rcond=None)[0] @ flat).reshape(size, size)
    parts = _unit(np.stack([inside, drawn - inside]))
    tasks = np.stack([drawn, *(np.sqrt(share) * parts[0] + np.sqrt(1 - share) * parts[1] for share in shares)])
    inputs = rng.normal(size=(max(EXAMPLES), size)) * np.sqrt(spectrum)
    scale = np.sqrt(setting.noise * energies(tasks, spectrum) / size)
    targets = inputs @ tasks.transpose(0, 2, 1) + scale[:, None, None] * rng.normal(size=(len(inputs), size))
    sides = [float(((_top(s, TOP).T @ d) ** 2).sum()) for s, d in zip(covariances(pool), (drawn, drawn.T), strict=True)]
    return World(
        pool, tasks, inputs, targets, spectrum,
        told=(pool.reshape(-1, size) @ inputs.T).reshape(n, size, -1).transpose(2, 1, 0),
        random_sides=(_directions(rng, size, k), _directions(rng, size, k)),
        random_set=rng.choice(n, min(SET, n), replace=False),
        span=float((inside**2).sum()), sides=(sides[0], sides[1]),
    )  # fmt: skip


def energies(weights: Array, spectrum: Array) -> Array:
    """The mean of |W x|^2 over inputs, for each of some weights."""
    found: Array = (weights**2 * spectrum).sum((-2, -1))
    return found


def covariances(pool: Array) -> tuple[Array, Array]:
    """The pool's second moments of the output and the input side, each of trace `size`."""
    n, size, _ = pool.shape
    by_output, by_input = pool.transpose(1, 0, 2).reshape(size, -1), pool.reshape(-1, size)
    return by_output @ by_output.T * (size / n), by_input.T @ by_input * (size / n)


def _directions(rng: np.random.Generator, size: int, k: int) -> Array:
    found: Array = np.linalg.qr(rng.normal(size=(size, k)))[0]
    return found


def _unit(matrices: Array) -> Array:
    lengths: Array = np.sqrt((matrices**2).sum((-2, -1), keepdims=True))
    return matrices / np.maximum(lengths, 1e-300)


def _top(symmetric: Array, k: int) -> Array:
    found: Array = np.linalg.eigh(symmetric)[1][:, -k:]
    return found


@dataclass(frozen=True)
class Examples:
    """The first rows of a world, and how they are split: folds, then all rows with none left out."""

    inputs: Array  # (m, in)
    targets: Array  # (tasks, m, out)
    told: Array  # (m, out, n)
    splits: list[tuple[Indices, Indices]]


def first_rows(world: World, m: int) -> Examples:
    """Return the first m examples."""
    rows = np.arange(m)
    fold = rows % min(FOLDS, m)
    splits = [(rows[fold != left], rows[fold == left]) for left in range(min(FOLDS, m))]
    return Examples(world.inputs[:m], world.targets[:, :m], world.told[:m], [*splits, (rows, rows[:0])])


@dataclass(frozen=True)
class Space:
    """What a ridge may move: W = outside C inside', row l of C penalised by 1 / strength[l]."""

    inside: Array  # (in, k)
    outside: Array  # (out, l), orthonormal columns
    strength: Array  # (l,)


def whole(size: int) -> Space:
    """Return the space of all updates."""
    return Space(np.eye(size), np.eye(size), np.ones(size))


def of_directions(outside: Array, inside: Array) -> Space:
    """Return the space of updates between some directions."""
    return Space(inside, outside, np.ones(outside.shape[1]))


def of_prior(pool: Array, rho: float) -> Space:
    """Return the space in which a ridge is a matrix normal prior with the pool's covariances, shrunk by rho."""
    by_output, by_input = ((1 - rho) * side + rho * np.eye(len(side)) for side in covariances(pool))
    strength, outside = np.linalg.eigh(by_output)
    spread, inside = np.linalg.eigh(by_input)
    return Space(inside * np.sqrt(spread), outside, strength)


@dataclass(frozen=True)
class Fitted:
    """Weights fitted on each split, and the squared error on the folds left out, at the penalty where it is least."""

    weights: Array  # (splits, tasks, out, in); the last split is all rows
    error: Array  # (tasks,)

    @property
    def final(self) -> Array:
        """What was fitted on all rows, (tasks, out, in)."""
        found: Array = self.weights[-1]
        return found


def ridge(examples: Examples, space: Space, start: Fitted | None = None, choices: Array = PENALTIES) -> Fitted:
    """Fit updates of a space, from zero or from what was fitted before on the same splits."""
    features, size = examples.inputs @ space.inside, examples.inputs.shape[1]
    penalties = choices * space.inside.shape[1] * space.outside.shape[1] / size
    errors, fits = np.zeros((len(penalties), len(examples.targets))), []
    for split, (train, left) in enumerate(examples.splits):
        rest = examples.targets
        if start is not None:
            rest = rest - examples.inputs @ start.weights[split].transpose(0, 2, 1)
        rows, spread, columns = np.linalg.svd(features[train], full_matrices=False)
        seen = rest @ space.outside
        told = rows.T @ seen[:, train]
        fits.append((spread, columns, told))
        errors += (rest[:, left] ** 2).sum((1, 2)) - (seen[:, left] ** 2).sum((1, 2))  # what no update of it reaches
        for number, penalty in enumerate(penalties):
            guess = (features[left] @ columns.T) @ (_shrunk(spread, penalty, space.strength) * told)
            errors[number] += ((seen[:, left] - guess) ** 2).sum((1, 2))
    best = errors.argmin(0)
    found = np.empty((len(fits), *examples.targets.shape[:1], size, size))
    for split, (spread, columns, told) in enumerate(fits):
        for task, number in enumerate(best):
            core = _shrunk(spread, penalties[number], space.strength) * told[task]
            found[split, task] = space.outside @ core.T @ columns @ space.inside.T
    return Fitted(found if start is None else found + start.weights, errors.min(0))


def _shrunk(spread: Array, penalty: float, strength: Array) -> Array:
    found: Array = spread[:, None] / (spread[:, None] ** 2 + penalty / strength)
    return found


def merge(examples: Examples, pool: Array) -> Fitted:
    """Fit one weight for each adapter."""
    n, size, _ = pool.shape
    penalties = PENALTIES * n / size
    folds = [(examples.told[left].reshape(-1, n), examples.targets[:, left]) for _, left in examples.splits[:-1]]
    rows = [(told, targets.reshape(len(targets), -1)) for told, targets in folds]
    sums = [(told.T @ told, told.T @ targets.T) for told, targets in rows]
    gram, side = np.sum([one for one, _ in sums], axis=0), np.sum([one for _, one in sums], axis=0)

    def solved(lhs: Array, rhs: Array) -> Array:
        return np.stack([np.linalg.solve(lhs + penalty * np.eye(n), rhs) for penalty in penalties])

    fits = [*(solved(gram - left_gram, side - left_side) for left_gram, left_side in sums), solved(gram, side)]
    errors = np.zeros((len(penalties), len(examples.targets)))
    for (told, targets), found in zip(rows, fits, strict=False):  # the last fit has left nothing out
        errors += ((targets - (told @ found).transpose(0, 2, 1)) ** 2).sum(2)
    best = errors.argmin(0)
    weights = np.stack([found[best, :, np.arange(len(best))] for found in fits])
    return Fitted((weights @ pool.reshape(n, -1)).reshape(*weights.shape[:2], size, size), errors.min(0))


def one_scale(examples: Examples, update: Array) -> Fitted:
    """Fit the scale of an update by least squares."""
    does, found = examples.inputs @ update.T, []
    for train, _ in examples.splits:
        scales = (examples.targets[:, train] * does[train]).sum((1, 2)) / (does[train] ** 2).sum()
        found.append(scales[:, None, None] * update)
    return Fitted(np.stack(found), np.empty(0))


def mixed(examples: Examples, parts: Sequence[Fitted]) -> Array:
    """Return the sum of two fits, neither factor below 0, that is nearest to the rows left out."""
    guesses = np.empty((len(parts), *examples.targets.shape))
    for number, part in enumerate(parts):
        for split, (_, left) in enumerate(examples.splits[:-1]):
            guesses[number][:, left] = examples.inputs[left] @ part.weights[split].transpose(0, 2, 1)
    found = []
    for task, target in enumerate(examples.targets):
        columns = guesses[:, task].reshape(len(parts), -1).T
        factors = np.linalg.lstsq(columns, target.ravel(), rcond=None)[0]
        if factors.min() < 0:
            alone = np.maximum(0, columns.T @ target.ravel()) / np.maximum((columns**2).sum(0), 1e-300)
            factors = np.where(np.arange(len(parts)) == factors.argmax(), alone, 0)
        found.append(sum(f * part.final[task] for f, part in zip(factors, parts, strict=True)))
    return np.stack(found)


def least(fits: Sequence[Fitted]) -> Array:
    """Return for each task the weights of the fit whose error on the folds left out is least."""
    best = np.stack([fit.error for fit in fits]).argmin(0)
    return np.stack([fits[number].final[task] for task, number in enumerate(best)])


def estimates(world: World, m: int, k: int) -> dict[str, Array]:
    """Return what each estimator makes of the first m examples, (tasks, out, in) each."""
    examples, everything = first_rows(world, m), whole(world.inputs.shape[1])
    by_output, by_input = covariances(world.pool)
    basis = of_directions(_top(by_output, k), _top(by_input, k))
    shots, merged = ridge(examples, everything), merge(examples, world.pool)
    to_the_end = ridge(examples, everything, choices=PENALTIES[:1]).final
    mean, random = world.pool.mean(0), world.pool[world.random_set].mean(0)
    return {
        "shots": shots.final,
        "shots halved": shots.final / 2,
        "merge": merged.final,
        "continue": ridge(examples, everything, merged).final,
        "basis": ridge(examples, basis).final,
        "basis from merge": ridge(examples, basis, merged).final,
        "prior": least([shots if rho == 1 else ridge(examples, of_prior(world.pool, rho)) for rho in RHOS]),
        "mix": mixed(examples, (shots, merged)),
        "random basis": ridge(examples, of_directions(*world.random_sides)).final,
        "from the mean": ridge(examples, everything, one_scale(examples, mean)).final,
        "from random": ridge(examples, everything, one_scale(examples, random)).final,
        "to the end": to_the_end,
        "that halved": to_the_end / 2,
    }


def excess(world: World, m: int, k: int) -> dict[str, Array]:
    """Return the excess risk of each estimator for each task, as a share of the base's."""
    base = energies(world.tasks, world.spectrum)
    return {
        name: energies(found - world.tasks, world.spectrum) / base for name, found in estimates(world, m, k).items()
    }


def simulate(setting: Setting, worlds: int, seed: int) -> list[dict[str, Any]]:
    """Return the lines of a setting: what it is, then each share and m."""
    began, found, seen = time.process_time(), dict[int, list[dict[str, Array]]](), []
    for number in range(worlds):
        world = draw_world(setting, [seed, number])
        seen.append((world.span, *world.sides))
        for m in EXAMPLES:
            found.setdefault(m, []).append(excess(world, m, setting.directions))
    span, output, inner = np.mean(seen, axis=0)
    about: dict[str, Any] = {
        **asdict(setting), "worlds": worlds, "seed": seed, "span": round(span, 4), "output side": round(output, 4),
        "input side": round(inner, 4), "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip
    cells = []
    for place, share in enumerate((None, *SHARES)):
        for m, excesses in found.items():
            risks = {name: np.array([one[name][place] for one in excesses]) for name in excesses[0]}
            cells.append({"setting": setting.name, "share": share, "m": m} | _cell(risks))
    return [about, *cells]


def _cell(risks: dict[str, Array]) -> dict[str, tuple[float, float, float]]:
    found = {}
    for name, risk in risks.items():
        ratios = np.log(risk / risks["shots"])
        error = ratios.std(ddof=1) / np.sqrt(len(ratios))
        found[name] = (round(float(risk.mean()), 4), round(float(np.exp(ratios.mean())), 4), round(float(error), 4))
    return found


def main() -> None:
    """Simulate what is missing, print tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of lines; what is there is not simulated again")
    parser.add_argument("--figure", type=Path, help="picture to write")
    parser.add_argument("--worlds", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of settings; default: all")
    parser.add_argument("--summary", action="store_true", help="only print, and draw, what is there")
    arguments = parser.parse_args()
    there = {line["name"] for line in read_lines(arguments.out) if "name" in line}
    for setting in SETTINGS:
        wanted = setting.name not in there and (arguments.only is None or setting.name in arguments.only)
        if wanted and not arguments.summary:
            worlds = arguments.worlds if setting.pool < 500 else max(2, arguments.worlds // 4)
            for line in simulate(setting, max(2, worlds), arguments.seed):
                add_line(arguments.out, line)
    lines = read_lines(arguments.out)
    summarise(lines)
    if arguments.figure:
        arguments.figure.write_text(draw(lines))


if __name__ == "__main__":
    main()
