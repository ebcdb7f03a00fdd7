"""Files and folders appear whole or not at all, whatever ends the writing."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from merge_advisor.errors import RunError
from merge_advisor.whole_files import replaced_folder, whole_file, whole_folder, write_text

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
