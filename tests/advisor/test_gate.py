"""`gate`: exit codes, what a log says, JUnit and summary, nothing run twice, and every bad word one line."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from merge_advisor import plan
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.gating.gate import gate
from merge_advisor.advisor.gating.gated_model import KnownModel, find_gated
from merge_advisor.cli import main
from merge_advisor.errors import InputError, TaskError
from merge_advisor.gate_options import GateOptions
from merge_advisor.gate_values import GateOutcome, GateReport
from merge_advisor.json_form import from_json
from tests.support.gate_world import build_gate_world


@pytest.fixture(scope="module")
def world(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gate_world(tmp_path_factory.mktemp("gate") / "world", tiny_llama)


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(world / "cache"))
    return world


@pytest.fixture
def no_model_is_run(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes loading a base an error."""

    def forbid() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a base was loaded")

        monkeypatch.setattr("merge_advisor.advisor.measuring.prompted_model.PromptedModel.backbone", property(refuse))

    return forbid


def test_what_regressed_is_told_and_asked_again_nothing_runs(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_model_is_run: Callable[[], None]
) -> None:
    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    words = ["gate", "strong", "--baseline", "base", "--base", "base", "--task", "task.jsonl", "--guard", "guard.jsonl",
             "--junit", str(junit), "--summary", str(summary), "-q"]  # fmt: skip
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "guard guard failed: worse, -" in told and "below the margin, -0.050, beyond noise" in told
    assert "guard.jsonl:1 " in told and "gate failed: strong against base, on" in told
    assert "4 of 4 measurements run now, 260 forward passes over one row" in told
    cases = {case.get("name"): case for case in ET.parse(junit).getroot().iter("testcase")}
    assert set(cases) == {"task", "guard"}
    failure = cases["guard"].find("failure")
    assert failure is not None and "guard.jsonl:" in (failure.text or "")
    assert summary.read_text().startswith("# Model gate: failed\n") and "guard.jsonl:1 |" in summary.read_text()
    first = junit.read_bytes()

    no_model_is_run()
    assert main([*words, "--json"]) == 1
    report = from_json(GateReport, capsys.readouterr().out, "stdout")
    assert report.cost is not None and (report.cost.run, report.cost.kept) == (0, 4) and report.cost.seconds_kept > 0
    assert junit.read_bytes() == first
    guard = next(check for check in report.checks if check.kind == "guard")
    assert guard.difference < -0.05 and guard.upper < guard.bar == -0.05
    assert guard.worse[0].change == min(row.change for row in guard.worse)
    # what was measured for a failure serves any other question about these two
    task = gate("base", "strong", [Path("task.jsonl")], base="base").checks[0]
    other = next(check for check in report.checks if check.kind == "task")
    assert (task.difference, task.lower) == pytest.approx((-other.difference, -other.upper))


def test_a_model_next_to_the_baseline_passes_and_few_rows_cannot_tell(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["gate", "slight", "--baseline", "base", "--base", "base", "-q"]
    assert main([*words, "--task", "task.jsonl", "--guard", "guard.jsonl", "--price-per-hour", "3600"]) == 0
    told = capsys.readouterr().out
    assert "gate passed: slight against base on 2 of 2 checks" in told and " s (" in told
    few = tmp_path / "few.jsonl"
    few.write_text("".join(Path("task.jsonl").read_text().splitlines(keepends=True)[:20]))
    assert main([*words, "--task", str(few)]) == 4
    told = capsys.readouterr().out
    assert "on 20 rows, and at least 30 decide" in told and "gate cannot tell" in told
    one, text = tmp_path / "one.jsonl", tmp_path / "text.jsonl"
    one.write_text(Path("task.jsonl").read_text().splitlines(keepends=True)[0])
    text.write_text('{"text": "one text"}\n')
    assert main([*words, "--task", str(one), "--task", "task.jsonl", "--guard", str(text)]) == 4
    told = capsys.readouterr().out
    assert "task one cannot tell: 1 row, and at least 30 decide; nothing was run" in told
    assert "guard text cannot tell: 1 text, and at least 30 decide" in told and "task task passed" in told
    one.write_text("")
    assert main([*words, "--task", str(one)]) == 2
    assert "one.jsonl" in capsys.readouterr().err
    assert main([*words, "--task", "task.jsonl", "--min-gain", "0"]) == 4
    assert main([*words, "--task", "task.jsonl", "--min-gain", "30"]) == 1
    assert "no such gain" in capsys.readouterr().out


def test_one_model_under_two_names_passes_without_being_run(
    here: Path, no_model_is_run: Callable[[], None], tmp_path: Path
) -> None:
    no_model_is_run()
    (tmp_path / "other").symlink_to(here / "strong")
    same = gate("strong", str(tmp_path / "other"), [Path("task.jsonl")], [Path("guard.jsonl")], base="base")
    assert same.outcome == GateOutcome.PASSED and same.candidate.digest == same.baseline.digest
    assert all("nothing was run" in check.reason for check in same.checks)
    demanded = gate("strong", "strong", [Path("task.jsonl")], base="base", options=GateOptions(min_gain=0.0))
    assert demanded.outcome == GateOutcome.FAILED and "is demanded" in demanded.checks[0].reason


def test_a_run_is_judged_by_its_own_template_without_the_rows_it_learned_from(
    here: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    options = PlanOptions(strategy="top_k", k=1, adaptation="none", template="plain", shots=8, tuning=4)
    run = plan("task.jsonl", pool=str(tiny_pool), base="base", out=tmp_path / "run", options=options, scored=False)
    found = gate(str(run.folder), "base", [Path("task.jsonl")], base="base")
    assert found.candidate.kind == "run" and found.candidate.template == found.baseline.template == "plain"
    assert found.checks[0].rows == 90 - 12
    assert "task: rows left out, as a run learned from them: 12" in found.notes
    seen = {row.place for row in (*run.tasks[0].shots, *run.tasks[0].tuning)}
    assert seen.isdisjoint(row.place for row in found.checks[0].worse)
    learned = tmp_path / "learned.jsonl"
    learned.write_text("".join(json.dumps({"input": row.input, "output": row.output}) + "\n" for row in
                               run.tasks[0].shots))  # fmt: skip
    with pytest.raises(TaskError, match="rows that no run learned from"):
        gate(str(run.folder), "base", [learned])


def test_a_run_whose_model_is_a_prompt_is_asked_with_its_examples(here: Path, tiny_pool: Path, tmp_path: Path) -> None:
    options = PlanOptions(strategy="top_k", k=1, adaptation="prompt", shots=4, tuning=2)
    run = plan("task.jsonl", pool=str(tiny_pool), base="base", out=tmp_path / "run", options=options, scored=False)
    found = gate(str(run.folder), "base", [Path("task.jsonl")], [Path("guard.jsonl")], base="base")
    task, guard = found.checks
    assert found.candidate.digest != found.baseline.digest and task.rows == 90 - 6
    # its examples reach no plain text: on the guard it is the base
    assert guard.difference == 0.0 and not guard.worse


def test_models_of_two_bases_are_compared_by_what_they_answer(here: Path, wide_llama: Path) -> None:
    found = gate(str(wide_llama), "base", [Path("task.jsonl")])
    assert found.checks[0].metric == "accuracy" and found.checks[0].baseline is not None
    assert found.candidate.digest != found.baseline.digest


def test_losses_over_two_tokenizers_are_refused(here: Path, wide_llama: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(wide_llama, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<padding>"
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="different tokenizers"):
        gate(str(other), "base", [Path("task.jsonl")], [Path("guard.jsonl")])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("slight --base base --task task.jsonl", "give --baseline MODEL"),
        ("--baseline base --task task.jsonl", "no MODEL to judge"),
        ("slight --baseline base --base base", "no rows to judge on; give --task FILE, or --guard FILE"),
        ("slight --baseline base --task task.jsonl", "slight: is an adapter; name its base by --base"),
        ("nowhere --baseline base --task task.jsonl", "nowhere: no such folder"),
        ("cache --baseline base --task task.jsonl", "cache: is no model"),
        ("slight --baseline hub:law --base base --task task.jsonl", "hub:law: no hub folder is named"),
        ("slight --baseline base --base base --task absent.jsonl", "absent.jsonl"),
        ("slight --baseline base --base base --task task.jsonl --guard absent.jsonl", "absent.jsonl: cannot be read"),
        ("slight --baseline base --base base --task task.jsonl --task task.jsonl", "2 files make a task task"),
        ("slight --baseline base --base base --task task.jsonl --metric f1", "metric 'f1' is unknown"),
        ("slight --baseline base --base base --task task.jsonl --margin 0", "--margin 0: give more than 0"),
        ("slight --baseline base --base base --task task.jsonl --once", "--once and --judge-known go with --watch"),
        ("slight --watch pool --base base --task task.jsonl", "MODEL and --watch are two things"),
        ("--watch pool --base base --task task.jsonl --junit a.xml", "--junit and --summary are of one MODEL"),
        ("--watch pool --base base --once", "no task is known"),
        ("--watch pool --task task.jsonl --once", "give --base"),
        ("--watch nowhere --base base --task task.jsonl --once", "nowhere"),
    ],
)
def test_bad_words_are_one_line(here: Path, words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "cache").mkdir(exist_ok=True)
    assert main(["gate", *words.split(), "-q"]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("merge-advisor: error:")]
    assert out == "" and len(lines) == 1 and said in lines[0], err


def test_the_models_of_a_hub_folder_are_named_by_their_id(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "slight --baseline hub:strong --base base --task task.jsonl --cache cache -q"
    assert main(["gate", *words.split()]) == 2
    assert "hub:strong: no hub folder is named; give --hub DIR" in capsys.readouterr().err
    assert main("hub add . --hub kept --base base --include strong --cache cache -q".split()) == 0
    capsys.readouterr()
    told = []
    for asked in (f"{words} --hub kept", words.replace("hub:", "")):
        code = main(["gate", *asked.split(), "--json"])
        report = json.loads(capsys.readouterr().out)
        del report["cost"]  # what was measured before is not measured again
        told.append((code, report))
    by_id, by_folder = told
    assert by_id[1]["baseline"].pop("word") == "hub:strong" and by_folder[1]["baseline"].pop("word") == "strong"
    assert by_id == by_folder
    assert main("hub list --runs --json --hub kept".split()) == 0
    listed = json.loads(capsys.readouterr().out)
    # the one that named the hub, and not the other one, which did not
    (gate_listed,) = listed["judged"]
    assert (gate_listed["kind"], gate_listed["model"], gate_listed["against"]) == ("gate", "slight", "hub:strong")
    assert gate_listed["tasks"] == ["task task"] and gate_listed["outcome"] == by_id[1]["outcome"]
    took = gate_listed["cost"]
    assert took["candidates"] == 1 and took["every_candidate_forwards"] == 90 and took["every_candidate_seconds"] > 0
    assert main("hub list --runs --hub kept --price-per-hour 3600".split()) == 0
    shown = capsys.readouterr().out
    judged = f"1 gate, models judged for watched pools among them: {took['forwards']} forward passes and "
    assert "no runs planned from it yet" in shown and judged in shown
    assert "instead: scoring every candidate on the rows of it: 90 forward passes, " in shown and " s (" in shown
    assert main(["gate", *words.replace("hub:strong", "hub:weak").split(), "--hub", "kept"]) == 2
    assert "weak" in capsys.readouterr().err


def test_a_hub_word_is_found_by_whoever_knows_the_hub(here: Path) -> None:
    found = find_gated("hub:law", find_in_hub=lambda name: {"law": KnownModel("strong")}[name])
    assert (found.word, found.kind, found.place) == ("hub:law", "adapter", "strong")
    with pytest.raises(InputError, match=r"hub:law: its folder nowhere is gone; put it back, or name"):
        find_gated("hub:law", find_in_hub=lambda _: KnownModel("nowhere"))


def test_two_adapters_of_a_hub_folder_need_no_base(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It knows their base and template; one that has changed since it was added is refused."""
    shutil.copytree("slight", "mine/slight")
    shutil.copytree("strong", "mine/strong")
    add = "hub add mine --hub both --base base --template plain --cache cache -q"
    assert main(add.split()) == 0
    words = "gate hub:slight --baseline hub:strong --hub both --task task.jsonl --cache cache -q".split()
    capsys.readouterr()
    code = main([*words, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code in (0, 1, 4) and {report[side]["template"] for side in ("candidate", "baseline")} == {"plain"}
    assert main([*words[:1], "slight", *words[2:], "--json", "--base", "base", "--template", "plain"]) == code
    by_folder = json.loads(capsys.readouterr().out)
    assert by_folder["candidate"]["digest"] == report["candidate"]["digest"] and by_folder["checks"] == report["checks"]
    shutil.rmtree("mine/slight")
    shutil.copytree("strong", "mine/slight")
    assert main(words) == 2
    assert "hub:slight: has other weights than were added to the hub folder; add it again" in capsys.readouterr().err


def test_a_task_of_lm_eval_is_refused_with_what_to_do(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("slight --baseline strong", "--watch . --once"):
        assert main(["gate", *words.split(), "--base", "base", "--task", "lm-eval:arc_easy", "-q"]) == 2
        said = capsys.readouterr().err
        assert "a gate judges rows, of a file or a data set (hf:NAME:SPLIT), not tasks of lm-eval" in said
        assert "compare what `merge-advisor score` says of both models" in said and said.count("\n") == 1
