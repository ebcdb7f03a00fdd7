"""Results kept in eval/ stay readable, and belong to the same setups as on the day they were measured."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor.benchmark.analysis.contrasts import answer_questions
from merge_advisor.benchmark.running.identity import setup_digests, setup_parts
from merge_advisor.benchmark.running.ledger import LEDGER_FILE, Ledger, key_of
from merge_advisor.benchmark.running.units import result_keys
from merge_advisor.benchmark.setup import read_setup
from merge_advisor.benchmark.values import Setup
from merge_advisor.json_form import digest_of, from_json, to_json

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "recipes" / "bench-demo.yaml"
BEFORE_ICL = ("bbh", "bigbench", "bigbench_again")
"""Benchmarks kept from before there were adaptations and the control `icl`."""
KEPT = {"bbh": 378, "bigbench": 1375, "bigbench_again": 468, "adaptations_few_confirm": 462}
"""Results kept of each benchmark."""


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a kept benchmark's folder: opening a ledger writes beside it."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    for name in ("setup.json", LEDGER_FILE):
        shutil.copy(ROOT / "eval" / folder.name / name, folder / name)
    return folder


def test_kept_results_can_be_read(kept: Path) -> None:
    with Ledger(kept) as ledger:
        results = ledger.results()
        assert len(results) == ledger.count() == KEPT[kept.name]
        assert frozenset(map(key_of, results)) == ledger.done()
        assert ledger.find(key_of(results[0])) == results[0]


def test_kept_results_were_made_for_their_setup(kept: Path) -> None:
    """What the ledger notes of its setup is what is computed from the setup today: the same folder can go on."""
    text = (kept / "setup.json").read_text()
    setup = from_json(Setup, text, "setup.json")
    with Ledger(kept) as ledger:
        noted = dict(ledger._file.rows("SELECT name, value FROM made_for"))
        computed = setup_digests(setup) | setup_parts(setup)
        elsewhere = {name: value for name, value in noted.items() if name not in computed}
        assert computed.items() <= noted.items()
        # these need the base and the pool
        assert sorted(elsewhere) == sorted(
            ["base", "pool", "prompt template", "dtype", "rows or families of the tasks"]
        )
        ledger.claim(setup_digests(setup) | elsewhere, setup_parts(setup))
    now, then = json.loads(to_json(setup)), json.loads(text)
    if kept.name in BEFORE_ICL:  # a key that came later, at a default that means what there was before
        assert all(arm.pop("adaptation") == "" for arm in now["arms"])
    assert now == then


def test_kept_results_give_the_answers_they_gave(kept: Path) -> None:
    setup = from_json(Setup, (kept / "setup.json").read_text(), "setup.json")
    with Ledger(kept) as ledger:
        answers = answer_questions(setup, ledger.results())
    with (ROOT / "eval" / kept.name / "tables" / "contrasts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(answers) == 1 + len(setup.secondaries)
    for row, answer in zip(rows, answers, strict=True):
        assert (row["better"], row["than"]) == (answer.question.better, answer.question.than)
        assert (row["standing"], row["reason"]) == (answer.standing, answer.reason)
        for name in ("mean", "lower", "upper", "sign_flip", "adjusted", "wilcoxon"):
            number = getattr(answer, name)
            # the table has ten digits
            assert (float(row[name]) if row[name] else None) == (None if number is None else float(f"{number:.10g}")), (
                name
            )


@pytest.mark.slow
@pytest.mark.parametrize("kept", BEFORE_ICL, indirect=True)
def test_a_ledger_begun_before_there_was_icl_goes_on_with_it(kept: Path) -> None:
    setup = from_json(Setup, (kept / "setup.json").read_text(), "setup.json")
    more = replace(setup, controls=("icl", *setup.controls))
    assert "icl" not in setup.controls and setup_digests(more) == setup_digests(setup)
    with Ledger(kept) as ledger:
        noted = dict(ledger._file.rows("SELECT name, value FROM made_for"))
        elsewhere = {name: value for name, value in noted.items() if name not in setup_parts(setup)}
        ledger.claim(elsewhere, setup_parts(more))
        assert len(ledger.results()) == KEPT[kept.name]
        assert "control icl" in dict(ledger._file.rows("SELECT name, value FROM made_for"))
        wanted = {result.unit.task for result in ledger.results()}
        left = [key for key in result_keys(more, sorted(wanted)) if key not in ledger.done()]
    assert {key.arm for key in left if key.arm in more.controls} >= {"icl"}


def test_the_digests_of_the_demo_setup_are_what_they_were() -> None:
    setup, _ = read_setup(DEMO)
    setup = replace(setup, controls=tuple(name for name in setup.controls if name != "icl"))  # which came later
    digests, parts = setup_digests(setup), setup_parts(setup)
    assert digest_of(digests) == "5706515d3455a0d6ed805e42a89d637e031e77636775c5e586274aaa4b92b6c9"
    assert digest_of(parts) == "c0b952f6f6e66eb9878a73a0124fb8317c19ed8ab7909a05cba72052b897b263"
    assert digests["primary"] == "c27574293e6ef88b32fc9a3100f53e5f7cfe5879bfbf56ae5608b1868f2a522f"
    assert digests["draws"] == "6df96ba7bfe4352c8607dedc8a7ff5b7cb4c5c447628c2cc5c6d5c1d77350b8d"
    assert parts["arm default"] == "9e14153406a2a56f262ebce23f7844a7549e59ded2e607f076e060be34ec33be"
    assert parts["arm weight_kinship"] == "586f5d42acfd5628a97789d853c5f13416fdd97b984c068c2bf0371718da746b"
    assert digest_of(to_json(setup)) == "1dc5c158613c43ebc0f9a08af26ba0f7a3a54d8ff87d7004a3d32acaeec42c23"
    assert from_json(Setup, json.dumps(json.loads(to_json(setup))), "setup") == setup
