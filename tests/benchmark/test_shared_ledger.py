"""Several processes measure one benchmark: no unit twice while both live, the dead taken over, the same results."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor.advisor import Machine, Workers
from merge_advisor.benchmark.running import claims as claiming
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.running.bench_work import BenchWork
from merge_advisor.benchmark.running.claims import Claims, DrawKey
from merge_advisor.benchmark.running.ledger import LEDGER_KIND, Ledger, ResultKey, key_of
from merge_advisor.benchmark.running.units import failed_result, result_keys
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.benchmark.values import BenchResults, Result, Unit
from merge_advisor.errors import RunError
from tests.support.bench_setups import TASKS, Places, write_world
from tests.support.ray_cluster import actor_processes, local_cluster, needs_ray

ONE = Machine(threads=1)
RUN = """
import sys, time
from pathlib import Path
from merge_advisor.benchmark.running import bench_work
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.machine_options import Machine

setup, out, base, pool, cache, log = sys.argv[1:]
measure = bench_work.measure_result

def logged(draw, key, arm, matched=None):
    with open(log, "a") as file:
        file.write("/".join(map(str, key)) + "\\n")
    return measure(draw, key, arm, matched)

bench_work.measure_result = logged
measure_setup(Path(setup), Path(out), base=base, pool=pool, cache=Path(cache), machine=Machine(threads=1))
"""


def settled(measured: BenchResults) -> list[Result]:
    """Results without their times."""
    return [replace(result, seconds=0.0) for result in measured.results]


@pytest.fixture(scope="module")
def places(places: Places) -> Places:
    return {**places, "machine": ONE}


@pytest.fixture(scope="module")
def undisturbed(places: Places, tmp_path_factory: pytest.TempPathFactory) -> BenchResults:
    folder = tmp_path_factory.mktemp("bench")
    alone: Places = {**places, "cache": folder / "cache"}
    return measure_setup(write_world(folder), folder / "out", **alone)


def start(folder: Path, places: Places, name: str) -> subprocess.Popen[bytes]:
    """A process that measures with a store of its own, as another machine would, and logs what it measures."""
    script = folder / "run.py"
    script.write_text(RUN)
    words = [str(folder / "setup.yaml"), str(folder / "out"), places["base"], places["pool"]]
    words += [str(folder / f"cache-{name}"), str(folder / f"log-{name}")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.Popen([sys.executable, str(script), *words], env=environment)


def logged(folder: Path, name: str) -> list[str]:
    path = folder / f"log-{name}"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_two_processes_measure_no_unit_twice(places: Places, undisturbed: BenchResults, tmp_path: Path) -> None:
    write_world(tmp_path)
    both = [start(tmp_path, places, name) for name in "ab"]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    one, other = (logged(tmp_path, name) for name in "ab")
    assert one and other and max(Counter([*one, *other]).values()) == 1
    assert len(one) + len(other) == undisturbed.wanted
    found = measure_setup(tmp_path / "setup.yaml", tmp_path / "out", **places)
    assert settled(found) == settled(undisturbed)


@pytest.mark.slow
def test_what_a_killed_process_had_claimed_is_measured_by_the_other(
    places: Places, undisturbed: BenchResults, tmp_path: Path
) -> None:
    write_world(tmp_path)
    first = start(tmp_path, places, "a")
    while len(logged(tmp_path, "a")) < 3 and first.poll() is None:
        time.sleep(0.02)
    second = start(tmp_path, places, "b")
    while not logged(tmp_path, "b") and second.poll() is None:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.wait(timeout=300) == 0
    one, other = (logged(tmp_path, name) for name in "ab")
    assert len(set(one) | set(other)) == undisturbed.wanted
    assert len(set(one) & set(other)) <= 1  # what it was measuring when it was killed
    found = measure_setup(tmp_path / "setup.yaml", tmp_path / "out", **places)
    assert settled(found) == settled(undisturbed)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[tuple[Ledger, BenchWork, BenchWork, Claims, Claims]]:
    """Two processes over one ledger, as far as who measures what goes."""
    setup, _ = read_setup(write_world(tmp_path))
    keys = [key for key in result_keys(setup, list(TASKS)) if key.arm == "base"]
    with Ledger(tmp_path) as ledger, Claims(ledger.path) as mine, Claims(ledger.path) as theirs:
        made = [BenchWork(ledger, claims, keys, setup, {}, lambda news: None) for claims in (mine, theirs)]
        yield ledger, made[0], made[1], mine, theirs


def result_of(ledger: Ledger, key: ResultKey) -> None:
    unit = Unit(key.task, "f", key.shot_draw, key.selection_draw, key.tuner_seed)
    ledger.keep(Result(unit, key.arm, key.view, key.k, rows=1, accuracy=0.5, loss=1.0))


def test_a_draw_is_handed_out_once_and_first_draws_first(
    work: tuple[Ledger, BenchWork, BenchWork, Claims, Claims],
) -> None:
    _, mine, theirs, _, _ = work
    handed: list[tuple[str, int]] = []
    while share := mine.take(()):
        others = [other for other in [theirs.take({share.label})] if other]
        handed += [(one.label, one.items[0].value.shot_draw) for one in (share, *others)]
    assert sorted(handed) == sorted((task, draw) for task in TASKS for draw in (0, 1))
    assert [draw for _, draw in handed] == [0, 0, 0, 1, 1, 1]
    assert mine.take(()) is None and theirs.take(()) is None and not mine.over() and mine.waiting() == 0


def test_what_another_process_has_done_is_over_and_what_it_left_is_taken(
    work: tuple[Ledger, BenchWork, BenchWork, Claims, Claims], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merge_advisor.benchmark.running.bench_work._LOOK", 0.0)
    ledger, mine, theirs, _, claims = work
    shares = []
    while share := theirs.take(()):
        shares.append(share)
    assert mine.take(()) is None and mine.waiting() == 0
    for item in shares[0].items:
        result_of(ledger, item.value)
    result_of(ledger, shares[1].items[0].value)
    claims.give_up(DrawKey(shares[1].label, shares[1].items[0].value.shot_draw))
    assert mine.waiting() == 1
    taken = mine.take(())
    assert taken is not None and taken.items == shares[1].items[1:]
    for share in shares[2:]:
        for item in share.items:
            result_of(ledger, item.value)
    assert mine.over() and mine.take(()) is None


def test_what_failed_elsewhere_meanwhile_is_not_tried_again_here(
    work: tuple[Ledger, BenchWork, BenchWork, Claims, Claims],
) -> None:
    ledger, mine, theirs, _, claims = work
    share = theirs.take(())
    assert share is not None
    for item in share.items:
        ledger.keep(failed_result(item.value, "f", "no"))
    claims.give_up(DrawKey(share.label, 0))
    labels = []
    while other := mine.take(()):
        labels.append((other.label, other.items[0].value.shot_draw))
    assert (share.label, 0) not in labels and len(labels) == 5


def test_a_claim_is_void_when_its_owner_is_gone(tmp_path: Path) -> None:
    draw = DrawKey("dates", 0)
    with Ledger(tmp_path) as ledger:
        child = subprocess.run(
            [sys.executable, "-c", "from merge_advisor.owners import this_owner; print(this_owner())"],
            check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        with Claims(ledger.path) as mine:
            for owner, free in ((child.stdout.strip(), True), (f"elsewhere/x {os.getpid()} 00ff", False)):
                mine._file.run("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, 0)", (*draw, owner))
                assert mine.free(draw) is free
            mine._watch._stale = 0.0
            assert mine.take(draw)  # its count stood still
            mine._watch._stale = 60.0
            mine._file.run("INSERT OR REPLACE INTO claims VALUES (?, ?, 'elsewhere/x 1 00ff', 5)", draw)
            assert not mine.free(draw)  # another owner: watched from now on
        with Claims(ledger.path) as late:
            assert not late.free(draw)


def test_a_claim_beats_and_ends_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "CLAIM_BEAT", 0.05)
    draw = DrawKey("dates", 0)
    with Ledger(tmp_path) as ledger, Claims(ledger.path) as other:
        with Claims(ledger.path) as first:
            assert first.take(draw) and not other.take(draw)
            seen = {first._file.rows("SELECT beat FROM claims")[0][0]}
            until = time.monotonic() + 20
            while len(seen) < 3 and time.monotonic() < until:
                seen.add(first._file.rows("SELECT beat FROM claims")[0][0])
                time.sleep(0.02)
            assert len(seen) >= 3
        assert other.take(draw)


def test_a_ledger_of_before_is_brought_up_and_shared_without_a_log(tmp_path: Path) -> None:
    import sqlite3

    with Ledger(tmp_path) as ledger:
        result_of(ledger, ResultKey("dates", 0, 0, 0, "own-out", 2, "base"))
    old = sqlite3.connect(tmp_path / "results.sqlite")
    old.execute("DROP TABLE claims")
    old.execute("PRAGMA user_version = 2")
    old.execute("PRAGMA journal_mode=WAL")
    old.commit()
    old.close()
    with Ledger(tmp_path) as ledger:
        assert [key_of(result).task for result in ledger.results()] == ["dates"]
        assert ledger._file.rows("PRAGMA journal_mode") == [("delete",)]
        with Claims(ledger.path) as claims:
            assert claims.take(DrawKey("dates", 0))


def same_as_one_process(found: BenchResults, undisturbed: BenchResults, cache: Path) -> bool:
    """The same results and scores of candidates alone, and no copy of the store left."""
    with Ledger(found.folder) as one, Ledger(undisturbed.folder) as other:
        assert one.singles() == other.singles()
    assert list((cache / "workers").iterdir()) == []
    return settled(found) == settled(undisturbed)


@pytest.mark.slow
def test_two_workers_give_the_results_of_one_process(places: Places, undisturbed: BenchResults, tmp_path: Path) -> None:
    """With a store of its own, so that everything is measured anew by the workers, and kept here alone."""
    alone: Places = {**places, "cache": tmp_path / "cache"}
    found = measure_setup(write_world(tmp_path), tmp_path / "out", beside=Workers(workers=2), **alone)
    assert same_as_one_process(found, undisturbed, tmp_path / "cache")


@needs_ray
@pytest.mark.slow
def test_two_actors_of_which_one_is_killed_and_one_hangs_give_the_same(
    places: Places, undisturbed: BenchResults, tmp_path: Path
) -> None:
    alone: Places = {**places, "cache": tmp_path / "cache"}
    ended: list[int] = []

    def end_some(what: str, done: int, total: int) -> None:
        """Kill an actor when some results are there, and stop another one later."""
        if what == "benchmark" and done >= (4, 15, total)[len(ended)]:
            left = [pid for pid in actor_processes() if pid not in ended]
            if left and len(ended) < 2:
                os.kill(left[0], signal.SIGSTOP if ended else signal.SIGKILL)
                ended.append(left[0])

    with local_cluster(cpus=3):
        engine = Workers("ray", workers=2, silence=60)
        found = measure_setup(
            write_world(tmp_path), tmp_path / "out", only=["*#0.0"], beside=engine, progress=end_some, **alone
        )
    assert len(ended) == 2
    first = [result for result in settled(undisturbed) if (result.unit.shot_draw, result.unit.selection_draw) == (0, 0)]
    assert settled(found) == first and len(first) == 30
    assert list((tmp_path / "cache" / "workers").iterdir()) == []


def test_a_ledger_out_of_reach_is_one_line(tmp_path: Path) -> None:
    with Ledger(tmp_path) as ledger, Claims(ledger.path) as claims:
        claims._file.close()
        with pytest.raises(RunError, match=r"ledger .*results\.sqlite: cannot be"):
            claims.take(DrawKey("dates", 0))
        claims._file = type(claims._file)(ledger.path, LEDGER_KIND)
