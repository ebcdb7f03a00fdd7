"""The prompt of `icl` as files: what is pasted is what was scored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from merge_advisor import templates
from merge_advisor.advisor.measuring.in_context import with_rows
from merge_advisor.advisor.runs.prompt_folder import input_mark, prompt_texts, rows_shown, write_prompt
from merge_advisor.types import Row, Task
from tests.support.models import CHAT_TEMPLATE

ROWS = (Row("1 + 1", "2"), Row("{input} + 2", "4"), Row("3 + 3", "6"))
TASK = Task("sums", ROWS[:2], ROWS[2:], ())


@pytest.mark.parametrize("name", ("alpaca", "bare", "chat", "plain"))
def test_an_input_in_the_place_of_the_mark_gives_the_prompt_that_is_scored(name: str) -> None:
    shown = with_rows(templates.get(name, CHAT_TEMPLATE), ROWS[1:])
    files, mark = prompt_texts(shown, TASK), input_mark(TASK)
    assert mark == "{input1}" and "{input} + 2" in files["txt"]  # a row holds the usual mark
    assert files["txt"].replace(mark, "4 + 4") == shown.prompt("4 + 4")
    if name != "chat":
        return
    messages = json.loads(files["json"])
    assert messages[-1] == {"role": "user", "content": mark} and [turn["role"] for turn in messages] == (
        ["user", "assistant"] * 2 + ["user"]
    )
    messages[-1]["content"] = "4 + 4"
    assert shown._render(messages, prompt=True) == shown.prompt("4 + 4")


def test_a_system_prompt_that_all_rows_have_is_kept() -> None:
    def chats(*systems: str) -> Task:
        rows = tuple(
            Row(f"System: {system}\n\nUser: {at}", "yes", turns=(("system", system), ("user", str(at))))
            for at, system in enumerate(systems)
        )
        return Task("chats", rows, (), ())

    for systems, kept in ((("Be brief.", "Be brief."), True), (("Be brief.", "Be long."), False)):
        task = chats(*systems)
        files = prompt_texts(with_rows(templates.get("chat", CHAT_TEMPLATE), task.shots), task)
        assert (json.loads(files["json"])[0] == {"role": "system", "content": "Be brief."}) == kept
        assert files["txt"].count("{input}") == 1


def test_a_chat_that_writes_the_mark_otherwise_leaves_its_messages(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    task = replace(TASK, shots=ROWS[:1])
    write_prompt(tmp_path, 1, task, with_rows(templates.get("chat", source), ROWS[:1]))
    assert [path.name for path in (tmp_path / "prompt").iterdir()] == ["1.json"]
    write_prompt(tmp_path, 1, task, None)
    assert not list((tmp_path / "prompt").iterdir())


def test_rows_are_found_by_digest_in_the_order_they_were_shown_in() -> None:
    assert rows_shown(TASK, [ROWS[2].digest, ROWS[0].digest, "0" * 64]) == (ROWS[2], ROWS[0])
