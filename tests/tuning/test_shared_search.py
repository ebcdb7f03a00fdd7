"""Several processes search one study: budget kept to the trial, the dead taken over, one result in all of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from merge_advisor.errors import RunError
from merge_advisor.tuning import shared_study
from merge_advisor.tuning.coordinator import search
from merge_advisor.tuning.goals import best_trial, goal_named
from merge_advisor.tuning.samplers.at_random import RandomSampler
from merge_advisor.tuning.settings import Budget, SearchResult, SearchSettings
from merge_advisor.tuning.shared_search import search_shared
from merge_advisor.tuning.shared_study import SharedStudy
from merge_advisor.tuning.storages import shown_storage, without_password
from merge_advisor.tuning.study import StudyPlace
from tests.support.coordinator_world import MEMBERS, SPACE, STARTS, Bowls, Listed
from tests.support.postgres import Server, needs_postgres, postgres_server

ROOT = Path(__file__).parents[2]
BUDGET = 14
SEARCH = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from tests.support.coordinator_world import Meeting
from tests.tuning.test_shared_search import find
from merge_advisor.tuning.study import StudyPlace
print("begun", flush=True)
place = StudyPlace({url!r}, {{"task rows": "bowls"}}, share=True, timeout=60.0)
found = find(place, problem=Meeting(Path({meeting!r}), {processes}, {stops_at}, {pause}))
for trial in found.trials:
    print(trial.number, trial.label, trial.point.weights, trial.values, sep="|")
print(found.stopped)
"""


def find(place: StudyPlace, *, budget: int = BUDGET, goal: str = "mean", **more: Any) -> SearchResult:
    problem = more.pop("problem", None) or Bowls()
    sampler = more.pop("sampler", None) or RandomSampler()
    settings = SearchSettings(goal_named(goal, problem.tasks), Budget(trials=budget), seed=0, starts=STARTS, **more)
    return search_shared(problem, SPACE, sampler, settings, study=place)


def process(
    url: str, meeting: Path, processes: int = 1, stops_at: int | None = None, pause: float = 0.0
) -> subprocess.Popen[str]:
    """A search whose first merge waits until so many are at theirs, and one merge of which may wait for ever."""
    script = SEARCH.format(
        here=str(ROOT), url=url, meeting=str(meeting), processes=processes, stops_at=stops_at, pause=pause
    )
    begun = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert begun.stdout and begun.stdout.readline() == "begun\n"
    return begun


def trials_of(url: str) -> list[Any]:
    """The trials of a study; none where it is not begun."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url)
    tables = sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()
    if "alembic_version" not in tables:  # made last: two who make them at once would hinder each other
        return []
    storage = optuna.storages.RDBStorage(url)
    try:
        study = storage.get_study_id_from_name("tune")
        return sorted(storage.get_all_trials(study), key=lambda trial: trial.number)
    except KeyError:
        return []
    finally:
        storage.remove_session()
        storage.engine.dispose()


def told(of: subprocess.Popen[str]) -> list[str]:
    out, _ = of.communicate(timeout=300)
    assert of.returncode == 0
    return out.splitlines()


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    return StudyPlace(f"sqlite:///{tmp_path / 'study.sqlite'}", {"task rows": "bowls"}, share=True, timeout=60.0)


def is_sane(found: SearchResult, budget: int = BUDGET) -> bool:
    """The starts first and each once, numbers without gaps, the best no worse than a start."""
    best = best_trial(found.trials)
    assert best is not None and len(found.trials) == budget
    assert [trial.label for trial in found.trials[: len(STARTS)]] == [label for label, _ in STARTS]
    assert [trial.number for trial in found.trials] == list(range(budget))
    return best.values[0] <= min(trial.values[0] for trial in found.trials[: len(STARTS)])


def test_alone_it_is_a_search(place: StudyPlace) -> None:
    found = find(place)
    assert is_sane(found) and found.stopped == f"{BUDGET} trials done"
    assert find(place, problem=(idle := Bowls())) == found and not idle.seen
    more = find(place, budget=BUDGET + 3)
    assert more.trials[:BUDGET] == found.trials and is_sane(more, BUDGET + 3)


class Together(Bowls):
    """Its first merge waits until the other search is at its first too: a fast one would leave nothing to share."""

    def __init__(self, meeting: threading.Barrier) -> None:
        super().__init__()
        self.meeting = meeting

    def losses(self, point: Any, rows: Any) -> list[float]:
        if not self.seen:
            self.meeting.wait(timeout=300)
        return super().losses(point, rows)


def test_two_threads_share_the_trials_and_end_the_same(place: StudyPlace) -> None:
    meeting = threading.Barrier(2)
    problems = [Together(meeting), Together(meeting)]
    ended: dict[int, SearchResult] = {}

    def one(number: int) -> None:
        ended[number] = find(place, problem=problems[number])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended[0] == ended[1] and is_sane(ended[0])
    points = [{point for point, _ in problem.seen} for problem in problems]
    assert points[0] and points[1] and not points[0] & points[1]
    states = Counter(trial.state for trial in trials_of(str(place.storage)))
    assert states[TrialState.COMPLETE] + states[TrialState.PRUNED] == BUDGET and not states[TrialState.RUNNING]


def test_the_trial_of_a_killed_process_is_taken_over(place: StudyPlace, tmp_path: Path) -> None:
    """Its process no longer runs, so nobody waits for its heartbeat; what it asked is what is measured."""
    url = str(place.storage)
    first = process(url, tmp_path / "meeting", stops_at=7)
    while not (tmp_path / "stuck").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (left,) = (t for t in trials_of(url) if not t.state.is_finished())
    found = find(place)
    assert is_sane(found)
    assert not [t for t in trials_of(url) if t.state == TrialState.RUNNING]
    asked = left.user_attrs["asked"]["point"]["weights"]
    assert [t for t in found.trials if list(t.point.weights) == asked]


def test_a_silent_owner_elsewhere_is_taken_over_after_a_while(
    place: StudyPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_study, "this_owner", lambda: "elsewhere 1 00ff")
    study = SharedStudy(place, {}, SPACE, MEMBERS, 1)
    with study.begun() as number:
        monkeypatch.undo()
        other = SharedStudy(place, {}, SPACE, MEMBERS, 1)
        assert [one.number for one in other.look()[1]] == [number]
        monkeypatch.setattr(shared_study, "SHARED_STALE", -1.0)
        late = SharedStudy(place, {}, SPACE, MEMBERS, 1)
        _, others, left = late.look()
        assert not others and [one.number for one in left] == [number]
        assert late.look() == ([], [], [])
    for one in (study, other, late):
        one.close()


def test_one_who_was_taken_over_drops_what_it_measured(place: StudyPlace) -> None:
    class Overtaken(Bowls):
        """After its sixth merge someone else fails what is under way."""

        def losses(self, point: Any, rows: Any) -> list[float]:
            if len(self.seen) == 6:
                storage = optuna.storages.RDBStorage(str(place.storage))
                study = storage.get_study_id_from_name("tune")
                for trial in storage.get_all_trials(study):
                    if not trial.state.is_finished():
                        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                storage.remove_session()
                storage.engine.dispose()
            return super().losses(point, rows)

    found = find(place, problem=Overtaken(), racing=None)
    assert is_sane(found)
    assert [trial.state for trial in trials_of(str(place.storage))].count(TrialState.FAIL) == 1


def test_two_samplers_without_chance_do_not_measure_the_same(place: StudyPlace) -> None:
    listed = Listed(((0.1, 0.2, 0.3),))
    ended: list[SearchResult] = []
    meeting = threading.Barrier(2)
    threads = [
        threading.Thread(target=lambda: ended.append(find(place, budget=9, sampler=listed, problem=Together(meeting))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended[0] == ended[1] and is_sane(ended[0], 9)
    assert {trial.label for trial in ended[0].trials[4:]} <= {"listed", "random"}


def test_a_search_of_one_process_and_a_shared_one_do_not_mix(place: StudyPlace) -> None:
    find(place, budget=5)
    settings = SearchSettings(goal_named("mean", (0,)), Budget(trials=6), seed=0, starts=STARTS)
    with pytest.raises(RunError, match="made for another way of sharing; give another `storage`"):
        search(Bowls(), SPACE, RandomSampler(), settings, study=replace(place, share=False))


def test_to_begin_anew_is_refused_while_others_search(place: StudyPlace) -> None:
    find(place, budget=5)
    told = "others search it now; wait for them, or stop them"
    with (
        SharedStudy(place, signed(place), SPACE, MEMBERS, 1) as study,
        study.begun(),
        pytest.raises(RunError, match=told),
    ):
        find(replace(place, force=True))
    assert len(find(replace(place, force=True), budget=6).trials) == 6


def signed(place: StudyPlace) -> dict[str, str]:
    """What the study of a place says it was made for, without what is added here."""
    storage = optuna.storages.RDBStorage(str(place.storage))
    made_for = dict(optuna.load_study(study_name="tune", storage=storage).user_attrs["made_for"])
    storage.remove_session()
    storage.engine.dispose()
    return made_for


def test_a_relative_goal_waits_for_the_base(place: StudyPlace) -> None:
    problem = Bowls(tasks=[0] * 6 + [1] * 6)
    found = find(place, goal="worst", problem=problem)
    assert len(found.trials) == BUDGET and not any(found.trials[0].point.weights)


def test_passwords_are_blotted_out() -> None:
    url = "postgresql+psycopg://ada:s%40cret@db.example:5432/studies"
    assert shown_storage(url) == "postgresql+psycopg://ada:***@db.example:5432/studies"
    assert without_password("FATAL: s@cret is wrong, s%40cret", url) == "FATAL: *** is wrong, ***"
    assert shown_storage("postgresql:///studies?user=ada&password=hush1") == (
        "postgresql:///studies?user=ada&password=***"
    )
    assert shown_storage("postgresql://ada@host/a:b") == "postgresql://ada@host/a:b"
    with pytest.raises(RunError) as error:
        find(StudyPlace("postgresql+nothing://ada:hush-hush@host/studies", {}, share=True))
    assert "hush" not in str(error.value) and "ada:***@host" in str(error.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with postgres_server() as begun:
        yield begun


@needs_postgres
@pytest.mark.slow
class TestPostgres:
    def test_two_processes_share_a_server_one_is_killed(self, server: Server, tmp_path: Path) -> None:
        url = server.database("shared")
        first, second = (process(url, tmp_path / "meeting", 2, pause=0.1) for _ in range(2))
        while sum(t.state.is_finished() for t in trials_of(url)) < 6:
            time.sleep(0.1)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        lines = told(second)
        assert lines[-1] == f"{BUDGET} trials done" and len(lines) == BUDGET + 1
        assert [line.split("|")[1] for line in lines[: len(STARTS)]] == [label for label, _ in STARTS]
        place = StudyPlace(url, {"task rows": "bowls"}, share=True)
        found = find(place, problem=(idle := Bowls()))
        assert is_sane(found) and not idle.seen
        assert not [t for t in trials_of(url) if t.state == TrialState.RUNNING]
        owners = {t.user_attrs["owner"].split()[1] for t in trials_of(url)}
        assert owners == {str(first.pid), str(second.pid)}

    def test_two_processes_end_the_same(self, server: Server, tmp_path: Path) -> None:
        url = server.database("both")
        both = [process(url, tmp_path / "meeting", 2) for _ in range(2)]
        ended = [told(one) for one in both]
        assert ended[0] == ended[1] and len(ended[0]) == BUDGET + 1

    def test_one_coordinator_at_a_time_without_sharing(self, server: Server) -> None:
        url = server.database("alone")
        settings = SearchSettings(goal_named("mean", (0,)), Budget(trials=6), seed=0, starts=STARTS)
        place = StudyPlace(url, {"task rows": "bowls"})
        found = search(Bowls(), SPACE, RandomSampler(), settings, study=place)
        assert search(Bowls(), SPACE, RandomSampler(), settings, study=place) == found

    def test_a_wrong_password_is_not_told(self, server: Server) -> None:
        url = server.database("locked").replace(server.password, "not-the-password")
        with pytest.raises(RunError) as error:
            find(StudyPlace(url, {}, share=True))
        assert "not-the-password" not in str(error.value) and "***" in str(error.value)
