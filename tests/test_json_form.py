"""What is written as JSON can always be read back, halves of characters among it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from merge_advisor.errors import InputError
from merge_advisor.json_form import STRICT, digest_of, from_json, read_value, to_json
from merge_advisor.whole_files import write_text


class Kind(StrEnum):
    """Of a value."""

    ONE = "one"


@dataclass(frozen=True)
class Inner:
    """A value in a value."""

    __pydantic_config__ = STRICT

    name: str
    kind: Kind = Kind.ONE


@dataclass(frozen=True)
class Outer:
    """Names wherever a value may hold them."""

    __pydantic_config__ = STRICT

    name: str
    parts: tuple[Inner, ...] = ()
    by_name: dict[str, float] | None = None


HALVES = (
    "\ud800",
    "a\udcff.jsonl",
    "\udfff\ud800",
    "\U0010fffe",
    "\U0010fffe00d800",
    "\\ud800",
    "\\\ud800",
)


@pytest.mark.parametrize("name", HALVES)
def test_halves_of_characters_come_back(name: str, tmp_path: Path) -> None:
    value = Outer(name, (Inner(name), Inner("plain")), {name: 1.5, "é": 1e300})
    text = to_json(value)
    text.encode()  # it is UTF-8
    assert from_json(Outer, text, "here") == value
    write_text(tmp_path / "value.json", text)
    assert read_value(Outer, tmp_path / "value.json") == value
    assert digest_of(from_json(Outer, text, "here")) == digest_of(value)


def test_whole_characters_stand_as_they_are() -> None:
    assert to_json(["é", "\U0001f600", "\U0010fffe"]) == '[\n "é",\n "\U0001f600",\n "\U0010fffe"\n]\n'


def test_files_from_before_escapes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_bytes('{"name": "a\ud800", "parts": [], "by_name": null}'.encode("utf-8", "surrogatepass"))
    assert read_value(Outer, path) == Outer("a\ud800")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "\\ud800", "x": 1}', '{"name": 1, "parts": "\\ud800"}', '{"name": "\\ud80"}',
        '{"name": "\\ud800", "parts": ' + "[" * 700 + "]" * 700 + "}",
    ],
    ids=["unknown key", "wrong type", "cut", "deep"],
)  # fmt: skip
def test_what_is_wrong_beside_halves_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"make (it|the file) anew"):
        from_json(Outer, text, "here")
