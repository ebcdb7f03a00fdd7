"""The study: killed at any moment and gone on from, read back to the last bit, one line for whatever is wrong."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from merge_advisor.errors import RunError
from merge_advisor.json_form import to_plain
from merge_advisor.tuning import Point, Sampler
from merge_advisor.tuning import lock as locks
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.density import split_density
from merge_advisor.tuning.goals import goal_named
from merge_advisor.tuning.lock import HolderLock, StudyHeartbeat
from merge_advisor.tuning.samplers.gradient import GradientSampler
from merge_advisor.tuning.settings import Budget, SearchResult, SearchSettings
from merge_advisor.tuning.study import Study, StudyPlace, read_trial
from tests.support.coordinator_world import MEMBERS, SPACE, STARTS, Bowls, Listed, Wander, run

ROOT = Path(__file__).parents[2]


def find(
    place: StudyPlace | None,
    *,
    budget: int = 6,
    seed: int = 0,
    goal: str = "mean",
    sampler: Sampler | None = None,
    problem: Any = None,
    **more: Any,
) -> SearchResult:
    problem = problem or Bowls()
    settings = SearchSettings(goal_named(goal, problem.tasks), Budget(trials=budget), seed, starts=STARTS, **more)
    return search(problem, SPACE, sampler or Wander(), settings, study=place)


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    return StudyPlace(tmp_path / "study.sqlite", {"task rows": "bowls"}, timeout=0.2)


def opened(place: Path | str, name: str = "tune") -> tuple[list[Any], dict[str, Any]]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{place}")
    study = optuna.load_study(study_name=name, storage=storage)
    trials, attributes = study.trials, study.user_attrs
    storage.remove_session()
    storage.engine.dispose()
    return trials, attributes


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["trials", "forwards"])
def test_killed_twenty_times_ends_like_an_undisturbed_search(tmp_path: Path, budget: str) -> None:
    script = [
        sys.executable,
        str(ROOT / "tests" / "support" / "coordinator_world.py"),
        str(tmp_path),
        budget,
        "20",
        "1",
    ]
    subprocess.run(script, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    kept = [t for t in opened(tmp_path / "study.sqlite")[0] if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    resumed = run(tmp_path, budget, log=tmp_path / "log")
    assert resumed == run(tmp_path, budget, keep=False)
    assert 10 < len(kept) < len(resumed.trials), "the kills were to leave a part of the search"
    trials, _ = opened(tmp_path / "study.sqlite")
    failed = Counter(repr(t.params["weight math"]) for t in trials if t.state == TrialState.FAIL)
    assert 5 <= failed.total() <= 20
    sessions = Counter(
        weight for _, weight in {tuple(line.split()) for line in (tmp_path / "log").read_text().splitlines()}
    )
    again = [weight for weight, count in sessions.items() if count > 1 + failed[weight]]
    assert not again, "a finished trial was measured again"


def test_a_search_goes_on_with_a_larger_budget(place: StudyPlace) -> None:
    first = find(place, budget=9)
    problem = Bowls()
    more = find(place, budget=15, problem=problem)
    assert more.trials[:9] == first.trials and more == find(None, budget=15)
    assert not {point for point, _ in problem.seen} & {trial.point for trial in first.trials}
    assert find(place, budget=15, problem=(idle := Bowls())) == more and not idle.seen


def test_what_optuna_sees(place: StudyPlace) -> None:
    found = find(place, budget=30)
    trials, attributes = opened(place.storage)
    assert attributes["made_for"]["task rows"] == "bowls" and attributes["made_for"]["sampler"] == "wander:step=0.4"
    assert [read_trial(trial.user_attrs["trial"]) for trial in trials] == list(found.trials)
    for seen, trial in zip(trials, found.trials, strict=True):
        assert seen.values == list(trial.values)
        assert seen.params == {f"weight {m}": w for m, w in zip(MEMBERS, trial.point.weights, strict=True)}
        assert seen.state == (TrialState.COMPLETE if trial.whole else TrialState.PRUNED)
        if not trial.whole:
            assert max(seen.intermediate_values) == 20 - trial.losses.count(None)
            assert seen.intermediate_values[max(seen.intermediate_values)] == trial.values[0]
    assert any(not trial.whole for trial in found.trials)


def test_compositions_density_and_layers_are_parameters(place: StudyPlace) -> None:
    ties = Point((5.0, 0.1, 0.2), "ties:density=0.37,sign=mass", (0.5, 3.0))
    space = replace(SPACE, start=ties, compositions=("exact", "ties:sign=mass,density=0.2"), layers=2)
    with Study(place, {}, space, MEMBERS, 1) as study, study.trial(ties):
        pass
    (seen,), _ = opened(place.storage)
    assert seen.state == TrialState.FAIL
    assert seen.params == {
        "weight math": 5.0, "weight law": 0.1, "weight code": 0.2, "layers 1": 0.5, "layers 2": 3.0, "density": 0.37,
        "composition": "ties:sign=mass",
    }  # fmt: skip
    assert split_density("exact") == ("exact", None) and split_density("dare:density=1,seed=2") == ("dare:seed=2", 1.0)


def test_a_pareto_study_has_a_value_for_each_task(place: StudyPlace) -> None:
    found = find(place, goal="pareto", problem=Bowls(tasks=[0] * 6 + [1] * 6))
    trials, _ = opened(place.storage)
    assert [tuple(trial.values) for trial in trials] == [trial.values for trial in found.trials]
    assert all(len(trial.values) == 2 for trial in found.trials)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"seed": 1},
            r"another seed \(0, now 1\); give another `storage` or run folder, or begin anew with `force",
        ),
        ({"sampler": Wander(0.1)}, r"sampler \(wander:step=0.4, now wander:step=0.1\)"),
        ({"goal": "lorahub"}, r"goal \(mean, now lorahub:divisor=20\)"),
        ({"racing": None}, "another racing;"),
        ({"guard": 2}, "guard"),
    ],
)
def test_a_study_of_something_else_is_refused(place: StudyPlace, change: dict[str, Any], told: str) -> None:
    find(place)
    with pytest.raises(RunError, match=told):
        find(place, **change)
    with pytest.raises(RunError, match=r"task rows \(bowls, now hills\)"):
        find(replace(place, made_for={"task rows": "hills"}))


def test_force_begins_anew(place: StudyPlace) -> None:
    find(place)
    anew = find(replace(place, force=True), seed=1)
    assert anew == find(None, seed=1) == find(place, seed=1)


def test_a_study_of_someone_else_is_refused(place: StudyPlace) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{place.storage}")
    study = optuna.create_study(study_name="tune", storage=storage)
    study.tell(study.ask(), 1.0)
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(RunError, match="is not merge-advisor's"):
        find(place)
    assert len(find(replace(place, name="another")).trials) == 6


def test_a_study_of_an_older_version_is_refused(place: StudyPlace) -> None:
    find(place)
    storage = optuna.storages.RDBStorage(f"sqlite:///{place.storage}")
    study = optuna.load_study(study_name="tune", storage=storage)
    made_for = study.user_attrs["made_for"]
    study.set_user_attr("made_for", {key: made_for[key] for key in made_for if not key.startswith("version")})
    storage.remove_session()
    storage.engine.dispose()
    with pytest.raises(RunError, match=r"made for another version of merge-advisor's studies; .* `force=True`") as told:
        find(place)
    assert "\n" not in str(told.value)


def test_gradients_come_back_from_a_study(place: StudyPlace) -> None:
    sampler = GradientSampler()
    found = find(place, budget=7, sampler=sampler)
    assert [len(trial.sloped) for trial in found.trials[4:]] == [4, 4, 4]
    more = find(place, budget=9, sampler=sampler, problem=(idle := Bowls()))
    assert more.trials[:7] == found.trials and more == find(None, budget=9, sampler=sampler)
    assert {point for point, _ in idle.seen} == {trial.point for trial in more.trials[7:]}


def test_damaged_locked_and_unwritable(place: StudyPlace, tmp_path: Path) -> None:
    find(place)
    blocker = sqlite3.connect(place.storage, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(RunError, match=r"study\.sqlite: locked by another program") as told:
        find(place, budget=8)
    assert "\n" not in str(told.value)
    blocker.close()
    Path(place.storage).write_bytes(b"this is text, long enough to be read as a header of something else" * 20)
    with pytest.raises(RunError, match=r"study\.sqlite: is damaged \(file is not a database\); delete it") as told:
        find(place)
    assert "\n" not in str(told.value)
    with pytest.raises(RunError, match=r"study\.lock: cannot be written \(.*\); check permissions"):
        find(replace(place, storage=Path(place.storage) / "study"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match=r"unable to open database file.*check the place, permissions and free space"):
        find(replace(place, storage=tmp_path / "folder"))


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from tests.support.coordinator_world import run
from merge_advisor.errors import RunError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
try:
    run(Path({folder!r}), "trials")
except RunError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, limit: int) -> None:
    script = FULL.format(here=str(ROOT), limit=limit, folder=str(tmp_path))
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60).stdout
    assert told.count("\n") == 1 and "check the place, permissions and free space" in told, told
    assert run(tmp_path, "trials") == run(tmp_path, "trials", keep=False)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite://", "keeps nothing once the process ends"),
        ("nothing://host/base", "nothing://host/base: .*nothing"),
        ("no url", "no url: "),
    ],
)
def test_urls_that_are_no_storage(url: str, told: str) -> None:
    with pytest.raises(RunError, match=told):
        find(StudyPlace(url, {}))


def test_odd_paths(tmp_path: Path) -> None:
    odd = StudyPlace(tmp_path / "a {b} %c?d#e" / "study é.sqlite", {})
    assert find(odd) == find(odd) == find(None) and Path(odd.storage).is_file()


def test_a_url_of_a_file_is_that_file(place: StudyPlace) -> None:
    find(place)
    assert find(replace(place, storage=f"sqlite:///{place.storage}"), problem=(idle := Bowls())) == find(place)
    assert not idle.seen


HOLD = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from merge_advisor.tuning.lock import HolderLock
held = HolderLock(Path({path!r}))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_coordinator_is_refused_until_the_first_is_dead(place: StudyPlace) -> None:
    lock = Path(f"{place.storage}.lock")
    script = HOLD.format(here=str(ROOT), path=str(lock))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout and first.stdout.readline() == "held\n"
        with pytest.raises(
            RunError, match=rf"is being tuned by process {first.pid} on .* since .*; wait for it to end"
        ):
            find(place)
        first.send_signal(signal.SIGKILL)
    assert len(find(place).trials) == 6
    assert lock.exists() and not Path(f"{lock}.holder").exists()


def test_a_lock_is_let_go_of(tmp_path: Path) -> None:
    held = HolderLock(tmp_path / "lock")
    with pytest.raises(RunError, match=f"process {os.getpid()} "):
        HolderLock(tmp_path / "lock")
    with pytest.raises(RunError, match=f"process {os.getpid()} "):
        HolderLock(tmp_path / "lock")  # the first refusal left the name of the holder alone
    held.check()
    held.release()
    held.release()
    HolderLock(tmp_path / "lock").release()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        pytest.raises(RunError, match=r"lock: cannot be locked; use a local disk"),
    ):
        HolderLock(tmp_path / "lock")


class Attribute:
    """An attribute of a study, with every value it ever had."""

    def __init__(self) -> None:
        self.values: list[Any] = [None]

    def read(self) -> Any:
        return self.values[-1]

    def beat(self, **more: Any) -> StudyHeartbeat:
        return StudyHeartbeat("db: study 'tune'", self.read, self.values.append, **{"settle": 0, **more})


def test_heartbeat_of_a_remote_study() -> None:
    there = Attribute()
    first = there.beat()
    with pytest.raises(RunError, match=rf"db: study 'tune': is being tuned by process {os.getpid()} on "):
        there.beat()
    first.check()
    first.renew()
    first.release()
    assert there.read() is None
    there.values.append({"who": "process 1 on dead", "beat": time.time() - locks.STALE - 1})
    second = there.beat()
    there.values.append({"who": "process 2 on host", "beat": time.time()})
    second.renew()
    with pytest.raises(RunError, match="was taken over by process 2 on host"):
        second.check()
    second.release()
    assert there.read()["who"] == "process 2 on host"


def test_of_two_claims_at_once_the_last_holds() -> None:
    there = Attribute()

    def overtaken(value: Any) -> None:
        there.values.append(value)
        there.values.append({"who": "process 2 on host", "beat": time.time()})

    with pytest.raises(RunError, match="is being tuned by process 2 on host"):
        StudyHeartbeat("db", there.read, overtaken, settle=0)
    assert there.read()["who"] == "process 2 on host"


def test_a_storage_without_a_plain_file_is_held_by_heartbeat(place: StudyPlace) -> None:
    remote = replace(place, storage=f"sqlite:///file:{place.storage}?uri=true")
    found = find(remote)
    with Study(replace(remote, force=True), {}, SPACE, MEMBERS, 1) as study:
        with pytest.raises(RunError, match=r"study 'tune': is being tuned by process"):
            find(remote)
        assert study.history == ()
        assert opened(place.storage)[1]["coordinator"]["who"].startswith(f"process {os.getpid()} on")
    assert opened(place.storage)[1]["coordinator"] is None
    assert not Path(f"{place.storage}.lock").exists()
    assert find(replace(remote, force=True)) == found


HOLD_STUDY = """
import sys, time
sys.path.insert(0, {here!r})
from merge_advisor.tuning.study import Study, StudyPlace
from tests.support.coordinator_world import MEMBERS, SPACE
with Study(StudyPlace({url!r}, {{}}), {{}}, SPACE, MEMBERS, 1):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_coordinator_without_a_file_lock_is_passed_over_after_a_while(
    place: StudyPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///file:{place.storage}?uri=true"
    script = HOLD_STUDY.format(here=str(ROOT), url=url)
    remote = replace(place, storage=url, force=True)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout and first.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"study 'tune': is being tuned by process {first.pid} on "):
            find(remote)
        first.send_signal(signal.SIGKILL)
    with pytest.raises(RunError, match=r"the claim of a dead process ends 60 seconds after its last heartbeat"):
        find(remote)
    monkeypatch.setattr(locks, "STALE", 0.0)
    assert find(remote) == find(None)


def test_an_interrupt_leaves_what_is_finished(place: StudyPlace) -> None:
    class Interrupted(Bowls):
        def losses(self, point: Point, rows: Sequence[int]) -> list[float]:
            if len(self.seen) == 7:
                raise KeyboardInterrupt
            return super().losses(point, rows)

    with pytest.raises(KeyboardInterrupt):
        find(place, budget=12, problem=Interrupted())
    trials, _ = opened(place.storage)
    assert [trial.state for trial in trials].count(TrialState.FAIL) == 1 and len(trials) > 5
    assert find(place, budget=12) == find(None, budget=12)


def test_floats_come_back_exactly(place: StudyPlace) -> None:
    points = tuple((0.1 + 0.2, 1e-300 * number, 1 / 3 + number) for number in range(12))
    found = find(place, sampler=Listed(points), budget=12, racing=None)
    assert [read_trial(to_plain(trial)) for trial in found.trials] == list(found.trials)
    assert (
        find(place, sampler=Listed(points), budget=12, racing=None, problem=(idle := Bowls())) == found
        and not idle.seen
    )
