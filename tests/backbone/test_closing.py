"""Behind examples an answer may end as theirs do: any closing token counts, on every way that a likelihood is taken."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor import templates
from merge_advisor.backbone.answers import read_answers
from merge_advisor.backbone.closing import closing_ids
from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.likelihood import answer_totals, losses_and_greedy
from merge_advisor.backbone.long_prefix import LONG_PREFIX
from merge_advisor.backbone.losses import row_losses
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.evaluators.fast import Fast
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.evaluators.metrics import encode_rows
from merge_advisor.evaluators.responses import respond
from merge_advisor.types import Row

FRONT = tuple(3 + (7 * at) % 290 for at in range(LONG_PREFIX + 20))
OTHERS = (9, 12, 200)
EXAMPLES = (("red", "apple"), ("blue", "sky"))
ROWS = [Row("green", "leaf", ("leaf", "sky")), Row("white", "snow fall", ("snow fall", "leaf"))]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


def closed(backbone: Backbone) -> Backbone:
    return replace(backbone, closing=(backbone.end_id, *OTHERS))


def expected(backbone: Backbone, row: EncodedRow) -> float:
    """By one forward of the row alone: the tokens of the answer, then any that closes it."""
    import torch

    with torch.no_grad():
        logits = backbone.model(torch.tensor([row.prompt + row.completion])).logits[0, len(row.prompt) - 1 : -1]
    log_p = logits.float().log_softmax(-1)
    answer = row.completion[:-1]
    told = sum(float(log_p[at, id_]) for at, id_ in enumerate(answer))
    return told + float(log_p[-1, [backbone.end_id, *OTHERS]].logsumexp(0))


def answers(backbone: Backbone, front: Sequence[int], several: int) -> list[EncodedRow]:
    """Answers of no to three tokens; `several` of each prompt."""
    return [
        EncodedRow((*front, *range(5 + n, 9 + n)), (*range(20 + n, 20 + n + (n + m) % 4), backbone.end_id))
        for n in range(6)
        for m in range(several)
    ]


def by_totals(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    return answer_totals(backbone, rows)


def by_losses(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    return [-loss * len(row.completion) for loss, row in zip(row_losses(backbone, rows), rows, strict=True)]


def by_greedy(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    losses, best = losses_and_greedy(backbone, rows)
    assert best == losses_and_greedy(replace(backbone, closing=()), rows)[1]  # what it says itself stays what it is
    return [-loss * len(row.completion) for loss, row in zip(losses, rows, strict=True)]


def by_reading(backbone: Backbone, rows: Sequence[EncodedRow]) -> list[float]:
    found = [0.0] * len(rows)
    for read in read_answers(backbone, rows, room=4):
        for at, loss in zip(read.positions, read.losses, strict=True):
            found[at] = -loss * len(rows[at].completion)
    return found


@pytest.mark.parametrize("front", [FRONT[:5], FRONT], ids=["short", "long"])
@pytest.mark.parametrize("several", [1, 3])
@pytest.mark.parametrize("way", [by_totals, by_losses, by_greedy, by_reading])
def test_any_closing_token_counts(
    llama: Backbone, way: Callable[[Backbone, Sequence[EncodedRow]], list[float]], several: int, front: tuple[int, ...]
) -> None:
    rows = answers(llama, front, several)
    found, alone = way(closed(llama), rows), way(llama, rows)
    assert found == pytest.approx([expected(llama, row) for row in rows], abs=2e-4)
    assert all(some > one for some, one in zip(found, alone, strict=True))


def test_an_encoder_decoder_is_asked_the_same(tiny_t5: Path) -> None:
    t5 = load_backbone(tiny_t5, threads=1)
    rows = answers(t5, FRONT[:5], 2)
    by_one, by_group = by_losses(closed(t5), rows), by_totals(closed(t5), rows)
    assert by_one == pytest.approx(by_group, abs=2e-4)
    assert all(some > one for some, one in zip(by_group, by_totals(t5, rows), strict=True))


def test_tokens_that_begin_with_the_break_close(llama: Backbone) -> None:
    texts = {at: llama.tokenizer.decode([at]).lstrip(" \t") for at in range(len(llama.tokenizer))}
    lines = [at for at, text in texts.items() if text.startswith("\n") and at not in llama.end_ids]
    blank = [at for at in lines if texts[at].startswith("\n\n")]
    assert lines and closing_ids(llama, "\n") == (*llama.end_ids, *lines)
    assert closing_ids(llama, "\n\nBelow") == (*llama.end_ids, *blank)
    assert closing_ids(llama, "") == llama.end_ids


@pytest.mark.parametrize("metric", ["accuracy", "exact_match", "loss"])
def test_a_model_with_examples_in_its_prompt_is_asked_for_any_end(llama: Backbone, metric: str) -> None:
    plain = templates.get("plain")
    shown = plain.with_examples(EXAMPLES)
    totals = respond(llama, ROWS, shown, metric).totals
    ids = closing_ids(llama, "\n")
    assert len(ids) > 1
    # told by hand: the sum of what the model gives to every token that ends the answer
    import torch

    row = ROWS[0]
    prompt = [*llama.lead, *llama.tokenizer(shown.prompt(row.input), add_special_tokens=False)["input_ids"]]
    answer = llama.tokenizer(row.output, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_p = llama.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    told = sum(float(log_p[at, id_]) for at, id_ in enumerate(answer)) + float(log_p[-1, list(ids)].logsumexp(0))
    assert totals[0][0] == pytest.approx(told, abs=2e-4)
    fast, harness = (
        scorer.score(llama.model, llama.tokenizer, ROWS, shown, label="icl", metric=metric)
        for scorer in (Fast(), LmEval())
    )
    assert fast.rows == harness.rows


def test_without_examples_and_in_a_chat_the_end_token_alone_counts(llama: Backbone) -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    chat = templates.get("chat", source).with_examples(EXAMPLES)
    for template in (templates.get("plain"), chat):
        rows = encode_rows(llama, ROWS, template)
        told = [-loss * len(row.completion) for loss, row in zip(row_losses(llama, rows), rows, strict=True)]
        assert [total for (total,) in respond(llama, ROWS, template, "loss").totals] == told
