"""Chats as data sets keep them, and the prompts that the base's own template makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from merge_advisor import templates
from merge_advisor.errors import TaskError
from merge_advisor.json_form import from_json, to_json
from merge_advisor.tasks import read_inputs, read_rows
from merge_advisor.types import Row

OTHER = {"input": "other", "output": "row"}
TURNS = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Go"))
TEXT = "System: Be kind.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Go"


SHARED = (("human", "Hi"), ("gpt", "Hello"), ("human", "Go"), ("gpt", "No"))


def first_of(place: Path, record: dict[str, Any]) -> tuple[Row, tuple[str, ...]]:
    path = place / "chat.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (record, OTHER)))
    found = read_rows(path)
    return found.rows[0], tuple(note for note in found.notes if "different fields" not in note)


def openai(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def sharegpt(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": who, "value": text} for who, text in turns]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": openai(*TURNS, ("assistant", "No"))},
        {"conversations": sharegpt(("system", "Be kind."), *SHARED)},
        {"conversations": sharegpt(*SHARED), "system": "Be kind."},
        {"conversations": openai(*TURNS, ("assistant", "No"))},
        {"prompt": openai(*TURNS), "completion": openai(("assistant", "No"))},
        {"prompt": openai(*TURNS), "completion": "No"},
        {"prompt": openai(*TURNS), "chosen": openai(("assistant", "No"))},
        {"prompt": openai(*TURNS), "chosen": openai(*TURNS, ("assistant", "No"))},
        {"chosen": openai(*TURNS, ("assistant", "No"))},
        {"messages": openai(("developer", "Be kind."), *TURNS[1:], ("assistant", "No"))},
        {"messages": openai(("system", [{"type": "text", "text": "Be kind."}]), *TURNS[1:], ("assistant", ["No"]))},
    ],
)  # fmt: skip
def test_the_turns_are_kept(tmp_path: Path, record: dict[str, Any]) -> None:
    row, notes = first_of(tmp_path, record)
    assert row == Row(TEXT, "No", turns=TURNS)
    said = ('chat.jsonl: "system" of 1 row taken as the system prompt; rename it if it is none',)
    assert notes == (said if "system" in record else ())


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"system": "Be kind.", "instruction": "Hi", "input": "", "output": "No"},
         Row("System: Be kind.\n\nUser: Hi", "No", turns=(("system", "Be kind."), ("user", "Hi")))),
        ({"system": "", "instruction": "Hi", "input": "x", "output": "No"}, Row("Hi\n\nx", "No")),
        ({"conversations": sharegpt(("human", "Hi"), ("gpt", "No"))}, Row("Hi", "No")),
        ({"prompt": "Hi", "chosen": "No", "rejected": "Yes"}, Row("Hi", "No")),
        ({"prompt": "Hi", "chosen": openai(("user", "Hi"), ("assistant", "No"))}, Row("Hi", "No")),
        ({"messages": openai(("user", "Hi"), ("assistant", "b")), "choices": ["a", "b"]}, Row("Hi", "b", ("a", "b"))),
        ({"text": "Hi", "label": 1, "label_text": "No"}, Row("Hi", "No")),
    ],
)  # fmt: skip
def test_a_turn_alone_is_the_input_as_it_is(tmp_path: Path, record: dict[str, Any], row: Row) -> None:
    assert first_of(tmp_path, record)[0] == row


def test_what_is_no_text_is_left_out_and_said(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    picture = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Hi"}]
    record = {
        "messages": [*openai(("user", picture)), call, {"role": "tool", "content": "4"}, *openai(("assistant", "4"))]
    }
    row, notes = first_of(tmp_path, record)
    assert row == Row("Hi", "4")
    assert notes == (
        "chat.jsonl: 2 turns of tools left out; a model is asked without them",
        "chat.jsonl: 1 part of messages left out that are no text",
    )


def part(**fields: Any) -> list[dict[str, Any]]:
    return [fields]


@pytest.mark.parametrize(
    ("record", "row", "said"),
    [
        ({"messages": openai(("system", ""), ("user", "Hi"), ("assistant", "No"))}, Row("Hi", "No"), ""),
        ({"messages": json.dumps(openai(("user", "Hi"), ("assistant", "No")))}, Row("Hi", "No"), ""),
        ({"messages": [{"role": None, "from": "human", "value": "Hi"}, {"from": "gpt", "value": "No"}]},
         Row("Hi", "No"), ""),
        ({"messages": openai(("user", "Hi"), ("assistant", part(type="tool_use", name="f")),
                             ("user", part(type="tool_result", content="4")), ("assistant", "4"))},
         Row("Hi", "4"), "2 turns of tools left out"),
        ({"conversations": sharegpt(("human", "Hi"), ("gpt", "No"), ("human", "Thanks"))}, Row("Hi", "No"), "1 chat"),
        ({"messages": [*openai(("user", "Hi"), ("assistant", "No"), ("user", "Go")),
                       {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, Row("Hi", "No"), "1 chat cut"),
        ({"conversation": openai(("user", "Hi"), ("assistant", "No"))}, Row("Hi", "No"), ""),
        ({"contents": [{"role": "user", "parts": part(text="Hi")}, {"role": "model", "parts": part(text="No")}]},
         Row("Hi", "No"), ""),
        ({"contents": [{"role": "user", "parts": part(text="Hi")}, {"role": "model", "parts": part(functionCall={})},
                       {"role": "user", "parts": part(functionResponse={})},
                       {"role": "model", "parts": part(text="No")}],
          "systemInstruction": {"parts": part(text="Be kind.")}},
         Row("System: Be kind.\n\nUser: Hi", "No", turns=(("system", "Be kind."), ("user", "Hi"))), "tools"),
    ],
)  # fmt: skip
def test_chats_of_other_makers(tmp_path: Path, record: dict[str, Any], row: Row, said: str) -> None:
    found, notes = first_of(tmp_path, record)
    assert found == row and any(said in note for note in notes) == bool(said)


def test_a_chat_that_only_calls_a_tool_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    call = {"messages": [*openai(("user", "Hi")), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}
    path.write_text("\n".join(json.dumps(each) for each in (call, OTHER, {"input": "more", "output": "row"})))
    found = read_rows(path)
    assert len(found.rows) == 2 and "1 row left out: messages must hold a user turn and the" in found.notes[0]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"conversations": sharegpt(("human", "Hi"))}, "conversations must hold a user turn and the assistant's"),
        ({"conversations": sharegpt(("alien", "Hi"))}, 'conversations[0] has role "alien"; use one of: system, user'),
        ({"prompt": openai(("user", "Hi"), ("assistant", "a")), "completion": openai(("user", "b"))},
         "completion must hold a user turn and the assistant's answer"),
        ({"chosen": "No", "rejected": "Yes"}, "chosen is no list of objects"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content is null, not text"),
    ],
)  # fmt: skip
def test_a_bad_chat_is_one_line(tmp_path: Path, record: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError) as refused:
        first_of(tmp_path, record)
    assert f"chat.jsonl:1: {says}" in str(refused.value)


def test_a_chat_without_an_answer_is_an_input(tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    path.write_text(json.dumps({"conversations": sharegpt(("system", "Be kind."), ("human", "Hi"))}))
    assert read_inputs(path).rows == (
        Row("System: Be kind.\n\nUser: Hi", "", turns=(("system", "Be kind."), ("user", "Hi"))),
    )


def test_turns_are_part_of_a_row_where_there_are_some() -> None:
    row = Row(TEXT, "No", turns=TURNS)
    assert row.digest != Row(TEXT, "No").digest and row.without_output().turns == TURNS
    assert from_json(Row, to_json(row), "row") == row
    assert "turns" not in json.loads(to_json(Row("a", "b")))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_prompts_are_what_transformers_makes_of_the_turns(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    template = templates.get("chat", CHATML, tokenizer.special_tokens_map)
    wanted = tokenizer.apply_chat_template(
        openai(*TURNS), chat_template=CHATML, tokenize=False, add_generation_prompt=True
    )
    assert template.prompt(Row(TEXT, "No", turns=TURNS).asked) == wanted
    assert templates.get("plain").prompt(TURNS) == TEXT + "\n"


def test_examples_stand_between_the_system_prompt_and_the_turns() -> None:
    template = templates.get("chat", "{% for m in messages %}[{{ m.role }} {{ m.content }}]{% endfor %}")
    shown = template.with_examples([((("system", "Be kind."), ("user", "1 + 1")), "2"), ("1 + 2", "3")])
    assert shown.prompt((("system", "Be brief."), ("user", "2 + 2"))) == (
        "[system Be brief.][user Be kind.\n\n1 + 1][assistant 2][user 1 + 2][assistant 3][user 2 + 2]"
    )
    # templates take one system prompt: an example's own is said in front of it, where it is another
    own = "[user Be kind.\n\n1 + 1][assistant 2][user 1 + 2][assistant 3][user 2 + 2]"
    assert shown.prompt("2 + 2") == own
    same = shown.prompt((("system", "Be kind."), ("user", "2 + 2")))
    assert same == "[system Be kind.][user 1 + 1][assistant 2][user 1 + 2][assistant 3][user 2 + 2]"
    asked_first = template.with_examples([((("system", "Be kind."), ("assistant", "Hi"), ("user", "Go")), "No")])
    assert asked_first.prompt("2 + 2") == "[assistant Hi][user Be kind.\n\nGo][assistant No][user 2 + 2]"
