"""Prompt templates: exact to the byte, and the chat template as transformers renders it."""

import json
from pathlib import Path

import pytest

from merge_advisor import templates
from merge_advisor.errors import BaseModelError, SpecError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nName a colour.\n\n### Response:\n"
)
TRICKY = ["Hi", "", " two\n\nlines\r\n ", "{{ x }} {% raw %}", "naïve “quotes” <b>&amp;</b>\u2028", "<|im_end|>"]
# trim_blocks, lstrip_blocks, loop controls, tojson and the generation tag all change what this gives
SOURCE = """{{ bos_token }}
    {% for message in messages %}
    {% if loop.index > 5 %}{% break %}{% endif %}
{% generation %}{{ message | tojson }}{% endgeneration %}

    {% endfor %}
{% set day = strftime_now("%d %b") if false else "no day" %}
{{ day }}{% if tools is none and documents is none and add_generation_prompt %}<answer>{% endif %}
"""


@pytest.mark.parametrize("name", ["alpaca", "bare", "plain"])
def test_fixed_templates_to_the_byte(name: str) -> None:
    template = templates.get(name)
    assert (
        template.prompt("Name a colour.")
        == {"alpaca": ALPACA, "bare": "Name a colour.", "plain": "Name a colour.\n"}[name]
    )
    assert template.completion(" Blue.\n") == " Blue.\n"


@pytest.mark.parametrize("name", ["alpaca", "bare", "plain"])
@pytest.mark.parametrize("text", TRICKY)
def test_fixed_templates_keep_the_input_as_it_is(name: str, text: str) -> None:
    empty = templates.get(name).prompt("")
    filled = templates.get(name).prompt(text)
    assert len(filled) == len(empty) + len(text)
    assert text in filled


@pytest.mark.parametrize("source", [None, SOURCE], ids=["own", "tricky"])
def test_chat_equals_transformers(tiny_llama: Path, source: str | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.bos_token = "<|end|>"
    if source:
        tokenizer.chat_template = source
    template = templates.get("chat", tokenizer.chat_template, tokenizer.special_tokens_map)
    for text in TRICKY:
        wanted = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        assert template.prompt(text) == wanted


@pytest.mark.slow
def test_chat_equals_transformers_on_the_real_base(real_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    template = templates.get("chat", *templates.read_chat(real_folder))
    for text in TRICKY:
        wanted = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        assert template.prompt(text) == wanted


def test_chat_is_read_from_a_model_folder(tiny_llama: Path) -> None:
    source, specials = templates.read_chat(tiny_llama)
    assert templates.get("chat", source, specials).prompt("Hi") == "<|user|>Hi<|end|>\n<|assistant|>"
    assert specials["eos_token"] == "<|end|>"


def test_chat_is_read_from_the_tokenizer_configuration(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<s>", "special": True},
        "pad_token": None,
        "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "{{ bos_token }}D"}],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "old", "unk_token": "<unk>"}))
    source, specials = templates.read_chat(tmp_path)
    assert specials == {"bos_token": "<s>", "unk_token": "<unk>"}
    assert templates.get("chat", source, specials).prompt("Hi") == "<s>D"
    (tmp_path / "chat_template.jinja").write_text("its own file counts first")
    assert templates.read_chat(tmp_path)[0] == "its own file counts first"


def test_a_folder_without_a_chat_template(tmp_path: Path) -> None:
    assert templates.read_chat(tmp_path) == (None, {})
    with pytest.raises(SpecError, match="this base has no chat template; choose one of: alpaca, bare, plain") as caught:
        templates.get("chat", *templates.read_chat(tmp_path))
    assert caught.value.exit_code == 2


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"tokenizer_config\.json: not JSON .*; fetch the base again"):
        templates.read_chat(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BaseModelError, match=r"chat_template\.jinja: cannot be read .*; fetch the base again"):
        templates.read_chat(tmp_path)


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(
        SpecError, match="template 'alpacca' is unknown; choose one of: alpaca, bare, chat, plain"
    ) as caught:
        templates.get("alpacca")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('system\nturn missing') }}", "system turn missing"),
        ("{% for %}", "Expected"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0]['content'] + 1 }}", "concatenate"),
        ("{{ 'a' * 9999999999 }}", "a product (`*`) of more than 1000000 parts or digits"),
        ("{{ 9 ** (9 ** 9) }}", "a product (`**`) of more than 1000000 parts or digits"),
    ],
)
def test_a_failing_chat_template_is_one_line(source: str, reason: str) -> None:
    with pytest.raises(SpecError, match="the base's chat template fails") as caught:
        templates.get("chat", source)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_chat_template_that_does_not_end_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_SECONDS", 0.2)
    loop = "".join(f"{{% for {name} in range(9999) %}}" for name in "abc") + "{% endfor %}" * 3
    with pytest.raises(SpecError, match=r"fails \(it takes more than 0\.2 seconds for a prompt\)"):
        templates.get("chat", loop)


def test_the_clock_of_a_chat_template_stands_still() -> None:
    assert templates.get("chat", "{{ strftime_now('%d %b %Y') }}").prompt("Hi") == "26 Jul 2024"


@pytest.mark.parametrize("name", ["alpaca", "bare", "plain"])
def test_examples_stand_before_the_input_as_the_model_would_see_them(name: str) -> None:
    plain = templates.get(name)
    shown = plain.with_examples([(" one\n", "1"), ("{{ x }}", "2\n2")])
    first, second = (plain.prompt(text) + plain.completion(answer) for text, answer in shown.examples)
    assert shown.prompt("three") == f"{first}\n\n{second}\n\n{plain.prompt('three')}"
    assert shown.prompt("four").startswith(f"{first}\n\n{second}{shown.next_example}")
    assert plain.with_examples([]) == plain and plain.next_example == ""


@pytest.mark.parametrize("source", [None, SOURCE], ids=["own", "tricky"])
def test_examples_are_earlier_turns_of_a_chat(tiny_llama: Path, source: str | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.bos_token = "<|end|>"
    if source:
        tokenizer.chat_template = source
    template = templates.get("chat", tokenizer.chat_template, tokenizer.special_tokens_map)
    pairs = [(TRICKY[0], TRICKY[1]), (TRICKY[2], TRICKY[3])]
    turns = [(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    messages = [{"role": role, "content": text} for role, text in (*turns, ("user", "asked"))]
    wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    shown = template.with_examples(pairs)
    assert shown.prompt("asked") == wanted and shown.next_example == ""


def test_digest_depends_on_the_examples_and_is_the_old_one_without() -> None:
    plain = templates.get("plain")
    assert plain.digest == "89718e8ac86dd2c04a7d10d39ce6df97d8b9c327f8c8713e5d2c25330cda23a7"
    given = [[("a", "b")], [("a", "b"), ("c", "d")], [("c", "d"), ("a", "b")], [("a\nb\n\nc", "d")]]
    assert len({plain.digest, *(plain.with_examples(pairs).digest for pairs in given)}) == 5
    assert plain.with_examples(given[1]).prompt("x") == plain.with_examples(given[3]).prompt("x")


def test_digest_is_what_reaches_the_text() -> None:
    chat = templates.get("chat", "{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})
    same = templates.get("chat", "{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>", "pad_token": "<p>"})
    other = templates.get("chat", "{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<b>"})
    assert chat.digest == same.digest
    digests = {chat.digest, other.digest, templates.get("alpaca").digest, templates.get("plain").digest}
    assert len(digests) == 4
    assert templates.get("alpaca", "ignored", {"bos_token": "<s>"}) == templates.get("alpaca")
