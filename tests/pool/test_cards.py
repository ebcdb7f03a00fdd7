"""What a candidate's card says, and which licences conflict."""

import shutil
from pathlib import Path

import pytest

from merge_advisor.pool import licence_conflicts, open_pool
from merge_advisor.weights.base import LocalBase

CARDS = {
    "---\nlicense: mit\n---\nText.": ("mit", "Text."),
    "---\r\nlicense: MIT\r\n---\r\n\r\nText.\r\n": ("mit", "Text."),
    "---\nlicence: mit\n---": ("mit", ""),
    "---\nlicense: other\nlicense_name: llama3\n---\n": ("llama3", ""),
    "---\nlicense: [mit, apache-2.0]\n---\n": ("mit apache-2.0", ""),
    "---\nlicense: 2.0\n---\nx": ("2.0", "x"),
    "---\nlicense:\n---\nx": (None, "x"),
    "---\nlicense: {a: b\n---\nx": (None, "x"),
    "---\n- mit\n---\nx": (None, "x"),
    "---\nlicense: " + "[" * 20_000 + "]" * 20_000 + "\n---\nx": (None, "x"),
    "---\na: &a [x]\nlicense: *a\n---\nx": (None, "x"),
    "---\nlicense: !!python/object/apply:os.system [false]\n---\nx": (None, "x"),
    "---\nlicense: mit\nno end": (None, "---\nlicense: mit\nno end"),
    "# Title\n<!-- hidden\ntext -->\n- by: [More Information Needed]\n\n\n\nBody": (None, "# Title\n\nBody"),
    "<!--" * 15_000 + "x": (None, ("<!--" * 15_000)[:4000]),
    "a" + " " * 60_000 + "x": (None, ("a" + " " * 60_000)[:4000]),
    "<!-- one --> a <!-- two": (None, "a <!-- two"),
    "": (None, ""),
    "bell\x07 and \x1b[31mred": (None, "bell and [31mred"),
}


@pytest.mark.parametrize(("text", "wanted"), CARDS.items())
def test_cards(tiny_pool: Path, base: LocalBase, tmp_path: Path, text: str, wanted: tuple[str | None, str]) -> None:
    folder = shutil.copytree(tiny_pool / "a0", tmp_path / "a0")
    (folder / "README.md").write_bytes(text.encode())
    found = open_pool(folder, base).candidates[0]
    assert (found.licence, found.description) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("---\nlicense: {a: b\n---\nx", "which states its licence, is not YAML as read here (did not find"),
        ("---\na: &a [x]\nlicense: *a\n---\nx", "is not YAML as read here (aliases (*) are not read; write it out)"),
        (
            "---\nlicense: mit\nmodel-index: " + "x" * 2**20 + "\n---\n",
            "is cut at 1 MiB; to read it, set MERGE_ADVISOR_LIM",
        ),
    ],
)
def test_what_cannot_be_read_of_a_card_is_said(
    tiny_pool: Path, base: LocalBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    folder = shutil.copytree(tiny_pool / "a0", tmp_path / "a0")
    (folder / "README.md").write_bytes(text.encode())
    found = open_pool(folder, base).candidates[0]
    (note,) = found.notes
    assert found.licence is None and says in note
    if "MERGE_ADVISOR_LIMITS" in note:
        monkeypatch.setenv("MERGE_ADVISOR_LIMITS", note.partition("set MERGE_ADVISOR_LIMITS=")[2])
        assert open_pool(folder, base).candidates[0].licence == "mit"


@pytest.mark.parametrize("text", ["<!--" * 200_000, " " * 500_000 + "x", "---\n" + "\n--- x" * 100_000])
def test_a_hostile_card_takes_no_time_to_speak_of(tiny_pool: Path, base: LocalBase, tmp_path: Path, text: str) -> None:
    """Patterns that begin at each of so many places and look to the end would take minutes: the suite would hang."""
    folder = shutil.copytree(tiny_pool / "a0", tmp_path / "a0")
    (folder / "README.md").write_text(text)
    assert len(open_pool(folder, base).candidates[0].description) <= 4000


def test_a_long_card_is_cut(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_pool / "a0", tmp_path / "a0")
    (folder / "README.md").write_bytes(b"\xff" + b"long " * 1_000_000)
    assert len(open_pool(folder, base).candidates[0].description) == 4000


@pytest.mark.parametrize(
    ("licences", "notes"),
    [
        ([], []),
        (["mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0"], []),
        (["mit", None, "other"], ["2 of 3 members state no licence"]),
        (["mit", "CC-BY-NC-4.0"], ["cc-by-nc-4.0: no commercial use"]),
        (["cc-by-nd-4.0"], ["forbids derivatives"]),
        (["gpl-3.0"], []),
        (["gpl-3.0", "mit"], ["gpl-3.0 asks for itself on what is derived; beside it: mit"]),
        (["llama3.1", "llama3.1"], []),
        (["llama3.1", "gemma"], ["llama3.1: its terms of use bind", "gemma: its terms of use bind"]),
        (["tongyi-qianwen"], ["tongyi-qianwen: no common open licence"]),
    ],
)
def test_licence_conflicts(licences: list[str | None], notes: list[str]) -> None:
    found = licence_conflicts(licences)
    assert len(found) == len(notes)
    assert all(note in text for note, text in zip(notes, found, strict=True))
    assert licence_conflicts(licences[::-1]) == found
