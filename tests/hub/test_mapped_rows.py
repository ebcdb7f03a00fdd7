"""Files of rows, mapped: what was touched is let go, and gives the same when it is looked at again."""

import os
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.hub import mapped_rows, vectors
from merge_advisor.hub.mapped_rows import MappedRows
from merge_advisor.hub.vectors import VectorFiles

SHAPE = (2048, 2048)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of 8 MiB."""
    path = tmp_path / "rows-of-8-mib"
    np.random.default_rng(0).integers(-9, 9, SHAPE).astype("<i2").tofile(path)
    return path


def resident(path: Path) -> int:
    """Bytes of a mapped file that count as this process's memory."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("this system does not say what is resident")
    found, own = 0, False
    for line in smaps.read_text().splitlines():
        head = line.split()[0]
        own = line.endswith(str(path)) if not head.endswith(":") else own
        found += 1024 * int(line.split()[1]) if own and head == "Rss:" else 0
    return found


def test_what_was_touched_is_let_go(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = MappedRows(rows, "<i2", SHAPE)
    total = int(mapped.array.sum(dtype=np.int64))
    assert resident(rows) == 2**23
    mapped.touched(SHAPE[0])
    assert resident(rows) == 2**23, "a small file is kept"
    monkeypatch.setattr(mapped_rows, "MOST_TOUCHED", 2**22)
    mapped.touched(1)
    assert resident(rows) == 0
    assert mapped.array[::64].any() and resident(rows) > 0
    mapped.touched(32, apart=True)
    assert resident(rows) == 0, "with a row comes what is around it"
    assert int(mapped.array.sum(dtype=np.int64)) == total


def test_a_few_rows_from_everywhere_are_read_and_not_mapped(rows: Path) -> None:
    mapped = MappedRows(rows, "<i2", SHAPE)
    for places in ([], [5], [0, 1, 2, 900, 902, 903, 2047], range(0, 2048, 7), range(2048)):
        chosen = np.asarray(places, np.int64)
        found = mapped.pick(chosen)
        assert resident(rows) == 0
        assert np.array_equal(found, np.fromfile(rows, "<i2").reshape(SHAPE)[chosen])


def test_what_is_read_is_of_the_file_that_was_opened(rows: Path) -> None:
    mapped = MappedRows(rows, "<i2", SHAPE)
    before = mapped.array[7].copy()
    rows.rename(rows.with_name("old"))
    np.zeros(SHAPE, "<i2").tofile(rows)
    assert np.array_equal(mapped.pick(np.array([7]))[0], before)
    os.truncate(rows.with_name("old"), 4096)
    with pytest.raises(OSError, match="shorter"):
        mapped.pick(np.array([7]))


@pytest.mark.usefixtures("coded")
def test_a_search_that_lets_go_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    files = VectorFiles(tmp_path / "1", "s1", 64)
    files.append(range(1, 6001), rng.normal(size=(6000, 64)).astype(np.float32))
    queries = rng.normal(size=(5, 64)).astype(np.float32)
    some = np.arange(1, 6001, 3)
    wanted = [files.nearest(query, 10, keys)[0].tolist() for query in queries for keys in (None, some, some[:400])]
    monkeypatch.setattr(mapped_rows, "MOST_TOUCHED", 1000)
    monkeypatch.setattr(vectors, "_PICKED", 300)
    assert wanted == [
        files.nearest(query, 10, keys)[0].tolist() for query in queries for keys in (None, some, some[:400])
    ]
    files.check()


def test_a_file_that_is_shorter_is_refused(rows: Path) -> None:
    with pytest.raises(ValueError, match="mmap length"):
        MappedRows(rows, "<i2", (SHAPE[0] + 1, SHAPE[1]))
    assert MappedRows(rows, "<i2", (0, 3)).array.shape == (0, 3)
