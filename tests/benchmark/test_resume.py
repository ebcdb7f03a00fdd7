"""A benchmark that was killed goes on, and ends as one that was not; several workers end as one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor.advisor import Machine, Workers
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.running.ledger import Ledger, ResultKey, key_of
from merge_advisor.benchmark.values import BenchResults, LateAddition, Result, Unit
from merge_advisor.errors import RunError
from tests.support.bench_setups import write_world

RUN = """
import sys
from pathlib import Path
from merge_advisor.machine_options import Workers, Machine
from merge_advisor.benchmark.running.bench_run import measure_setup

if __name__ == "__main__":
    setup, out, base, pool, cache, workers = sys.argv[1:]
    settings = {"cache": Path(cache), "machine": Machine(threads=1)}
    measure_setup(Path(setup), Path(out), base=base, pool=pool, beside=Workers(workers=int(workers)), **settings)
"""
ONE = Machine(threads=1)
"""All processes of these tests: another number of threads adds in another order, and the last digits differ."""


def settled(results: Iterable[Result]) -> list[Result]:
    """Results without their times."""
    return [replace(result, seconds=0.0) for result in results]


@pytest.fixture(scope="module")
def undisturbed(tiny_llama: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchResults:
    folder = tmp_path_factory.mktemp("bench")
    path = write_world(folder)
    return measure_setup(
        path, folder / "out", base=str(tiny_llama), pool=str(tiny_pool), cache=folder / "cache", machine=ONE
    )


def start(folder: Path, tiny_llama: Path, tiny_pool: Path, workers: int) -> subprocess.Popen[bytes]:
    script = folder / "run.py"
    script.write_text(RUN)
    places = [folder / "setup.yaml", folder / "out", tiny_llama, tiny_pool, folder / "cache", workers]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.Popen([sys.executable, str(script), *map(str, places)], env=environment)


def count_of(folder: Path) -> int:
    if not (folder / "out" / "results.sqlite").is_file():
        return 0
    try:
        with Ledger(folder / "out") as ledger:
            return ledger.count()
    except RunError:  # the other process is making the file
        return 0


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_and_started_again(
    workers: int, undisturbed: BenchResults, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    write_world(tmp_path)
    running = start(tmp_path, tiny_llama, tiny_pool, workers)
    while count_of(tmp_path) < 10 and running.poll() is None:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    if workers > 1:
        time.sleep(1.0)  # its workers see that it is gone
        before_waiting = count_of(tmp_path)
        time.sleep(1.0)
        assert count_of(tmp_path) == before_waiting
    with Ledger(tmp_path / "out") as ledger:
        before = ledger.results()
    assert 10 <= len(before) < undisturbed.wanted
    found = measure_setup(tmp_path / "setup.yaml", tmp_path / "out", base=str(tiny_llama), pool=str(tiny_pool),
                    cache=tmp_path / "cache", beside=Workers(workers=workers), machine=ONE)  # fmt: skip
    assert set(before) < set(found.results)  # what was there is as it was, its seconds too
    assert settled(found.results) == settled(undisturbed.results)


def test_a_ledger_keeps_what_is_done_and_replaces_what_failed(tmp_path: Path) -> None:
    unit = Unit("t", "f", 1, 2, 3)
    failed = Result(unit, "arm", "own-out", 4, status="failed", reason="no")
    done = Result(unit, "arm", "own-out", 4, rows=2, accuracy=0.5, loss=1.0, valid=1.0, accuracy_valid=0.5)
    with Ledger(tmp_path / "a") as one, Ledger(tmp_path / "a") as other:
        one.keep(failed)
        assert other.find(key_of(failed)) == failed and other.done() == frozenset()
        other.keep(done)
        one.keep(failed)
        one.keep(replace(done, accuracy=0.9))
        assert one.results() == (done,) and one.done() == {ResultKey("t", 1, 2, 3, "own-out", 4, "arm")}
        one.claim({"seed": "0", "rows": "x"})
        other.claim({"rows": "x", "seed": "0"})
        with pytest.raises(RunError, match="another draws, seed; give another `out`"):
            other.claim({"rows": "x", "seed": "1", "draws": "y"})
        one.claim({"seed": "0", "rows": "x"}, {"arm a": "0", "view own-in": ""})
        assert other.added() == (LateAddition("arm a", 1), LateAddition("view own-in", 1))
        with pytest.raises(RunError, match="another arm a; give another `out`"):
            other.claim({"seed": "0", "rows": "x"}, {"arm a": "1", "view own-in": "", "arm b": "0"})
        assert other.added() == one.added() and len(one.added()) == 2


def test_a_ledger_of_another_machine_s_dtype_says_how_it_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger:
        ledger.claim({"seed": "0", "dtype": "float32"})
        with pytest.raises(RunError, match="another dtype; give `dtype=float32` to go on with it, or another `out`"):
            ledger.claim({"seed": "0", "dtype": "mixed"})
        with pytest.raises(RunError, match="another dtype, seed; give another `out`"):
            ledger.claim({"seed": "1", "dtype": "mixed"})


def test_a_ledger_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_text("no database " * 100)
    with pytest.raises(RunError, match=r"results\.sqlite: is damaged, or no ledger"):
        Ledger(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="give another `out`"):
        Ledger(tmp_path / "file" / "out")
