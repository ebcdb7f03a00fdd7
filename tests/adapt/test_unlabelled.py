"""Training on inputs without outputs: what is trained on, who judges it, what is kept, what is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import merge_advisor as ma
from merge_advisor.adapt.coefficients import Coefficients
from merge_advisor.adapt.unlabelled import settings_on_inputs, without_outputs
from merge_advisor.adapt.values import Adapted, Trained, TrainingRecord, TrainingRequest
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.planning.dry_run import describe_plan
from merge_advisor.advisor.runs.run_folder import Run, read_run
from merge_advisor.backbone.shapes import LoraShape
from merge_advisor.backbone.training_loss import ENTROPY_ALONE, TrainingLoss
from merge_advisor.cli import main
from merge_advisor.errors import InputError, RunError, TaskError
from merge_advisor.options import FinetuneSettings
from merge_advisor.types import RESIDUAL, Row
from tests.support.number_world import ROWS, World
from tests.support.task_files import write_task

SPEC = "coefficients:objective=entropy"
INPUTS = tuple(Row(f"count to {number}", "") for number in range(20))
FAST = FinetuneSettings(rank=4, lr=1e-2, epochs=3)

# --- on a workbench whose models are numbers -------------------------------------------------------------------------


def world(inputs: Sequence[Row] = (), *, steps: int = 4) -> World:
    """One in which training goes halfway to what is wanted, or (steps=0) never helps."""
    made = World(wanted=1, learned=0.5 if steps else 0.0, merge=0.6)
    made.bench.inputs = tuple(inputs)
    made.bench.run_gradient = lambda merge, rows: {"w": np.ones((1, 1), np.float32)}
    train = made.bench.run_training

    def counted(request: TrainingRequest) -> Trained:
        trained = train(request)
        return replace(trained, record=replace(trained.record, steps=steps))

    made.bench.run_training = counted
    return made


def adapted(made: World, **more: int) -> Adapted:
    return Coefficients(objective="entropy", **more).adapt(made.bench)


def test_inputs_of_their_own_are_trained_on_once_and_all_labelled_rows_judge() -> None:
    made = world(INPUTS)
    found = adapted(made)
    (request,) = made.requests
    assert request.rows == INPUTS and request.watch == ROWS and request.terms == ENTROPY_ALONE
    assert request.pull == Coefficients().pull and request.start == made.bench.merge
    assert len(found.losses) == len(ROWS) and np.mean(found.losses) == pytest.approx(0.2**2)
    assert [candidate.id for candidate in found.merge.candidates] == ["m0", RESIDUAL]
    assert found.settings["objective"] == "entropy" and found.settings["inputs"] == 20
    assert "by the entropy of the answers to 20 unlabelled inputs: 4 steps" in found.reason
    assert "no output was trained on: the 8 labelled rows stopped it and judge it" in found.reason


def test_without_any_the_rows_own_inputs_are_and_no_row_is_judged_where_it_was_trained_on() -> None:
    made = world()
    found = adapted(made)
    assert len(made.requests) == 4 and len(found.losses) == len(ROWS)
    for request in made.requests:
        assert not any(row.labelled for row in request.rows) and all(row.labelled for row in request.watch)
        assert not {row.input for row in request.rows} & {row.input for row in request.watch}
        assert len(request.rows) + len(request.watch) == len(ROWS)
    assert "the rows' own inputs" in found.reason and "no output was trained on" in found.reason
    assert found.settings["objective"] == "entropy"
    single = world()
    adapted(single, folds=0)
    assert [row.input for row in single.requests[0].rows] == [row.input for row in ROWS[:5]]
    assert single.requests[0].watch == ROWS[5:]


@pytest.mark.parametrize("inputs", [(), INPUTS])
def test_where_the_labelled_rows_see_no_gain_the_start_stays(inputs: Sequence[Row]) -> None:
    made = world(inputs, steps=0)
    found = adapted(made)
    assert found.merge == made.bench.merge and "the start itself" in found.reason


def test_without_a_row_that_stops_it_it_is_refused() -> None:
    made = world()
    made.bench.tuning = frozenset()
    with pytest.raises(TaskError, match="stopped by tuning rows, and there are none; give `tuning`"):
        adapted(made, folds=0)
    made.bench.inputs = INPUTS  # which all labelled rows stop
    assert adapted(made, folds=0).losses
    made.bench.settings = FinetuneSettings(steps=4)
    with pytest.raises(InputError, match=r"`finetune\.steps=4`: with objective=entropy labelled rows say when to stop"):
        adapted(made)


def test_steps_are_those_of_the_labelled_rows_and_a_pass_at_least() -> None:
    settings = FinetuneSettings(epochs=8)
    assert [settings_on_inputs(settings, count, 20).epochs for count in (5, 20, 40, 1000)] == [8, 8, 4, 1]


def test_equal_inputs_are_trained_on_once() -> None:
    rows = [Row("a", "yes"), Row("a", "no"), Row("a", "yes", ("yes", "no"))]
    assert without_outputs(rows) == (Row("a", ""), Row("a", "", ("yes", "no")))


def test_what_was_trained_before_there_was_an_entropy_keeps_its_identity() -> None:
    request = TrainingRequest(
        LoraShape(("q.weight",), 8, 16.0), (Row("2 + 2", "4"),), (Row("2 + 3", "5", ("5", "6")),),
        terms=TrainingLoss(choices=1.0), pull=0.01, seed=3,
    )  # fmt: skip
    assert request.digest == "b5e070d35d9afe48df58890dde0088e3e9f6b7770acc0123951fa19ff5ff0fc2"


def test_inputs_and_objective_are_in_the_key() -> None:
    shape = LoraShape(("q.weight",), 8, 16.0)
    rows = (Row("2 + 2", "4"),)
    requests = [
        TrainingRequest(shape, rows, terms=TrainingLoss(answer=0.0, choices=1.0)),
        TrainingRequest(shape, rows, terms=ENTROPY_ALONE),
        TrainingRequest(shape, without_outputs(rows), terms=ENTROPY_ALONE),
        TrainingRequest(shape, (*without_outputs(rows), Row("2 + 3", "")), terms=ENTROPY_ALONE),
        TrainingRequest(shape, without_outputs(rows), rows, terms=ENTROPY_ALONE),
    ]
    assert len({request.digest for request in requests}) == len(requests)


def test_an_unlabelled_row_is_never_asked_for_its_output() -> None:
    shape, row = LoraShape(("q.weight",), 8, 16.0), Row("2 + 2", "")
    for rows, watch, terms in (((row,), (), TrainingLoss()), ((row,), (row,), ENTROPY_ALONE)):
        with pytest.raises(ValueError, match="an unlabelled row can be trained on by the entropy alone"):
            TrainingRequest(shape, rows, watch, terms=terms)
    record = TrainingRecord(0, 0, (), (), 1, 0)
    assert Trained(World(wanted=1, learned=1, merge=0).candidate("a", 0.0), record).record.rows == ()


# --- plans on a tiny base --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    write_task(folder / "open.jsonl", 24)
    write_task(folder / "closed.jsonl", 24, choices=True)
    return folder


def write_inputs(path: Path, numbers: Sequence[int], *, choices: bool = False) -> Path:
    more = {"choices": ["yes", "no"]} if choices else {}
    path.write_text("".join(json.dumps({"input": f"is {number} even?"} | more) + "\n" for number in numbers))
    return path


def planned(place: Path, task: str, base: Path, pool: Path, inputs: Path | None, name: str) -> Run:
    if (place / name / "plan.json").is_file():
        return read_run(place / name)
    return ma.plan(
        place / f"{task}.jsonl", pool=pool, base=str(base), out=place / name, cache=place / "cache", scored=False,
        options=PlanOptions(k=2, finetune=FAST, adaptation=SPEC, inputs=inputs),
    )  # fmt: skip


@pytest.mark.parametrize("task", ["open", "closed"])
def test_a_plan_says_what_it_trained_on(place: Path, tiny_llama: Path, tiny_pool: Path, task: str) -> None:
    # 20 to 23 are in the task as well
    inputs = write_inputs(place / f"more-{task}.jsonl", range(20, 60), choices=task == "closed")
    run = planned(place, task, tiny_llama, tiny_pool, inputs, f"run-{task}")
    found, given = run.plan.adaptation, run.plan.inputs
    assert found is not None and given is not None and given.rows == 36 and len(given.digest) == 64
    understood, note = given.notes
    assert understood.startswith(f"more-{task}.jsonl: 40 rows, read as inputs")
    assert note == f"more-{task}: inputs not trained on, as they are in the task too: 4"
    assert all(line in (run.folder / "report.md").read_text() for line in given.notes)
    assert run.plan.environment.paths["inputs"] == str(inputs)
    assert "36 unlabelled inputs" in found.reason and found.predicted is not None
    assert found.settings["objective"] == "entropy" and found.settings["inputs"] == 36
    learned = len(run.plan.tasks[0].shots) + len(run.plan.tasks[0].tuning)
    assert f"the {learned} labelled rows" in found.reason or "the start itself" in found.reason
    options = PlanOptions(k=2, finetune=FAST, adaptation=SPEC, inputs=inputs)
    said = describe_plan([place / f"{task}.jsonl"], pool=tiny_pool, base=str(tiny_llama), options=options)
    assert 0 < run.plan.forwards["adapt"] <= said["passes"]["adapt, at most"]
    assert f"inputs more-{task}.jsonl: 36 unlabelled rows" in said["lines"]
    assert f"note: {given.notes[0]}" in said["lines"]


def test_the_order_of_the_file_does_not_matter_and_other_inputs_do(
    place: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    def trained() -> set[str]:
        return {path.parent.name for path in (place / "cache" / "trained").glob("*/training.json")}

    inputs = write_inputs(place / "more-open.jsonl", range(20, 60))
    one = planned(place, "open", tiny_llama, tiny_pool, inputs, "run-open")
    kept = trained()
    turned = write_inputs(place / "turned.jsonl", range(59, 23, -1))
    other = planned(place, "open", tiny_llama, tiny_pool, turned, "run-turned")
    assert one.recipe == other.recipe and trained() == kept
    assert one.plan.inputs is not None and other.plan.inputs is not None
    assert one.plan.inputs.digest == other.plan.inputs.digest
    fewer = write_inputs(place / "fewer.jsonl", range(24, 59))
    planned(place, "open", tiny_llama, tiny_pool, fewer, "run-fewer")
    assert len(trained()) == len(kept) + 1


def test_such_a_run_is_tuned_without_its_adaptation(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    run = planned(place, "open", tiny_llama, tiny_pool, write_inputs(place / "tuned.jsonl", range(30, 40)), "run-tuned")
    with pytest.raises(RunError, match="a file of inputs, which the run folder does not hold"):
        ma.tune(run.folder, base=str(tiny_llama), pool=tiny_pool)


def test_without_a_file_the_tasks_own_inputs_are_trained_on(place: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    run = planned(place, "closed", tiny_llama, tiny_pool, None, "run-own")
    found = run.plan.adaptation
    assert found is not None and "own inputs" in found.reason and run.plan.inputs is None
    assert "inputs" not in run.plan.environment.paths


@pytest.mark.parametrize(
    ("shared", "expected"),
    [
        (True, "bare.jsonl: inputs without choices choose among those that the task's rows share: "),
        (False, "bare: no input has choices, as the task's rows do"),
    ],
)
def test_inputs_without_choices_beside_rows_that_have_some_are_said(
    shared: bool, expected: str, place: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    inputs = write_inputs(tmp_path / "bare.jsonl", range(30, 40))
    rows = [json.loads(line) for line in (place / "closed.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["choices"] = row["choices"] if shared else [row["output"], f"other {number}"]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = PlanOptions(k=2, finetune=FAST, adaptation=SPEC, inputs=inputs)
    said = describe_plan([tmp_path / "task.jsonl"], pool=tiny_pool, base=str(tiny_llama), options=options)
    assert any(expected in line for line in said["lines"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--adaptation", "mix", "--inputs", "MORE"], "mix does not train on inputs without outputs; give --adapt"),
        (["--inputs", "MORE"], "adaptation auto does not train on inputs"),
        (["--adaptation", "coefficients", "--inputs", "MORE"], "adaptation coefficients does not train on inputs"),
        (["--adaptation", SPEC, "--inputs", "ABSENT"], "no such file"),
        (["--adaptation", SPEC, "--inputs", "SAME"], "each of its inputs is in the task too, so none is left"),
        (["--adaptation", SPEC, "--inputs", "MORE", "--lora-steps", "8"], "--lora-steps 8: with objective=entropy"),
        (["--adaptation", "coefficients:objective=moon"], "objective=moon is none of loss, entropy"),
        (["--adaptation", f"{SPEC},choices=0"], "choices weighs a loss of labelled rows, which objective=entropy does"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(
    place: Path, tiny_llama: Path, tiny_pool: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "MORE": write_inputs(place / "more.jsonl", range(30, 40)), "ABSENT": place / "absent.jsonl",
        "SAME": place / "open.jsonl",
    }  # fmt: skip
    words = [str(files.get(word, word)) for word in words]
    given = ["plan", "--task", str(place / "open.jsonl"), "--pool", str(tiny_pool), "--base", str(tiny_llama)]
    for more in (["--out", str(place / "wrong")], ["--dry-run"]):
        assert main([*given, *more, *words]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and says in said[0], said
    assert not (place / "wrong").exists()
