"""LoraHub's setup on encoder-decoders: its exact match, its BBH tasks in lm-eval, the recipe, a small T5 pool."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from merge_advisor import registry, templates
from merge_advisor.backbone.finetune import FinetuneSettings, finetune_lora
from merge_advisor.backbone.forward import encode
from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.benchmark.values import Setup
from merge_advisor.errors import SpecError
from merge_advisor.evaluators.fast import Fast, row_values
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.evaluators.lm_eval_tasks import TaskName, ask, evaluate, load_tasks
from merge_advisor.evaluators.rules import majority_score, same
from merge_advisor.pool.plain_yaml import load_yaml
from merge_advisor.pool.sources import find_models
from merge_advisor.types import Row, from_json

ROOT = Path(__file__).parents[1]
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
def test_when_a_text_is_the_output(said, wanted, plain, lorahub):
    assert (same(said, wanted), same(said, wanted, "lorahub")) == (plain, lorahub)
    score = majority_score([Row("x", wanted)], said, "exact_match", exact_match="lorahub")
    assert score.metrics == {"exact_match": float(lorahub)}


def test_a_rule_nobody_knows_is_an_error():
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
def t5(tiny_t5):
    """The tiny T5 with a LoRA that knows a few answers by heart."""
    backbone = load_backbone(tiny_t5, threads=1)
    texts = [(BARE.prompt(row.input), row.output) for row in LEARNED]
    names = [name for name in backbone.parameters if name.split(".")[-2] in ("q", "k", "v", "o", "wi_0", "wi_1", "wo")]
    settings = FinetuneSettings(rank=8, lr=2e-2, steps=180)
    delta = finetune_lora(backbone, encode(backbone, texts, max_length=128), names, settings, seed=0).delta
    with placed(backbone, delta):
        yield backbone


def test_both_scorers_match_as_lorahub_does(t5):
    def score(evaluator, rows):
        return evaluator.score(t5.model, t5.tokenizer, rows, BARE, label="it", metric="exact_match")

    theirs = score(LmEval(exact_match="lorahub", max_new_tokens=12), ASKED)
    ours = score(Fast(exact_match="lorahub", max_new_tokens=12), ASKED)
    assert (ours.outputs, ours.rows["exact_match"]) == (theirs.outputs, theirs.rows["exact_match"])
    found = row_values(t5, ASKED, BARE, "exact_match", max_new_tokens=12, exact_match="lorahub")
    assert tuple(found) == ours.rows["exact_match"]
    assert ours.outputs[:5] == tuple(row.output for row in LEARNED)
    assert ours.rows["exact_match"][:7] == (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert sum(score(Fast(), ASKED).rows["exact_match"]) == 0


def test_bbh_in_lm_eval_is_lorahubs(t5, tmp_path, monkeypatch):
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
    asked = ask(load_tasks(TaskName("bbh_lorahub_web_of_lies", folder))[0])
    assert [log.prompt for log in asked.logs] == [row.input for row in ASKED]
    assert asked.found.task.config.generation_kwargs["max_gen_toks"] == 256
    theirs = evaluate(asked, t5, "it")
    ours = Fast(exact_match="lorahub", max_new_tokens=256).score(
        t5.model, t5.tokenizer, ASKED, BARE, label="it", metric="exact_match"
    )
    assert theirs.rows["exact_match"][:7] == ours.rows["exact_match"][:7] == (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    assert theirs.outputs[:7] == ours.outputs[:7]


def read_setup(path):
    return from_json(Setup, json.dumps(load_yaml(path.read_text())), path.name)


def test_the_published_setup():
    setup = read_setup(ROOT / "recipes" / "flan-t5-bbh.yaml")
    assert (setup.exact_match, setup.max_new_tokens, setup.template) == ("lorahub", 256, "bare")
    arms = {arm.name: arm for arm in setup.arms}
    assert len(arms) == len(setup.arms) == 8
    for question in (setup.primary, *setup.secondaries):
        assert {question.better, question.than} <= arms.keys()
        assert question.k in setup.k and question.view in setup.views
    for arm in setup.arms:
        assert registry.build("strategy", arm.strategy)
        assert arm.composition == "lorahub"
        assert (arm.tuner.sampler, arm.tuner.trials) == ("lorahub", 40)
        assert arm.tuner.objective == ("lorahub-clean" if arm.name.endswith("-clean") else "lorahub")
    families = json.loads((ROOT / "recipes" / setup.tasks.families).read_text())
    assert (len(families), len(set(families.values()))) == (27, 23)
    listed = {path.stem for path in (ROOT / "eval" / "bbh_lorahub").glob("*.yaml")} - {"_lorahub", "bbh_lorahub"}
    assert listed == set(families)
    pool = find_models(ROOT / "recipes" / setup.pool)
    assert (len(pool.models), pool.template) == (196, "bare")
    assert all(model.hub.repo.startswith("lorahub/flan_t5_large-") for model in pool.models)


def test_the_published_modules_are_those_of_the_list(shared):
    names = (shared / "data" / "lorahub_modules.txt").read_text().split()
    assert [model.id for model in find_models(ROOT / "recipes" / "flan-t5-modules.yaml").models] == names


@pytest.fixture(scope="module")
def rows():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield runpy.run_path(str(ROOT / "scripts" / "t5_rows.py"))
    sys.path.remove(str(ROOT / "scripts"))


def test_rows_of_the_small_pool(rows):
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
