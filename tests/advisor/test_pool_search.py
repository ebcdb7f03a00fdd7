"""`pool find` from the command line: the ranking, the manifest that `plan` reads, the dry run, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.cli import main
from merge_advisor.pool import open_pool, read_manifest
from merge_advisor.pool.sources import find_models
from merge_advisor.weights.base import resolve_base
from tests.support.hub_server import Hub

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 2_000_000}
TAGS = ["base_model:adapter:meta/base"]


@pytest.fixture
def hub(hub_here: Hub) -> Hub:
    hub_here.commit("meta/base", {"config.json": b"{}"})
    cards = {"rhymes": "Finds rhymes of words.", "sums": "Adds numbers and counts beads.", "law": "Reads contracts."}
    for place, (name, text) in enumerate(cards.items()):
        card = f"---\nlicense: mit\n---\n{text}\n".encode()
        hub_here.commit(f"acme/{name}", {**ADAPTER, "README.md": card}, tags=TAGS, downloads=30 - 10 * place)
    full = {"config.json": b"{}", "model.safetensors": b"x" * 3_000_000}
    hub_here.commit("acme/full", full, tags=["base_model:finetune:meta/base"], downloads=5)
    pickled = {"adapter_config.json": b"{}", "adapter_model.bin": b"x"}
    hub_here.commit("acme/old", pickled, tags=TAGS, downloads=1)
    return hub_here


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [{"input": f"How many beads are {n} and 2? Count the numbers.", "output": f"{n + 2}"} for n in range(20)]
    path = tmp_path / "beads.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def find(*words: str | Path, code: int = 0) -> None:
    assert main(["pool", "find", "--base", "meta/base", *map(str, words)]) == code


def found(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> Any:
    find(*words, "--json", code=code)
    return json.loads(capsys.readouterr().out)


def test_the_manifest_pins_what_can_be_used_and_plan_reads_it(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "pool.yaml"
    find("--out", out)
    base = next(iter(hub.repos["meta/base"]))
    assert read_manifest(out).base == f"meta/base@{base}"
    listed = {model.id: model.hub.revision for model in find_models(out).models if model.hub}
    assert listed == {
        name: next(iter(hub.repos[name])) for name in ("acme/rhymes", "acme/sums", "acme/law", "acme/full")
    }
    text = out.read_text()
    assert "# left out: acme/old: pickles only: rewrite it by `merge-advisor convert acme/old@" in text
    assert '- hub: "acme/sums"  # adapter, 2 MB, mit, 20 downloads' in text


def test_plan_opens_what_was_found_at_its_commit(
    hub_here: Hub, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    """The card was fetched while it was looked for; the weights are fetched now, of the commit that was found."""
    hub_here.commit("meta/base", {"config.json": b"{}"})
    found_at = {name: hub_here.add(f"acme/{name}", tiny_pool / name) for name in ("a0", "b1")}
    for name in found_at:
        hub_here.about[f"acme/{name}"]["tags"] = TAGS
    find("--out", tmp_path / "pool.yaml")
    hub_here.add("acme/a0", tiny_pool / "a2")  # a newer one
    opened = open_pool(tmp_path / "pool.yaml", resolve_base(str(tiny_llama), cache=tmp_path / "cache"))
    assert [(c.id, c.revision) for c in opened.candidates] == [(f"acme/{n}", found_at[n]) for n in ("a0", "b1")]
    assert opened.refused == ()


def test_the_order_is_that_of_downloads_or_of_the_task(
    hub: Hub, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = found(capsys)
    assert [model["id"] for model in plain["models"]][:3] == ["acme/rhymes", "acme/sums", "acme/law"]
    assert plain["ranked_by"] == "downloads in the last month"
    liked = found(capsys, "--task", task)
    assert liked["models"][0]["id"] == "acme/sums"
    assert liked["models"][0]["similarity"] > 0.1 and liked["models"][1]["id"] == "acme/rhymes"
    assert "TF-IDF" in liked["ranked_by"]
    best = found(capsys, "--task", task, "--top", "1")
    assert [model["id"] for model in best["models"]] == ["acme/sums"]
    assert "the first 1 of 5 are kept" in best["notes"]


def test_held_out_rows_rank_nothing(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where only held-out rows have a word in common with a card, no model is like the task."""
    from merge_advisor.tasks import read_rows, split

    rows = [{"input": f"zz{n}", "output": f"yy{n}"} for n in range(30)]
    path = tmp_path / "task.jsonl"
    for row in rows:
        path.write_text("".join(json.dumps(r if r != row else {**r, "input": "contracts"}) + "\n" for r in rows))
        task, _ = split(read_rows(path).rows, name="task", shots=20)
        if any(row.input == "contracts" for row in task.heldout):
            break
    else:
        raise AssertionError("no row is held out")
    told = found(capsys, "--task", path)
    assert all(model["similarity"] == 0 for model in told["models"])
    assert (
        "no name and no card has a word in common with the examples, so the order is that of downloads" in told["notes"]
    )


def test_a_dry_run_counts_gigabytes_by_kind_and_writes_nothing(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    find("--dry-run", "--out", tmp_path / "pool.yaml")
    text = capsys.readouterr().out
    assert "where the cache holds none of it: 0.0090 GB (0.0060 GB of 3 adapters, 0.0030 GB of 1 full finetune)" in text
    assert "dry run: nothing was written" in text and not (tmp_path / "pool.yaml").exists()
    told = found(capsys, "--dry-run")
    assert told["download"]["checkpoint"] == 3_000_002
    assert told["download"]["adapter"] == sum(
        model["size"] for model in told["models"] if model["kind"] == "adapter" and model["usable"]
    )
    assert not [path for _, path in hub.requests if path.endswith(".safetensors")]


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 2) -> str:
    find(*words, code=code)
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_done_is_one_line(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    there = tmp_path / "pool.yaml"
    there.write_text("mine")
    assert "is there already; give another --out, or --force to replace it" in refused(capsys, "--out", there)
    assert "a manifest ends in .yaml; give another --out" in refused(capsys, "--out", tmp_path / "pool")
    assert "--limit 0: give 1 or more" in refused(capsys, "--limit", "0")
    assert "--map goes with --task" in refused(capsys, "--map", "input=a")
    assert "is no hub id; give organisation/name" in refused(capsys, "--base", tmp_path)
    assert hub.requests == [] and there.read_text() == "mine"
    assert "fetching is off; leave out --offline and unset HF_HUB_OFFLINE" in refused(capsys, "--offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "fetching is off" in refused(capsys)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.fail("/api/models?", *[(429, {"Retry-After": "60"}, b"")] * 6)
    assert "meta/base: the hub takes no more requests for now (429); give the command again in 60" in refused(
        capsys, code=1
    )
    find("--out", there, "--force")
    assert find_models(there).models


def test_models_that_cannot_be_looked_at_make_a_partial_answer(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.fail("acme/law/tree", (404, {"X-Error-Code": "RepoNotFound"}, b""))
    find(code=3)
    assert "merge-advisor: set aside acme/law: no such folder here and no such model" in capsys.readouterr().err


def test_nothing_usable_writes_no_manifest(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.commit("meta/other", {"config.json": b"{}"})
    hub.about["acme/old"]["tags"] = ["base_model:adapter:meta/other"]
    line = refused(capsys, "--base", "meta/other", "--out", tmp_path / "pool.yaml")
    assert "meta/other: none of 1 models can be used; acme/old: pickles only: rewrite it by" in line
    assert not (tmp_path / "pool.yaml").exists()


def test_another_process_finds_by_the_hubs_variables(hub: Hub, tmp_path: Path) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    out = str(tmp_path / "pool.yaml")
    words = ["pool", "find", "--base", "meta/base", "--out", out]
    done = subprocess.run(
        [sys.executable, "-m", "merge_advisor", *words], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {out}: 4 models; next: merge-advisor plan --pool {out} --task FILE" in done.stdout
