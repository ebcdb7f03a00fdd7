"""Task files, good and bad."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import TaskError
from merge_advisor.tasks import read_rows
from merge_advisor.types import Row

GOOD = '{"input": "a", "output": "b"}'


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Any]:
    """Write a task file: bytes, text, or records as JSONL (two of them where one would do)."""

    def make(content: bytes | list[dict[str, Any]] | str, name: str = "task.jsonl") -> Path:
        path = tmp_path / name
        if isinstance(content, list):
            content = "\n".join(json.dumps(record) for record in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "row", "mapping"),
    [
        ({"input": "i", "output": "o"}, Row("i", "o"), "input/output"),
        ({"prompt": "i", "completion": "o"}, Row("i", "o"), "prompt/completion"),
        ({"question": "i", "answer": "o"}, Row("i", "o"), "question/answer"),
        ({"instruction": "i", "output": "o"}, Row("i", "o"), "instruction/output"),
        ({"instruction": "i", "input": "", "output": "o"}, Row("i", "o"), "instruction/output"),
        ({"instruction": "i", "input": None, "output": "o"}, Row("i", "o"), "instruction/output"),
        ({"instruction": "i", "input": "x", "output": "o"}, Row("i\n\nx", "o"), "instruction+input/output"),
        ({"context": "i", "completion": "o"}, Row("i", "o"), "context/completion"),
        ({"input": "i", "target": "o"}, Row("i", "o"), "input/target"),
        ({"input": "i", "output": "o", "choices": ["n", "o"]}, Row("i", "o", ("n", "o")), "input/output"),
        ({"input": "i", "output": "o", "choices": None}, Row("i", "o"), "input/output"),
    ],
)
def test_recognised_fields(
    write: Callable[..., Any], record: dict[str, list[str] | str | None], row: Row, mapping: str
) -> None:
    found = read_rows(write([record, {"input": "other", "output": "row"}]))
    assert found.rows[0] == row
    assert found.mapping.split(", ")[0] == mapping
    assert found.name == "task"


def test_chat_messages(write: Callable[..., Any]) -> None:
    def chat(*turns: tuple[str, str]) -> dict[str, list[dict[str, str]]]:
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    found = read_rows(
        write(
            [
                chat(("user", "Hi "), ("assistant", "Hello")),
                chat(
                    ("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Go"), ("assistant", "No")
                ),
            ]
        )
    )
    assert found.rows == (
        Row("Hi ", "Hello"),
        Row(
            "System: Be kind.\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Go",
            "No",
            turns=(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Go")),
        ),
    )
    assert (found.mapping, found.notes) == ("messages", ())


@pytest.mark.parametrize(
    "text", ["[1,2]", "007", "{{ x }}", "NaN", "null", "1e5", " a\r\nb\u2028c\x85d ", "\u0000", "💪"]
)
def test_text_is_kept_as_it_is(write: Callable[..., Any], text: str) -> None:
    line = json.dumps({"input": text, "output": text, "choices": [text, "else"]}, ensure_ascii=False)
    for ends in ("\n", "\r\n"):
        found = read_rows(write(line + ends + '{"input": "a", "output": "b", "choices": ["b", "c"]}'))
        assert found.rows[0] == Row(text, text, (text, "else"))
        assert found.notes == ()


def test_bom_and_windows_line_ends_are_accepted(write: Callable[..., Any]) -> None:
    content = b"\xef\xbb\xbf" + (GOOD + "\r\n\r\n" + '{"input": "c", "output": "d\\r\\n"}\r\n').encode()
    assert read_rows(write(content)).rows == (Row("a", "b"), Row("c", "d\r\n"))


def test_numbers_are_their_own_text(write: Callable[..., Any]) -> None:
    long = "9" * 5000
    lines = [f'{{"input": 1, "output": {n}, "choices": [{n}, 2.0]}}' for n in ("1.50", "-3", "1e999", long)]
    found = read_rows(write("\n".join(lines)))
    assert [row.output for row in found.rows] == ["1.50", "-3", "1e999", long]
    assert {type(row.output) for row in found.rows} == {str}
    assert found.rows[0].choices == ("1.50", "2.0")
    assert found.notes == (
        "task.jsonl: 1 input with more than one output; all kept",
        "task.jsonl: 16 numbers taken as text",
    )


FOUR = ["3", "1", "0", "2"]


@pytest.mark.parametrize(
    ("records", "outputs", "said"),
    [
        ([{"question": "a", "choices": FOUR, "answer": 1}, {"question": "b", "choices": FOUR, "answer": 3}], ["1", "2"],
         '2 answers read as the place of a choice, from 0, or its key (answer 3 is "2"); where the'),
        ([{"question": "a", "choices": ["red", "blue"], "answer": 0}], ["red"], "1 answer read as the place"),
        ([{"input": "a", "choices": ["7", "8"], "output": 7}], ["7"], "1 number taken as text"),
        ([{"input": "a", "choices": [5, 7], "output": 7}], ["7"], "numbers taken as text"),
        ([{"input": "a", "choices": [0, 1, 2], "output": 1}], ["1"], "numbers taken as text"),
        ([{"ctx": "a", "endings": ["red", "blue"], "label": "1", "ind": 4}], ["blue"], 'label 1 is "blue"'),
        ([{"ctx": "a", "endings": ["red", "blue"], "label": 1}], ["blue"], 'label 1 is "blue"'),
        ([{"question": "a", "choices": {"text": ["red", "B"], "label": ["A", "B"]}, "answerKey": "A"},
          {"question": "b", "choices": {"text": ["A", "B"], "label": ["B", "A"]}, "answerKey": "A"}], ["red", "B"],
         'answerKey A is "red"'),
        ([{"question": "a", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": 2}], ["blue"],
         "answerKey 2 is"),
        ([{"question_stem": "a", "choices": [{"text": "red", "label": "A"}, {"text": "blue", "label": "B"}],
           "answerKey": "B"}], ["blue"], 'answerKey B is "blue"'),
        ([{"question": "a", "choices": ["red", "blue"], "answerKey": "B"}], ["blue"], 'answerKey B is "blue"'),
    ],
)  # fmt: skip
def test_an_answer_is_a_place_or_a_key_where_data_sets_mean_that(
    write: Callable[..., Any], records: list[dict[str, Any]], outputs: list[str], said: str
) -> None:
    found = read_rows(write([*records, {"input": "other", "output": "row"}]))
    assert [row.output for row in found.rows[:-1]] == outputs
    assert all(row.output in (row.choices or ()) for row in found.rows[:-1])
    assert any(said in note for note in found.notes)
    assert not any("not used" in note and "choices" in note for note in found.notes)


def test_text_beside_choices_is_the_answer_itself(write: Callable[..., Any]) -> None:
    found = read_rows(write([{"question": "a", "choices": FOUR, "answer": "1"}, {"input": "b", "output": "c"}]))
    assert found.rows[0].output == "1" and not any("place" in note for note in found.notes)
    with pytest.raises(TaskError, match=r'the answer "B" is none of its choices; correct one of them'):
        read_rows(write([{"question": "a", "choices": ["red", "blue"], "answer": "B"}]))


def test_duplicates_are_dropped_and_contradictions_kept(write: Callable[..., Any]) -> None:
    records = [("a", "b"), ("a", "b"), ("a", "c"), ("d", "e"), ("a", "b")]
    found = read_rows(write([{"input": i, "output": o} for i, o in records]))
    assert found.rows == (Row("a", "b"), Row("a", "c"), Row("d", "e"))
    assert found.notes == (
        "task.jsonl: 2 duplicate rows dropped",
        "task.jsonl: 1 input with more than one output; all kept",
    )


def test_what_else_is_noted(write: Callable[..., Any]) -> None:
    found = read_rows(
        write(
            [
                {"input": "a", "output": "b", "id": 3, "choices": ["b", "c"]},
                {"question": "a2", "answer": "b", "context": "c", "empty": None},
            ]
        )
    )
    assert found.notes == ("task.jsonl: choices on 1 of 2 rows only",)
    assert found.understood == (
        "task.jsonl: 2 rows, read as input and output with choices (fields input, choices, output, 1 row) and as "
        "question answering (fields context, question, answer, 1 row); 1 field left out: id"
    )


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("kind", ["array", "bbh"])
def test_one_json_value(write: Callable[..., Any], kind: str, indent: int | None) -> None:
    records = [{"input": "a", "target": "b"}, {"input": "c", "target": "d"}]
    whole = records if kind == "array" else {"canary": "text", "examples": records}
    found = read_rows(write(json.dumps(whole, indent=indent), "name.v2.json"))
    assert found.rows == (Row("a", "b"), Row("c", "d"))
    assert (found.name, found.mapping) == ("name.v2", "input/target")


def test_lines_in_a_json_file_and_an_array_in_a_jsonl_file(write: Callable[..., Any]) -> None:
    wanted = (Row("a", "b"), Row("c", "d"))
    second = '{"input": "c", "output": "d"}'
    assert read_rows(write(f"{GOOD}\n{second}", "task.json")).rows == wanted
    assert read_rows(write(f"[{GOOD},\n{second}]")).rows == wanted


def test_nested_objects_by_line_in_a_json_file(write: Callable[..., Any]) -> None:
    chats = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "b"}]}
        for asked in ("a", "c")
    ]
    assert read_rows(write(chats, "task.json")).rows == (Row("a", "b"), Row("c", "b"))
    assert read_rows(write(chats[:1], "task.json"), minimum=1).rows == (Row("a", "b"),)


def test_what_no_one_reads_may_be_anything(write: Callable[..., Any]) -> None:
    assert read_rows(write(f'{{"input": "a", "output": "b", "score": NaN}}\n{GOOD}'), minimum=1).rows == (
        Row("a", "b"),
    )


def test_super_natural_instructions(write: Callable[..., Any]) -> None:
    whole = {
        "Definition": ["Add."], "Positive Examples": [{"input": "1 + 1", "output": "2"}],
        "Instances": [{"id": "1", "input": "2 + 2", "output": ["4"]}, {"id": "2", "input": "3", "output": ["a", "b"]}],
    }  # fmt: skip
    found = read_rows(write(json.dumps(whole), "task.json"))
    assert found.rows == (Row("Add.\n\n2 + 2", "4"), Row("Add.\n\n3", "a", answers=("a", "b")))


def test_the_shared_files_are_read(shared: Path) -> None:
    files = [*sorted((shared / "data" / "bbh").glob("*.json")), *sorted((shared / "data" / "bigbench").glob("*.jsonl"))]
    assert files
    for path in [file for file in files if file.name != "families.json"]:
        assert len(read_rows(path).rows) >= 100


# --- bad input: place, what is wrong, what to do ---------------------------------------------------------------------

BAD = {
    "not JSON": (f"{GOOD}\n\nhello\n", ":3: not JSON (Expecting value, column 1); write one JSON object per line"),
    "cut short": (f'{GOOD}\n{{"input": "a", "ou', ":2: not JSON (Unterminated string starting at, column 16); write"),
    "empty": ("", ": empty; write one JSON object with input and output per line"),
    "blank": (b"\xef\xbb\xbf \r\n\n", ": empty; write one JSON object with input and output per line"),
    "UTF-16": (GOOD.encode("utf-16"), ": encoded as UTF-16 or UTF-32; save it as UTF-8"),
    "UTF-16 without BOM": (GOOD.encode("utf-16-le"), ": encoded as UTF-16 or UTF-32; save it as UTF-8"),
    "Latin-1": (
        f'{GOOD}\n{{"input": "café", "output": "b"}}'.encode("latin-1"),
        ":2: byte 0xe9 is not UTF-8; save it as UTF-8",
    ),
    "unknown fields": (
        [{"source": "a", "label": "b", "id": None}],
        ':1: has fields "source", "label", "id"; rename "source" to "input" and "label" to "output"',
    ),
    "capitals": ([{"Input": "a", "output": "b"}], ':1: has fields "Input", "output"; rename "Input" to "input"'),
    "no output": ([{"question": "a", "n": 1}], 'rename "question" to "input" and add "output"'),
    "input alone": ([{"input": "a"}], ':1: has field "input" and no output; add "output"'),
    "output alone": ([{"answer": "a"}], 'has field "answer" and no input; rename "answer" to "output" and add "input"'),
    "nothing like it": (
        [{"a": "x", "b": "y"}],
        ':1: has fields "a", "b"; rename them or give input/output (or prompt/completion,',
    ),
    "many fields": ([{f"f{i}": "x" for i in range(9)}], '"f5", 3 more; rename them or give input/output'),
    "no fields": ([{}], ":1: an object without fields; give input and output"),
    "null": ([{"input": "a", "output": None}], ":1: output is null; fill it in or drop the row"),
    "NaN": ('{"input": "a", "output": NaN}', ":1: output is NaN, which is no JSON value; write the text that is"),
    "infinity": ('{"input": "a", "output": -Infinity}', ":1: output is -Infinity, which is no JSON value"),
    "deep list": ("[" * 200_000, ": nested too deeply; a row is one flat object with text fields"),
    "deep row": (f'{GOOD}\n{{"input": ' + "[" * 200_000, ":2: nested too deeply; a row is one flat object"),
    "object": ([{"input": "a", "output": {"b": 1}}], ":1: output is an object, not text; write it as one string"),
    "list": ([{"input": ["a"], "output": "b"}], ":1: input is a list, not text; write it as one string"),
    "mixed list": ([{"input": "a", "output": ["b", {}]}], ":1: output is a list, not text; write it as one string"),
    "no answer listed": ([{"question": "a", "answers": []}], ":1: answers has no answer; give it an answer"),
    "list of labels": ([{"text": "a", "label": ["b"]}], ":1: label is a list, not text; write it as one string"),
    "not an object": (f"{GOOD}\n3", ":2: a number, not an object; write one JSON object with input and output"),
    "empty input": ([{"input": "", "output": "b"}], ":1: input is empty; fill it in or drop the row"),
    "empty output": ([{"input": "a", "output": " \n"}], ":1: output is empty; fill it in or drop the row"),
    "half a character": (
        '{"input": "a \\ud83d", "output": "b"}',
        ":1: input holds \\ud83d, half of a character; repair the text or drop the row",
    ),
    "field twice": ('{"input": "a", "input": "c", "output": "b"}', ':1: field "input" is there twice in one object'),
    "one row": (GOOD, ": 1 row, the minimum is 2; add examples"),
    "one row many times": (f"{GOOD}\n{GOOD}\n{GOOD}", ": 1 row (3 equal ones), the minimum is 2; add examples"),
    "choices text": ([{"input": "a", "output": "b", "choices": "b"}], ":1: choices is text, not a list; list the"),
    "choices empty": ([{"input": "a", "output": "b", "choices": []}], ":1: choices needs at least two answers, all"),
    "choices twice": ([{"input": "a", "output": "b", "choices": ["b", "b"]}], "at least two answers, all different"),
    "choices nested": ([{"input": "a", "output": "b", "choices": ["b", ["c"]]}], ":1: choices[1] is a list, not text"),
    "not a choice": (
        [{"input": "a", "output": "b", "choices": ["c", "d"]}],
        ':1: the output "b" is none of its choices; correct one of them',
    ),
    "place too large": (
        [{"question": "a", "answer": 4, "choices": ["c", "d", "e", "f"]}],
        ':1: the answer "4" is none of its choices, which are 0 to 3; correct it',
    ),
    "place huge": (
        f'{{"question": "a", "answer": {"9" * 5000}, "choices": ["c", "d"]}}',
        "is none of its choices, which are 0 to 1; correct it",
    ),
    "place or value": (
        [{"question": "a", "answer": 1, "choices": [1, 2]}],
        ':1: the answer 1 may be the choice 1 or the one at place 1, which is "2"; write it as text',
    ),
    "key of none": (
        [{"question": "a", "answerKey": "C", "choices": {"text": ["c", "d"], "label": ["A", "B"]}}],
        ':1: the answerKey "C" is none of its choices; correct one of them',
    ),
    "key missing": (
        [{"question": "a", "answerKey": "A", "choices": {"text": ["c", "d"], "label": ["A"]}}],
        ":1: choices has no label of its own for each text; correct it",
    ),
    "key without choices": ([{"question": "a", "answerKey": "A"}], 'rename "question" to "input" and add "output"'),
    "digits beside columns": (
        [{"question": "a", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "2"}],
        ':1: the answer "2" is none of its choices; correct one of them',
    ),
    "messages text": (
        [{"messages": "a"}],
        ":1: messages is no list of objects; give each message a role and a content",
    ),
    "role": (
        [{"messages": [{"role": "bot", "content": "x"}]}],
        ':1: messages[0] has role "bot"; use one of: system, user, assistant',
    ),
    "no answer": (
        [{"messages": [{"role": "user", "content": "x"}]}],
        ":1: messages must hold a user turn and the assistant's answer; complete the chat",
    ),
    "no messages": ([{"messages": []}], ":1: messages must hold a user turn and the assistant's answer"),
    "message without text": (
        [{"messages": [{"role": "user", "content": [{"type": "image"}]}]}],
        ":1: messages[0].content is empty; fill it in or drop the row",
    ),
    "line break in a name": ([{"a\nb\x1b[2J": "x"}], ':1: has field "a\\nb\\u001b[2J"; rename'),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file(write: Callable[..., Any], case: str) -> None:
    content, message = BAD[case]
    path = write(content)
    with pytest.raises(TaskError) as caught:
        read_rows(path)
    text = str(caught.value)
    assert text.startswith(f"{path}:")
    assert message in text
    assert text.isprintable()
    assert len(text) < len(str(path)) + 200
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"input": "a",\n"output" "b"}\n]', ":3: not JSON (Expecting ':' delimiter, column 10); correct the JSON"),
        ('[{"input": "a", "output": "b"}, {"input": "c"}]', ': row 2: has field "input" and no output; add "output"'),
        ('{"input": "a",\n"output": NaN}', ": row 1: output is NaN, which is no JSON value"),
        ('{"examples": []}', ": holds no rows; write one JSON object with input and output per line"),
        ('{\n"examples": {"a": 1}}', ": holds no rows;"),
        ('"text"', ": holds no rows;"),
        ('{\n"input": "a",\n"output": "b"}', ": 1 row, the minimum is 2; add examples"),
    ],
)
def test_bad_json_value(write: Callable[..., Any], content: str, message: str) -> None:
    path = write(content, "task.json")
    with pytest.raises(TaskError) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.jsonl: no such file; give the path of a task file") as caught:
        read_rows(tmp_path / "none.jsonl")
    assert caught.value.exit_code == 2
    with pytest.raises(TaskError, match="a folder, not a file; give the path of one task file") as caught:
        read_rows(tmp_path)
    assert caught.value.exit_code == 2


def test_no_permission(write: Callable[..., Any]) -> None:
    path = write([{"input": "a", "output": "b"}])
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # nothing is forbidden to root: be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(
            TaskError, match=r"cannot be read \(Permission denied\); check the path and its perm"
        ) as caught:
            read_rows(path)
    finally:
        if root:
            os.seteuid(0)
    assert caught.value.exit_code == 2


def test_the_minimum_can_be_lowered(write: Callable[..., Any]) -> None:
    assert read_rows(write(GOOD), minimum=1).rows == (Row("a", "b"),)


def test_names_are_printable(write: Callable[..., Any]) -> None:
    found = read_rows(write(f"{GOOD}\n{GOOD}\n" + '{"input": "c", "output": "d"}', "a\nb.jsonl"))
    assert found.name == "a\\nb"
    assert found.notes == ("a\\nb.jsonl: 1 duplicate row dropped",)
