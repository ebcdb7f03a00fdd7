"""`card` and `push`: what the card says, what is uploaded in one commit, and what is refused before anything is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.advisor.push_run import push_run
from merge_advisor.advisor.run_card import card_of_run
from merge_advisor.advisor.runs.run_folder import read_run, write_values
from merge_advisor.cli import main
from merge_advisor.errors import ExternalError, InputError, RunError
from merge_advisor.hub_options import CardOptions, PushOptions
from merge_advisor.json_form import to_json
from merge_advisor.pool.shared_licence import licence_fields, shared_licence
from merge_advisor.scores import Comparison, ModelScore, Score, Verdict
from merge_advisor.types import TRAINED
from tests.support.hub_server import Hub
from tests.support.run_files import unchecked

GIVEN = CardOptions(licence="apache-2.0", base_model="acme/base")
PUSH = PushOptions(licence="apache-2.0", base_model="acme/base")
UPLOADED = {"README.md", "adapter_config.json", "adapter_model.safetensors", "recipe.json"}


def score() -> Score:
    digests = ("d0", "d1", "d2", "d3")
    models = (
        ModelScore("base", {"exact_match": 0.25, "loss": 2.5}, {"exact_match": (1.0, 0.0, 0.0, 0.0)}),
        ModelScore("merge", {"exact_match": 0.75, "loss": 0.5}, {"exact_match": (1.0, 1.0, 1.0, 0.0)}),
    )
    against = Comparison("base", 0.5, 0.1, 0.9, ("d1", "d2"), (), None)
    return Score(1, "examples", "", "exact_match", digests, models, (against,), Verdict.MERGE, "use it", "fast 1")


@pytest.fixture
def run(example_world: Path, tmp_path: Path) -> Path:
    """The example's run, scored, of members that the hub is said to hold."""
    folder = tmp_path / "my-run"
    shutil.copytree(example_world / "run", folder)
    opened = read_run(folder)
    plan = replace(opened.plan, verdict=Verdict.MERGE, reason="use the merge: it beats base")
    members = tuple(
        member if member.id in TRAINED else replace(member, source=f"acme/{member.id}", revision="a" * 40)
        for member in opened.recipe.members
    )
    recipe = replace(opened.recipe, members=members)
    assert recipe.digest == plan.recipe_digest
    write_values(folder, plan, recipe, opened.tasks)
    (folder / "score").mkdir(exist_ok=True)
    (folder / "score" / "0.json").write_text(to_json(score()))
    return folder


def front_of(text: str) -> dict[str, Any]:
    """The front matter as the hub reads it."""
    from huggingface_hub import ModelCard

    data: dict[str, Any] = ModelCard(text).data.to_dict()
    return data


def test_the_card_of_an_adapter_says_what_the_hub_reads(run: Path) -> None:
    made = card_of_run(run, GIVEN, repo="me/beads")
    front = front_of(made.text)
    assert {key: front[key] for key in ("base_model", "base_model_relation", "library_name", "license", "tags")} == {
        "base_model": "acme/base", "base_model_relation": "adapter", "library_name": "peft", "license": "apache-2.0",
        "tags": ["merge-advisor", "lora", "merge"],
    }  # fmt: skip
    (index,) = front["model-index"]
    assert index["name"] == "beads"
    metrics = {m["type"]: m["value"] for result in index["results"] for m in result["metrics"]}
    assert metrics == {"exact_match": 0.75, "loss": 0.5}
    assert index["results"][0]["dataset"] == {"name": "examples, 4 held-out rows", "type": "examples"}


def test_the_card_holds_members_recipe_scores_and_the_command(run: Path, example_world: Path) -> None:
    text = card_of_run(run, GIVEN).text
    recipe = read_run(run).recipe
    pool = [member for member in recipe.members if member.id not in TRAINED]
    assert len(pool) >= 1
    for member in pool:
        assert f"| {member.id} | acme/{member.id} | {'a' * 40} | apache-2.0 | {member.weight:.6g} |" in text
    assert f"- digest: {recipe.digest}" in text and "- composition: exact" in text
    assert "| merge | 75.0% |" in text and "| base | 25.0% | +50.0 | +10.0 to +90.0 | 2 | 0 | 2.500 |" in text
    assert "**verdict merge**: use the merge: it beats base" in text
    assert (
        "    merge-advisor plan --task examples.jsonl --pool adapters --base acme/base --strategy top_k --k 2 "
        "--adaptation none --template alpaca --out my-run\n    merge-advisor merge my-run --adapter --out model" in text
    )
    assert str(example_world) not in text and "say 3 twice" not in text


def test_the_command_of_a_card_names_a_data_set_as_it_was_given(run: Path) -> None:
    path = run / "plan.json"
    plan = unchecked(path)
    plan["environment"]["paths"]["task examples"] = "hf:org/rows@v2:validation"
    path.write_text(json.dumps(plan))
    assert "merge-advisor plan --task hf:org/rows@v2:validation --pool" in card_of_run(run, GIVEN).text


def test_a_full_model_is_a_merge_of_base_and_members(run: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shutil.copyfile(run / "recipe.json", model / "recipe.json")
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "mergekit_config.yml").write_text("model: C:/models/a0")
    options = replace(PUSH, model=model)
    front = front_of(card_of_run(run, options).text)
    ids = [f"acme/{member.id}" for member in read_run(run).recipe.members if member.id not in TRAINED]
    assert (front["base_model"], front["base_model_relation"]) == (["acme/base", *ids], "merge")
    assert (front["library_name"], front["tags"]) == ("transformers", ["merge-advisor", "merge"])
    assert set(push_run(run, "me/merged", options, dry_run=True).files) == {
        "README.md", "config.json", "model.safetensors", "recipe.json",
    }  # fmt: skip
    told = push_run(run, "me/merged", options, dry_run=True).card.notes
    assert "not uploaded, as it is no part of the model: mergekit_config.yml" in told
    other = json.loads((run / "recipe.json").read_text())
    other["members"][0]["weight"] += 0.25
    (model / "recipe.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match="is the model of another recipe than"):
        push_run(run, "me/merged", options, dry_run=True)


def test_merge_says_what_its_model_is(example_world: Path, tmp_path: Path) -> None:
    from merge_advisor import merge

    made = merge(example_world / "run", tmp_path / "full", cache=example_world / "cache")
    assert set(push_run(example_world / "run", "me/merged", replace(PUSH, model=made), dry_run=True).files) >= {
        "README.md", "config.json", "model.safetensors", "recipe.json", "tokenizer.json",
    }  # fmt: skip


def test_licences_agree_or_are_given(run: Path, hub_here: Hub) -> None:
    hub_here.commit("acme/base", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
    agreed = CardOptions(base_model="acme/base")
    assert card_of_run(run, agreed).licence == "apache-2.0"
    hub_here.commit("acme/base", {"README.md": b"---\nlicense: llama3.1\n---\n"})
    with pytest.raises(InputError, match=r"the licences differ \(apache-2.0: a\d, .*; llama3.1: base acme/base\)"):
        card_of_run(run, agreed)
    given = card_of_run(run, replace(agreed, licence="Acme-Research"))
    assert {key: value for key, value in front_of(given.text).items() if key.startswith("license")} == {
        "license": "other", "license_name": "acme-research",
    }  # fmt: skip
    hub_here.commit("acme/base", {"README.md": b"no front matter"})
    with pytest.raises(InputError, match="no licence is stated by base acme/base; ask its author, then state"):
        card_of_run(run, agreed)
    hub_here.commit("acme/closed", {"README.md": b"---\nlicense: mit\n---\n"}, gated="auto")
    with pytest.raises(
        InputError, match=r"the base's licence: acme/closed: it is gated; .*; or state the result's with"
    ):
        card_of_run(run, replace(agreed, base_model="acme/closed"))
    with pytest.raises(InputError, match="`licence=unknown`: is no licence"):
        shared_licence({}, "unknown")
    assert licence_fields("llama3.1") == {"license": "llama3.1"}


def test_one_commit_holds_weights_card_and_recipe(
    run: Path, hub_here: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub_here.token)
    words = ["push", str(run), "me/beads", "--licence", "apache-2.0", "--base-model", "acme/base", "--private"]
    assert main([*words, "--dry-run"]) == 0
    assert "dry run: nothing was uploaded" in capsys.readouterr().out
    assert "me/beads" not in hub_here.repos and hub_here.requests == []

    assert main(words) == 0
    told = capsys.readouterr()
    commit, files = list(hub_here.repos["me/beads"].items())[-1]
    assert f"uploaded to {hub_here.url}/me/beads (commit {commit})" in told.out
    assert "note: verdict merge: use the merge: it beats base" in told.out
    assert hub_here.token not in told.out + told.err and told.err == ""
    assert hub_here.about["me/beads"]["private"]
    assert len(hub_here.commits) == 1 and set(files) == UPLOADED | {".gitattributes"}
    assert files["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "acme/base"
    assert files["recipe.json"] == (run / "recipe.json").read_bytes()
    card = files["README.md"].decode()
    assert front_of(card)["model-index"][0]["name"] == "beads"
    assert 'PeftModel.from_pretrained(base, "me/beads")' in card


def test_a_repository_that_holds_something_is_replaced_on_demand_alone(
    run: Path, hub_here: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub_here.token)
    hub_here.commit("me/beads", {".gitattributes": b"", "model.safetensors": b"old"})
    with pytest.raises(RunError, match="me/beads: is there already, with 2 files; give another name, or `force=True`"):
        push_run(run, "me/beads", PUSH)
    with pytest.raises(RunError, match="is there already, and public; make it private on its page"):
        push_run(run, "me/beads", replace(PUSH, private=True, force=True))
    assert hub_here.commits == []
    push_run(run, "me/beads", replace(PUSH, force=True))
    assert set(list(hub_here.repos["me/beads"].values())[-1]) == UPLOADED | {".gitattributes"}


def test_an_upload_that_broke_off_goes_on_by_the_same_command(
    run: Path, hub_here: Hub, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub_here.token)
    hub_here.fail("/commit/", (500, {}, b""))
    with pytest.raises(ExternalError, match="me/beads: the hub failed"):
        push_run(run, "me/beads", PUSH)
    assert push_run(run, "me/beads", PUSH).commit == list(hub_here.repos["me/beads"])[-1]


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 2) -> str:
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    return line


def test_what_cannot_be_pushed_is_one_line(
    run: Path, hub_here: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ("--licence", "mit", "--base-model", "acme/base")
    assert "'beads' is no name of a repository; give organisation/name" in refused(capsys, "push", run, "beads", *given)
    assert "came from a folder or file, so the hub does not know it; give --base-model ORG/NAME" in refused(
        capsys, "push", run, "me/beads", "--licence", "mit"
    )
    assert "me/beads: the hub does not know you; set HF_TOKEN" in refused(capsys, "push", run, "me/beads", *given)
    assert "fetching is off" in refused(capsys, "push", run, "me/beads", *given, "--offline")
    assert "is no run folder" in refused(capsys, "card", tmp_path, *given)
    monkeypatch.setenv("HF_TOKEN", "hf_someoneElsesToken")
    line = refused(capsys, "push", run, "me/beads", *given)
    assert "me/beads: the hub does not accept the token (401)" in line and "hf_" not in line
    monkeypatch.setenv("HF_TOKEN", hub_here.token)
    hub_here.fail("/api/repos/create", (403, {"X-Error-Message": "no right to create"}, b""))
    assert "forbids it (403: " in refused(capsys, "push", run, "me/beads", *given)
    shutil.rmtree(run / "adapter")
    line = refused(capsys, "push", run, "me/beads", *given)
    assert "holds no adapter (adapter/ is not there)" in line
    assert "write the model by `merge-advisor merge RUN --out MODEL`, then name it by --model MODEL" in line


def test_card_goes_to_stdout_or_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["card", str(run), "--licence", "mit", "--base-model", "acme/base", "--offline"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert front_of(text)["license"] == "mit"
    assert main([*words, "--out", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == text
    assert f"wrote {tmp_path / 'README.md'}" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["card"], told["licence"]) == (text, "mit")
