"""Tasks of lm-eval: a local folder of them, with and without code, scored and planned for."""

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions, TaskName
from merge_advisor.advisor.runs.run_folder import Run
from merge_advisor.backbone.model import Backbone
from merge_advisor.cli import main
from merge_advisor.errors import ExternalError, OfflineError, TaskError
from merge_advisor.evaluators.lm_eval_process import jinja_sandbox
from merge_advisor.evaluators.lm_eval_requests import build_requests, evaluate_requests, primary_metric
from merge_advisor.evaluators.lm_eval_rows import lm_eval_rows
from merge_advisor.evaluators.lm_eval_task_code import read_task_yaml, task_code
from merge_advisor.evaluators.lm_eval_tasks import LmEvalTask, load_tasks
from merge_advisor.limits import LIMITS_VARIABLE
from merge_advisor.options import FinetuneSettings
from merge_advisor.scores import ModelScore
from merge_advisor.types import Row
from merge_advisor.verdict import judge

TASKS = {
    "pick": """
        output_type: multiple_choice
        training_split: train
        test_split: test
        doc_to_text: "Is {{question}} even?"
        doc_to_choice: ["yes", "no"]
        doc_to_target: "{{answer}}"
        num_fewshot: 2
        metric_list: [{metric: acc}, {metric: acc_norm}]
    """,
    "say": """
        output_type: generate_until
        training_split: train
        test_split: test
        doc_to_text: "Q: {{question}}\\nA:"
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
        metric_list: [{metric: exact_match}]
    """,
    "follow": """
        output_type: loglikelihood
        test_split: test
        doc_to_text: "{{question}} is"
        doc_to_target: " {{answer}}"
        metric_list: [{metric: perplexity}]
    """,
    "whole": """
        output_type: loglikelihood_rolling
        test_split: test
        doc_to_text: ""
        doc_to_target: "{{question}} is {{answer}}"
        metric_list: [{metric: word_perplexity}]
    """,
    "coded": """
        output_type: generate_until
        test_split: test
        doc_to_text: !function helper.ask
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["\\n"], max_gen_toks: 3}
        metric_list: [{metric: exact_match}]
    """,
    "bend": """
        output_type: generate_until
        test_split: test
        doc_to_text: "{{ question.__class__.__mro__[1].__subclasses__() | length }}"
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["\\n"], max_gen_toks: 3}
        metric_list: [{metric: exact_match}]
    """,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    for split, numbers in (("train", range(40)), ("test", range(100, 124))):
        lines = [json.dumps({"question": f"{n}", "answer": ("yes", "no")[n % 2]}) for n in numbers]
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    data = {"train": str(root / "train.jsonl"), "test": str(root / "test.jsonl")}
    shared = f"dataset_path: json\ndataset_kwargs: {json.dumps({'data_files': data, 'cache_dir': str(root / 'hf')})}\n"
    for name, text in TASKS.items():
        (root / f"{name}.yaml").write_text(f"task: {name}\ntag: [everything]\n{shared}{textwrap.dedent(text)}")
    (root / "helper.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
        "def ask(doc):\n    return 'Q: ' + doc['question']\n"
    )
    (root / "both.yaml").write_text("group: both\ntask: [say, pick]\n")
    (root / "written.yaml").write_text("group: written\ntask:\n  - {task: mine, dataset_path: json}\n")
    hidden = "include: coded.yaml\ntask: hidden\ndoc_to_text: 'Q: {{question}}'\n"
    (root / "hidden.yaml").write_text(hidden)
    return root


def load(folder: Path, name: str, trusted: bool = False) -> LmEvalTask:
    task = load_tasks(TaskName(name, folder, trusted))[0]
    assert task is not None
    return task


@pytest.mark.parametrize("name", ["pick", "say", "follow", "whole"])
def test_values_are_those_of_lm_eval_alone(backbone: Backbone, folder: Path, name: str) -> None:
    """Per row and in the mean: lm-eval run by itself on the same model, as its command line runs it."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    datasets.disable_progress_bars()
    asked = build_requests(load(folder, name))
    found = evaluate_requests(asked, backbone, "it")
    kind = "seq2seq" if backbone.encoder_decoder else "causal"
    alone = simple_evaluate(
        HFLM(pretrained=backbone.model, tokenizer=backbone.tokenizer, backend=kind, batch_size=8),
        tasks=[name], task_manager=TaskManager(include_path=str(folder), include_defaults=False), bootstrap_iters=0,
    )  # fmt: skip
    samples, result = alone["samples"][name], alone["results"][name]
    assert len(asked.logs) == len(set(asked.row_digests)) == len(samples) == 24
    assert [log.prompt for log in asked.logs] == ["" if name == "whole" else one["arguments"][0][0] for one in samples]
    if name == "pick":
        assert found.rows["accuracy"] == tuple(one["acc"] for one in samples)
        assert found.metrics["accuracy"] == result["acc,none"] and found.metrics["acc_norm"] == result["acc_norm,none"]
        assert asked.logs[1].choices == ("yes", "no") and asked.logs[1].wanted == "no"
        assert asked.logs[1].prompt.count("Is ") == 3
        assert set(found.outputs) <= {"yes", "no"}
    elif name == "say":
        assert found.rows.keys() == {"exact_match"}
        assert found.outputs == tuple(one["filtered_resps"][0] for one in samples)
    else:
        totals = [one["filtered_resps"][0] for one in samples]
        totals = [total[0] if name == "follow" else total for total in totals]
        texts = [f" {log.wanted}".replace("  ", " ") if name == "follow" else log.wanted for log in asked.logs]
        counts = [len(backbone.tokenizer(text)["input_ids"]) for text in texts]
        expected = [-total / count for total, count in zip(totals, counts, strict=True)]
        assert found.rows.keys() == {"loss"} and found.rows["loss"] == pytest.approx(expected, rel=1e-4)
    assert primary_metric(asked, found) == {"pick": "accuracy", "say": "exact_match"}.get(name, "loss")


def test_every_model_is_asked_the_same_again_and_again(llama: Backbone, folder: Path) -> None:
    """Few shots are drawn from a seed: no model, and no order, changes them."""
    task = load(folder, "pick")
    one, other = build_requests(task), build_requests(load(folder, "pick"))
    first = evaluate_requests(one, llama, "it")
    assert evaluate_requests(one, llama, "it") == first == evaluate_requests(other, llama, "it")
    assert one.digest == other.digest and one.logs == other.logs
    assert build_requests(task, limit=5).digest != one.digest and len(build_requests(task, limit=5).logs) == 5
    assert evaluate_requests(build_requests(task, limit=5), llama, "it").rows["accuracy"] == first.rows["accuracy"][:5]


def test_documents_the_plan_learned_from_are_left_out(llama: Backbone, folder: Path) -> None:
    task = load(folder, "say")
    whole = build_requests(task)
    first = evaluate_requests(whole, llama, "it")
    left = build_requests(task, seen=["Q: 100\nA:", "Q: 103\nA:"])
    assert left.row_digests == tuple(d for at, d in enumerate(whole.row_digests) if at not in (0, 3))
    some = evaluate_requests(build_requests(task, seen=["Q: 100\nA:"], limit=4), llama, "it")
    assert some.outputs == first.outputs[1:5]
    with pytest.raises(TaskError, match="every document"):
        build_requests(task, seen=[f"Q: {n}\nA:" for n in range(100, 124)])


def test_code_runs_only_where_it_is_trusted(llama: Backbone, folder: Path) -> None:
    for name in ("coded", "hidden"):  # hidden overrides the function that its include names: lm-eval imports it anyway
        with pytest.raises(TaskError, match=r"runs code of its own \(!function helper.ask.*`trusted=True`"):
            load(folder, name)
    assert not (folder / "ran").exists()
    found = evaluate_requests(build_requests(load(folder, "coded", trusted=True)), llama, "it")
    assert (folder / "ran").exists() and "exact_match" in found.rows


def test_templates_are_rendered_in_a_sandbox(folder: Path) -> None:
    with pytest.raises(ExternalError, match=r"unsafe.*`trusted=True`"):
        load(folder, "bend")
    assert load(folder, "bend", trusted=True).task.doc_to_text({"question": "1"}).isdigit()
    from lm_eval import utils

    plain = utils.env
    with jinja_sandbox():
        assert utils.env is not plain and utils.apply_template("{{ a.strip() }}", {"a": " x "}) == "x"
    assert utils.env is plain


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("process_docs: !function m.f", "!function m.f"),
        ("a: [{b: {!function m.f : 1}}]", "!function m.f"),
        ("class: m.C", "class: m.C"),
        ("use_prompt: promptsource:x", "use_prompt"),
        ("unsafe_code: true", "unsafe_code"),
        ("metric_list: [{metric: ./mine}]", "metric ./mine"),
        ("metric_list: [{metric: acc, hf_evaluate: true}]", "metric acc"),
        ("dataset_path: pandas", "dataset_path pandas"),
        ("dataset_path: ./folder", "dataset_path ./folder"),
        ("dataset_path: webdataset", "dataset_path webdataset"),
        ("dataset_kwargs: {trust_remote_code: true}", "trust_remote_code"),
    ],
)
def test_what_runs_code(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"task: t\n{text}\n")
    assert reason in "; ".join(task_code(path))
    (tmp_path / "outer.yaml").write_text("include: t.yaml\ntask: outer\n")
    assert reason in "; ".join(task_code(tmp_path / "outer.yaml"))


def test_what_does_not_run_code(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("task: t\ndataset_path: org/name\nmetric_list: [{metric: acc}, {metric: exact_match}]\n")
    assert task_code(path) == []
    path.write_text("include: t.yaml\n")
    with pytest.raises(ValueError, match="includes itself"):
        read_task_yaml(path)


def test_names_that_are_none(folder: Path) -> None:
    with pytest.raises(TaskError, match="no such folder"):
        load_tasks(TaskName("pick", folder / "absent"))
    with pytest.raises(TaskError, match="a group that holds a task written out in it"):
        load_tasks(TaskName("written", folder))


def test_groups_stand_for_their_tasks(folder: Path) -> None:
    assert [task.name for task in load_tasks(TaskName("both", folder))] == ["lm-eval:pick", "lm-eval:say"]


def test_a_task_of_lm_evals_own_is_found_fast_and_its_data_is_not_here() -> None:
    with pytest.raises(OfflineError, match="lm-eval:arc_easy: data set allenai/ai2_arc is not in the cache"):
        load_tasks(TaskName("arc_easy"), offline=True)
    with pytest.raises(TaskError, match=r"lm-eval:hellaswag: hellaswag.yaml runs code of its own"):
        load_tasks(TaskName("hellaswag"), offline=True)


@pytest.mark.slow  # reads all of lm-eval's own YAML
def test_unknown_names_and_tags(folder: Path) -> None:
    with pytest.raises(TaskError, match=r"no such task; near names: .*hellaswag"):
        load_tasks(TaskName("helaswag", folder))
    with pytest.raises(TaskError, match="lm-eval:coded"):
        load_tasks(TaskName("everything", folder))
    assert len(load_tasks(TaskName("everything", folder, trusted=True))) == len(TASKS) + 1


def test_data_that_is_not_there(tmp_path: Path) -> None:
    text = "task: t\noutput_type: generate_until\ntest_split: test\ndoc_to_text: x\ndoc_to_target: y\n"
    path = tmp_path / "t.yaml"
    path.write_text(text + "dataset_path: json\ndataset_kwargs: {data_files: {test: absent.jsonl}}\n")
    with pytest.raises(TaskError, match=r"absent.jsonl.*current folder"):
        load_tasks(TaskName("t", tmp_path))
    path.write_text(text + "dataset_path: nobody/nothing\n")
    with pytest.raises(OfflineError, match="nobody/nothing is not in the cache"):
        load_tasks(TaskName("t", tmp_path), offline=True)


def test_a_metric_that_no_verdict_can_rest_on(folder: Path) -> None:
    asked = build_requests(load(folder, "pick"))
    score = ModelScore("it", {}, {"accuracy": (1.0, 0.0), "acc_norm": (0.5, 2.0), "loss": (1.0, 2.0)})
    assert primary_metric(asked, score, "acc") == "accuracy" and primary_metric(asked, score, "loss") == "loss"
    for name in ("acc_norm", "bleu"):
        with pytest.raises(TaskError, match="choose one of: accuracy, loss"):
            primary_metric(asked, score, name)
    with pytest.raises(TaskError, match="no metric of it has a value per row"):
        primary_metric(asked, ModelScore("it", {}, {"acc_norm": (0.5, 2.0)}))


def test_documents_as_rows(folder: Path) -> None:
    rows = lm_eval_rows(load(folder, "pick"))
    assert len(rows.learning) == 40 and len(rows.heldout) == 24 and rows.notes == ()
    assert rows.learning[1] == Row("Is 1 even?", "no", ("yes", "no"))
    fewer = lm_eval_rows(load(folder, "say"), heldout=6)
    assert [row.input for row in fewer.heldout[:2]] == ["Q: 100\nA:", "Q: 104\nA:"]
    assert fewer.heldout[0].choices is None and "6 of 24 documents are held out" in fewer.notes[0]
    with pytest.raises(TaskError, match="no split beside the one it is scored on"):
        lm_eval_rows(load(folder, "follow"))
    with pytest.raises(TaskError, match="no rows of prompt and answer"):
        lm_eval_rows(load(folder, "whole"))


def test_documents_beyond_the_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan leaves large ones out and says so, as of any data set; a score of lm-eval's is of all, or of none."""
    monkeypatch.setenv(LIMITS_VARIABLE, "row_bytes=18")
    found = lm_eval_rows(load(folder, "pick"))
    assert len(found.learning) == 25 and not found.heldout
    remedies = [note.partition(f"set {LIMITS_VARIABLE}=")[2] for note in found.notes]
    assert "15 learned documents left out: each has more than row_bytes, 18 B; to take them, set" in found.notes[0]
    monkeypatch.setenv(LIMITS_VARIABLE, remedies[1])
    assert len(lm_eval_rows(load(folder, "pick")).heldout) == 24
    monkeypatch.setenv(LIMITS_VARIABLE, "row_bytes=10")
    with pytest.raises(TaskError, match="lm-eval:pick: document 0 has more than row_bytes, 10 B; take another") as said:
        build_requests(load(folder, "pick"))
    monkeypatch.setenv(LIMITS_VARIABLE, str(said.value).partition(f"set {LIMITS_VARIABLE}=")[2])
    assert build_requests(load(folder, "pick")).logs
    monkeypatch.setenv(LIMITS_VARIABLE, "task_rows=23")
    for read in (build_requests, lm_eval_rows):
        with pytest.raises(TaskError, match="lm-eval:pick: a split holds more than task_rows, 23 documents; take"):
            read(load(folder, "pick"))
    monkeypatch.setenv(LIMITS_VARIABLE, "setup_bytes=10")
    with pytest.raises(TaskError, match=r"yaml: has more than setup_bytes, 10 B; this is no task; if it is one, set"):
        load(folder, "pick")


@pytest.fixture(scope="module")
def run(folder: Path, tiny_llama: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("lm-eval-run")
    return ma.plan(
        lm_eval=[TaskName("pick", folder)], pool=tiny_pool, base=str(tiny_llama), out=place / "run",
        cache=place / "cache",
        options=PlanOptions(
            k=2, adaptation="none", shots=8, strategy="random", finetune=FinetuneSettings(rank=2, steps=4)
        ),
    )  # fmt: skip


def test_a_plan_for_a_task_of_lm_eval(run: Any) -> None:
    (task,) = run.tasks
    assert task.name == "lm-eval:pick" and len(task.shots) == 8 and len(task.heldout) == 24 and task.tuning
    assert {row.input for row in task.heldout} == {f"Is {n} even?" for n in range(100, 124)}
    assert run.scores[0].metric == "accuracy" and run.plan.environment.paths["task lm-eval:pick"] == "lm-eval:pick"
    assert run.scores[0].template == "alpaca" and "### Instruction:\nIs 1" in run.scores[0].logs[0].prompt


def test_a_run_is_scored_on_tasks_of_lm_eval(run: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache", str(run.folder.parent / "cache"), "--lm-eval-include", str(folder)]
    assert main(["score", str(run.folder), "--lm-eval-task", "say", "--limit", "10", "--json", "-q", *cache]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert [score["task"] for score in scores] == ["lm-eval:pick", "lm-eval:say"]
    found = scores[1]
    assert found["metric"] == "exact_match" and len(found["row_digests"]) == len(found["logs"]) == 10
    assert found["template"] == "lm-eval:say, 0 few-shot examples" and found["logs"][0]["prompt"] == "Q: 100\nA:"
    labels = [model["label"] for model in found["models"]]
    assert {"base", "anchor", "shots_lora", "uniform", "merge"} <= set(labels)
    assert {one["against"] for one in found["comparisons"]} == set(labels) - {"merge"}
    assert (run.folder / "score" / "lm-eval-say.json").is_file()
    report = (run.folder / "report.md").read_text()
    assert "Scores: lm-eval:say" in report.replace("\\", "") and "Scores: lm-eval:pick" in report.replace("\\", "")
    # again, and another one: what is there stays, nothing is asked again
    again = ma.advisor.score(run.folder, lm_eval=[TaskName("say", folder)], limit=10, cache=run.folder.parent / "cache")
    assert [score.task for score in again.scores] == ["lm-eval:pick", "lm-eval:say"]
    follow = ["score", str(run.folder), "--lm-eval-task", "follow", "--limit", "4", "--metric", "loss", *cache]
    assert main(follow) == 0
    assert "lm-eval:follow: loss on 4 held-out rows" in capsys.readouterr().out


def test_a_model_is_scored_on_tasks_of_lm_eval(
    folder: Path, tiny_llama: Path, tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--lm-eval-include", str(folder), "--cache", str(tmp_path), "--limit", "6"]
    assert (
        main(["score", str(tiny_pool / "a0"), "--base", str(tiny_llama), "--lm-eval-task", "both", "--json", *where])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["lm-eval:pick", "lm-eval:say"]
    assert [model["label"] for model in found["lm-eval:pick"]] == ["base", "a0"]
    assert len(found["lm-eval:say"][0]["rows"]["exact_match"]) == 6


def error_of(capsys: pytest.CaptureFixture[str], *arguments: int | Path | str) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("merge-advisor: error:")]
    assert out == "" and len(lines) == 1 and "Traceback" not in err
    return lines[0]


def test_bad_input_is_one_line(
    run: Any,
    folder: Path,
    tiny_llama: Path,
    tiny_pool: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    here = ("--pool", tiny_pool, "--base", tiny_llama, "--cache", tmp_path / "cache")
    tasks = ("--lm-eval-include", folder, "--lm-eval-task")
    assert "give --task FILE or --lm-eval-task NAME" in error_of(capsys, "plan", *here)
    assert "go with --lm-eval-task" in error_of(capsys, "plan", *here, "--task", "x.jsonl", "--trust-task-code")
    assert "--trust-task-code" in error_of(capsys, "plan", *here, *tasks, "coded")
    assert "nothing to learn from" in error_of(capsys, "plan", *here, *tasks, "follow", "--dry-run")
    assert "goes with --task" in error_of(capsys, "plan", *here, *tasks, "pick", "--heldout", "rows.jsonl")
    assert "metric 'acc_norm' is unknown" in error_of(capsys, "plan", *here, *tasks, "pick", "--metric", "acc_norm")
    assert "at least 1" in error_of(capsys, "score", run.folder, *tasks, "pick", "--limit", 0)
    assert "goes with --lm-eval-task" in error_of(capsys, "score", run.folder, "--limit", 3)
    assert "no metric 'bleu' per row" in error_of(
        capsys,
        "score",
        run.folder,
        *tasks,
        "say",
        "--limit",
        10,
        "--metric",
        "bleu",
        "--cache",
        run.folder.parent / "cache",
    )
    assert not list(tmp_path.glob("runs/*"))


def test_a_verdict_on_a_metric_between_right_and_wrong() -> None:
    base = ModelScore("base", {"f1": 0.2}, {"f1": (0.1, 0.2, 0.3, 0.2)})
    merge = ModelScore("merge", {"f1": 0.8}, {"f1": (0.75, 0.8, 0.85, 0.8)})
    verdict, reason, (found,) = judge([base, merge], "f1", ("a", "b", "c", "d"))
    assert verdict == "merge" and found.difference == pytest.approx(0.6) and found.lower > 0.5 and "points" in reason
