"""Examples in a prompt: whole ones, as many as leave room for the longest row, and never one too many."""

from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor import templates
from merge_advisor.advisor.measuring.in_context import in_context
from merge_advisor.advisor.measuring.model_scores import score_models
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone.encoding import context_length, encode
from merge_advisor.backbone.model import Backbone
from merge_advisor.errors import TaskError
from merge_advisor.evaluators.fast import Fast
from merge_advisor.evaluators.in_context import fitting_examples
from merge_advisor.evaluators.metrics import encode_rows, generation_budget, token_limit
from merge_advisor.merges import WeightedMerge
from merge_advisor.templates import Template
from merge_advisor.types import Row, Task

PLAIN = templates.get("plain")
EXAMPLES = [Row(f"is {number} even, yes or no?", ("yes", "no")[number % 2], ("yes", "no")) for number in range(80)]
ROWS = [Row(f"is {number}{' please' * (number % 5)} even?", "no", ("yes", "no")) for number in range(100, 120)]


def showing(template: Template, examples: list[Row], fitting: tuple[int, ...]) -> Template:
    return template.with_examples((examples[at].input, examples[at].output) for at in fitting)


def longest(backbone: Backbone, template: Template, metric: str) -> int:
    """Tokens that the longest row takes, nothing cut."""
    texts = [(template.prompt(row.input), row.output) for row in ROWS]
    rows = encode(backbone, texts, max_length=10**6)
    if backbone.encoder_decoder:
        return max(len(row.prompt) for row in rows)
    budget = generation_budget(token_limit(backbone, template), rows, 64, "plain") if metric == "exact_match" else 0
    return max(len(row.prompt) + max(budget, len(row.completion)) for row in rows)


@pytest.mark.parametrize("metric", ["accuracy", "exact_match", "loss"])
@pytest.mark.parametrize("name", ["plain", "alpaca", "chat"])
def test_as_many_as_fit_whole_and_no_row_is_cut(
    backbone: Backbone, name: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merge_advisor.evaluators.in_context.EXAMPLE_TOKENS", 500)  # an encoder-decoder takes more
    monkeypatch.setattr("merge_advisor.evaluators.metrics.EXAMPLE_TOKENS", 500)
    template = templates.get(name, backbone.tokenizer.chat_template)
    found = fitting_examples(backbone, EXAMPLES, ROWS, template, metric, Fast())
    assert found == tuple(range(len(found))) and 2 < len(found) < len(EXAMPLES)
    shown = showing(template, EXAMPLES, found)
    assert longest(backbone, shown, metric) <= 500 < longest(
        backbone, showing(template, EXAMPLES, (*found, len(found))), metric
    )  # fmt: skip
    whole = encode(backbone, [(shown.prompt(row.input), row.output) for row in ROWS], max_length=10**6)
    assert encode_rows(backbone, ROWS, shown) == whole


def test_few_examples_all_fit_and_a_long_one_is_passed_over(llama: Backbone) -> None:
    few = EXAMPLES[:5]
    assert fitting_examples(llama, few, ROWS, PLAIN, "loss", Fast()) == (0, 1, 2, 3, 4)
    few[1] = Row("x " * 600, "yes")
    assert fitting_examples(llama, few, ROWS, PLAIN, "loss", Fast()) == (0, 2, 3, 4)


def test_the_longest_choice_counts(llama: Backbone) -> None:
    rows = [*ROWS, Row("short?", "no", ("yes, " * 60, "no"))]
    all_of_it = fitting_examples(llama, EXAMPLES, ROWS, PLAIN, "accuracy", Fast())
    assert len(fitting_examples(llama, EXAMPLES, rows, PLAIN, "accuracy", Fast())) < len(all_of_it)
    assert fitting_examples(llama, EXAMPLES, rows, PLAIN, "loss", Fast()) == fitting_examples(
        llama, EXAMPLES, ROWS, PLAIN, "loss", Fast()
    )


def test_not_one_fits_beside_a_row_that_fills_the_context(llama: Backbone) -> None:
    assert context_length(llama) == 512
    for words in (330, 900):  # fills it, and is cut even without examples
        rows = [*ROWS, Row("yes " * words, "no", ("yes", "no"))]
        found = fitting_examples(llama, EXAMPLES, rows, PLAIN, "accuracy", Fast())
        assert len(found) < 3 and (words < 900 or not found)


TASK = Task("even", tuple(EXAMPLES[:6]), tuple(EXAMPLES[6:9]), tuple(ROWS))


def test_shots_then_tuning_rows_are_shown_and_what_fits_is_remembered(tiny_llama: Path, tmp_path: Path) -> None:
    where = {"store": tmp_path / "s.sqlite", "cache": tmp_path, "template": "plain"}
    with open_session(str(tiny_llama), **where) as session:  # type: ignore[arg-type]
        shown = in_context(session.meter, TASK, ROWS, "accuracy", "fast")
        first = score_models(session.meter, [shown.model], ROWS, "accuracy", evaluator="fast")[0]
    assert shown.model.template is not None
    assert shown.model.template.examples == tuple((row.input, row.output) for row in EXAMPLES[:9])
    assert (shown.used, shown.given) == (9, 9) and shown.note == "icl has 9 of 9 examples in its prompt"
    with open_session(str(tiny_llama), **where) as session:  # type: ignore[arg-type]
        assert in_context(session.meter, TASK, ROWS, "accuracy", "fast") == shown
        assert score_models(session.meter, [shown.model], ROWS, "accuracy", evaluator="fast")[0] == first
        assert session.memo.misses == 0 and "backbone" not in vars(session.model)
        # neither the base alone nor other examples get this score
        other = in_context(session.meter, replace(TASK, tuning=()), ROWS, "accuracy", "fast").model
        plain = replace(shown.model, template=None)
        models = [shown.model, plain, other]
        scores = score_models(session.meter, models, ROWS, "accuracy", evaluator="fast")
    assert len({score.rows["loss"] for score in scores}) == 3
    assert plain.key == WeightedMerge().key and len({str(model.key) for model in models}) == 3


def test_what_cannot_be_shown_is_an_error_with_its_reason(tiny_llama: Path, tmp_path: Path) -> None:
    with open_session(str(tiny_llama), store=tmp_path / "s.sqlite", cache=tmp_path, template="plain") as session:
        long = replace(TASK, shots=(Row("x " * 600, "yes"),), tuning=())
        with pytest.raises(TaskError, match="not one of 1 examples fits into its prompt beside the longest row"):
            in_context(session.meter, long, ROWS, "loss", "fast")
        for source, reason in (
            ("{{ messages[-1].content }}", "shows no earlier turns"),
            (
                "{{ raise_exception('one turn') if messages|length > 1 else 'x' }}",
                "chat template fails .one turn",
            ),
        ):
            session.model.template = templates.get("chat", source)
            with pytest.raises(TaskError, match=reason):
                in_context(session.meter, TASK, ROWS, "loss", "fast")
