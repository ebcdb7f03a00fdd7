"""Where an answer ends, and how a chat begins: as the base's own template and generation_config have it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from merge_advisor import templates
from merge_advisor.advisor.measuring.session import open_session
from merge_advisor.backbone.encoding import encode
from merge_advisor.backbone.generate import greedy
from merge_advisor.backbone.model import Backbone, load_backbone
from merge_advisor.errors import BaseModelError
from merge_advisor.evaluators.fast import Fast
from merge_advisor.evaluators.lm_eval_harness import LmEval
from merge_advisor.types import Row
from tests.support.models import END, build_llama

TURN = "<end_of_turn>"
CHAT = (
    "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] }}" + TURN + "\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
TURNS = [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes"}]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Llama whose tokenizer begins texts with <s> and ends them with <|end|>, and whose chats are Gemma's."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build_llama(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN, "<start>"], "bos_token": "<s>"})
    begin = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", begin)])
    tokenizer.chat_template = CHAT
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(base: Path, template: str) -> tuple[Backbone, templates.Template]:
    chat = templates.read_chat(base) if template == "chat" else ()
    made = templates.get(template, *chat)
    return load_backbone(base, threads=1, template=made), made


def end_with(base: Path, ends: object) -> None:
    path = base / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ends}))


def token(backbone: Backbone, text: str) -> int:
    return int(backbone.tokenizer.convert_tokens_to_ids(text))


def test_a_row_in_a_chat_is_what_transformers_makes_of_it(base: Path) -> None:
    backbone, chat = loaded(base, "chat")
    (row,) = encode(backbone, [(chat.prompt("is it?"), "yes")], max_length=100)
    whole = backbone.tokenizer.apply_chat_template(TURNS, tokenize=True, return_dict=False)
    asked = backbone.tokenizer.apply_chat_template(
        TURNS[:1], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert list(row.prompt) == asked and [*row.prompt, *row.completion] == whole[: len(row)]
    assert row.completion[-1] == token(backbone, TURN)
    (cut,) = encode(backbone, [(chat.prompt("is it?" * 100), "yes")], max_length=20)
    assert len(cut) == 20 and token(backbone, "<s>") not in cut.prompt


def test_without_a_chat_the_tokenizer_says_how_a_row_begins_and_ends(base: Path) -> None:
    backbone, plain = loaded(base, "plain")
    (row,) = encode(backbone, [(plain.prompt("is it?"), "yes")], max_length=100)
    assert row.prompt[0] == token(backbone, "<s>") and row.completion[-1] == token(backbone, END)
    assert backbone.end_ids == (token(backbone, END),)


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_generation_stops_where_transformers_does(template: str, base: Path) -> None:
    plain, _ = loaded(base, template)
    prompts = [(5, 9, 11), (7, 7), (40, 41, 42, 43), (90, 17)]
    free = greedy(plain, prompts, max_new_tokens=12)
    # tokens that really come: one ends the first answer in its middle, one another
    stops = [free[0][4], free[1][7]]
    end_with(base, [token(plain, END), *stops])
    backbone, _ = loaded(base, template)
    assert set(stops) < set(backbone.end_ids)
    for prompt, answer in zip(prompts, greedy(backbone, prompts, max_new_tokens=12), strict=True):
        with torch.inference_mode():
            ids = backbone.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0]
        wanted = [int(one) for one in ids[len(prompt) :]]
        assert answer == (wanted[:-1] if wanted[-1] in backbone.end_ids else wanted)
    assert len(greedy(backbone, prompts[:1], max_new_tokens=12)[0]) < 5


def test_both_evaluators_stop_there(base: Path) -> None:
    rows = [Row(f"say {number}", str(number)) for number in range(4)]
    backbone, chat = loaded(base, "chat")
    whole = Fast().score(backbone.model, backbone.tokenizer, rows, chat, label="base").outputs
    assert whole is not None
    first = encode(backbone, [(chat.prompt(rows[0].input), "")], max_length=100)[0].prompt
    end_with(base, [token(backbone, END), greedy(backbone, [first], max_new_tokens=8)[0][0]])
    backbone, _ = loaded(base, "chat")
    found = [
        scorer.score(backbone.model, backbone.tokenizer, rows, chat, label="base").outputs
        for scorer in (Fast(), LmEval())
    ]
    assert found[0] == found[1] != whole and found[0] is not None and found[0][0] == ""


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        (CHAT, TURN + "\n"),
        ("{% for m in messages %}{{ m['content'] }} {% endfor %}", " "),
        ("{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}", ""),  # shows no answers
        ("{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0]['content'] }}", ""),
    ],
)
def test_what_a_template_writes_behind_an_answer(source: str, ending: str) -> None:
    assert templates.get("chat", source).ending == ending
    assert templates.get("alpaca").ending == ""


def test_text_behind_an_answer_is_no_end(base: Path) -> None:
    made = templates.get("chat", "{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    backbone = load_backbone(base, threads=1, template=made)
    assert made.ending == "\n" and backbone.end_ids == (token(backbone, END),)


def test_a_base_without_any_end_is_refused(base: Path) -> None:
    end_with(base, None)
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    (base / "special_tokens_map.json").unlink(missing_ok=True)
    backbone = load_backbone(base, threads=1)
    backbone.model.generation_config.eos_token_id = None
    with pytest.raises(BaseModelError, match="has no end token"):
        _ = backbone.end_id


@pytest.mark.parametrize(
    ("template", "change", "apart"),
    [
        ("plain", lambda base: None, False),
        ("chat", lambda base: None, True),  # ends with another token than the tokenizer's
        ("plain", lambda base: end_with(base, [1, 2]), True),
    ],
)
def test_kept_results_of_other_ends_are_told_apart(
    template: str, change: Callable[[Path], Any], apart: bool, base: Path, tmp_path: Path
) -> None:
    change(base)
    with open_session(str(base), template=template, cache=tmp_path / "cache") as session:
        assert (" ending " in session.memo.context[1]) is apart
        assert ("begin token" in session.memo.context[1]) is (template == "plain")
