"""Runs, gates and decisions as the page is told of them, and the number that says whether anything is another."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.explore.navigator import Navigator
from merge_advisor.explore.run_views import gate_decisions
from merge_advisor.hub import Hub
from merge_advisor.hub.results import savings_lines
from merge_advisor.hub.values import HubJudged, HubRun, HubScore
from merge_advisor.scores import RunCost
from tests.explore.explore_world import ask
from tests.hub.hub_world import TIME

pytest.importorskip("starlette", reason="starlette is not installed")
COST = RunCost(40, 3.0, every_candidate_seconds=90.0, every_candidate_forwards=800)


def test_what_gates_took_is_in_the_sum_and_each_is_listed(app: Any, navigator: Navigator) -> None:
    with Hub.open(navigator.folder) as hub:
        assert ask(app, "/api/runs").json == {"runs": [], "judged": [], "took": []}
        hub.results.keep_judged("one", HubJudged("gate", "law-2", "hub:law", ("law",), "passed", TIME, COST))
        told = ask(app, "/api/runs").json
        assert told["took"] == savings_lines(hub.savings())[1:] and "40 forward passes and 3.0 s" in told["took"][0]
        assert [(one["model"], one["against"], one["outcome"]) for one in told["judged"]] == [
            ("law-2", "hub:law", "passed")
        ]
        hub.results.keep_run(HubRun("run", TIME, ("sums",), "merge", COST))
        told = ask(app, "/api/runs").json
        assert told["took"] == savings_lines(hub.savings()) and len(told["took"]) == 4, told["took"]
        assert sum("gate" in line for line in told["took"]) == 1 and len(told["runs"]) == 1


def test_the_version_is_another_whenever_anything_is(app: Any, navigator: Navigator) -> None:
    def version() -> str:
        return str(ask(app, "/api/version").json["version"])

    seen = [version()]
    assert version() == seen[0] == ask(app, "/api/hub").json["version"]
    state = ask(app, "/api/state").json["state"]
    log = navigator.runs / "watch" / "log.jsonl"

    def decided() -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write('{"model": "m", "kind": "new", "text": "t"}\n')

    with Hub.open(navigator.folder) as hub:
        score = HubScore("sums", "accuracy", 0.5, 0.4, 0.6, 10, "fast 1", "d1")
        for change in (
            lambda: hub.results.keep_run(HubRun("run", TIME, ("sums",), "merge")),
            lambda: hub.add_score(2, score),
            decided,
            decided,
            lambda: hub.remove(hub.entry(3).id),
        ):
            assert ask(app, "/api/state").json["state"] == state  # none of them moves a model, but the last
            change()
            seen.append(version())
            assert version() == seen[-1]
    assert len(set(seen)) == 6 and ask(app, "/api/state").json["state"] != state


def test_decisions_of_a_gate_are_shown_and_what_cannot_be_read_is_counted(app: Any, navigator: Navigator) -> None:
    assert ask(app, "/api/decisions").json["decisions"] == []
    log = navigator.runs / "watch" / "log.jsonl"
    log.parent.mkdir(parents=True)
    lines = [json.dumps({"model": f"m{n}", "kind": "new", "text": f"m{n}: <b>improves</b> nothing"}) for n in range(3)]
    log.write_text("\n".join([*lines, "{half a li", "[]", ""]))
    told = ask(app, "/api/decisions").json
    assert [item["model"] for item in told["decisions"]] == ["m2", "m1", "m0"]
    assert told["logs"] == [{"file": str(log), "shown": 3, "unread": 2, "problem": ""}]


def test_decisions_of_several_gates_are_shown_together_the_newest_first(tmp_path: Path) -> None:
    folder, file, missing = tmp_path / "a", tmp_path / "b" / "log.jsonl", tmp_path / "none"
    for path, days in ((folder / "log.jsonl", (1, 3)), (file, (2, 4))):
        path.parent.mkdir()
        lines = [json.dumps({"model": f"m{n}", "kind": "new", "text": "t", "at": f"2026-11-0{n}"}) for n in days]
        path.write_text("\n".join(lines) + "\n")
    os.mkfifo(tmp_path / "fifo.jsonl")
    told = gate_decisions([missing, folder, file, folder / "log.jsonl", tmp_path / "fifo.jsonl"])
    assert [(item["model"], item["log"]) for item in told["decisions"]] == [("m4", 2), ("m3", 1), ("m2", 2), ("m1", 1)]
    assert [log["problem"] for log in told["logs"]] == ["there is none yet", "", "", "no regular file"]
