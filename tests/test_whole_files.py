"""Files and folders appear whole or not at all, whatever ends the writing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from merge_advisor import whole_files
from merge_advisor.errors import RunError
from merge_advisor.owners import this_installation
from merge_advisor.whole_files import (
    discard,
    remove_leftovers,
    replaced_folder,
    restore,
    scratch_folder,
    whole_file,
    whole_folder,
    write_text,
)
from merge_advisor.write_points import POINTS

ROOT = Path(__file__).parents[1]
Writer = Callable[[Path], AbstractContextManager[Path]]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "a.npz"
    for text in ("old", "new"):
        with whole_file(path) as partial:
            assert partial.parent == path.parent and partial.suffix == path.suffix
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert names_in(path.parent) == ["a.npz"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_text_keeps_lone_surrogates(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "caf\u00e9 \ud800")
    assert (tmp_path / "a.json").read_bytes() == b"caf\xc3\xa9 \xed\xa0\x80"


@pytest.mark.parametrize("end", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("writer", [whole_file, whole_folder, replaced_folder])
def test_nothing_is_left_of_what_ends_early(tmp_path: Path, writer: Writer, end: type[BaseException]) -> None:
    with pytest.raises(end), writer(tmp_path / "a") as partial:
        assert partial.exists()
        raise end
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("writer", [whole_file, replaced_folder])
def test_what_was_there_stays_as_it_is_where_its_successor_ends_early(tmp_path: Path, writer: Writer) -> None:
    kept = tmp_path / "a"
    if writer is replaced_folder:
        kept.mkdir()
        kept = kept / "b"
    kept.write_text("old")
    with pytest.raises(ValueError, match="full"), writer(tmp_path / "a"):
        raise ValueError("full")
    assert kept.read_text() == "old"
    assert names_in(tmp_path) == ["a"]


def test_a_folder_in_the_way_is_refused_or_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for writer in (whole_folder, replaced_folder):
        with writer(folder) as partial:
            assert partial.name.startswith(".")  # whoever lists the parent passes over it
            (partial / writer.__name__).write_text("x")
    assert names_in(folder) == ["replaced_folder"]
    assert folder.stat().st_mode & 0o777 == 0o755
    with pytest.raises(RunError, match="a: is there already; name another, or remove it first"), whole_folder(folder):
        raise AssertionError("never begun")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match="link: is there already"), whole_folder(tmp_path / "link"):
        raise AssertionError("never begun")


@pytest.mark.parametrize("writer", [whole_file, whole_folder, replaced_folder])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, writer: Writer) -> None:
    (tmp_path / "file").write_text("")
    refusal = r"file/a: cannot be written \(.+\); check permissions and free space"
    with pytest.raises(RunError, match=refusal), writer(tmp_path / "file" / "a"):
        raise AssertionError("never begun")


@pytest.mark.parametrize("writer", [whole_file, whole_folder, replaced_folder])
def test_a_full_disk_is_named(tmp_path: Path, writer: Writer) -> None:
    with pytest.raises(RunError, match=r"a: cannot be written \(No space left on device\)"), writer(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert names_in(tmp_path) == []


KILLED = """
import os, sys
from pathlib import Path
from merge_advisor import whole_files

if sys.argv[3] == "plain":
    whole_files._exchanged = lambda one, other: False
with getattr(whole_files, sys.argv[1])(Path(sys.argv[2])) as partial:
    (partial / "b" if partial.is_dir() else partial).write_text("new")
    if sys.argv[3] == "early":
        os._exit(9)
    renames = []
    rename = Path.rename
    def once(self, target):
        if renames or sys.argv[3] != "plain":
            os._exit(9)
        renames.append(target)
        return rename(self, target)
    Path.rename = once
    whole_files.shutil.rmtree = lambda *args, **more: os._exit(9)
"""


def killed(writer: str, path: Path, when: str) -> None:
    """Have a process write to `path` and die: before the end, or in its middle where folders are swapped or not."""
    done = subprocess.run([sys.executable, "-c", KILLED, writer, str(path), when], check=False)
    assert done.returncode == 9


@pytest.mark.parametrize("writer", ["whole_file", "whole_folder", "replaced_folder"])
def test_the_next_writer_removes_what_a_killed_one_left(writer: str, tmp_path: Path) -> None:
    killed(writer, tmp_path / "a", "early")
    killed(writer, tmp_path / "other", "early")
    assert [name[:3] for name in names_in(tmp_path)] == [".a.", ".ot"]
    with getattr(whole_files, writer)(tmp_path / "a") as partial:
        if partial.is_dir():
            (partial / "b").write_text("whole")
    assert [name for name in names_in(tmp_path) if not name.startswith(".other")] == ["a"]


@pytest.mark.parametrize("when", ["swapped", "plain"])
def test_a_kill_in_the_swap_loses_no_folder(when: str, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with replaced_folder(folder) as partial:
        (partial / "b").write_text("old")
    killed("replaced_folder", folder, when)
    if when == "plain":
        assert not folder.exists()
    restore(folder)
    assert (folder / "b").read_text() == ("old" if when == "plain" else "new")
    with replaced_folder(folder) as partial:
        (partial / "b").write_text("newest")
    assert (folder / "b").read_text() == "newest" and names_in(tmp_path) == ["a"]


def test_what_a_living_writer_has_is_left_alone(tmp_path: Path) -> None:
    with replaced_folder(tmp_path / "a") as first:
        with replaced_folder(tmp_path / "a") as second:
            (second / "b").write_text("second")
        assert first.is_dir()
        (first / "b").write_text("first")
    assert (tmp_path / "a" / "b").read_text() == "first" and names_in(tmp_path) == ["a"]


def test_of_two_that_make_a_folder_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a: is there already"), whole_folder(tmp_path / "a") as slow:
        (slow / "b").write_text("slow")
        with whole_folder(tmp_path / "a") as quick:
            (quick / "b").write_text("quick")
    assert (tmp_path / "a" / "b").read_text() == "quick" and names_in(tmp_path) == ["a"]


def test_leftovers_of_other_machines_go_after_days(tmp_path: Path) -> None:
    old, new = (tmp_path / f".a.0123abcd-{pid}.x.partial" for pid in (1, 2))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    write_text(tmp_path / "a", "text")
    assert names_in(tmp_path) == [new.name, "a"]


def test_whatever_disturbs_a_writer_at_any_point_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Kills, a full disk and a broken one at each point of each way of writing; then the same again, undisturbed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.file_walk", str(tmp_path)], cwd=ROOT, check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert not found["wrong"] and not done.stderr
    assert set(found["kinds"]) == {
        kind for kind in POINTS if kind.startswith(("file", "folder", "scratch", "leftover", "discarded"))
    }


def test_what_this_process_has_open_is_no_leftover_whatever_its_number(tmp_path: Path) -> None:
    """In a container the first process always has number 1: what is left by an earlier one has the same number."""
    left = tmp_path / f".a.{this_installation()}-{os.getpid()}.x.partial"
    left.mkdir()
    with whole_folder(tmp_path / "a") as partial:
        assert not left.exists() and partial.exists()


def test_leftovers_of_a_process_whose_number_another_has_go_after_days(tmp_path: Path) -> None:
    left = tmp_path / f".a.{this_installation()}-{os.getppid()}.x.partial"
    left.mkdir()
    write_text(tmp_path / "a", "text")
    assert left.exists()
    os.utime(left, (0, 0))
    write_text(tmp_path / "a", "text")
    assert names_in(tmp_path) == ["a"]


def test_a_scratch_folder_goes_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch_folder(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        assert folder.parent == tmp_path and folder.name.startswith(".out.")
        raise KeyError
    assert names_in(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file/out: cannot be written"), scratch_folder(tmp_path / "file" / "out"):
        raise AssertionError("never begun")


def test_what_is_discarded_is_gone_at_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").write_text("c")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("a", "c", "link", "absent"):
        discard(tmp_path / name)
    assert names_in(tmp_path) == []


def test_leftovers_in_a_folder_of_ours_are_removed_whatever_they_are_of(tmp_path: Path) -> None:
    killed("whole_folder", tmp_path / "a", "early")
    killed("whole_file", tmp_path / "c.json", "early")
    (tmp_path / ".hidden").write_text("of the user")
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [".hidden"]
