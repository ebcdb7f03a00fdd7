"""Several processes that write to one hub folder: nobody's result is lost, and nobody waits for embedding."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring.deltas import take_deltas
from merge_advisor.advisor.runs.run_folder import read_run
from merge_advisor.cli import main
from merge_advisor.errors import InputError, PoolError, RunError
from merge_advisor.hub import Hub, writing
from merge_advisor.hub.planning import PlanAsked
from tests.hub.hub_world import added, where
from tests.support.models import LLAMA_MODULES, write_lora

QUICK = PlanOptions(strategy="top_k", k=2, adaptation="none", shots=8)
HELD = """
import sys
from merge_advisor.hub import Hub
with Hub.open(sys.argv[1]) as hub, hub.writing():
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(hub: Path) -> "subprocess.Popen[str]":
    """A process that writes to a hub until it is given a line, or killed."""
    other = subprocess.Popen(
        [sys.executable, "-c", HELD, str(hub)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    return other


def while_embedding(monkeypatch: pytest.MonkeyPatch, done: Callable[[], Any]) -> None:
    """Do something in the middle of the next `add`, once, while it embeds."""
    place = "merge_advisor.hub.adding.take_deltas"

    def embedding(*args: Any) -> Any:
        monkeypatch.setattr(place, take_deltas)
        found = take_deltas(*args)
        done()
        return found

    monkeypatch.setattr(place, embedding)


def test_a_run_that_ends_beside_a_writer_is_waited_for_or_listed_later(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(writing, "WAIT", 0.2)
    notes: list[str] = []
    with holder(world / "hub") as other:
        try:
            said = rf"hub: is being written to by process {other.pid} on .* \(waited 0 s\); wait for it"
            for change in (lambda: added(world), lambda: Hub.open(world / "hub").remove("a0")):
                with pytest.raises(RunError, match=said):
                    change()
            with Hub.open(world / "hub") as hub:
                asked = PlanAsked(on_note=notes.append)
                run = hub.plan(world / "examples.jsonl", out=world / "run", options=QUICK, asked=asked, **where(world))
                assert len(notes) == 1 and notes[0].startswith("not listed in the hub: ") and hub.runs() == ()
        finally:
            other.kill()
    # the lock ends with its holder; the line says what lists the run then
    typed = notes[0].partition("`merge-advisor ")[2].partition("`")[0].split()
    assert typed == ["hub", "add-run", str(world / "run")]
    assert main([*typed, "--hub", str(world / "hub")]) == 0 and "scores of its models kept" in capsys.readouterr().out
    with Hub.open(world / "hub") as hub:
        (kept,) = hub.runs()
        assert kept.verdict == str(run.plan.verdict) and hub.entry(run.plan.selection.members[0].id).scores
        monkeypatch.setattr(writing, "WAIT", 300.0)
        with holder(world / "hub") as other:
            # before this process begins to wait, or after it: both have to do
            assert other.stdin is not None
            threading.Timer(0.3, os.write, (other.stdin.fileno(), b"\n")).start()
            assert hub.remove("b2") == 1


def test_nobody_waits_for_embedding(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others write while an `add` embeds is written at once, and the `add` goes by it."""
    write_lora(world / "pool" / "a2", LLAMA_MODULES, seed=77)
    shutil.copytree(world / "pool" / "b0", world / "pool" / "b0-copy")
    monkeypatch.setattr(writing, "WAIT", 0.2)
    others: list[Any] = []

    def changed() -> None:
        with Hub.open(world / "hub") as hub:
            others.append(hub.remove("a0"))
        others.append(added(world))
        with Hub.open(world / "hub") as hub:
            others.append(hub.remove("a1"))

    while_embedding(monkeypatch, changed)
    outer = added(world)
    one, inner, two = others
    assert (one, two) == (1, 1)
    assert inner.new == ("a0",) and inner.versions == ("a2",) and inner.aliases == ("b0-copy",) and inner.embedded == 2
    # what the other one has done is unchanged; what it removed meanwhile is added again, with all of its deltas
    assert outer.new == ("a1",) and outer.unchanged == 6 and not (outer.versions or outer.aliases or outer.refused)
    with Hub.open(world / "hub") as hub:
        assert sorted(entry.id for entry in hub.entries()) == ["a0", "a1", "a2", "b0", "b1", "b2"]
        found = hub.check()
        assert found.whole and not found.index and found.deltas == 7  # of the version of before too


def test_a_run_folder_is_no_model(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(world / "cache"))
    ma.plan("examples.jsonl", pool="pool", base="base", out="pool/run", options=QUICK, scored=False, **where(world))
    assert (world / "pool" / "run" / "adapter").is_dir()
    with Hub.open("hub") as hub:
        with pytest.raises(InputError, match=r"pool/run: is a run folder, no model; `merge-advisor hub add-run pool/"):
            hub.add("pool/run", base="base", **where(world))
        done = hub.add("pool", base="base", **where(world))
        assert [(item.id, item.reason.partition(";")[0]) for item in done.refused] == [
            ("run", "is a run folder, no model")
        ]
        assert done.unchanged == 6 and hub.count() == 6
        assert hub.add("pool/run/adapter", base="base", **where(world)).new == ("adapter",)  # asked for
    assert main(["hub", "add-run", "pool/run", "--hub", "hub", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "pool/run", "scores": 0}
    assert main(["hub", "--hub", "hub", "add-run", "pool"]) == 2
    assert "pool: is no run folder" in capsys.readouterr().err
    with Hub.open("hub") as hub:
        assert [run.folder for run in hub.runs()] == [str(world / "pool" / "run")]
        assert hub.runs()[0].cost is not None and hub.runs()[0].tasks == ("examples",)
    assert read_run(Path("pool/run")).plan.verdict is None
    Path("only").mkdir()
    shutil.move("pool/run", "only/run")
    with Hub.open("hub") as hub, pytest.raises(PoolError, match="none of its 1 models can be used: run: is a run fold"):
        hub.add("only", base="base", **where(world))
