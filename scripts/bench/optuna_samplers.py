"""Our `cmaes` and `nsga2` against Optuna's samplers and the package `cmaes`, each replayed from the finished trials.

    python scripts/bench/optuna_samplers.py [--seeds 6] [--trials 120]

Losses are parabolas with turned axes (condition 30), each asked after the four starts of `tune`: the least loss is
reported as log10 of its share of the best start's, lower is better; for two tasks the area that the front dominates up
to losses of (1, 1), higher is better. "members" lets members be left out. Optuna's NSGA-II keeps the generation of a
trial in the trial's attributes: here the trials it asked for are dealt into generations in their order, the starts are
part of the first one. The package `cmaes` (not a dependency; the lines are left out without it) is what Optuna's own
CMA-ES asks; here it is given every finished generation anew. Milliseconds are of one ask after 400 trials, the least of
five. What it came to is kept in `eval/samplers.md`.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from merge_advisor import registry
from merge_advisor.tuning import Ask, Point, Sampler, SearchSpace, Trial
from merge_advisor.tuning.samplers import history as read
from merge_advisor.tuning.samplers import optuna_study
from merge_advisor.tuning.settings import start_points
from merge_advisor.tuning.space import float_parameters, parameters, to_point

Loss = Callable[[Point], float]


@dataclass(frozen=True)
class PackageCmaEs:
    """The CMA-ES of the package `cmaes`, given all finished generations at every ask."""

    name: ClassVar[str] = "package cmaes"
    searches: ClassVar[frozenset[str]] = frozenset({"density", "layers"})
    cost: ClassVar[str] = "the rows of one merge"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Return a draw of the generation under way."""
        import cmaes  # type: ignore[import-not-found,import-untyped,unused-ignore]

        own = read.asked_by(self, history)
        d = len(float_parameters(space))
        foreign = history[: history.index(own[0])] if own else history
        first = Trial(0, "", to_point(space, read.best_params(space, foreign)), (), (0.0,), True, 0)
        search = cmaes.CMA(
            mean=read.unit_vectors(space, [first])[0], sigma=read.SPREAD / math.sqrt(d),
            bounds=np.array([[0.0, 1.0]] * d), seed=seed,
        )  # fmt: skip
        drawn, losses = read.unit_vectors(space, own), read.single_values(self, own)
        size = search.population_size
        for end in range(size, len(own) + 1, size):
            search.tell([(drawn[i], losses[i]) for i in range(end - size, end)])
        search._rng.seed([seed, len(history)])
        return read.ask_for(space, self, read.params_from_vector(space, search.ask()))


@dataclass(frozen=True)
class OptunaNsga2:
    """Optuna's NSGA-II; its generations are the trials it asked for, in their order."""

    population: int = 20
    blend: bool = False
    """Children on the line between the parents and beyond (BLX-alpha), as ours are; else each number of either."""

    name: ClassVar[str] = "Optuna's NSGA-II"
    searches: ClassVar[frozenset[str]] = frozenset({"composition", "members", "density", "layers"})
    cost: ClassVar[str] = "the rows of one merge"

    def ask(self, space: SearchSpace, history: Sequence[Trial], seed: int) -> Ask:
        """Return a child of the last whole generation."""
        from optuna.samplers import NSGAIISampler
        from optuna.samplers.nsgaii import BLXAlphaCrossover

        sampler = NSGAIISampler(
            population_size=self.population, crossover=BLXAlphaCrossover() if self.blend else None,
            seed=(seed * 1_000_003 + len(history)) % 2**32,
        )  # fmt: skip
        key = sampler._get_generation_key()
        frozen = optuna_study._frozen

        def numbered(*given: Any) -> list[Any]:
            trials = frozen(*given)
            for place, trial in enumerate(trials):
                trial.system_attrs[key] = place // self.population
            return trials

        optuna_study._frozen = numbered  # type: ignore[assignment]
        try:
            drawn = optuna_study.suggest_with(
                space, parameters(space), read.params_of(space, history), read.trial_values(history), sampler
            )
        finally:
            optuna_study._frozen = frozen
        return read.ask_for(space, self, drawn)


def bowl(k: int, seed: int, condition: float = 30.0) -> Loss:
    """Return a parabola whose least lies about 1 from weights of 0."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(k, k)))
    curves = (axes * np.geomspace(1, 1 / condition, k)) @ axes.T
    best = rng.normal(size=k) / np.sqrt(k)
    return lambda point: float((np.array(point.weights) - best) @ curves @ (np.array(point.weights) - best))


def grown(sampler: Sampler, space: SearchSpace, losses: Sequence[Loss], count: int, seed: int) -> list[Trial]:
    """Return the starts and what the sampler asks after them."""
    points: list[tuple[str, Point, dict[str, Any]]] = [
        (label, point, {}) for label, point in start_points(space, len(space.start.weights))
    ]
    trials: list[Trial] = []
    while len(trials) < count:
        if len(trials) < len(points):
            label, point, notes = points[len(trials)]
        else:
            ask = sampler.ask(space, trials, seed)
            label, point, notes = sampler.name, ask.point, dict(ask.notes)
        values = tuple(loss(point) for loss in losses)
        trials.append(Trial(len(trials), label, point, values[:1], values, True, 1, notes=notes))
    return trials


def area(trials: Sequence[Trial]) -> float:
    """Return the area that the front dominates up to losses of (1, 1)."""
    worst, total = 1.0, 0.0
    for one, other in sorted(tuple(np.minimum(trial.values, 1.0)) for trial in trials):
        if other < worst:
            total += (1 - one) * (worst - other)
            worst = other
    return total


def share_left(trials: Sequence[Trial]) -> float:
    """Return log10 of the least loss as a share of the best start's."""
    values = [trial.values[0] for trial in trials]
    return math.log10(min(values) / min(values[:4]))


def milliseconds(sampler: Sampler, space: SearchSpace, losses: Sequence[Loss]) -> float:
    """Return what an ask after 400 trials takes, those drawn at random but noted as the sampler's own."""
    trials = grown(registry.build("sampler", "random"), space, losses, 400, 0)
    own = [Trial(t.number, t.label, t.point, t.losses, t.values, True, 1, notes={**t.notes, "sampler": sampler.name})
           for t in trials]  # fmt: skip
    times = []
    for seed in range(5):
        began = time.perf_counter()
        sampler.ask(space, own, seed)
        times.append(1e3 * (time.perf_counter() - began))
    return min(times)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--trials", type=int, default=120)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # Optuna's of its experimental crossover, one for each ask
    try:
        import cmaes  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401

        packaged: list[Sampler] = [PackageCmaEs()]
    except ImportError:
        packaged = []
    ours, blind = registry.build("sampler", "cmaes"), registry.build("sampler", "random")
    bred, tpe = registry.build("sampler", "nsga2"), registry.build("sampler", "tpe")
    print(f"{arguments.trials} trials, mean over {arguments.seeds} seeds (standard error)")
    for k in (4, 20):
        space = SearchSpace(Point((0.5 / k,) * k, "exact"))
        for sampler in (blind, ours, *packaged):
            report(sampler, f"one task, {k} members", space, 1, arguments)
    for where, members in (("", False), (", members left out", True)):
        for k in (4, 20):
            space = SearchSpace(Point((0.5 / k,) * k, "exact"), members=members)
            for sampler in (blind, tpe, bred, OptunaNsga2(), OptunaNsga2(10), OptunaNsga2(10, blend=True)):
                report(sampler, f"two tasks, {k} members{where}", space, 2, arguments)


def report(sampler: Sampler, where: str, space: SearchSpace, tasks: int, arguments: argparse.Namespace) -> None:
    """Measure one sampler in one space and print a line."""
    k = len(space.start.weights)
    found, spent = [], 0.0
    for seed in range(arguments.seeds):
        losses = [bowl(k, tasks * seed + task) for task in range(tasks)]
        began = time.perf_counter()
        trials = grown(sampler, space, losses, arguments.trials, seed)
        spent += time.perf_counter() - began
        found.append(share_left(trials) if tasks == 1 else area(trials))
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    name = sampler.name
    if isinstance(sampler, OptunaNsga2):
        name += f", {sampler.population}{', blended' if sampler.blend else ''}"
    slow = milliseconds(sampler, space, [bowl(k, task) for task in range(tasks)])
    print(f"{where:36} {name:29} {np.mean(found):6.3f} ({error:.3f})  {slow:6.1f} ms", flush=True)


if __name__ == "__main__":
    main()
