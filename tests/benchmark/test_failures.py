"""Units that fail: a worker killed on one, a finetune that comes to nothing; whatever does without is measured."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.advisor import Machine, Workers
from merge_advisor.benchmark.running import bench_run
from merge_advisor.benchmark.running.bench_run import measure_setup
from merge_advisor.benchmark.running.context import open_context
from merge_advisor.benchmark.running.ledger import Ledger, key_of
from merge_advisor.benchmark.running.rows import read_bench_tasks
from merge_advisor.benchmark.running.task_draw import TaskDraw
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.cli import main
from merge_advisor.errors import ExternalError, InputError
from tests.support.bench_setups import SETUP, Places, write_world
from tests.support.plugins import install_plugin

ONE = Machine(threads=1)
TWO = Workers(workers=2)
DEADLY = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from merge_advisor.select import Choice, Pick

HERE = Path(__file__).parent

@dataclass(frozen=True)
class Deadly:
    name: ClassVar[str] = "deadly"
    centres: ClassVar[str] = "no"
    cost: ClassVar[str] = "a life"
    stops: ClassVar[str] = ""

    def select(self, evidence, k):
        with (HERE / "lives").open("a") as file:
            file.write("x")
        if (HERE / "always").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        for name in ("once", "stop"):
            for found in HERE.glob(name):
                found.unlink()
                os.kill(os.getpid(), signal.SIGKILL if name == "once" else signal.SIGSTOP)
        return Choice((Pick(0),), "first")
"""


@pytest.fixture(scope="module")
def places(places: Places) -> Places:
    return {**places, "machine": ONE}


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a strategy that ends its process while it holds a file `always` or `once`."""
    site = install_plugin(tmp_path / "site", "strategy", "deadly", "Deadly", DEADLY)
    monkeypatch.syspath_prepend(site)
    return site


def a_world(folder: Path, **changes: Any) -> Path:
    """Two arms, of which the second only asks what the first one cost, and a control; none of it needs the weights."""
    arms = [{"name": "deadly", "strategy": "deadly"}, {"name": "after", "strategy": "random", "match": "deadly"}]
    primary = {"better": "deadly", "than": "majority", "k": 2}
    return write_world(folder, arms=arms, controls=["majority"], primary=primary, **changes)


def test_a_unit_two_workers_died_on_is_failed_and_the_run_goes_on(
    deadly: Path, places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_world(tmp_path, draws={"shots": 2, "selections": 1})
    (deadly / "always").touch()
    where = ["--base", places["base"], "--pool", places["pool"], "--cache", str(places["cache"]), "--threads", "1"]
    command = ["bench", str(path), "--out", str(tmp_path / "out"), *where, "--workers", "2", "--only", "*/count/*"]
    assert main(command) == 3
    assert "failed: 4 of 18 results, the first: " in capsys.readouterr().out
    with Ledger(tmp_path / "out") as ledger:
        found = ledger.results()
    assert Counter((r.arm, r.status) for r in found) == {
        ("majority", "done"): 2, ("deadly", "failed"): 2, ("after", "failed"): 2,
    }  # fmt: skip
    reasons = {r.arm: r.reason for r in found if r.status == "failed"}
    assert reasons["deadly"] == "the worker died on it twice, signal 9; with little memory take fewer `workers`"
    assert reasons["after"] == "arm 'deadly', whose cost it matches, has no result here"
    assert {r.unit.family for r in found} == {"numbers"}
    assert (deadly / "lives").read_text() == "xxxx"  # two draws, each tried twice


@pytest.mark.slow
def test_a_unit_one_worker_died_on_is_measured_by_the_next(deadly: Path, places: Places, tmp_path: Path) -> None:
    path = a_world(tmp_path, draws={"shots": 1, "selections": 1})
    (deadly / "once").touch()
    found = measure_setup(path, tmp_path / "out", only=["deadly/*/*"], beside=TWO, **places)
    assert [(r.arm, r.status) for r in found.results] == [("deadly", "done")] * 3
    assert (deadly / "lives").read_text() == "xxxx"


@pytest.mark.slow
def test_a_unit_a_worker_hangs_on_is_measured_by_another(deadly: Path, places: Places, tmp_path: Path) -> None:
    path = a_world(tmp_path, draws={"shots": 1, "selections": 1})
    (deadly / "stop").touch()
    engine = Workers(workers=2, silence=20)
    found = measure_setup(path, tmp_path / "out", only=["deadly/*/*"], beside=engine, **places)
    assert [(r.arm, r.status) for r in found.results] == [("deadly", "done")] * 3
    assert (deadly / "lives").read_text() == "xxxx"


def test_workers_that_cannot_start_or_refuse_end_the_run(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_world(tmp_path)
    some = ["majority/count/*", "majority/parity/*"]
    pool = shutil.copytree(places["pool"], tmp_path / "pool")
    moving: Places = {**places, "pool": str(pool)}
    # what the workers see is another pool than the one that was opened
    monkeypatch.setattr(bench_run, "absolute_place", lambda place: place.replace(str(pool), str(tmp_path / "gone")))
    with pytest.raises(ExternalError, match=r"2 of 2 workers could not begin: pool .*gone: not there"):
        measure_setup(path, tmp_path / "out", only=some, beside=TWO, **moving)
    shutil.copytree(pool, tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone" / "b2")
    with pytest.raises(ExternalError, match="could not begin: a worker sees another pool; workers need base, pool, "):
        measure_setup(path, tmp_path / "out", only=some, beside=TWO, **moving)
    monkeypatch.undo()
    # a child that is killed before it has begun: no unit is to blame
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n"
        f"    open({str(tmp_path / 'starts')!r}, 'a').write('x')\n    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    told = r"2 of 2 workers ended early \(signal 9\); what they measured is kept, the same command goes on"
    with pytest.raises(ExternalError, match=told):
        measure_setup(path, tmp_path / "out", only=some, beside=TWO, **places)
    assert (tmp_path / "starts").read_text() == "xxxx"
    with Ledger(tmp_path / "out") as ledger:
        assert ledger.results() == ()


def test_without_the_lora_of_the_shots_the_rest_is_measured(places: Places, tmp_path: Path) -> None:
    arms = [
        *SETUP["arms"],
        {"name": "text", "strategy": "text"},
        {"name": "joined", "strategy": "text", "shots_lora": True},
    ]
    path = write_world(tmp_path, arms=arms, draws={"shots": 1}, finetune={"lr": 1.5e30})
    found = measure_setup(path, tmp_path / "out", only=["*/count/*"], **places)
    why = {r.arm: r.reason for r in found.failed}
    assert sorted(why) == ["joined", "nearest", "shots_lora"]
    assert len(set(why.values())) == 1 and "finetuning on the shots: loss is " in why["joined"]
    done = {r.arm for r in found.results if r.status == "done"}
    assert done == {"default", "random", "text", *SETUP["controls"]} - {"shots_lora"}
    assert {key_of(r).task for r in found.results} == {"count"}


def test_a_finetune_that_failed_is_not_tried_anew(places: Places, tmp_path: Path) -> None:
    path = write_world(tmp_path, finetune={"lr": 1.5e30})
    setup, where = read_setup(path, base=places["base"], pool=places["pool"])
    rows = next(task for task in read_bench_tasks(setup, where) if task.name == "count")
    with open_context(setup, where, cache=places["cache"], machine=ONE) as world:
        draw = TaskDraw(world, rows, 0)
        raised = []
        for look in (lambda: draw.shots_lora, lambda: draw.finetune_forwards, lambda: draw.task_delta):
            with pytest.raises(InputError) as error:
                look()
            raised.append(error.value)
    assert raised[0] is raised[1] is raised[2]
