"""What the page is answered: the same as the API says, one line where it cannot be, and no file of the machine."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.errors import RunError
from merge_advisor.explore.binary import unpack_arrays
from merge_advisor.explore.jobs import PageJob
from merge_advisor.explore.layouts import MapLayout, keep_layout, layout_file
from merge_advisor.explore.map_points import read_points
from merge_advisor.explore.navigator import Navigator, free_folder
from merge_advisor.explore.projection import place_among
from merge_advisor.hub import Hub
from merge_advisor.hub.values import HubRun, HubScore
from tests.explore.explore_world import HOSTILE, Answer, ask
from tests.hub.hub_world import TIME, put

pytest.importorskip("starlette", reason="starlette is not installed")


def ended(app: Any, job: str, seconds: float = 240) -> Any:
    """A job once it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = ask(app, "/api/job", query=f"id={job}").json
        if found["state"] != "running":
            return found
        time.sleep(0.2)
    raise AssertionError(f"job {job} did not end within {seconds} s")


def test_neighbours_are_those_of_the_api(app: Any, navigator: Navigator) -> None:
    with Hub.open(navigator.folder) as hub:
        for name in (HOSTILE[0], "python-10"):
            number = hub.entry(name).number
            found = ask(app, "/api/neighbours", query=f"number={number}&k=5").json
            expected = [(hit.entry.id, round(hit.score, 6)) for hit in hub.search(like=name, k=5).hits]
            assert [(hit["id"], hit["cosine"]) for hit in found["hits"]] == expected and found["exact"]
            free = ask(app, "/api/neighbours", query=f"number={number}&k=5&open=1").json
            assert {hit["licence"] for hit in free["hits"]} <= {"apache-2.0", "mit"} and len(free["hits"]) == 5
            details = ask(app, "/api/model", query=f"number={number}").json
            assert details["id"] == name and details["base_id"] == "org/base" and details["here"] is False


def test_the_map_names_filters_words_and_scores_are_the_hubs(app: Any, navigator: Navigator) -> None:
    said, arrays = unpack_arrays(ask(app, "/api/map").body)
    names = ask(app, "/api/names").json
    assert names[:6] == list(HOSTILE) and said["models"] == len(arrays["x"]) == len(names) == 24
    with Hub.open(navigator.folder) as hub:
        hub.add_score("python-10", HubScore("sums", "accuracy", 0.5, 0.4, 0.6, 40, "fast 1", "d1"))
        wanted = [entry.id for entry in hub.entries("rank<=4,licence=mit")]
        words = {hit.entry.id for hit in hub.search(text="clinical", k=50).hits}
    _, found = unpack_arrays(ask(app, "/api/filter", query="wanted=rank%3C%3D4%2Clicence%3Dmit").body)
    assert [names[place] for place in found["position"].tolist()] == wanted != []
    _, found = unpack_arrays(ask(app, "/api/find", query="text=clinical").body)
    assert {names[place] for place in found["position"].tolist()} == words != set()
    _, found = unpack_arrays(ask(app, "/api/scores", query="task=sums&metric=accuracy").body)
    assert {names[place]: value for place, value in enumerate(found["value"].tolist()) if value == value} == {
        "python-10": 0.5
    }
    overview = ask(app, "/api/hub").json
    assert overview["scored"] == [{"task": "sums", "metric": "accuracy", "models": 1}]
    with Hub.open(navigator.folder) as hub:
        hub.remove("python-10")
    assert len(ask(app, "/api/names").json) == 23, "a hub that has changed is read anew"


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("model", "number=x", "`number`: is no number"),
        ("model", "number=999", "has no model '999'"),
        ("model", "", "`number`: is no number"),
        ("map", "space=7", "has no space 7; it has 1"),
        ("filter", "wanted=colour%3Dred", "unknown field 'colour'; known: id, base"),
        ("filter", "", "`wanted`: is missing"),
        ("costs", "number=1&others=2", "its folder is not there any more; choose others"),
        ("costs", "number=1&others=" + ",".join(["2"] * 40), "41 models: name 1 to 17"),
        ("costs", "number=1&others=a", "numbers with commas between"),
        ("run", "run=0", "the hub lists no such run any more; load the page again"),
        ("run-file", "run=0&name=recipe.json", "the hub lists no such run"),
        ("compare", "runs=a", "the hub lists no such run"),
        ("job", "id=none", "there is no such job any more"),
    ],
)
def test_questions_that_cannot_be_answered_are_one_line(app: Any, path: str, query: str, says: str) -> None:
    answer = ask(app, f"/api/{path}", query=query)
    assert answer.status == 400 and says in answer.json["error"] and "\n" not in answer.json["error"]


def test_no_file_of_the_machine_can_be_named(app: Any, navigator: Navigator, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.json").write_text("{}")
    (folder / "recipe.json").write_text('{"a": 1}')
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    with Hub.open(navigator.folder) as hub:
        hub.results.keep_run(HubRun(str(folder), TIME, ("sums",), "merge"))
    listed = ask(app, "/api/runs").json
    assert listed["runs"][0]["here"] is False and listed["took"] == ["1 run, none of which recorded what it took"]
    own = listed["runs"][0]["run"]
    with Hub.open(navigator.folder) as hub:  # a newer run comes first; the page's list still names the old one
        hub.results.keep_run(HubRun(str(tmp_path / "newer"), TIME.replace("2026", "2027"), ("sums",), "merge"))
    answer = ask(app, "/api/run-file", query=f"run={own}&name=recipe.json")
    assert answer.status == 200, answer.headers
    assert answer.body == b'{"a": 1}'
    for name in ("../secret.json", "link.json", "/etc/passwd", "sub", "", "..%2Fsecret.json", "recipe.json%00"):
        assert ask(app, "/api/run-file", query=f"run={own}&name={name}").status == 400, name
    for path in ("/web/../server.py", "/web/index.html", "/web/..%2Fserver.py", "/etc/passwd", "/api", "/web/"):
        assert ask(app, path).status == 404, path
    assert ask(app, "/api/run", query=f"run={own}").json["error"].startswith(str(folder))


OF_A_MAP = (
    "map", "state", "names", "layout", "scores?task=sums&metric=accuracy", "filter?wanted=rank%3C%3D4",
    "find?text=clinical", "model?number=2", "neighbours?number=2", "costs?number=2&others=3", "job?id=task",
)  # fmt: skip
"""What the page asks of the map that it shows."""


def asked_of(app: Any, state: str) -> dict[str, Answer]:
    """What these are answered by a page that shows a state, and a plan."""
    found = {}
    for question in OF_A_MAP:
        path, _, query = question.partition("?")
        found[question] = ask(app, f"/api/{path}", query=f"{query}&space=1&state={state}")
    plan = json.dumps({"task": "task", "models": [2, 3]}).encode()
    found["plans"] = ask(app, "/api/plans", method="POST", query=f"space=1&state={state}", body=[plan])
    return found


def ranked(navigator: Navigator, vector: list[float]) -> None:
    """A task that was ranked."""
    result = {"vector": vector, "ranks": [{"number": 2, "id": "x", "cosine": 1.0}]}
    navigator.board._jobs["task"] = PageJob("task", "task", "t", "done", result=result, said={"space": 1, "file": "t"})


@pytest.mark.parametrize("change", ["removed", "added", "renamed", "licence"])
def test_a_page_that_shows_an_old_map_is_never_answered_with_places_on_another(
    app: Any, navigator: Navigator, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(navigator.board, "start", lambda *asked, **said: PageJob("layout", "layout", "layout"))
    ranked(navigator, [1.0] * 16)
    old = ask(app, "/api/state").json["state"]
    assert unpack_arrays(ask(app, "/api/map").body)[0]["state"] == old
    refusals = {name: answer.status for name, answer in asked_of(app, old).items() if answer.status != 200}
    # made models have no weights to read
    assert refusals == {"costs?number=2&others=3": 400, "plans": 400}
    with Hub.open(navigator.folder) as hub:
        # what moves no model leaves the map as it is
        hub.add_score("python-10", HubScore("sums", "accuracy", 0.5, 0.4, 0.6, 40, "fast 1", "d1"))
        hub.results.keep_run(HubRun("/nowhere/run", TIME, ("sums",), "merge"))
    assert ask(app, "/api/state", query=f"space=1&state={old}").json == {"state": old}
    with Hub.open(navigator.folder) as hub:
        if change == "removed":
            hub.remove("python-10")
        elif change == "added":
            put(hub, 99, "late", np.arange(16))
        elif change == "renamed":
            hub.catalogue.keep_name("base", "0-first", 11, TIME.replace("2026", "2020"))
        else:
            entry = hub.entry("python-10")
            hub.catalogue.keep_entry(replace(entry, licence="bsd-3-clause"))
    for name, answer in asked_of(app, old).items():
        assert answer.status == 409 and answer.json["changed"] is True, name
        assert answer.json["error"] == "the hub has changed since this map was loaded; load it again"
    new = ask(app, "/api/state").json["state"]
    assert new != old
    again = {name: answer.status for name, answer in asked_of(app, new).items() if answer.status != 200}
    assert again == refusals


def test_a_task_that_was_ranked_before_umap_gets_its_place_on_it(app: Any, navigator: Navigator) -> None:
    with Hub.open(navigator.folder) as hub:
        points = read_points(hub, 1)
        delta = hub.deltas.delta(1, 5)
        assert delta is not None
    ranked(navigator, delta.tolist())

    def placed() -> tuple[Any, Any]:
        found = ask(app, "/api/job", query=f"id=task&space=1&state={navigator.points().state}").json["result"]
        assert "vector" not in found and found["ranks"][0]["number"] == 2
        return found["pca"], found["umap"]

    place = points.position(5)
    assert placed() == (pytest.approx(points.places[place], abs=5e-3), None)
    umap = np.random.default_rng(0).uniform(-1, 1, (24, 2)).astype(np.float32)
    groups = MapLayout(np.zeros(24, np.uint8), ("all",), None, None, None, None, "", pending=True)
    keep_layout(layout_file(navigator.cache, points), groups)
    assert placed()[1] is None
    keep_layout(layout_file(navigator.cache, points), replace(groups, umap=umap, pending=False))
    unit = (delta / np.linalg.norm(delta))[None].astype(np.float32)
    assert placed()[1] == pytest.approx(place_among(unit, points.units, umap)[0], abs=1e-5)
    with Hub.open(navigator.folder) as hub:  # the axes of fewer models are others
        hub.remove(HOSTILE[0])
        fewer = read_points(hub, 1)
    assert placed() == (pytest.approx(fewer.places[fewer.position(5)], abs=5e-3), None)


def sent(app: Any, data: bytes, name: str = "rows.jsonl") -> Answer:
    return ask(app, "/api/tasks", method="POST", body=[data], headers={"x-file-name": name})


def test_a_task_of_one_row_an_empty_one_and_no_json_are_one_line(app: Any, navigator: Navigator) -> None:
    assert sent(app, b"  \n ").json["error"].startswith("the examples are empty: drop a file of rows")
    one = sent(app, json.dumps({"input": "2 + 2", "output": "4"}).encode(), "../../<b>sums.jsonl").json
    assert one["name"] == "b-sums" and one["kind"] == "task"
    kept = list((navigator.cache / "explore" / "tasks").rglob("*.jsonl"))
    assert [path.name for path in kept] == ["b-sums.jsonl"]
    broken = sent(app, b"this is no row\n").json
    for job, says in ((one, "1 row"), (broken, "JSON")):
        found = ended(app, job["id"])
        assert found["state"] == "failed" and "\n" not in found["error"], found
        assert says in found["error"] and "Traceback" not in found["error"], found["error"]
        assert found["error"].startswith(f"{job['name']}.jsonl:") and "/" not in found["error"], found["error"]
    plan = ask(app, "/api/plans", method="POST", body=[json.dumps({"task": one["id"], "models": [1]}).encode()])
    assert plan.status == 400 and plan.json["error"].startswith("a plan needs examples: drop some first")
    assert ask(app, "/api/plans", method="POST", body=[b"[]"]).json["error"] == "the request is no JSON object"


def test_jobs_are_stopped_and_only_so_many_run(app: Any, navigator: Navigator) -> None:
    rows = "".join(json.dumps({"input": f"say {n}", "output": f"{n}"}) + "\n" for n in range(60)).encode()
    begun = [sent(app, rows, f"t{n}.jsonl").json for n in range(2)]
    assert "2 jobs are running already (t0, t1); wait for one, or stop it" in sent(app, rows, "t2.jsonl").json["error"]
    for job in begun:
        stopped = ask(app, "/api/stop", method="POST", body=[json.dumps({"id": job["id"]}).encode()]).json
        assert stopped["state"] == "stopped"
        process = navigator.board.job(job["id"])._process
        assert process is not None and process.poll() is not None


def test_a_process_that_dies_says_so(navigator: Navigator) -> None:
    job = navigator.board.start("task", "t", {"hub": "/nowhere", "space": 1, "file": "x"})
    until = time.monotonic() + 240
    while job.state == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert job.state == "failed" and job.error.startswith("hub /nowhere: is no hub folder")
    job = navigator.board.start("task", "t", {})
    process = job._process
    assert process is not None
    process.kill()
    while job.state == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert job.state == "failed" and job.error.startswith("its process ended with code -9")


ORPHANED = '''
import os, subprocess, sys, time
code = """
import os, time
from merge_advisor.explore.child import end_with
end_with(os.getppid())
print(1, flush=True)
time.sleep(600)
"""
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
os._exit(9)
'''


def test_a_job_ends_where_its_server_was_killed() -> None:
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", ORPHANED], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": root})  # fmt: skip
    assert done.returncode == 9 and gone(int(done.stdout))


def gone(number: int) -> bool:
    """Whether a process ends; one that nobody has waited for yet is gone too."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_process_that_cannot_be_started_takes_no_place(navigator: Navigator, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", full)
        with pytest.raises(RunError, match=r"no process can be started \(Cannot allocate memory\)"):
            navigator.board.start("task", "t", {})
    assert navigator.board.jobs() == []


def test_a_run_never_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums-2").mkdir()
    assert free_folder(tmp_path, "sums").name == "sums-3"
