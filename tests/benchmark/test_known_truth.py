"""The statistics on simulated benchmarks with known truth; the full simulation is kept in eval/bench_statistics.md."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from merge_advisor.benchmark.analysis import resampling
from merge_advisor.benchmark.analysis.prediction import agreement

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "bench_statistics.py"


@pytest.fixture(scope="module")
def world() -> Iterator[ModuleType]:
    """The simulation whose full run is kept in eval/."""
    spec = importlib.util.spec_from_file_location("bench_statistics", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_no_difference_is_found_where_there_is_none(world: ModuleType) -> None:
    found = list(world.benchmarks(400, world.ALL_TASKS, 0.0, world.SPREADS["typical"], seed=1))
    wrong = np.mean([one.standing in ("better", "worse") for _, one in found])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
    covered = np.mean([low <= 0 <= high for low, high in (world.ends(one) for _, one in found)])
    assert 0.925 <= covered <= 0.985
    # the same benchmarks tell a wrong unit: tasks, draws and rows taken for independent
    assert np.mean([world.independent(each.mean(1)) < 0.05 for each, _ in found]) > 0.1
    assert np.mean([world.independent(each) < 0.05 for each, _ in found]) > 0.2
    rows = math.sqrt(2 * 0.45 * 0.55 / (59 * 6 * 40))
    assert np.mean([abs(each.mean() / 100) > 1.96 * rows for each, _ in found]) > 0.2


def test_a_real_gain_is_found_and_its_size_covered(world: ModuleType) -> None:
    said = [one for _, one in world.benchmarks(200, world.ALL_TASKS, 4.0, world.SPREADS["typical"], seed=2)]
    assert np.mean([one.standing == "better" for one in said]) > 0.8
    assert np.mean([one.lower <= 4.0 <= one.upper for one in said]) > 0.91
    assert np.mean([one.mean for one in said]) == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("shape", ["normal", "skewed (exponential)", "heavy tails (t, 3 d.f.)", "half are 0"])
@pytest.mark.parametrize("n", [6, 12, 24])
def test_the_interval_covers_the_truth_in_many_shapes(world: ModuleType, shape: str, n: int) -> None:
    drawn = world.SHAPES[shape](np.random.default_rng([n, 5]), (300, n))
    covered = np.mean([low <= 0 <= high for low, high in filter(None, map(resampling.bootstrap_interval, drawn))])
    assert covered > 0.88 if "skewed" in shape else covered > 0.92


def test_the_interval_of_tau_covers_the_truth(world: ModuleType) -> None:
    truth = 2 * np.arcsin(0.4) / np.pi
    said = [agreement(world.promises(world.ALL_TASKS, 0.4, np.random.default_rng([3, i])), ["a"]) for i in range(100)]
    assert np.mean([one.lower <= truth <= one.upper for one in said]) > 0.87
    assert np.mean([one.tau for one in said]) == pytest.approx(truth, abs=0.03)
