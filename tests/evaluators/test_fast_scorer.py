"""Both scorers of our rows against lm-eval's own model, row by row, on rows whose texts are odd on purpose."""

from pathlib import Path
from typing import Any

import pytest

from merge_advisor import registry, templates
from merge_advisor.backbone.encoding import EncodedRow, encode
from merge_advisor.backbone.finetune import finetune_lora
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.likelihood import answer_totals, losses_and_greedy
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.errors import ExternalError, TaskError
from merge_advisor.evaluators.fast import Fast, row_values
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.evaluators.metrics import WORST_LOSS
from merge_advisor.options import FinetuneSettings
from merge_advisor.scores import ModelScore
from merge_advisor.tasks import read_rows
from merge_advisor.templates import Template
from merge_advisor.types import Row
from merge_advisor.weights.adapter import read_adapter
from merge_advisor.weights.updates import WeightDelta
from tests.support.plain_hflm import score_by_hflm

ALPACA = templates.get("alpaca")
PLAIN = templates.get("plain")
ODD = ["[1,2]", "{{ x }}", "", " a b ", "a\nb", "é漢", "<|pad|>", "the quick brown fox, and a cat", "0123456789 yes"]
FREE = [Row(f"{'{{ prompt }} ' * (at % 3)}question {at}", answer) for at, answer in enumerate(ODD)]
CHOICES = [
    Row("first? {{ wholes }}", "[1,2]", ("[1,2]", "[1,2", "{{ x }}")),
    Row("second?", "", ("", "yes", "007")),
    Row("a much longer third question, longer than the others by far?", "1", ("10", "1")),
    Row("fourth?", "b", ("a", "b", "c", "d", "the quick brown fox jumps over the lazy dog")),
    Row("x" * 2000, "no", ("yes", "no", "perhaps, perhaps not")),  # each choice cuts the prompt elsewhere
]


def score(
    evaluator: Fast | LmEval, backbone: Backbone, rows: list[Row], metric: str = "auto", template: Template = ALPACA
) -> ModelScore:
    measured = evaluator.score(backbone.model, backbone.tokenizer, rows, template, label="it", metric=metric)
    assert measured is not None
    return measured


def assert_equal(
    backbone: Backbone, rows: list[Row], metric: str, template: Template = ALPACA, max_new_tokens: int = 64
) -> ModelScore:
    """Fast and LmEval agree with lm-eval's own HFLM on every row; returns what HFLM says."""
    theirs = score_by_hflm(backbone, rows, template, metric, max_new_tokens=max_new_tokens)
    through = score(LmEval(max_new_tokens=max_new_tokens), backbone, rows, metric, template)
    ours = score(Fast(max_new_tokens=max_new_tokens), backbone, rows, metric, template)
    assert ours == through
    assert ours.outputs == theirs.outputs
    assert list(ours.rows) == list(theirs.rows) == list(ours.metrics)
    for name, values in theirs.rows.items():
        if name in ("loss", "choices"):
            assert ours.rows[name] == pytest.approx(values, rel=1e-4, abs=1e-5)
        else:
            assert ours.rows[name] == values
        if name != "choices" and max_new_tokens == 64:
            found = row_values(backbone, rows, template, name)
            assert found == pytest.approx(values, rel=1e-4, abs=1e-5)
    return theirs


@pytest.mark.parametrize("template", [ALPACA, PLAIN], ids=["alpaca", "plain"])
def test_losses_are_lm_evals(backbone: Backbone, template: Template) -> None:
    assert_equal(backbone, FREE, "loss", template)


@pytest.mark.parametrize("template", [ALPACA, PLAIN], ids=["alpaca", "plain"])
def test_choices_are_lm_evals(backbone: Backbone, template: Template) -> None:
    found = assert_equal(backbone, CHOICES, "accuracy", template)
    # whatever is picked is found right when it is the output
    rows = [Row(row.input, answer, row.choices) for row, answer in zip(CHOICES, found.outputs, strict=True)]
    assert row_values(backbone, rows, template, "accuracy") == [1.0] * len(rows)


def test_generated_answers_are_lm_evals(backbone: Backbone) -> None:
    found = assert_equal(backbone, FREE, "exact_match", max_new_tokens=5)
    assert len(set(found.outputs)) > 1


def test_matches_and_near_misses_are_lm_evals(backbone: Backbone) -> None:
    """Rows whose outputs are what the model says, a beginning of it, or more than it."""
    inputs = [f"{'word ' * (at % 3)}go {at}" for at in range(8)]
    said = score(Fast(max_new_tokens=6), backbone, [Row(text, "0123456789 yes") for text in inputs], "exact_match")
    ends = ["", " ", "x", None, "\n", ".", None, ""]
    outputs = [text[:3] if end is None else text + end for text, end in zip(said.outputs, ends, strict=True)]
    rows = [Row(a, b) for a, b in zip(inputs, outputs, strict=True)]
    found = assert_equal(backbone, rows, "exact_match", max_new_tokens=6)
    assert 0 < found.metrics["exact_match"] < 1


SHOWN = [(f"{'so ' * (at % 4)}question {at}", ["yes", "a cat", "0", "two\nlines"][at % 4]) for at in range(20)]
SHORT = [row for row in CHOICES if len(row.input) < 100]  # so that no prompt with examples is cut


@pytest.mark.parametrize(("name", "number"), [("plain", 20), ("alpaca", 4), ("chat", 9)])
@pytest.mark.parametrize("several_lines", [False, True])
def test_with_examples_in_the_prompt_as_well(
    backbone: Backbone, name: str, number: int, several_lines: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lm-eval's own model can be asked for one end alone; the others: tests/backbone/test_closing.py
    monkeypatch.setattr("merge_advisor.evaluators.responses.closing_ids", lambda backbone, end: ())
    source = backbone.tokenizer.chat_template if name == "chat" else None
    template = templates.get(name, source).with_examples(SHOWN[:number])
    shown = len(backbone.tokenizer(template.prompt(""))["input_ids"])
    assert 330 < shown < 360  # what all prompts begin with runs once
    free = [row for row in FREE if several_lines or "\n" not in row.output]
    assert_equal(backbone, free, "loss", template)
    assert_equal(backbone, SHORT, "accuracy", template)
    assert_equal(backbone, free, "exact_match", template)


@pytest.fixture(scope="module")
def learned(llama: Backbone) -> WeightDelta:
    """A LoRA of the tiny base that knows a few answers by heart."""
    texts = [(ALPACA.prompt(row.input), row.output) for row in LEARNED]
    names = [name for name in llama.memory if name.endswith(("proj.weight",))]
    settings = FinetuneSettings(rank=8, lr=2e-2, steps=120)
    return finetune_lora(llama, encode(llama, texts, max_length=512), names, settings, seed=0).delta


LEARNED = [Row("one", "yes"), Row("two", "a cat"), Row("three", "\nthe fox"), Row("four", "0\n1"), Row("five", "é漢")]


def test_answers_known_by_heart_match_as_in_lm_eval(llama: Backbone, learned: Any) -> None:
    """Right ones, right but for case, a beginning, more than was said, several lines, blanks around."""
    with placed(llama, learned):
        whole = assert_equal(llama, LEARNED, "exact_match")
        assert whole.metrics["exact_match"] == 1.0
        for change in (str.upper, lambda text: text[:2], lambda text: text + " and", lambda text: f" {text}\n"):
            rows = [Row(row.input, change(row.output)) for row in LEARNED]
            assert_equal(llama, rows, "exact_match")
            assert_equal(llama, rows[:3], "exact_match")  # the first line counts where all outputs are one line


def test_any_of_several_right_answers_counts_in_both_evaluators(llama: Backbone, learned: Any) -> None:
    """The model says what it learnt; the first answer of each row is another, and has the loss."""
    first = ["never said", "ye", "the fox and more", "x"]
    rows = [
        Row(row.input, said, answers=(said, row.output, "a much longer answer that nobody gives, ever"))
        for row, said in zip(LEARNED, first, strict=False)
    ]
    mixed = [*rows, LEARNED[4], Row("one", "no", answers=("no", "nor this"))]  # lm-eval wants lists of all or none
    with placed(llama, learned):
        for asked in (mixed, [LEARNED[4], *rows[:2]], rows):
            found = assert_equal(llama, asked, "exact_match")
            alone = assert_equal(llama, [Row(row.input, row.output) for row in asked], "loss")
            assert found.rows["loss"] == pytest.approx(alone.rows["loss"], rel=1e-4)
        assert assert_equal(llama, mixed, "exact_match").rows["exact_match"] == (1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
        by_rule = [
            score(one, llama, mixed, "exact_match")
            for one in (Fast(exact_match="lorahub"), LmEval(exact_match="lorahub"))
        ]
        assert by_rule[0].rows["exact_match"] == by_rule[1].rows["exact_match"]


def test_any_of_several_right_choices_counts_in_both_evaluators(backbone: Backbone) -> None:
    picked = assert_equal(backbone, SHORT, "accuracy").outputs
    wrong = [
        next(choice for choice in row.choices or () if choice != said) for row, said in zip(SHORT, picked, strict=True)
    ]
    rows = [
        Row(row.input, no, row.choices, answers=(no, said)) for row, no, said in zip(SHORT, wrong, picked, strict=True)
    ]
    single = [Row(row.input, no, row.choices) for row, no in zip(SHORT, wrong, strict=True)]
    assert set(assert_equal(backbone, rows, "accuracy").rows["accuracy"]) == {1.0}
    mixed = assert_equal(backbone, [*single[:1], *rows[1:]], "accuracy")
    assert mixed.rows["accuracy"] == (0.0, *[1.0] * (len(rows) - 1))
    # the losses are those of the first
    assert mixed.rows["choices"] == pytest.approx(assert_equal(backbone, single, "accuracy").rows["choices"], rel=1e-4)


def test_an_answer_of_several_lines_ends_where_a_next_example_begins(llama: Backbone) -> None:
    """A model that was shown examples goes on with more; each but the first question asks with one in its prompt."""
    template = PLAIN.with_examples([("one", "yes")])
    texts = [(PLAIN.prompt(row.input), f"{row.output}\n\nand\nso on") for row in LEARNED]
    texts += [(template.prompt(row.input), text) for row, (_, text) in zip(LEARNED, texts, strict=True)]
    names = [name for name in llama.memory if name.endswith(("proj.weight",))]
    settings = FinetuneSettings(rank=8, lr=2e-2, steps=150)
    rows = [*LEARNED[1:], Row("five", "é")]
    with placed(llama, finetune_lora(llama, encode(llama, texts, max_length=512), names, settings, seed=0).delta):
        found = assert_equal(llama, rows, "exact_match", template)
        assert found.rows["exact_match"] == (1.0, 1.0, 1.0, 1.0, 0.0)
        assert_equal(llama, rows, "exact_match")


def told_one_by_one(backbone: Backbone, rows: list[EncodedRow]) -> list[tuple[float, tuple[int, ...]]]:
    import torch

    found = []
    with torch.no_grad():
        for row in rows:
            if backbone.encoder_decoder:
                start = torch.tensor([[backbone.model.config.decoder_start_token_id, *row.completion[:-1]]])
                logits = backbone.model(torch.tensor([row.prompt]), decoder_input_ids=start).logits[0]
            else:
                logits = backbone.model(torch.tensor([row.prompt + row.completion])).logits[0, len(row.prompt) - 1 : -1]
            total = logits.log_softmax(-1)[range(len(row.completion)), row.completion].sum()
            found.append((float(total), tuple(logits.argmax(-1).tolist())))
    return found


def test_answers_that_share_prompts_in_any_mixture(backbone: Backbone) -> None:
    """Prompts of every length, some alone, some with many answers, one with more than a batch holds."""
    import torch

    rng = torch.Generator().manual_seed(0)
    rows = []
    for prompt in range(12):
        ids = torch.randint(3, 300, (5 + 20 * (prompt % 4),), generator=rng).tolist()
        for answer in range({0: 1, 1: 200}.get(prompt, prompt % 5)):
            length = 1 + (answer + prompt) % 4
            rows.append(EncodedRow(tuple(ids), (*torch.randint(3, 300, (length,), generator=rng).tolist(), 1)))
    order = torch.randperm(len(rows), generator=rng).tolist()
    rows = [rows[place] for place in order]
    expected = told_one_by_one(backbone, rows)
    assert answer_totals(backbone, rows) == pytest.approx([total for total, _ in expected], rel=1e-4, abs=1e-4)
    losses, best = losses_and_greedy(backbone, rows)
    assert best == [tokens for _, tokens in expected]
    assert losses == pytest.approx(row_losses(backbone, rows), rel=1e-5, abs=1e-6)


def test_a_prompt_runs_once_for_all_its_choices(llama: Backbone) -> None:
    """Positions the model sees: fewer than a third of prompt times choices."""
    seen = []
    hook = llama.model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    row = Row("which of these many words?", "c", ("a", "b", "c", "d"))
    try:
        score(Fast(), llama, [row], "accuracy")
    finally:
        hook.remove()
    prompt = len(llama.tokenizer(ALPACA.prompt(row.input))["input_ids"])
    assert [tuple(ids.shape) for ids in seen] == [(1, prompt), (4, 1)]


@pytest.mark.parametrize(("rows", "metric"), [(FREE, "exact_match"), (FREE, "loss"), (CHOICES, "accuracy")])
def test_the_model_runs_no_more_for_lm_eval_than_for_fast(backbone: Backbone, rows: list[Row], metric: str) -> None:
    """The same positions in the same forwards, whatever kinds of requests lm-eval makes."""
    import torch

    seen: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
        for module in backbone.model.modules()
        if isinstance(module, torch.nn.Embedding)
    ]
    try:
        score(Fast(max_new_tokens=5), backbone, rows, metric)
        alone = seen.copy()
        seen.clear()
        score(LmEval(max_new_tokens=5), backbone, rows, metric)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == alone != []


def test_a_request_that_nobody_asked_the_model_is_refused(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should lm-eval come to change a prompt, the score must not be that of another."""
    from lm_eval.api.task import ConfigurableTask

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", lambda *_, **__: "another prompt")
    with pytest.raises(ExternalError, match="another prompt"):
        score(LmEval(), llama, FREE[:1], "loss")


def test_one_forward_tells_most_matches(llama: Backbone, learned: Any) -> None:
    """Rows that match, and rows that plainly do not, cost one forward; nothing is generated."""
    rows = [LEARNED[0], LEARNED[1], Row("four", "1\n0")]
    calls = []
    hook = llama.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        with placed(llama, learned):
            assert row_values(llama, rows, ALPACA, "exact_match") == [1.0, 1.0, 0.0]
    finally:
        hook.remove()
    assert len(calls) == 1  # short rows are one sequence, the preamble at its front


def test_rows_that_are_done_leave_the_batch(llama: Backbone, learned: Any) -> None:
    prompts = [llama.tokenizer(ALPACA.prompt(row.input))["input_ids"] for row in LEARNED]
    widths = []
    hook = llama.model.register_forward_pre_hook(
        lambda module, arguments, named: widths.append(len(named["input_ids"])), with_kwargs=True
    )
    with placed(llama, learned):
        alone = [greedy(llama, [prompt], max_new_tokens=12)[0] for prompt in prompts]
        widths.clear()
        try:
            assert greedy(llama, prompts, max_new_tokens=12) == alone
        finally:
            hook.remove()
        two = greedy(llama, prompts, max_new_tokens=12, finished=lambda tokens: len(tokens) == 2)
    lengths = sorted(map(len, alone))
    assert lengths[0] < lengths[-2] and widths[1] == 5 and widths[-1] <= 2
    assert two == [tokens[:2] for tokens in alone]


def test_a_model_that_computes_nothing_finite_loses(llama: Backbone) -> None:
    hook = llama.model.lm_head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    try:
        broken = score(Fast(), llama, CHOICES[:2])
        lost = row_values(llama, FREE[:2], ALPACA, "loss")
    finally:
        hook.remove()
    assert broken.metrics == {"accuracy": 0.0, "choices": WORST_LOSS, "loss": WORST_LOSS} and lost == [WORST_LOSS] * 2


@pytest.mark.parametrize(
    ("rows", "metric", "message"),
    [
        ([], "auto", "no rows"),
        (FREE, "bleu", "'bleu' is unknown"),
        (FREE, "accuracy", "it has no choices"),
        ([Row("q", "y " * 600)], "loss", "shorten"),
        ([Row("q", "a", ("a", "y " * 600))], "accuracy", "shorten"),
    ],
)
def test_what_cannot_be_scored(llama: Backbone, rows: Any, metric: str, message: Any) -> None:
    with pytest.raises(TaskError, match=message):
        score(Fast(), llama, rows, metric)
    if metric != "auto":
        with pytest.raises(TaskError, match=message):
            row_values(llama, rows, ALPACA, metric)


def test_it_is_registered() -> None:
    built = registry.build("evaluator", "fast:max_new_tokens=9")
    assert built == Fast(9) and built.settings != Fast().settings and built.version == Fast.version
    with pytest.raises(ValueError, match="at least 1"):
        Fast(max_new_tokens=0)


DEMO = Path(__file__).parents[2] / "recipes" / "demo"


@pytest.fixture(scope="module")
def real(real_folder: Path) -> Backbone:
    return load_backbone(real_folder)


def demo_rows(number: int) -> tuple[list[Row], list[Row]]:
    """Rows of the demo's task, and the same with four choices: outputs of other rows."""
    rows = list(read_rows(DEMO / "tasks" / "mixed.jsonl").rows[:number])
    answers = list(dict.fromkeys(row.output for row in rows))
    at = answers.index
    choices = [tuple(answers[(at(row.output) + step) % len(answers)] for step in range(4)) for row in rows]
    return rows, [Row(row.input, row.output, found) for row, found in zip(rows, choices, strict=True)]


def adapter(backbone: Backbone, folder: Path) -> WeightDelta:
    return read_adapter(folder, backbone.shapes)


@pytest.mark.slow
def test_the_real_base_with_and_without_an_adapter(real: Backbone) -> None:
    free, choices = demo_rows(12)
    deltas: list[WeightDelta] = [{}, adapter(real, DEMO / "pool" / "dates-0")]
    for delta in deltas:
        with placed(real, delta):
            assert_equal(real, free, "exact_match")
            assert_equal(real, choices, "accuracy")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["anachronisms", "fantasy_reasoning", "goal_step_wikihow__step_inference", "tense"])
def test_rows_of_bigbench_on_the_real_base(real: Backbone, shared: Path, task: str) -> None:
    rows = list(read_rows(shared / "data" / "bigbench" / f"{task}.jsonl").rows[:10])
    with placed(real, adapter(real, shared / "pool-bigbench" / task)):
        assert_equal(real, rows, "accuracy" if rows[0].choices else "exact_match")
