"""Reading a setup and its rows: what is wrong is one line, what is held out is seen by nobody."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.adapt.basis import FORMS, SOURCES
from merge_advisor.adapt.continuing import FORMS_ON_TOP, STARTS
from merge_advisor.benchmark.running.dry_run import describe_bench
from merge_advisor.benchmark.running.rows import BenchTask, in_view, read_bench_tasks
from merge_advisor.benchmark.setup import finetune_of, notes_of, read_setup
from merge_advisor.benchmark.values import Setup, View
from merge_advisor.errors import InputError, MergeAdvisorError, TaskError
from merge_advisor.types import Candidate
from tests.support.bench_setups import SETUP, TASKS, rows_of, write_world
from tests.support.hub_server import Hub


def arms(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": "one", "strategy": "text"}, *changes]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"armz": []}, "armz: unknown key;"),
    "an unknown key of an arm": (
        {"arms": arms({"name": "two", "strategie": "text"})}, r"arms\.1\.strategie: unknown key;"),
    "two arms of one name": ({"arms": [SETUP["arms"][2]] * 2}, "two are named 'nearest'"),
    "an arm named as a control": ({"arms": arms({"name": "base", "strategy": "text"})}, "name of a control"),
    "no arms": ({"arms": []}, "arms: there are none"),
    "a question that names no arm": ({"primary": {"better": "defualt", "than": "random"}}, "no arm or control"),
    "a question on an oracle": ({"primary": {"better": "default", "than": "majority-oracle", "k": 2}}, "has read"),
    "a question at another k": ({"primary": {"better": "default", "than": "random", "k": 9}}, "not run at k 9"),
    "a question in another view": (
        {"primary": {"better": "default", "than": "random", "k": 2, "view": "own-in"}}, "view own-in is none"),
    "an arm against itself": ({"primary": {"better": "random", "than": "random", "k": 2}}, "with itself"),
    "a label's loss": (
        {"primary": {"better": "default", "than": "majority", "k": 2, "metric": "loss"}}, "label has no loss"),
    "an unknown strategy": ({"arms": arms({"name": "two", "strategy": "bset"})}, "'bset' is unknown"),
    "an unknown parameter": ({"arms": arms({"name": "two", "strategy": "random:set=2"})}, "no parameter"),
    "a match of nobody": ({"arms": arms({"name": "two", "strategy": "random", "match": "three"})}, "no other arm"),
    "a match of a strategy": ({"arms": arms({"name": "two", "strategy": "top_k", "match": "one"})}, "strategy random"),
    "a match without its tuner": (
        {"arms": arms({"name": "two", "strategy": "random", "match": "one",
                       "tuner": {"sampler": "lorahub", "trials": 9}})}, "match: give it and 'one' no tuner"),
    "a match with trials of many costs": (
        {"arms": [{"name": name, "strategy": "random", "tuner": {"sampler": "tpe", "trials": 9}, **match}
                  for name, match in (("one", {}), ("two", {"match": "one"}))]}, "sampler lorahub"),
    "k beyond the composition": (
        {"arms": arms({"name": "two", "strategy": "text", "composition": "slerp", "k": [4]})}, "at most 2 members"),
    "no trials": (
        {"arms": arms({"name": "two", "strategy": "text", "tuner": {"sampler": "tpe", "trials": 0}})}, "trials"),
    "an unknown sampler": (
        {"arms": arms({"name": "two", "strategy": "text", "tuner": {"sampler": "tp", "trials": 9}})}, "'tp' is"),
    "an unknown objective": (
        {"arms": arms({"name": "two", "strategy": "text", "tuner": {"sampler": "tpe", "trials": 9, "objective": "x"}})},
        "objective 'x' is unknown"),
    "an unknown adaptation": (
        {"arms": arms({"name": "two", "strategy": "text", "adaptation": "train"})}, "adaptation 'train' is unknown"),
    "an adaptation that is tuned": (
        {"arms": arms({"name": "two", "strategy": "text", "adaptation": "mix", "shots_lora": True})},
        "goes with no tuner, shots_lora or match"),
    "a seen share of all": ({"tasks": SETUP["tasks"] | {"seen": 1.0}}, "tasks.seen"),
    "one shot": ({"tasks": SETUP["tasks"] | {"shots": 1}}, "tasks.shots: 1"),
    "draws beyond counting": ({"draws": {"shots": 10**12}}, "draws.shots: 1000000000000 is too many"),
    "k beyond counting": ({"k": [2, 10**9]}, "k: 1000000000 is too many"),
    "trials beyond counting": (
        {"arms": arms({"name": "two", "strategy": "text", "tuner": {"sampler": "tpe", "trials": 10**9}})},
        "give 1 to 100000"),
    "epochs beyond counting": ({"finetune": {"epochs": 10**10}}, r"above 10\^9"),
    "no draws": ({"draws": {"shots": 0}}, "draws.shots: 0"),
    "a gain of nothing": ({"smallest_gain": 0.0}, "smallest_gain"),
    "a finetune setting": ({"finetune": {"learning_rate": 1.0}}, "finetune.learning_rate is unknown"),
    "half an epoch": ({"finetune": {"epochs": 1.5}}, "whole number"),
    "no tokens": ({"max_new_tokens": 0}, "max_new_tokens is at least 1"),
    "another version": ({"version": 2}, "version 2"),
    "a control twice": ({"controls": ["base", "base"]}, "controls: base is there twice"),
    "an unknown control": ({"controls": ["bass"]}, "controls"),
    "text for a number": ({"smallest_gain": "1"}, "smallest_gain"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_setup_is_one_line(case: str, tmp_path: Path) -> None:
    changes, says = WRONG[case]
    with pytest.raises(InputError, match=says) as found:
        read_setup(write_world(tmp_path, **changes))
    assert "\n" not in str(found.value)


def test_shots_lora_needs_rows_it_was_not_trained_on(tmp_path: Path) -> None:
    changed = {
        "tasks": SETUP["tasks"] | {"tuning": 0},
        "arms": arms({"name": "two", "strategy": "text", "shots_lora": True}),
    }
    with pytest.raises(InputError, match=r"give tasks\.tuning rows"):
        read_setup(write_world(tmp_path, **changed))


@pytest.mark.parametrize("text", ["[1, 2]", "a: &x 1\nb: *x", "a: [", "\0", "", "2001-01-01: 1", "? [a]\n: 1"])
def test_what_is_no_setup_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "setup.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"setup\.yaml") as found:
        read_setup(path)
    assert "\n" not in str(found.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_setup(tmp_path / "other.yaml")


def test_a_setup_is_put_to_other_tasks_unchanged(tmp_path: Path) -> None:
    """None of them is one that it names: those it names, their families and what was said of them are left out."""
    named = SETUP["tasks"] | {"only": ["colour", "count"], "tried": ["words"], "seen": 0}
    path = write_world(tmp_path, tasks=named)
    other = tmp_path / "mine"
    other.mkdir()
    for name in ("a", "b"):
        rows = [{"input": f"{name} {number}", "output": f"{number}"} for number in range(24)]
        (other / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    setup, places = read_setup(path, tasks=str(other))
    assert (setup.tasks.only, setup.tasks.tried, setup.tasks.own) == ((), (), {}) and places.families is None
    (said,) = places.said
    assert "has none of the 2 tasks that the setup names" in said and "each is a family of its own" in said
    assert "tasks.only, tasks.families, tasks.tried, tasks.own left out" in said
    assert [(task.name, task.family) for task in read_bench_tasks(setup, places)] == [("a", "a"), ("b", "b")]
    told = describe_bench(path, tasks=str(other), base="b", pool="p")
    assert told["tasks"] == 2 and f"note: {said}" in told["lines"]
    (other / "families.json").write_text(json.dumps({"a": "one", "b": "one"}))
    setup, places = read_setup(path, tasks=str(other))
    assert {task.family for task in read_bench_tasks(setup, places)} == {"one"}
    assert "families are those of families.json there" in places.said[0] and "tasks.families," not in places.said[0]
    # a copy of its own tasks, with others beside them or not, stays what it was; so does one of which a task is missing
    for name in ("colour", "count"):
        (other / f"{name}.jsonl").write_text((tmp_path / "tasks" / f"{name}.jsonl").read_text())
        setup, places = read_setup(path, tasks=str(other))
        assert setup.tasks.only == ("colour", "count") and not places.said
    assert len(read_bench_tasks(setup, places)) == 2


def test_the_recipe_that_confirms_takes_tasks_of_others_as_it_is(tmp_path: Path) -> None:
    rows = [{"input": f"say {number}", "output": f"{number}"} for number in range(60)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Path(__file__).parents[2] / "recipes" / "bench-adaptations-confirm.yaml"
    setup, places = read_setup(recipe, tasks=str(tmp_path), base="b", pool="p")
    (task,) = read_bench_tasks(setup, places)
    assert (len(task.heldout), len(task.learning)) == (40, 20) and places.said


def test_places_start_at_the_setup_and_options_win(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    (tmp_path / "pool").mkdir()
    setup, places = read_setup(path)
    assert (places.base, places.pool) == ("tiny-llama", str(tmp_path / "pool"))  # a hub id stays one
    assert (places.tasks, places.families) == (str(tmp_path / "tasks"), tmp_path / "families.json")
    assert setup.pool == "pool"
    assert read_setup(path, base="b", pool="p", tasks="t")[1].tasks == "t"


def test_finetune_settings_are_those_of_plan_but_for_the_named(tmp_path: Path) -> None:
    settings = finetune_of(read_setup(write_world(tmp_path))[0])
    assert (settings.epochs, settings.rank, settings.batch_size) == (2, 4, 4)
    assert isinstance(settings.epochs, int)


def test_what_a_setup_cannot_show_is_said(tmp_path: Path) -> None:
    setup, _ = read_setup(write_world(tmp_path, draws={"shots": 1, "selections": 1}))
    said = notes_of(setup, ["a", "a", "b"])
    assert "luck of the seed" in said[0] and said[1].startswith("2 families")
    setup, _ = read_setup(write_world(tmp_path))
    assert notes_of(setup, list("abcdef")) == []


def tasks_of(tmp_path: Path, **changes: Any) -> tuple[Setup, dict[str, BenchTask]]:
    setup, places = read_setup(write_world(tmp_path, **changes))
    return setup, {task.name: task for task in read_bench_tasks(setup, places)}


def test_no_row_is_on_two_sides(tmp_path: Path) -> None:
    setup, tasks = tasks_of(tmp_path)
    assert list(tasks) == sorted(TASKS)
    for name, task in tasks.items():
        seen = {row["input"] for row in rows_of(name)[:6]}
        drawn = [task.draw(setup, number) for number in range(3)]
        assert len({draw.digest for draw in drawn}) == 3
        for draw in drawn:
            assert (len(draw.shots), len(draw.tuning), len(draw.heldout)) == (3, 2, 5)
            parts = [{row.input for row in part} for part in (draw.shots, draw.tuning, draw.heldout)]
            assert len(set.union(seen, *parts)) == 6 + 10
            assert draw.heldout == task.heldout


def test_rows_follow_from_the_seed_alone(tmp_path: Path) -> None:
    _, tasks = tasks_of(tmp_path)
    again, others = tasks_of(tmp_path, seed=1)
    assert tasks == tasks_of(tmp_path)[1]
    assert tasks["count"].heldout != others["count"].heldout
    text = (tmp_path / "tasks" / "count.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "tasks" / "count.jsonl").write_text("".join(text[:6] + text[:5:-1]))
    found = {task.name: task for task in read_bench_tasks(again, read_setup(tmp_path / "setup.yaml")[1])}
    assert found["count"].draw(again, 0) == others["count"].draw(again, 0)


def test_repeated_rows_cut_off_too_many_and_never_too_few(tmp_path: Path) -> None:
    setup, places = read_setup(write_world(tmp_path))
    rows = rows_of("count")
    double = [*rows, *rows[12:]]  # 36 rows: training saw 9 of them
    (tmp_path / "tasks" / "count.jsonl").write_text("".join(json.dumps(row) + "\n" for row in double))
    found = {task.name: task for task in read_bench_tasks(setup, places)}["count"]
    assert {row.input for row in (*found.heldout, *found.learning)} == {row["input"] for row in rows[9:]}


def test_metric_and_labels(tmp_path: Path) -> None:
    _, tasks = tasks_of(tmp_path)
    assert (tasks["colour"].metric, tasks["count"].metric) == ("accuracy", "exact_match")
    assert tasks["colour"].labels == ("blue", "green", "red") and tasks["count"].labels == ()
    assert tasks["colour"].valid(" red\n") and not tasks["colour"].valid("reddish")
    assert tasks["count"].valid("anything") and not tasks["count"].valid("  ")


def test_a_task_with_too_few_rows_says_how_many_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"colour\.jsonl: lacks 3 rows: 18 are unseen"):
        tasks_of(tmp_path, tasks=SETUP["tasks"] | {"heldout": 16})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": "nowhere"}, "nowhere: no such folder"),
        ({"only": ["colour", "taste"]}, "no file for the task 'taste'"),
        ({"families": "kin.json"}, r"kin\.json: cannot be read"),
        ({"own": {"taste": "a0"}}, "'taste', which is none of the tasks"),
        ({"path": "hub:nonsense"}, "is no data set of the hub"),
    ],
)
def test_what_is_not_there_is_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(MergeAdvisorError, match=says):
        tasks_of(tmp_path, tasks=SETUP["tasks"] | changes)


def test_bbh_files_are_read(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    examples = [{"input": f"not {n}", "target": "True"} for n in range(20)]
    (tmp_path / "tasks" / "boolean.json").write_text(json.dumps({"canary": "x", "examples": examples}))
    setup, places = read_setup(path)
    assert [task.name for task in read_bench_tasks(setup, places)] == ["boolean", *sorted(TASKS)]


def test_views(tmp_path: Path) -> None:
    _, tasks = tasks_of(tmp_path)
    pool = [Candidate(name, "adapter", "") for name in ("a0", "a1", "b0", "colour")]
    families = json.loads((tmp_path / "families.json").read_text())
    own = {"colour": "a0"}

    def view(task: str, name: View) -> list[str]:
        return [pool[place].id for place in in_view(pool, tasks[task], name, own, families)]

    assert view("colour", "own-in") == ["a0", "a1", "b0", "colour"]
    assert view("colour", "own-out") == ["a1", "b0", "colour"]
    assert view("colour", "family-out") == ["a1", "b0"]
    assert view("parity", "own-out") == ["a0", "a1", "b0", "colour"]
    assert view("parity", "family-out") == ["a0", "a1", "colour"]
    with pytest.raises(InputError, match="no candidate is left"):
        in_view(pool[:1], tasks["colour"], "own-out", own, families)


FETCH = """
import sys
from pathlib import Path
from merge_advisor.benchmark.running.rows import read_bench_tasks
from merge_advisor.benchmark.setup import read_setup

setup, places = read_setup(Path(sys.argv[1]))
for task in read_bench_tasks(setup, places, offline=len(sys.argv) > 2):
    print(task.name, len(task.heldout), task.digest)
"""


def test_tasks_of_the_hub_are_fetched_once_and_pinned(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    with Hub() as hub:
        commit = hub.add("acme/tasks", tmp_path / "tasks")
        write_world(tmp_path, tasks=SETUP["tasks"] | {"path": f"hub:acme/tasks@{commit}"})
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        environment.pop("HF_HUB_CACHE", None)
        told = [
            subprocess.run([sys.executable, "-c", FETCH, str(path), *more], env=environment, capture_output=True,
                           text=True, timeout=60, check=True).stdout
            for more in ([], ["offline"])
        ]  # fmt: skip
    assert told[0] == told[1] and [line.split()[0] for line in told[0].splitlines()] == sorted(TASKS)
    assert all("/datasets/" in asked for _, asked in hub.requests) and hub.requests


RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(path.stem for path in (*RECIPES.glob("bench-*.yaml"), RECIPES / "flan-t5-bbh.yaml"))
BEFORE_ICL = ("bench-bbh-smollm2", "bench-bigbench-again", "bench-bigbench-smollm2")
"""Setups whose results were complete before there was a control `icl`."""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_setups_are_read_and_say_what_they_cost(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    setup, _ = read_setup(path)
    assert setup.name == name
    assert ("icl" in setup.controls) == (name not in BEFORE_ICL)
    told = describe_bench(path)
    assert told["passes"]["choose and tune"] > 0 and told["hours"] > 0
    arms = {arm.name: arm for arm in setup.arms}
    for question in (setup.primary, *setup.secondaries):  # what is asked is measured
        for asked in (question.better, question.than):
            if asked in arms:
                assert question.k in (arms[asked].k or setup.k), f"{question.text}: {asked}"


def test_the_controls_of_adaptations_can_be_asked() -> None:
    """Each value of a parameter that stands for a form, a source or a start is that of an arm somewhere."""
    found = {
        item
        for path in RECIPES.glob("bench-adaptations*.yaml")
        for arm in read_setup(path)[0].arms
        for name, _, settings in [arm.adaptation.partition(":")]
        for item in (f"{name}:{part}" for part in settings.split(","))
    }
    defaults = {"continue:form=fresh", "continue:start=merge", "continue:start=base", "basis:source=pool",
                "basis:start=base", "continue:stop=rows"}  # fmt: skip
    wanted = {
        *(f"continue:form={form}" for form in FORMS_ON_TOP), *(f"continue:start={start}" for start in STARTS),
        *(f"basis:form={form}" for form in FORMS), *(f"basis:source={source}" for source in SOURCES),
        "continue:pull=0.1", "basis:likeness=true",
    }  # fmt: skip
    assert wanted - found <= defaults
    started = read_setup(RECIPES / "bench-adaptations-controls.yaml")[0].arms
    by_start = {arm.strategy: arm.k for arm in started if arm.name.startswith("trained") and len(arm.k) > 1}
    assert {"top_k", "text", "anchor_diverse", "anchor_random"} <= by_start.keys()
    assert all({1, 2, 8} <= set(sizes) for sizes in by_start.values())


def test_the_rows_to_learn_from_are_five_to_forty() -> None:
    names = ("-few", "-ten", "", "-forty")
    rows = [read_setup(RECIPES / f"bench-adaptations{name}.yaml")[0].tasks for name in names]
    assert [tasks.shots + tasks.tuning for tasks in rows] == [5, 10, 20, 40]
    assert len({tasks.only for tasks in rows}) == 1
