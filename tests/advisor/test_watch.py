"""`gate --watch`: what is new, a copy, another version or unusable; what improves; one whole log, whatever happens."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from merge_advisor.advisor.gating import watch
from merge_advisor.advisor.gating.watch import Watching, watch_pool
from merge_advisor.advisor.gating.watch_state import KnownBest, PoolDecision, WatchState
from merge_advisor.advisor.gating.watched_tasks import split_watched
from merge_advisor.cli import main
from merge_advisor.errors import RunError, TaskError
from merge_advisor.gate_options import GateOptions, WatchOptions
from merge_advisor.hub import Hub
from merge_advisor.merges import WeightedMerge
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row
from tests.support.gate_world import build_gate_world


@pytest.fixture(scope="module")
def models(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gate_world(tmp_path_factory.mktemp("watch") / "world", tiny_llama)


@pytest.fixture
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool of one model, to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(models / "cache"))
    (tmp_path / "base").symlink_to(models / "base")
    shutil.copy(models / "task.jsonl", tmp_path)
    shutil.copytree(models / "slight", tmp_path / "pool" / "first")
    return tmp_path


WORDS = ["gate", "--watch", "pool", "--task", "task.jsonl", "--base", "base", "--once", "-q"]


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs" / "watch" / "log.jsonl").read_text().splitlines()]


def test_what_is_added_is_judged_once_and_told_in_one_line(
    here: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    assert "watching began: 1 models are there" in capsys.readouterr().out
    shutil.copytree(models / "strong", here / "pool" / "second")
    shutil.copytree(models / "slight", here / "pool" / "a copy")
    (here / "pool" / "broken").mkdir()
    (here / "pool" / "broken" / "adapter_config.json").write_text("{}")
    Hub.open(here / "hub", make=True).close()
    assert main([*WORDS, "--hub", "hub"]) == 3  # one was set aside
    told = capsys.readouterr().out
    assert "a copy: same weights as first" in told and "second: new; task " in told
    # two candidates, as one of the three is a copy; 60 judging rows
    assert "instead: scoring all 2 candidates of the pool on these rows: 120 forward passes, " in told
    assert "2 measurements, 120 forward passes, " in told and "GiB at most" in told
    with Hub.open(here / "hub") as hub:
        (kept,) = hub.judged()
        assert (kept.kind, kept.model, kept.against, kept.tasks) == ("watch", "second", "pool", ("task task",))
        assert kept.cost is not None and kept.cost.forwards == 120 == kept.cost.every_candidate_forwards
        assert hub.savings().judged == 1 and hub.check().whole
    kinds = {line["model"]: line["kind"] for line in log_of(here)}
    assert kinds == {"": "begun", "a copy": "duplicate", "second": "new", "broken": "set-aside"}
    judged = next(line for line in log_of(here) if line["model"] == "second")
    assert judged["measured"] == 2 and judged["tasks"][0]["rows"] == 60 and judged["fingerprint"]
    card = (here / "runs" / "watch" / judged["card"]).read_text()
    assert card.startswith("---\nbase_model: ") and "## Measured" in card and "| task | accuracy | 60 |" in card

    assert main(WORDS) == 0
    assert "nothing new" in capsys.readouterr().out and len(log_of(here)) == 4
    assert [line["number"] for line in log_of(here)] == [1, 2, 3, 4]

    shutil.rmtree(here / "pool" / "second")
    shutil.copytree(models / "slight", here / "pool" / "second")
    (here / "pool" / "second" / "adapter_config.json").write_text(
        (models / "slight" / "adapter_config.json").read_text().replace('"lora_alpha": 8', '"lora_alpha": 16')
    )
    main(WORDS)
    assert log_of(here)[-1]["kind"] == "version" and "new weights under a known id" in log_of(here)[-1]["text"]


def test_an_adapter_saved_again_in_another_dtype_is_nearly_the_same(
    here: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    for name, scale in (("rounded", 1.0), ("larger", 1.1)):
        shutil.copytree(models / "slight", here / "pool" / name)
        file = here / "pool" / name / "adapter_model.safetensors"
        factors = {key: (value * scale).to(torch.bfloat16) for key, value in load_file(file).items()}
        save_file(factors, file, metadata={"format": "pt"})
    assert main(WORDS) == 0
    texts = {line["model"]: line["text"] for line in log_of(here)}
    # of one with 8 bits of precision; of two factors 1.1 times as large the change is 21% larger
    found = re.fullmatch(
        r"rounded: new, nearly the same as first \(its change differs by (0\.[1-5])%\); .*", texts["rounded"]
    )
    assert found and texts["larger"].startswith("larger: new; task ")


def better_by(gains: dict[tuple[str, ...], float], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Let merges answer a known share of rows rightly, by the ids of their members; returns what is scored."""
    asked: list[tuple[str, ...]] = []

    def names(merge: WeightedMerge) -> tuple[str, ...]:
        return tuple(f"{c.id}*{weight:g}" for c, weight in merge.members)

    def scores(meter: object, models: Any, rows: Any, metric: str, **_: object) -> list[ModelScore]:
        table = []
        for model in models:
            asked.append(names(model.merge))
            right = round(gains.get(names(model.merge), 0.0) * len(rows))
            values = tuple(1.0 if at < right else 0.0 for at in range(len(rows)))
            table.append(ModelScore(model.label, {metric: right / len(rows)}, {metric: values}))
        return table

    def losses(meter: object, merge: WeightedMerge, rows: Any, kind: str = "loss") -> list[float]:
        return [1.0 - gains.get(names(merge), 0.0)] * len(rows)

    monkeypatch.setattr(watch, "score_models", scores)
    monkeypatch.setattr("merge_advisor.advisor.measuring.meter.MergeMeter.losses", losses)
    return asked


def looked(folder: Path, **options: Any) -> list[PoolDecision]:
    watching = Watching("pool", (Path("task.jsonl"),), watch=WatchOptions("pool", once=True, **options))
    return watch_pool(watching, lambda decision: None, lambda text: None, base="base", cache=folder / "cache")


def test_a_merge_with_the_best_known_becomes_the_best(
    here: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = better_by(
        {("first*1",): 0.4, ("second*1",): 0.3, ("first*0.5", "second*0.5"): 0.5, ("first*1", "second*1"): 0.9},
        monkeypatch,
    )
    first = looked(here, judge_known=True)
    assert [task.improves for task in first[0].tasks] == [True] and first[0].tasks[0].tried == "alone"
    assert asked == [(), ("first*1",)]
    shutil.copytree(models / "strong", here / "pool" / "second")
    second = looked(here)
    task = second[0].tasks[0]
    assert task.tried == "sum" and task.improves and task.before == pytest.approx(0.4, abs=0.01)
    assert "(as the sum with the best)" in second[0].text
    # a member goes: the log says that its merge is lost, and the base stands in
    shutil.rmtree(here / "pool" / "second")
    gone = looked(here)
    assert [decision.kind for decision in gone] == ["lost"] and "no longer in the pool" in gone[0].text
    assert looked(here) == []


def test_what_helps_nothing_changes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    better_by({("first*1",): 0.02}, monkeypatch)
    found = looked(here, judge_known=True)[0].tasks[0]
    assert not found.improves and "may improve, cannot tell" in found.reason
    with pytest.raises(RunError, match="was begun with another base"), WatchState(here / "runs" / "watch", "other"):
        pass


def test_an_empty_pool_is_watched(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(here / "pool" / "first")
    assert main(WORDS) == 0
    assert "watching began: 0 models are there" in capsys.readouterr().out


def test_polling_waits_until_a_model_is_whole_and_goes_on_after_trouble(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    naps = iter(range(8))

    def look(*_: object, **__: object) -> list[PoolDecision]:
        looks.append(next_nap[0])
        if len(looks) == 1:
            raise RunError("pool: cannot be read (for a moment); check its permissions")
        return []

    next_nap = [0]

    def nap(seconds: float) -> None:
        assert seconds == 5.0
        next_nap[0] = next(naps)
        if next_nap[0] == 2:  # a file comes, in two parts
            (here / "pool" / "new.part").write_text("half")
        if next_nap[0] == 3:
            (here / "pool" / "new.part").write_text("both halves")
        if next_nap[0] == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(watch, "look_at_pool", look)
    monkeypatch.setattr("time.sleep", nap)
    troubles: list[str] = []
    watching = Watching("pool", (Path("task.jsonl"),), watch=WatchOptions("pool", every=5.0))
    with pytest.raises(KeyboardInterrupt):
        watch_pool(watching, lambda decision: None, troubles.append, base="base")
    assert looks == [0, 4] and troubles == ["pool: cannot be read (for a moment); check its permissions"]


def test_the_log_is_the_record(tmp_path: Path) -> None:
    decision = PoolDecision("law", "ab12", "new", "law: improves nothing\x1b[31m")
    with WatchState(tmp_path, "context") as state:
        state.decide(decision, {"task": KnownBest("sums", ("law",), (("ab12", 0.5),))})
        assert state.best("task") == KnownBest("sums", ("law",), (("ab12", 0.5),))
    (tmp_path / "log.jsonl").write_text('{"half": ')  # as a kill between the two would leave it
    with WatchState(tmp_path, "context") as state:
        assert state.known("law") == "ab12" and state.begun
        assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == state.lines()
    data = bytearray((tmp_path / "watch.sqlite").read_bytes())
    at = data.find(b"improves nothing")
    data[at] ^= 1
    (tmp_path / "watch.sqlite").write_bytes(bytes(data))
    with pytest.raises(RunError, match="is damaged; delete it"), WatchState(tmp_path, "context"):
        pass


def test_two_do_not_judge_for_one_record_at_once(tmp_path: Path) -> None:
    held = WatchState(tmp_path, "context")
    with pytest.raises(RunError, match=r"is being judged for by process .* wait for it to end, or stop it"):
        WatchState(tmp_path, "context")
    held.close()
    with WatchState(tmp_path, "context") as state:
        assert not state.begun


def test_rows_choose_or_judge_whatever_their_order() -> None:
    rows = [Row(f"is {n} even?", "yes") for n in range(90)]
    mixed = [rows[at] for at in np.random.default_rng(0).permutation(90)]
    assert split_watched("a", rows, "loss") == split_watched("a", mixed, "loss")
    assert split_watched("a", rows, "loss").digest != split_watched("a", rows, "exact_match").digest
    with pytest.raises(TaskError, match="too few to choose and to judge"):
        split_watched("a", rows[:8], "loss")


def test_a_gain_is_always_demanded() -> None:
    assert Watching("pool", ()).demands.bar("accuracy") == 0.0
    assert Watching("pool", (), options=GateOptions(min_gain=2.0)).demands.bar("accuracy") == 0.02
