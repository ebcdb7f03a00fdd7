"""LoraHub's setup on encoder-decoders: its exact match, its BBH tasks in lm-eval, the recipe, a small T5 pool."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor import registry, templates
from merge_advisor.advisor import Machine, PlanOptions
from merge_advisor.advisor.measuring.session import PoolFilter, open_session
from merge_advisor.backbone.encoding import encode
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.benchmark.values import Setup
from merge_advisor.cli import main
from merge_advisor.errors import SpecError
from merge_advisor.evaluators.fast import Fast, row_values
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.evaluators.lm_eval_requests import build_requests, evaluate_requests
from merge_advisor.evaluators.lm_eval_tasks import TaskName, load_tasks
from merge_advisor.evaluators.metrics import majority_score, matches
from merge_advisor.json_form import from_json
from merge_advisor.options import FinetuneSettings, TuneOptions
from merge_advisor.plain_yaml import load_yaml
from merge_advisor.pool.sources import find_models
from merge_advisor.scores import ModelScore
from merge_advisor.tasks import read_rows
from merge_advisor.types import Row
from tests.support.hub_server import Hub

ROOT = Path(__file__).parents[2]
BARE = templates.get("bare")


@pytest.mark.parametrize(
    ("said", "wanted", "plain", "lorahub"),
    [
        (" (A)\n", "(A)", True, True),
        ("(a).", "(A)", False, True),
        ("Yes.", "yes", False, True),
        ("3.5", "35", False, True),
        ("yes .", "yes", False, False),  # the blank before the full stop stays, as in LoraHub's code
        ("yes, it is", "yes", False, False),
        ("...", "", False, True),
    ],
)
def test_when_a_text_is_the_output(said: str, wanted: str, plain: bool, lorahub: bool) -> None:
    assert (matches(said, wanted, "plain"), matches(said, wanted, "lorahub")) == (plain, lorahub)
    score = majority_score([Row("x", wanted)], said, "exact_match", exact_match="lorahub")
    assert score.metrics == {"exact_match": float(lorahub)}


def test_a_rule_nobody_knows_is_an_error() -> None:
    with pytest.raises(SpecError, match="exact_match is one of: plain, lorahub"):
        registry.build("evaluator", "fast:exact_match=loosely")
    assert registry.build("evaluator", "fast").settings == Fast().settings != Fast(exact_match="lorahub").settings


LEARNED = [Row("one", "Yes."), Row("two", "(A)"), Row("three", "no."), Row("four", "Fox it"), Row("five", "it is")]
ASKED = [
    Row("one", "yes"),
    Row("two", "(a)"),
    Row("three", "No"),
    Row("four", "fox it."),
    Row("five", "it"),
    Row("one", "yes, it"),
    Row("two", "(B)"),
    Row("seven", "."),
]


@pytest.fixture(scope="module")
def t5(tiny_t5: Path) -> Iterator[Backbone]:
    """The tiny T5 with a LoRA that knows a few answers by heart."""
    backbone = load_backbone(tiny_t5, threads=1)
    texts = [(BARE.prompt(row.input), row.output) for row in LEARNED]
    names = [name for name in backbone.memory if name.split(".")[-2] in ("q", "k", "v", "o", "wi_0", "wi_1", "wo")]
    settings = FinetuneSettings(rank=8, lr=2e-2, steps=180)
    delta = finetune_lora(backbone, encode(backbone, texts, max_length=128), names, settings, seed=0).delta
    with placed(backbone, delta):
        yield backbone


def test_both_scorers_match_as_lorahub_does(t5: Backbone) -> None:
    def score(evaluator: Fast | LmEval, rows: list[Row]) -> ModelScore:
        return evaluator.score(t5.model, t5.tokenizer, rows, BARE, label="it", metric="exact_match")

    theirs = score(LmEval(exact_match="lorahub", max_new_tokens=12), ASKED)
    ours = score(Fast(exact_match="lorahub", max_new_tokens=12), ASKED)
    assert (ours.outputs, ours.rows["exact_match"]) == (theirs.outputs, theirs.rows["exact_match"])
    assert ours.outputs[:5] == tuple(row.output for row in LEARNED)
    assert ours.rows["exact_match"][:7] == (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert sum(score(Fast(), ASKED).rows["exact_match"]) == 0


def test_bbh_in_lm_eval_is_lorahubs(t5: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task files as they are shipped, on data of the current folder; equal to our own scorer row by row."""
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bbh").mkdir()
    folder = tmp_path / "tasks"
    folder.mkdir()
    for path in (ROOT / "eval" / "bbh_lorahub").iterdir():
        text = path.read_text()
        if "dataset_kwargs:" in text:  # the data must not go to the cache of whoever runs the tests
            text = text.replace("dataset_kwargs:", f"dataset_kwargs:\n  cache_dir: {tmp_path / 'hf'}")
            examples = [{"input": row.input, "target": row.output} for row in ASKED]
            (tmp_path / "bbh" / f"{path.stem}.json").write_text(json.dumps({"canary": "x", "examples": examples}))
        (folder / path.name).write_text(text)
    assert len(load_tasks(TaskName("bbh_lorahub", folder))) == 27
    asked = build_requests(load_tasks(TaskName("bbh_lorahub_web_of_lies", folder))[0])
    assert [log.prompt for log in asked.logs] == [row.input for row in ASKED]
    assert asked.loaded.task.config.generation_kwargs["max_gen_toks"] == 256
    theirs = evaluate_requests(asked, t5, "it")
    ours = Fast(exact_match="lorahub", max_new_tokens=256).score(
        t5.model, t5.tokenizer, ASKED, BARE, label="it", metric="exact_match"
    )
    assert theirs.rows["exact_match"][:7] == ours.rows["exact_match"][:7] == (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert theirs.outputs[:7] == ours.outputs[:7]


def read_setup(path: Path) -> Setup:
    return from_json(Setup, json.dumps(load_yaml(path.read_text())), path.name)


def test_the_published_setup() -> None:
    setup = read_setup(ROOT / "recipes" / "flan-t5-bbh.yaml")
    assert (setup.exact_match, setup.max_new_tokens, setup.template) == ("lorahub", 256, "bare")
    arms = {arm.name: arm for arm in setup.arms}
    assert len(arms) == len(setup.arms) == 11
    for question in (setup.primary, *setup.secondaries):
        assert {question.better, question.than} <= arms.keys() | set(setup.controls)
        assert question.k in setup.k and question.view in setup.views
    for arm in setup.arms:
        assert registry.build("strategy", arm.strategy)
        assert arm.composition == "lorahub"
        assert arm.tuner is not None
        assert (arm.tuner.sampler, arm.tuner.trials) == ("lorahub", 40)
        assert arm.tuner.objective == ("lorahub-clean" if arm.name.endswith("-clean") else "lorahub")
    families = json.loads((ROOT / "recipes" / setup.tasks.families).read_text())
    assert (len(families), len(set(families.values()))) == (27, 23)
    listed = {path.stem for path in (ROOT / "eval" / "bbh_lorahub").glob("*.yaml")} - {"_lorahub", "bbh_lorahub"}
    assert listed == set(families)
    pool = find_models(ROOT / "recipes" / setup.pool)
    assert (len(pool.models), pool.template) == (196, "bare")
    assert all(model.hub and model.hub.repo.startswith("lorahub/flan_t5_large-") for model in pool.models)


def test_the_published_modules_are_those_of_the_list(shared: Path) -> None:
    names = (shared / "data" / "lorahub_modules.txt").read_text().split()
    assert [model.id for model in find_models(ROOT / "recipes" / "flan-t5-modules.yaml").models] == names


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield runpy.run_path(str(ROOT / "scripts" / "t5_rows.py"))
    sys.path.remove(str(ROOT / "scripts"))


def test_rows_of_the_small_pool(rows: dict[str, Any]) -> None:
    """Deterministic, different, and what their definitions say."""
    pool, draw = rows["POOL"], rows["draw"]
    assert len(pool) >= 24 and len(set(rows["FAMILIES"].values())) >= 10
    assert len({kind.instruction for kind in rows["KINDS"].values()}) == len(rows["KINDS"])
    for name in pool:
        first = draw(name, 30, "a")
        assert first == draw(name, 30, "a") != draw(name, 30, "b")
        assert len(set(first)) == 30
        assert not set(first) & set(draw(name, 30, "a", first))
    kinds = {name: kind.answer for name, kind in pool.items()}
    words = ["nabo", "tig", "ul"]
    answers = {
        "initials_dots": "N.T.U.", "no_vowels": "nb tg l", "swap_three": "ul tig nabo", "past": "naboed tiged uled",
        "starred": "n*b* t*g *l", "commas": "nabo, tig, ul", "capital_last": "nabO tiG uL", "word_count": "3",
        "backwards_five": "oban", "edges": "nabo ul",
    }  # fmt: skip
    assert {name: kinds[name](words) for name in answers} == answers
    stream = rows["rows_of"]("plural", "a")
    with pytest.raises(ValueError, match="plural: has not 1 different rows"):
        draw("plural", 1, "a", [next(stream) for _ in range(100)])


T5 = ROOT / "recipes" / "t5"
CUT = ("swap_two", "no_vowels", "hyphens")
"""Three tasks of three families."""


def test_the_shipped_pool_does_something(tmp_path: Path) -> None:
    """Each adapter was measured far above the base, and three are measured again."""
    measured = json.loads((T5 / "measured.json").read_text())
    assert len(measured) == len(list((T5 / "tasks").iterdir())) >= 24
    assert all(found["own"] >= found["base"] + 0.2 for found in measured.values())
    wanted, store = PoolFilter(include=CUT), tmp_path / "s.sqlite"
    with open_session(str(T5 / "base"), T5 / "pool", wanted=wanted, store=store) as session:
        assert (session.model.template.name, session.model.encoder_decoder) == ("bare", True)
        for candidate in session.pool.candidates:
            rows = read_rows(T5 / "tasks" / f"{candidate.id}.jsonl").rows[:30]
            before = np.mean(row_values(session.model.backbone, rows, session.model.template, "exact_match"))
            with placed(session.model.backbone, session.weights.of(candidate)):
                after = np.mean(row_values(session.model.backbone, rows, session.model.template, "exact_match"))
            assert after > before + 0.15, candidate.id


def publish(name: str, folder: Path) -> None:
    """Write a shipped adapter as LoraHub publishes its own: the weights in a pickle."""
    import torch
    from safetensors.torch import load_file

    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_bytes((T5 / "pool" / name / "adapter_config.json").read_bytes())
    torch.save(load_file(T5 / "pool" / name / "adapter_model.safetensors"), folder / "adapter_model.bin")


@pytest.mark.slow
def test_from_published_pickles_to_tuned_merges(tmp_path: Path) -> None:
    """LoraHub's protocol end to end, each step a command: hub ids, convert, plan on five shots, tune both ways."""
    members = sorted(json.loads((T5 / "measured.json").read_text()))[::3]
    names = sorted({*members, *CUT})
    with Hub() as hub:
        for name in names:
            publish(name, tmp_path / "published" / name)
            hub.add(f"acme/t5-{name}", tmp_path / "published" / name)
        listed = tmp_path / "modules.yaml"
        text = "".join(f"- hub: acme/t5-{name}\n" for name in names)
        listed.write_text(f"version: 1\ntemplate: bare\nmodels:\n{text}")
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        environment.pop("HF_HUB_CACHE", None)
        command = [sys.executable, "-m", "merge_advisor", "convert", str(listed), "--out", str(tmp_path / "pool")]
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    session: dict[str, Any] = {"store": tmp_path / "store.sqlite", "machine": Machine(threads=1)}
    for task in CUT:
        for goal, strategy in (("lorahub", "anchor_random"), ("lorahub-clean", "rerank")):
            out = tmp_path / f"{task}-{goal}"
            options = PlanOptions(
                strategy=strategy, k=6, shots=5, tuning=0, heldout=40, composition="lorahub", adaptation="none",
                exclude=(f"acme/t5-{task}", "shots_lora"),
            )  # fmt: skip
            path = T5 / "tasks" / f"{task}.jsonl"
            run = ma.plan(
                path, pool=tmp_path / "pool", base=str(T5 / "base"), out=out, options=options, scored=False, **session
            )
            assert f"acme/t5-{task}" not in {member.id for member in run.recipe.members}
            tuned = ma.tune(
                out, options=TuneOptions(trials=40, sampler="lorahub", goal=goal), metric="exact_match", **session
            )
            assert tuned.recipe.composition == "lorahub"
            assert all(abs(member.weight) <= 1.5 for member in tuned.recipe.members)
            (score,) = tuned.scores
            assert score.metric == "exact_match" and len(score.row_digests) == 40
            # the search starts at the base, so what it keeps is no worse on the shots; the rest is in the table
            assert {"base", "majority", "uniform", "merge"} <= {model.label for model in score.models}


@pytest.mark.slow
def test_a_cut_of_the_pool_is_built(tmp_path: Path) -> None:
    """The script from nothing to the published layout, which PEFT reads as this package does."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    command = [sys.executable, str(ROOT / "scripts" / "build_t5_pool.py"), "--out", str(tmp_path), "--only", *CUT]
    done = subprocess.run([*command, "--base-steps", "20"], capture_output=True, text=True, check=True, timeout=900)
    assert done.stdout.count("\n") == 2 + len(CUT)
    for name in CUT:
        assert sorted(p.name for p in (tmp_path / "published" / name).iterdir()) == [
            "adapter_config.json",
            "adapter_model.bin",
        ]
        config = json.loads((tmp_path / "published" / name / "adapter_config.json").read_text())
        assert (config["r"], config["target_modules"], config["task_type"]) == (16, ["q", "v"], "SEQ_2_SEQ_LM")
    assert main(["convert", str(tmp_path / "published"), "--out", str(tmp_path / "pool")]) == 0
    with open_session(str(tmp_path / "base"), tmp_path / "pool", store=tmp_path / "store.sqlite") as session:
        backbone, candidate = session.model.backbone, session.pool.candidates[0]
        ids = torch.tensor([backbone.tokenizer("Tie the words together: ba bo")["input_ids"]])
        start = torch.zeros((1, 1), dtype=torch.long)
        with placed(backbone, session.weights.of(candidate)), torch.no_grad():
            ours = backbone.model(input_ids=ids, decoder_input_ids=start).logits
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
        with torch.no_grad():
            theirs = PeftModel.from_pretrained(model, candidate.path)(input_ids=ids, decoder_input_ids=start).logits
    assert torch.allclose(ours, theirs, atol=1e-4)
