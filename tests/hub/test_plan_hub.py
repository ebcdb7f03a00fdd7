"""Adding pools, searching by tasks, planning from a hub: with a tiny Llama."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.runs.run_cost import run_cost
from merge_advisor.cli import main
from merge_advisor.errors import InputError, MergeAdvisorError, PoolError, RunError
from merge_advisor.hub import Hub
from merge_advisor.hub.planning import PlanAsked
from merge_advisor.hub_options import HubPlanOptions, HubSearchOptions
from merge_advisor.store import Store
from tests.hub.hub_world import added, filled, where
from tests.support.models import LLAMA_MODULES, write_lora

QUICK = PlanOptions(strategy="gradient", k=2, adaptation="none", shots=8)


def test_deltas_are_those_of_the_store_and_cards_are_kept(world: Path) -> None:
    with Hub.open(world / "hub") as hub, Store(world / "cache" / "store.sqlite") as store:
        ((number, space),) = hub.catalogue.spaces().items()
        for entry in hub.entries():
            kept, own = store.delta(space, entry.fingerprint), hub.deltas.delta(number, entry.number)
            assert kept is not None and own is not None and kept.tobytes() == own.tobytes()
        b1 = hub.entry("b1")
        assert (b1.licence, b1.languages, b1.data_sets, b1.tags) == ("mit", ("de", "en"), ("squad",), ("law",))
        assert (b1.kind, b1.rank, b1.modules, b1.template) == ("adapter", 4, ("q_proj", "v_proj"), "alpaca")
        assert b1.size == (world / "pool" / "b1" / "adapter_model.safetensors").stat().st_size
        assert [hit.entry.id for hit in hub.search(text="a legal contract, or contracts").hits] == ["b1"]
        likes = hub.search(like="b1", k=2)
        assert {hit.entry.id for hit in likes.hits} == {"b0", "b2"} and likes.models == 6 and likes.exact
        assert hub.check().whole and hub.check().index == ()


def test_adding_again_does_what_changed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from merge_advisor.backbone import model

    with monkeypatch.context() as patch:  # nothing is embedded, so the base is never loaded
        patch.setattr(model, "load_backbone", lambda *args, **kwargs: pytest.fail("loaded"))
        again = added(world)
    assert again.unchanged == 6 and again.embedded == 0 and not (again.new or again.updated or again.versions)
    (world / "pool" / "a1" / "README.md").write_text("---\nlicense: gpl-3.0\n---\nSings.\n")
    write_lora(world / "pool" / "a2", LLAMA_MODULES, seed=77)
    shutil.copytree(world / "pool" / "b0", world / "pool" / "b0-copy")
    shutil.rmtree(world / "pool" / "b2")
    changed = added(world)
    assert changed.updated == ("a1",) and changed.versions == ("a2",) and changed.aliases == ("b0-copy",)
    assert changed.new == () and changed.unchanged == 3 and changed.embedded == 1
    with Hub.open(world / "hub") as hub:
        assert hub.entry("a1").licence == "gpl-3.0" and [h.entry.id for h in hub.search(text="sings").hits] == ["a1"]
        assert hub.entry("b0-copy").ids == ("b0", "b0-copy") and hub.count() == 6
        assert [item.version for item in hub.versions("a2")] == [1, 2]
        assert hub.entry("b2").id == "b2"  # nothing is pruned unasked
        assert hub.check().gone == ("b2",)


def test_two_spaces_never_meet(world: Path) -> None:
    more = added(world, embeddings=("delta_activations", "delta_logits"))
    assert more.embedded == 6 and more.unchanged == 6
    with Hub.open(world / "hub") as hub:
        assert len(hub.catalogue.spaces()) == 2
        one = hub.search(like="a0")
        other = hub.search(like="a0", options=HubSearchOptions(embedding="delta_logits"))
        assert one.space is not None and other.space is not None and one.space.dim != other.space.dim
        assert [hit.score for hit in one.hits] != [hit.score for hit in other.hits]
        with pytest.raises(RunError, match=r"has no deltas of that base, embedding and dtype \(it has delta_act"):
            hub.search(like="a0", options=HubSearchOptions(embedding="delta_meaning"))


def test_a_search_by_task_is_by_the_delta_of_its_lora(world: Path) -> None:
    with Hub.open(world / "hub") as hub:
        found = hub.search(task=world / "examples.jsonl", k=3, **where(world))
        assert found.models == 6 and len(found.hits) == 3
        run = hub.plan(world / "examples.jsonl", out=world / "run", options=PlanOptions(strategy="top_k", k=2,
                       adaptation="none"), asked=PlanAsked(scored=False), **where(world))  # fmt: skip
        similar = {report.id: report.similarity for report in run.plan.candidates}
        for hit in found.hits:
            assert similar[hit.entry.id] == pytest.approx(hit.score, abs=1e-6)


def test_a_shortlist_is_all_that_a_plan_opens(world: Path) -> None:
    shutil.rmtree(world / "pool" / "a0")
    with Hub.open(world / "hub") as hub:
        asked = PlanAsked(HubPlanOptions(shortlist=3), scored=False)
        run = hub.plan(world / "examples.jsonl", out=world / "run", options=QUICK, asked=asked, **where(world))
        assert len(run.plan.candidates) == 3 and all(report.status != "refused" for report in run.plan.candidates)
        note = run.plan.notes[0]
        assert note.startswith(f"hub {world / 'hub'}: 3 of its 6 models of this base were opened, a shortlist (")
        assert "by delta" in note and "`shortlist` takes more" in note
        assert hub.runs()[0].folder == str(world / "run") and hub.runs()[0].tasks == ("examples",)
        assert run.plan.environment.seconds["name the shortlist"] > 0
        anchored = PlanOptions(strategy="gradient", k=2, adaptation="none", shots=8, anchor="b2")
        again = hub.plan(world / "examples.jsonl", out=world / "again", options=anchored, asked=asked, **where(world))
        assert again.plan.selection.members[0].id == "b2"
        whole = hub.plan(world / "examples.jsonl", out=world / "whole", options=QUICK, asked=PlanAsked(scored=False),
                         **where(world))  # fmt: skip
        assert "folders are gone were left out: a0" in whole.plan.notes[1] and len(whole.plan.candidates) == 5
    # a run folder is one like any other: it opens its members where the shortlist says they are
    assert ma.merge(world / "run", world / "model", adapter=True, **where(world)).is_dir()


def test_filters_of_a_plan_choose_among_the_hub(world: Path) -> None:
    with Hub.open(world / "hub") as hub:

        def planned(out: str, wanted: str = "", **options: Any) -> list[str]:
            run = hub.plan(
                world / "examples.jsonl", out=world / out, asked=PlanAsked(HubPlanOptions(filter=wanted), scored=False),
                options=PlanOptions(strategy="random", k=1, adaptation="none", shots=8, **options), **where(world),
            )  # fmt: skip
            return [report.id for report in run.plan.candidates]

        assert planned("r1", "licence=mit") == ["b1"]
        assert planned("r2", include=("a*", "b2"), exclude=("a0", "shots_lora")) == ["a1", "a2", "b2"]
        assert planned("r3", licence=("APACHE*",)) == ["a0", "a1", "a2", "b0", "b2"]
        with pytest.raises(InputError, match="none of its models of base base fits the filters; loosen them"):
            planned("r4", "rank>100")
        with pytest.raises(InputError, match="`anchor=a0`: does not fit the filters; loosen them, or name another"):
            planned("r5", "licence=mit", anchor="a0")


def test_a_scored_plan_leaves_its_scores(world: Path) -> None:
    with Hub.open(world / "hub") as hub:
        run = hub.plan(world / "examples.jsonl", out=world / "run", options=QUICK, **where(world))
        (kept,) = hub.runs()
        assert kept.verdict == str(run.plan.verdict) and kept.cost == run_cost(run.plan) and run.plan.fitting == 6
        assert kept.cost.every_candidate_seconds and kept.cost.shots_forwards and kept.cost.seconds > 0
        anchor = run.plan.selection.members[0].id
        scores = {score.metric: score for score in hub.entry(anchor).scores}
        table = run.scores[0].model("anchor")
        assert scores["exact_match"].value == pytest.approx(table.metrics["exact_match"])
        assert scores["loss"].value == pytest.approx(np.mean(table.rows["loss"]))
        assert scores["loss"].lower < scores["loss"].value < scores["loss"].upper
        assert scores["loss"].rows == len(run.tasks[0].heldout) and scores["loss"].task == "examples"


def test_what_a_plan_cannot_take_is_one_line(world: Path, wide_llama: Path) -> None:
    with Hub.open(world / "hub") as hub:
        task = world / "examples.jsonl"
        with pytest.raises(InputError, match=r"holds no models of base wide-llama with these weights, but of base"):
            hub.plan(task, out=world / "run", base=str(wide_llama), options=QUICK, **where(world))
        with (
            Hub.open(world / "empty", make=True) as empty,
            pytest.raises(InputError, match="holds no models; add some with"),
        ):
            empty.plan(task, out=world / "run", base=str(wide_llama), options=QUICK, **where(world))
        write_lora(world / "pool" / "a0", LLAMA_MODULES, seed=5)
        run = hub.plan(task, out=world / "run", options=QUICK, asked=PlanAsked(scored=False), **where(world))
        assert any("other weights than the hub knows, taken as they are now: a0" in note for note in run.plan.notes)
        shutil.rmtree(world / "pool")
        with pytest.raises(PoolError, match=r"no model that fits is where it was added from \(a0, a1, a2, b0, b1 and"):
            hub.plan(task, out=world / "other", options=QUICK, **where(world))
    with (
        filled(world / "empty", 0) as empty,
        pytest.raises(MergeAdvisorError, match="add some with `merge-advisor hub"),
    ):
        empty.catalogue.file.run("DELETE FROM bases")
        empty.plan(task, out=world / "other", options=QUICK, **where(world))


def test_a_dry_run_says_what_would_be_opened_and_writes_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from merge_advisor.advisor.planning import dry_run
    from merge_advisor.advisor.planning.dry_run import describe_plan
    from merge_advisor.backbone import model
    from merge_advisor.hub.dry_run import describe_hub_plan

    # what is free changes from one call to the next
    monkeypatch.setattr(dry_run, "memory_free", lambda device: 4e9)
    monkeypatch.setattr(model, "load_backbone", lambda *args, **kwargs: pytest.fail("loaded"))
    task, before = [world / "examples.jsonl"], sorted((world / "cache").rglob("*"))
    with Hub.open(world / "hub") as hub:
        whole = describe_hub_plan(hub, task, options=QUICK, **where(world))
        # the rest is what a dry run says of the same models as a pool
        pool = describe_plan(task, pool=world / "pool", base=str(world / "base"), options=QUICK, **where(world))
        assert whole["lines"][1:] == pool["lines"] and whole["passes"] == pool["passes"]
        assert whole["lines"][0].endswith("hub: 6 of its 6 models of this base would be opened, all there are")
        shutil.rmtree(world / "pool" / "a0")
        asked = PlanAsked(HubPlanOptions(shortlist=3, filter="rank>=1"))
        some = describe_hub_plan(hub, task, options=replace(QUICK, anchor="b2"), asked=asked, **where(world))
        assert some["hub"] == {"models": 6, "opened": 3, "shortlist": True} and some["models"] == 3
        assert "3 of its 6 models of this base that fit filter rank>=1 would be opened, a shortlist" in some["lines"][0]
        assert some["lines"][1] == "note: models of the hub whose folders are gone were left out: a0"
        with pytest.raises(InputError, match="none of its models of base base fits the filters"):
            describe_hub_plan(hub, task, options=replace(QUICK, include=("z*",)), **where(world))
        shutil.rmtree(world / "pool")
        with pytest.raises(PoolError, match="no model that fits is where it was added from"):
            describe_hub_plan(hub, task, options=QUICK, **where(world))
    assert sorted((world / "cache").rglob("*")) == before


KILLED = """
import os, sys
from pathlib import Path
from merge_advisor.hub import Hub
from merge_advisor.hub import deltas
real, left = deltas.HubDeltas.keep_delta, [int(sys.argv[2])]
def dying(self, *args):
    real(self, *args)
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
deltas.HubDeltas.keep_delta = dying
world = Path(sys.argv[1])
with Hub.open(world / "hub2", make=True) as hub:
    print(len(hub.add(world / "pool", base=str(world / "base"), cache=world / "cache").new))
"""


def test_a_killed_add_loses_the_model_it_was_on(world: Path) -> None:
    for step, counted in ((0, 0), (2, 2), (99, 6)):
        code = [sys.executable, "-c", KILLED, str(world), str(step)]
        done = subprocess.run(code, capture_output=True, text=True, check=False)
        assert done.returncode == (0 if step == 99 else 9), done.stderr
        with Hub.open(world / "hub2") as hub:
            assert hub.count() == counted
            assert not hub.check().damaged
    assert done.stdout == "4\n"
    with Hub.open(world / "hub2") as hub:
        assert hub.check().whole and not hub.check().index


def test_a_full_disk_keeps_what_was_added_and_the_next_add_goes_on(world: Path) -> None:
    spaces = ("delta_activations", "delta_logits")
    with Hub.open(world / "hub") as hub:
        pages = hub.catalogue.file.rows("PRAGMA page_count")[0][0]
        hub.catalogue.file.rows(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(
            RunError, match=r"hub catalogue .*: no room to write \(.*full\); free some, or name another"
        ):
            hub.add(world / "pool", base=str(world / "base"), embeddings=spaces, **where(world))
    with Hub.open(world / "hub") as hub:
        assert hub.count() == 6 and not hub.check().damaged
        again = hub.add(world / "pool", base=str(world / "base"), embeddings=spaces, **where(world))
        assert 0 < again.embedded <= 6 and hub.check().deltas == 12 and not hub.check().index


def test_a_manifest_of_no_bytes_and_a_pool_of_nothing_are_one_line(world: Path) -> None:
    (world / "pool.yaml").write_bytes(b"")
    (world / "nothing").mkdir()
    with Hub.open(world / "hub") as hub:
        for pool in ("pool.yaml", "nothing"):
            with pytest.raises(PoolError, match=pool):
                hub.add(world / pool, base=str(world / "base"), **where(world))
        assert hub.count() == 6


def test_refused_models_are_said_and_the_rest_is_added(world: Path) -> None:
    (world / "pool" / "b1" / "adapter_model.safetensors").write_bytes(b"short")
    (world / "pool" / "b2" / "adapter_config.json").write_text("")
    with Hub.open(world / "hub3", make=True) as hub:
        done = hub.add(world / "pool", base=str(world / "base"), **where(world))
        assert [item.id for item in done.refused] == ["b1", "b2"] and len(done.new) == 4 == hub.count()


def test_the_command_line(world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(world / "cache"))
    Path("merge-advisor.toml").write_text('base = "base"\nhub = "hub"\n')

    def ran(*words: str, code: int = 0) -> str:
        assert main(["hub", *words]) == code
        return capsys.readouterr().out

    assert "0 new, 0 new version, 0 alias, 0 updated, 6 unchanged; 0 deltas added" in ran("add", "pool")
    assert json.loads(ran("list", "--json", "--filter", "licence=mit"))["models"][0]["id"] == "b1"
    assert "6 models, the first 2 of them listed" in ran("list", "--limit", "2")
    assert "Drafts legal contracts." in ran("show", "b1") and "version 1, added" in ran("show", "a0")
    hits = json.loads(ran("search", "--like", "a0", "-k", "2", "--json"))["hits"]
    assert {hit["id"] for hit in hits} == {"a1", "a2"} and hits[0]["score"] >= hits[1]["score"]
    assert "b1" in ran("search", "--text", "legal contracts")
    assert json.loads(ran("search", "--task", "examples.jsonl", "--json"))["models"] == 6
    assert "wrote hub.parquet: 6 rows" in ran("export", "hub.parquet")
    assert "nothing is wrong" in ran("check")
    (world / "hub" / "vectors" / "1" / "rows").write_bytes(b"")
    assert "`repair`" not in ran("check", code=1) and "made anew" in ran("check", "--repair")
    assert "nothing is wrong" in ran("check")
    assert "removed a0: 1 model with" in ran("remove", "a0")
    assert "no runs planned from it yet" in ran("list", "--runs")
    refusals = {
        "show": "write `merge-advisor hub show ID`",
        "show a0": "has no model 'a0'",
        "search": "give one of --like ID",
        "search --like a1 --filter x": "--filter x: 'x' is no term",
        "export x.csv": "must end in .parquet",
        "list --hub absent": "is no hub folder",
        "add absent": "pool absent: not there",
        "list --like a1": "takes no --like, which is for search; leave it out",
        "check pool --limit 3": "takes no --limit",
        "list --price-per-hour 2": "--price-per-hour is for the seconds of runs; give --runs, or leave it out",
        "list --runs --filter rank<=8": "--filter chooses among models; leave it out, or --runs",
    }
    for words, said in refusals.items():
        assert main(["hub", *words.split()]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1 and "Traceback" not in err
    quick = ["--task", "examples.jsonl", "--strategy", "random", "--k", "1", "--adaptation", "none", "--no-score"]
    # merge-advisor.toml names a hub and no pool
    assert main(["plan", *quick, "--shortlist", "2", "--price-per-hour", "3600"]) == 0
    told = capsys.readouterr().out
    assert "for the plan; " in told and " s (" in told and "cost.txt" in told
    cost = json.loads((world / "runs" / "examples" / "plan.json").read_text())
    assert cost["fitting"] == 5 and cost["environment"]["peak_bytes"] > 0
    table = ran("list", "--runs", "--price-per-hour", "3600")
    assert "1 run: " in table and "instead: training the LoRA of the shots alone in the run: " in table
    listed = json.loads(ran("list", "--runs", "--json"))
    assert listed["savings"]["runs"] == 1 and listed["runs"][0]["cost"]["candidates"] == 5
    assert "2 of its 5 models" in (world / "runs" / "examples" / "report.md").read_text()
    assert main(["plan", *quick, "--hub", "hub", "--pool", "pool"]) == 2
    assert "give --pool or --hub, not both" in capsys.readouterr().err
    assert main(["plan", *quick, "--pool", "pool", "--shortlist", "3"]) == 2
    assert "--shortlist chooses among the models of a hub folder; give --hub" in capsys.readouterr().err
    assert main(["plan", *quick, "--hub", "hub", "--dry-run", "--out", "dry", "--price-per-hour", "1"]) == 2
    assert "--price-per-hour is for measured seconds, and a dry run measures none" in capsys.readouterr().err
    assert main(["plan", *quick, "--hub", "hub", "--dry-run", "--out", "dry"]) == 0
    assert "hub hub: 5 of its 5 models of this base would be opened, all there are" in capsys.readouterr().out
    assert not Path("dry").exists()


def test_an_export_holds_all(world: Path) -> None:
    import pyarrow.parquet as pq

    with Hub.open(world / "hub") as hub:
        assert hub.export(world / "out.parquet") == 6
        table = {row["id"]: row for row in pq.read_table(world / "out.parquet").to_pylist()}
        entry = hub.entry("b1")
        delta = hub.deltas.delta(1, entry.number)
        assert delta is not None and np.array_equal(np.array(table["b1"]["delta"], np.float32), delta)
        assert table["b1"]["languages"] == ["de", "en"] and table["b1"]["base_id"] == "base"
        assert "place" not in table["b1"]  # a path of this machine


def test_a_plan_with_another_store_embeds_nothing_anew(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from merge_advisor.advisor.measuring import deltas

    embedded: list[str] = []
    real = deltas._features

    def seen(meter: Any, embedding: Any, group: Any) -> Any:
        embedded.extend(candidate.id for candidate in group)
        return real(meter, embedding, group)

    monkeypatch.setattr(deltas, "_features", seen)
    with Hub.open(world / "hub") as hub:
        hub.plan(
            world / "examples.jsonl", out=world / "run", options=QUICK, asked=PlanAsked(scored=False),
            cache=world / "other cache",
        )  # fmt: skip
    assert embedded == ["shots_lora"]


def test_no_weights_of_the_hub_are_read_for_a_shortlist(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from merge_advisor.advisor.measuring.pool_weights import PoolWeights

    read: list[str] = []
    real = PoolWeights.of

    def seen(self: PoolWeights, candidate: Any) -> Any:
        read.append(candidate.id)
        return real(self, candidate)

    monkeypatch.setattr(PoolWeights, "of", seen)
    with Hub.open(world / "hub") as hub:
        asked = PlanAsked(HubPlanOptions(shortlist=2), scored=False)
        run = hub.plan(world / "examples.jsonl", out=world / "run", options=QUICK, asked=asked, **where(world))
    named = {report.id for report in run.plan.candidates}
    assert len(named) == 2 and set(read) <= named | {"shots_lora"}
