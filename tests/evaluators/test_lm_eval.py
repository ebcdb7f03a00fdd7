"""lm-eval over models in memory, on rows whose texts are odd on purpose."""

import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor import registry, templates
from merge_advisor.backbone.generate import greedy_from
from merge_advisor.backbone.model import Backbone
from merge_advisor.backbone.place import placed
from merge_advisor.errors import ExternalError, TaskError
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.evaluators.metrics import WORST_LOSS, majority_score, metric_for
from merge_advisor.scores import ModelScore
from merge_advisor.templates import Template
from merge_advisor.types import Row
from merge_advisor.weights.adapter import read_adapter

ALPACA = templates.get("alpaca")
ODD = [
    "[1,2]",
    "007",
    "{{ x }}",
    "",
    "2020-01-01",
    "null",
    "True",
    " a b ",
    "{% if x %}",
    "0",
    "a\nb",
    '"q"',
    "é漢",
    "<|pad|>",
]
FREE = [Row(f"{'{{ prompt }} ' * (index % 3)}question {index}", answer) for index, answer in enumerate(ODD)]
CHOICES = [
    Row("first? {{ wholes }}", "[1,2]", ("[1,2]", "[1,2", "{{ x }}")),
    Row("second?", "", ("", "yes", "007")),
    Row("a much longer third question, longer than the others by far?", "1", ("10", "1")),
    Row("fourth?", "2021-12-31", ("2020-01-01", "2021-12-31", "0", "{{ gold }}")),
]


def score(
    backbone: Backbone,
    rows: list[Row],
    metric: str = "auto",
    evaluator: LmEval | None = None,
    template: Template = ALPACA,
) -> ModelScore:
    evaluator = evaluator or LmEval()
    measured = evaluator.score(backbone.model, backbone.tokenizer, rows, template, label="it", metric=metric)
    assert measured is not None
    return measured


def log_likelihood(backbone: Backbone, prompt: str, answer: str) -> tuple[float, int]:
    """Of answer and end token, one text at a time, and the number of their tokens."""
    import torch

    tokenizer, t5 = backbone.tokenizer, backbone.encoder_decoder
    before = tokenizer(prompt, add_special_tokens=t5)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        if t5:
            start = [backbone.model.config.decoder_start_token_id, *after[:-1]]
            logits = backbone.model(torch.tensor([before]), decoder_input_ids=torch.tensor([start])).logits[0]
        else:
            logits = backbone.model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    chosen = logits.log_softmax(-1)[range(len(after)), after]
    return float(chosen.sum()), len(after)


def generated(backbone: Backbone, prompt: str, tokens: int) -> str:
    import torch

    before = backbone.tokenizer(prompt, add_special_tokens=backbone.encoder_decoder, return_tensors="pt")["input_ids"]
    found = backbone.model.generate(
        before, attention_mask=torch.ones_like(before), max_new_tokens=tokens, do_sample=False
    )[0]  # fmt: skip
    return str(
        backbone.tokenizer.decode(found[0 if backbone.encoder_decoder else before.shape[1] :], skip_special_tokens=True)
    )


def test_losses_are_those_of_torch_in_the_order_of_the_rows(backbone: Backbone) -> None:
    found = score(backbone, FREE, metric="loss")
    expected = [log_likelihood(backbone, ALPACA.prompt(row.input), row.output) for row in FREE]
    assert found.rows["loss"] == pytest.approx([-total / count for total, count in expected], abs=1e-4)
    assert found.metrics == {"loss": pytest.approx(np.mean(found.rows["loss"]))}
    assert found.outputs == () and found.label == "it"


def test_the_most_probable_whole_answer_is_the_choice(backbone: Backbone) -> None:
    found = score(backbone, CHOICES)
    expected, nats = [], []
    for row in CHOICES:
        assert row.choices is not None
        sums = [log_likelihood(backbone, ALPACA.prompt(row.input), choice)[0] for choice in row.choices]
        expected.append(row.choices[int(np.argmax(sums))])
        nats.append(-np.log(np.exp(sums)[row.choices.index(row.output)] / np.exp(sums).sum()))
    assert found.outputs == tuple(expected)
    assert found.rows["accuracy"] == tuple(float(a == row.output) for a, row in zip(expected, CHOICES, strict=True))
    assert found.rows["choices"] == pytest.approx(nats, abs=1e-4)
    assert found.rows["loss"] == pytest.approx(score(backbone, CHOICES, metric="loss").rows["loss"], abs=1e-4)


def test_every_choice_can_be_the_right_one(llama: Backbone) -> None:
    """Whatever the model picks is found right when it is the output, so no text is taken for anything but itself."""
    picked = score(llama, CHOICES).outputs
    rows = [Row(row.input, answer, row.choices) for row, answer in zip(CHOICES, picked, strict=True)]
    assert score(llama, rows).metrics["accuracy"] == 1.0


def test_generated_text_is_that_of_the_model_and_is_matched_exactly(backbone: Backbone) -> None:
    evaluator = LmEval(max_new_tokens=3, batch_size=2)
    inputs = [f"{'word ' * (index % 3)}go {index}" for index in range(5)]
    told = tuple(generated(backbone, ALPACA.prompt(text), 3).strip() for text in inputs)
    assert len(set(told)) > 1 and not any("\n" in text for text in told)
    right = score(backbone, [Row(a, f" {b}\n") for a, b in zip(inputs, told, strict=True)], "exact_match", evaluator)
    assert right.outputs == told
    assert right.rows["exact_match"] == (1.0,) * 5
    rows = [Row(a, b if at % 2 else b + ".") for at, (a, b) in enumerate(zip(inputs, told, strict=True))]
    mixed = score(backbone, rows, "exact_match", evaluator)
    assert list(mixed.rows["exact_match"]) == [0, 1, 0, 1, 0] and mixed.metrics["exact_match"] == 0.4
    assert mixed.rows["loss"] == pytest.approx(score(backbone, rows, "loss").rows["loss"], abs=1e-4)


@contextmanager
def saying(backbone: Backbone, text: str) -> Iterator[None]:
    """Make the model answer `text` and its end token, whatever it is asked, and then babble.

    Along an output that it is shown it says the first token again and again, so that little is foreseen there.
    """
    import torch

    ids = [*backbone.tokenizer(text, add_special_tokens=False)["input_ids"], backbone.end_id, 40, 41]
    left: list[int] = []
    several: list[bool] = []

    def begin(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        several[:] = [inputs[0].shape[1] > 1]  # prompts or outputs, not one more token

    def force(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        output[..., ids[0] if several[0] else left.pop(0) if left else 40] = 1e4

    def decode(*arguments: Any, **named: Any) -> list[list[int]]:
        left[:] = ids[1:]
        return greedy_from(*arguments, **named)

    hooks = (
        backbone.model.model.embed_tokens.register_forward_hook(begin),
        backbone.model.lm_head.register_forward_hook(force),
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("merge_advisor.backbone.answers.greedy_from", decode)
            yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("answer", ["[1,2]", "007", "{{ x }}", "", "2020-01-01", "yes, or no?"])
def test_an_answer_is_the_text_before_the_end_token(llama: Backbone, answer: Any) -> None:
    rows = [Row("some question", answer), Row("another", "7"), Row("a third one", answer.upper())]
    with saying(llama, answer):
        found = score(llama, rows, "exact_match", LmEval(batch_size=1))
    assert found.outputs == (answer,) * 3
    assert found.rows["exact_match"] == (1.0, 0.0, float(answer.upper() == answer))


def test_a_column_of_dates_stays_text(llama: Backbone) -> None:
    with saying(llama, "2020-01-01"):
        found = score(llama, [Row("a", "2020-01-01"), Row("b", "2021-12-31")], "exact_match", LmEval(batch_size=1))
    assert found.rows["exact_match"] == (1.0, 0.0) and found.outputs == ("2020-01-01",) * 2


def test_among_single_lines_the_first_that_is_not_blank_answers(llama: Backbone) -> None:
    with saying(llama, "\n yes \nno"):
        single = score(llama, [Row("q", "yes")], "exact_match")
        lines = score(llama, [Row("q", "yes \nno")], "exact_match")
    assert (single.outputs, single.metrics["exact_match"]) == (("yes",), 1.0)
    assert (lines.outputs, lines.metrics["exact_match"]) == (("yes \nno",), 1.0)


@pytest.mark.parametrize("metric", ["loss", "exact_match"])
def test_each_model_gets_its_own_score_from_one_prepared_task(llama: Backbone, tiny_pool: Path, metric: str) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in llama.memory.items()}
    delta = read_adapter(tiny_pool / "a0", shapes)
    evaluator = LmEval(max_new_tokens=3)
    before = score(llama, FREE, metric, evaluator)
    with placed(llama, delta):
        merged = score(llama, FREE, metric, evaluator)
    assert score(llama, FREE, metric, evaluator) == before
    assert len(evaluator._prepared) == 1
    assert min(abs(a - b) for a, b in zip(before.rows["loss"], merged.rows["loss"], strict=True)) > 1e-3
    with placed(llama, delta):
        assert score(llama, FREE, metric, LmEval(max_new_tokens=3)) == merged


def test_other_rows_or_another_template_are_another_task(llama: Backbone) -> None:
    evaluator = LmEval()
    plain = templates.get("plain")
    found = [score(llama, rows, "loss", evaluator, t) for t in (ALPACA, plain) for rows in (FREE, FREE[::-1])]
    assert found[0].rows["loss"][::-1] == pytest.approx(found[1].rows["loss"], abs=1e-5)
    assert abs(found[0].metrics["loss"] - found[2].metrics["loss"]) > 1e-3
    expected = [log_likelihood(llama, plain.prompt(row.input), row.output) for row in FREE]
    assert found[2].rows["loss"] == pytest.approx([-total / count for total, count in expected], abs=1e-4)


def test_long_prompts_are_cut_on_their_left(llama: Backbone) -> None:
    import torch

    long = Row("x" * 3000, "yes")
    found = score(llama, [long, Row("short", "yes")], "exact_match", LmEval(max_new_tokens=3))
    tokenizer = llama.tokenizer
    after = [*tokenizer("yes", add_special_tokens=False)["input_ids"], llama.end_id]
    before = tokenizer(ALPACA.prompt(long.input), add_special_tokens=False)["input_ids"][-(512 - len(after)) :]
    with torch.no_grad():
        logits = llama.model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1].log_softmax(-1)
    assert found.rows["loss"][0] == pytest.approx(-float(logits[range(len(after)), after].mean()), abs=1e-4)
    with pytest.raises(TaskError, match="shorten"):
        score(llama, [Row("q", "y " * 600)], "loss")


def test_the_model_and_the_process_are_left_as_they_were(backbone: Backbone) -> None:
    import torch

    model, tokenizer = backbone.model, backbone.tokenizer
    tokenizer.padding_side = "right"
    parameters = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters(remove_duplicate=False)}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002 (the state lm-eval could change)
    state = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), dict(os.environ)  # noqa: NPY002
    score(backbone, FREE[:3], "exact_match")
    now = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), dict(os.environ)  # noqa: NPY002
    assert now == state
    assert parameters == {name: (id(p), p.data_ptr()) for name, p in model.named_parameters(remove_duplicate=False)}
    assert tokenizer.padding_side == "right" and not model.training


def test_nothing_is_said_written_or_fetched(tiny_llama: Path, tmp_path: Path) -> None:
    """In a process of its own, without network, with every place a library likes to write to watched."""
    code = """
        import socket, sys
        from pathlib import Path
        def refuse(*_):
            raise OSError("the network was used")
        socket.socket.connect = refuse
        socket.getaddrinfo = refuse
        from merge_advisor import templates
        from merge_advisor.backbone.model import load_backbone
        from merge_advisor.evaluators.lm_eval_harness import LmEval
        from merge_advisor.types import Row
        backbone = load_backbone(Path(sys.argv[1]), threads=1)
        score = LmEval().score(backbone.model, backbone.tokenizer, [Row("a", "b"), Row("c", "d")],
                               templates.get("alpaca"), label="it", metric="exact_match")
        assert score.metrics["loss"] > 0
    """
    home = tmp_path / "home"
    work = tmp_path / "work"
    for folder in (home, work, tmp_path / "tmp"):
        folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    where = {"HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tiny_llama)],
        cwd=work, env=kept | where, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_model_that_computes_nothing_finite_loses(llama: Backbone) -> None:
    hook = llama.model.lm_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    try:
        broken = score(llama, CHOICES)
    finally:
        hook.remove()
    assert broken.metrics == {"accuracy": 0.0, "choices": WORST_LOSS, "loss": WORST_LOSS}


def test_a_failure_inside_lm_eval_is_one_line(llama: Backbone, capfd: Any) -> None:
    import torch

    def fail(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        raise RuntimeError("out of\nluck")

    hook = llama.model.lm_head.register_forward_hook(fail)
    try:
        with pytest.raises(ExternalError) as caught:
            score(llama, FREE, "loss")
    finally:
        hook.remove()
    assert str(caught.value).startswith("it: lm-eval") and "(out of luck)" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_metric_that_fits_the_rows() -> None:
    short, long = Row("q", "yes"), Row("q", "word " * 30)
    assert metric_for([Row("q", "a", ("a", "b"))] * 2) == "accuracy"
    assert metric_for([Row("q", "a", ("a", "b")), short]) == "exact_match"
    assert metric_for([short] * 9 + [long]) == "exact_match"
    assert metric_for([short] * 8 + [long]) == "loss"
    assert metric_for([Row("q", "one\ntwo")]) == "loss"


def test_the_majority_answer() -> None:
    rows = [Row("a", "yes "), Row("b", "no"), Row("c", "Yes"), Row("d", "yes")]
    found = majority_score(rows, "yes", "exact_match")
    assert (found.label, found.rows, found.metrics) == ("majority", {"exact_match": (1, 0, 0, 1)}, {"exact_match": 0.5})
    assert found.outputs == ("yes",) * 4
    assert majority_score(CHOICES, "1", "accuracy").rows == {"accuracy": (0, 0, 1, 0)}
    with pytest.raises(TaskError, match="choose accuracy"):
        majority_score(rows, "yes", "loss")


@pytest.mark.parametrize(
    ("rows", "metric", "message"),
    [
        ([], "auto", "no rows"),
        (FREE, "bleu", "'bleu' is unknown"),
        (FREE, "accuracy", "it has no choices"),
        ([Row("q", "c", ("a", "b"))], "auto", "none of its choices"),
    ],
)
def test_what_cannot_be_scored(llama: Backbone, rows: Any, metric: str, message: Any) -> None:
    with pytest.raises(TaskError, match=message):
        score(llama, rows, metric)


def test_it_is_registered() -> None:
    built = registry.build("evaluator", "lm_eval:batch_size=4,max_new_tokens=9")
    assert built == LmEval(4, 9)
    assert built.version.startswith("lm-eval 0.")
    assert built.settings != LmEval().settings
    with pytest.raises(ValueError, match="at least 1"):
        LmEval(batch_size=0)
