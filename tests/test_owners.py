"""Two machines of one host name are two: what one of them is doing is never taken for a dead process of the other."""

from pathlib import Path

import pytest

from merge_advisor import owners
from merge_advisor.owners import OwnerWatch, this_installation, this_machine, this_owner
from merge_advisor.whole_files import this_writer, whole_file

NO_PROCESS = 999_999_999


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this is another machine of the same name."""
    for name in ("_BOOT", "_INSTALLED"):
        (tmp_path / name).write_text("0f" * 16 + "\n")
        monkeypatch.setattr(owners, name, tmp_path / name)


def test_an_owner_on_a_namesake_is_watched_and_not_looked_for_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, _, chance = this_owner().split()
    dead = f"{machine} {NO_PROCESS} {chance}"
    assert OwnerWatch(60.0).is_gone("a", dead, 0)
    for number in ("9" * 5000, "²"):  # no process has such a number, and int() takes neither
        assert not OwnerWatch(60.0).is_gone("a", f"{this_machine()} {number}", 0)
    elsewhere(tmp_path, monkeypatch)
    assert this_machine() != machine
    assert not OwnerWatch(60.0).is_gone("a", dead, 0)


def test_what_a_namesake_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = tmp_path / "out" / "a"
    left = written.with_name(f".a.{this_writer().partition('-')[0]}-{NO_PROCESS}.x.partial")
    left.parent.mkdir()
    left.write_text("half")
    elsewhere(tmp_path, monkeypatch)
    with whole_file(written) as partial:
        partial.write_text("all")
    assert left.exists()
    monkeypatch.undo()
    with whole_file(written) as partial:
        partial.write_text("all")
    assert not left.exists()


def test_a_machine_without_such_files_still_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BOOT", "_INSTALLED"):
        monkeypatch.setattr(owners, name, tmp_path / "absent")
    assert this_machine() == this_machine() and len(this_installation()) == 8
