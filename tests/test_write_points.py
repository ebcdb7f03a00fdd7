"""Points of writing fail where the environment asks for it, and nowhere else."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from merge_advisor.errors import InputError
from merge_advisor.whole_files import write_text
from merge_advisor.write_points import FAIL_AT, passed, write_point


@pytest.fixture(autouse=True)
def nothing_passed() -> None:
    passed.clear()


def test_nothing_fails_and_nothing_is_counted_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FAIL_AT, raising=False)
    write_point("file filled", "a.json")
    assert not passed
    monkeypatch.setenv(FAIL_AT, "")
    write_point("file filled", "a.json")
    write_point("rows written", "INSERT OR REPLACE INTO deltas (space) VALUES (?)")
    assert dict(passed) == {
        "any": 2, "file filled": 1, "file filled a.json": 1, "rows written": 1,
        "rows written INSERT OR REPLACE INTO deltas": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "fails"),
    [
        ("file filled=ENOSPC", 0), ("file filled:2=ENOSPC", 1), ("file filled b.json=ENOSPC", 1), ("any:3=ENOSPC", 2),
        ("file filled b.json:2=ENOSPC", 3), ("file synced=ENOSPC", None), ("file filled c.json=ENOSPC", None),
    ],
)  # fmt: skip
def test_a_point_is_named_by_kind_target_and_number(
    asked: str, fails: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAIL_AT, asked)
    for number, target in enumerate(("a.json", "b.json", "a.json", "b.json")):
        if number == fails:
            with pytest.raises(OSError, match="No space left") as caught:
                write_point("file filled", target)
            assert caught.value.errno == errno.ENOSPC
        else:
            write_point("file filled", target)


@pytest.mark.parametrize("asked", ["nonsense", "file filed=EIO", "file filledup=EIO", "=EIO", "=kill"])
def test_what_names_no_point_is_said(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAIL_AT, asked)
    with pytest.raises(InputError, match="names no point of writing"):
        write_point("file filled")


def test_a_broken_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAIL_AT, "file synced=EIO")
    with pytest.raises(InputError, match=r"a\.txt: cannot be written \(Input/output error\); check permissions"):
        write_text(tmp_path / "a.txt", "text")
    assert not list(tmp_path.iterdir())


def test_a_kill_is_one(tmp_path: Path) -> None:
    script = "from pathlib import Path; from merge_advisor.whole_files import write_text; write_text(Path('a'), 'a')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True,
        env=os.environ | {FAIL_AT: "file synced", "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL and not done.stderr
    assert [path.name[:3] for path in tmp_path.iterdir()] == [".a."]
