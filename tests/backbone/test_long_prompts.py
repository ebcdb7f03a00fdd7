"""A very long prompt is tokenised once, and its ids are those that it has without that."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.backbone import encoding
from merge_advisor.backbone.encoding import EncodedRow, encode
from merge_advisor.backbone.model import Backbone, load_backbone


class Counting:
    """A tokenizer that counts how often it is asked for a long text."""

    def __init__(self, tokenizer: Any) -> None:
        self.inner, self.long = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, text: str, **how: Any) -> Any:
        self.long += len(text) > 500
        return self.inner(text, **how)


@pytest.fixture(params=[(), (7,), (7, 9)])
def backbone(request: pytest.FixtureRequest, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The tiny base, with tokens that stand before every prompt."""
    made = load_backbone(tiny_llama, threads=1)
    made.tokenizer = Counting(made.tokenizer)
    monkeypatch.setattr(type(made), "lead", property(lambda self: list(request.param)))
    return made


def encoded(backbone: Backbone, texts: Sequence[str], room: int) -> tuple[list[EncodedRow], list[tuple[int, int]]]:
    cut: list[tuple[int, int]] = []
    pairs = [(text, answer) for text in texts for answer in ("yes", "no")]
    return encode(backbone, pairs, max_length=room, on_cut=lambda row, tokens: cut.append((row, tokens))), cut


@pytest.mark.parametrize("room", [5, 64, 300, 512])
def test_ids_are_the_same_and_a_text_is_tokenised_once(
    room: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["short", "the quick brown fox " * 60, "0123456789 " * 50, "ä" * 600 + " end", "yes" * 400]
    wanted = encoded(backbone, texts, room)
    assert backbone.tokenizer.long == 4 and len(wanted[1]) >= 6
    monkeypatch.setattr(encoding, "_LONG", 500)
    monkeypatch.setattr(encoding, "_TAIL", 512)
    for _ in range(3):
        assert encoded(backbone, texts, room) == wanted
    assert backbone.tokenizer.long == 8
    assert all(len(kept.ids) <= 512 + 2 for kept in backbone.long_prompts.values())


def test_an_end_that_looks_like_a_beginning_is_none(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chat nothing is put before a prompt, and what is cut off is not put back."""
    monkeypatch.setattr(encoding, "_is_chat", lambda backbone: True)
    text = "x" + backbone.tokenizer.inner.decode([*backbone.lead, 60]) * 400
    wanted = [encoded(backbone, [text], room) for room in (40, 41, 42, 43)]
    monkeypatch.setattr(encoding, "_LONG", 100)
    for tail in range(44, 50):
        monkeypatch.setattr(encoding, "_TAIL", tail)
        backbone.long_prompts.clear()
        assert [encoded(backbone, [text], room) for room in (40, 41, 42, 43)] == wanted


def test_only_so_many_are_remembered_and_lengths_alone_are_whole(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_LONG", 100)
    monkeypatch.setattr(encoding, "_TAIL", 64)
    monkeypatch.setattr(encoding, "_REMEMBERED", 3)
    texts = [f"{number} " * 200 for number in range(8)]
    encoded(backbone, texts, 50)
    assert len(backbone.long_prompts) == 3
    assert all(len(row.prompt) > 300 for row in encode(backbone, [(text, "x") for text in texts], max_length=2**40))
