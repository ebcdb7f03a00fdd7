import json
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.errors import TaskError
from merge_advisor.evaluators import guard
from merge_advisor.evaluators.guard import guard_score, read_guard


def test_texts_and_task_rows(tmp_path: Path) -> None:
    file = tmp_path / "general.jsonl"
    rows = [{"text": "One."}, {"question": "Who?", "answer": "Me."}, {"text": "One."}, {"text": "[1,2]", "id": 3}]
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in rows) + b"\n\n")
    assert read_guard(file) == ("One.", "Who?\n\nMe.", "[1,2]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text"', "general.jsonl:2: not JSON"),
        (b'{"text": "a"}\n{"words": "b"}', "general.jsonl:2: no text"),
        (b'{"text": "a"}\n["b"]', "general.jsonl:2: no text"),
        (b'{"text": "a"}\n{"text": " "}', "general.jsonl:2: its text is blank"),
        (b'{"text": "a"}\n{"text": 3}', "general.jsonl:2: its text is blank or no string"),
        (b"[" * 100_000, "general.jsonl:1: not JSON"),
        (b'{"text": "a"}\n{"text": "a"}', "1 different texts, the minimum is 2"),
        (b"", "0 different texts"),
        (b"\xff\xfe{", "not UTF-8"),
    ],
)
def test_what_is_no_guard_file(tmp_path: Path, content: Any, message: Any) -> None:
    file = tmp_path / "general.jsonl"
    file.write_bytes(content)
    with pytest.raises(TaskError) as caught:
        read_guard(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_no_such_guard_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        read_guard(tmp_path / "none.jsonl")


def test_a_loss_beyond_the_tolerance_and_noise_is_a_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    base = [2.0, 3.0, 2.5, 1.0]
    worse = guard_score(base, [2.3, 3.28, 2.81, 1.3])
    assert worse.regressed and worse.rows == 4
    assert worse.base == 2.125 and worse.merge - worse.base == pytest.approx(0.2975)
    assert 0.05 < worse.lower < 0.2975 < worse.upper
    assert not guard_score(base, [2.9, 3.0, 2.4, 1.2]).regressed  # worse on average, not beyond noise
    assert not guard_score(base, [2.04, 3.04, 2.54, 1.04]).regressed  # beyond noise, within the tolerance
    assert not guard_score(base, base).regressed
    monkeypatch.setattr(guard, "TOLERANCE", 0.01)
    assert guard_score(base, [2.04, 3.04, 2.54, 1.04]).regressed


def test_losses_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="pairs"):
        guard_score([1.0, 2.0], [1.0])
