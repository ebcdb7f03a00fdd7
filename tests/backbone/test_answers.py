"""Likelihood and generation from one reading of the prompt: the values of rows alone, and every prompt run once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_advisor.backbone import answers
from merge_advisor.backbone.answers import can_go_on, read_answers
from merge_advisor.backbone.encoding import EncodedRow
from merge_advisor.backbone.model import Backbone, load_backbone

MOST = 6
"""Tokens generated."""


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> Backbone:
    return load_backbone(tiny_llama, threads=1)


def rows_of(front: int, number: int = 14) -> list[EncodedRow]:
    """Rows of many lengths, in no order, that share so many tokens."""
    draw = torch.Generator().manual_seed(0)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 300, (size,), generator=draw).tolist())

    begin = ids(front)
    return [EncodedRow((*begin, *ids(2 + 5 * at % 23)), (*ids(at % 4), 1)) for at in range(number)]


def alone(llama: Backbone, row: EncodedRow) -> tuple[float, tuple[int, ...], list[int]]:
    """Loss, most likely tokens and greedy answer of a row by plain forwards."""
    with torch.no_grad():
        logits = llama.model(torch.tensor([row.prompt + row.completion])).logits[0, len(row.prompt) - 1 : -1]
        said: list[int] = []
        while len(said) < MOST:
            token = int(llama.model(torch.tensor([[*row.prompt, *said]])).logits[0, -1].argmax())
            if token == llama.end_id:
                break
            said.append(token)
    total = float(logits.log_softmax(-1)[range(len(row.completion)), row.completion].sum())
    return -total / len(row.completion), tuple(logits.argmax(-1).tolist()), said


@pytest.mark.parametrize("front", [0, 20, 300], ids=["nothing shared", "a preamble", "a long prefix"])
@pytest.mark.parametrize("most", [2048, 60], ids=["one batch", "several"])
def test_all_is_as_of_rows_alone(front: int, most: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "TOKENS_PER_BATCH", most)
    rows = rows_of(front)
    seen: list[int] = []
    for read in read_answers(llama, rows, room=MOST):
        seen += read.positions
        wanted = [alone(llama, rows[position]) for position in read.positions]
        assert read.losses == pytest.approx([loss for loss, _, _ in wanted], rel=1e-4, abs=1e-5)
        assert list(read.likeliest) == [best for _, best, _ in wanted]
        places = range(len(wanted))
        odd, even = list(places)[1::2], list(places)[::2]  # in parts, and in another order
        for part in (odd, even[::-1]):
            if part:
                assert read.go_on(part, max_new_tokens=MOST) == [wanted[place][2] for place in part]
    assert sorted(seen) == list(range(len(rows)))


def test_a_text_ends_where_it_is_whole(llama: Backbone) -> None:
    for front in (20, 300):
        (read,) = read_answers(llama, rows_of(front), room=MOST)
        two = read.go_on([3, 0], max_new_tokens=MOST, finished=lambda tokens: len(tokens) == 2)
        assert two == [tokens[:2] for tokens in read.go_on([3, 0], max_new_tokens=MOST)]


@pytest.fixture
def widths(llama: Backbone) -> Iterator[list[int]]:
    """Positions of each forward."""
    found: list[int] = []

    def note(module: Any, inputs: Any, named: dict[str, Any]) -> None:
        found.append(named["input_ids"].numel())

    hook = llama.model.register_forward_pre_hook(note, with_kwargs=True)
    yield found
    hook.remove()


@pytest.mark.parametrize("front", [20, 300])
def test_a_prompt_runs_once(front: int, llama: Backbone, widths: list[int]) -> None:
    rows = rows_of(front)
    (read,) = read_answers(llama, rows, room=MOST)
    # what is shared once, all else once; prompts and outputs are padded apart, unless the prefix is long
    own = sum(len(row) - front for row in rows)
    padded = len(rows) * (max(len(row.prompt) for row in rows) - front + 3)
    assert sum(widths) <= front + (own if front == 300 else padded)
    widths.clear()
    read.go_on([0, 1, 2], max_new_tokens=MOST)
    assert max(widths) <= 3


def test_one_row_of_one_token(llama: Backbone, widths: list[int]) -> None:
    (read,) = read_answers(llama, [EncodedRow((5, 6, 7), (9,))], room=MOST)
    assert widths == [3] and len(read.likeliest[0]) == 1


def test_other_bases_are_not_asked(tiny_t5: Path, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_go_on(llama) and not can_go_on(load_backbone(tiny_t5, threads=1))
    monkeypatch.setattr(llama.model.config, "layer_types", ["full_attention", "sliding_attention"], raising=False)
    assert not can_go_on(llama)
